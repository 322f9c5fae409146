"""How far are the trials, and have their machines room?"""

from deploy.grafana.expressions import RATE
from deploy.grafana.panels import BLUE, GREEN, GREY, RED, YELLOW, Board, Panel, Query, Variable, row

HERE = 'ip=~"$node"'
ARM = "student, teacher"
ONE = "{{student}} taught by {{teacher}}"
COMPONENTS = 'Component=~"ray::.*|raylet|gcs|agent"'  # drivers are named by their command's path
FULL = ((None, GREEN), (0.85, YELLOW), (0.95, RED))


def trials(status: str) -> tuple[Query, ...]:
    """How many trials are so now, over all sweeps that run."""
    return (Query(f'sum(ray_glucast_trials{{status="{status}"}})'),)


def time_of(share: float, series: str, by: str) -> str:
    """A quantile of what took how long, since the cluster began: what grew would leave out the first of each."""
    return f"histogram_quantile({share}, sum by ({by}, le) (ray_glucast_{series}_bucket))"


def taught(expression: str) -> str:
    """The same, where a student alone is taught by nobody and not by an empty label."""
    return f'label_replace({expression}, "teacher", "nobody", "teacher", "")'


def since_it_began(counter: str) -> str:
    """A counter since the cluster began. Ray exports it from its first event on: 0 before."""
    return f"sum({counter}) or 0 * sum(ray_cluster_active_nodes)"


GLANCE = row(
    "Sweeps that run",
    4,
    Panel(
        "stat",
        "Running",
        "Trials that train now, over all sweeps. As many as fit into the machines' CPUs or GPUs, no more. Less than "
        "that while others wait: a machine is gone, or a share is too large to fit.",
        trials("running"),
        "short",
        4,
    ),
    Panel(
        "stat",
        "Waiting",
        "Trials that have not begun, or that go on elsewhere after their process was lost.",
        trials("waiting"),
        "short",
        4,
    ),
    Panel("stat", "Finished", "Trials that ran all their epochs.", trials("finished"), "short", 4, ((None, GREEN),)),
    Panel(
        "stat",
        "Stopped early",
        "Trials that were worse than the others of their patient (asha). Intended: it is where a sweep saves time.",
        trials("stopped"),
        "short",
        4,
        ((None, GREY),),
    ),
    Panel(
        "stat",
        "Failed",
        "Trials that raised an error, or whose process was lost four times. The sweep goes on and ends with exit code "
        "1; run it again and only these are tried again. The log of the sweep names them.",
        trials("failed"),
        "short",
        4,
        ((None, GREEN), (1.0, RED)),
    ),
    Panel(
        "stat",
        "Retries",
        "Trials that went on in another process, since the cluster began. A few: machines come and go. Many: memory "
        "is short (see lost workers below), or the code raises.",
        (Query(since_it_began("ray_glucast_trial_retries_total")),),
        "short",
        4,
        ((None, GREEN), (1.0, YELLOW), (10.0, RED)),
        decimals=0,
    ),
)

TRIALS = row(
    "Trials",
    9,
    Panel(
        "timeseries",
        "Trials by status",
        "Waiting turns into running, running into finished, stopped or failed. The series are there while their sweep "
        "runs, and 20 s longer.",
        (Query("sum by (status) (ray_glucast_trials)", "{{status}}"),),
        "short",
        8,
        minimum=0,
        stacked=True,
        colors=(
            ("waiting", GREY),
            ("running", BLUE),
            ("finished", GREEN),
            ("stopped", YELLOW),
            ("failed", RED),
        ),
    ),
    Panel(
        "timeseries",
        "Lowest validation loss so far",
        "Mean over the patients begun, by backbones; in normalised units, so compare only lines of one sweep. A line "
        "that no longer falls: more epochs will not help. Rises only when another patient begins.",
        (Query(taught(f"min by ({ARM}) (ray_glucast_best_validation_loss)"), ONE),),
        "none",
        8,
        decimals=3,
    ),
    Panel(
        "timeseries",
        "Teacher: part that is done",
        "Of a teacher's training, and of its forecasts, which come before the students that learn from it.",
        (Query("max by (work) (ray_glucast_job_done_ratio)", "{{work}}"),),
        "percentunit",
        8,
        minimum=0,
        maximum=1,
    ),
    Panel(
        "timeseries",
        "Epochs a minute",
        "What the cluster gets done, by backbones. A fall without a change of backbones: machines are gone or share "
        "their cores with something else.",
        (Query(taught(f"60 * sum by ({ARM}) (rate(ray_glucast_trial_epochs_total[{RATE}]))"), ONE),),
        "cpm",
        8,
        minimum=0,
    ),
    Panel(
        "bargauge",
        "Time of an epoch",
        "Since the cluster began, by backbones: half of the epochs took less, and nine of ten took less. Read from "
        "buckets, so an estimate. Far apart: some machines are slower, or trials share cores.",
        (
            Query(taught(time_of(0.5, "trial_epoch_seconds", ARM)), f"half: {ONE}"),
            Query(taught(time_of(0.9, "trial_epoch_seconds", ARM)), f"nine of ten: {ONE}"),
        ),
        "s",
        8,
        minimum=0,
    ),
    Panel(
        "bargauge",
        "Median time of a trial, by what became of it",
        "Since the cluster began. Stopped ones should be much shorter than finished ones; else stopping early saves "
        "nothing.",
        (Query(time_of(0.5, "trial_seconds", "status"), "{{status}}"),),
        "s",
        8,
        minimum=0,
    ),
)

MACHINES = row(
    "Machines",
    8,
    Panel(
        "timeseries",
        "CPU by machine",
        "Of all cores of the machine. Near 100 % is what training on CPUs looks like; low while trials wait is what "
        "to explain.",
        (Query(f"max by (ip) (ray_node_cpu_utilization{{{HERE}}}) / 100", "{{ip}}"),),
        "percentunit",
        6,
        minimum=0,
        maximum=1,
    ),
    Panel(
        "timeseries",
        "Memory by machine",
        "Used, of what the machine or container may use. Above 95 % Ray kills workers, and their trials are tried "
        "again: give each more (memory_per_trial_gb), so that fewer run at once.",
        (Query(f"max by (ip) (ray_node_mem_used{{{HERE}}} / ray_node_mem_total{{{HERE}}})", "{{ip}}"),),
        "percentunit",
        6,
        FULL,
        minimum=0,
        maximum=1,
        line_at_steps=True,
    ),
    Panel(
        "timeseries",
        "GPU by machine",
        "Mean use of the machine's GPUs; no data where it has none. Low while trials run: too few share a GPU "
        "(gpus_per_trial), or data comes too slowly.",
        (Query(f"avg by (ip) (ray_node_gpus_utilization{{{HERE}}}) / 100", "{{ip}}"),),
        "percentunit",
        6,
        minimum=0,
        maximum=1,
    ),
    Panel(
        "timeseries",
        "GPU memory by machine",
        "Used, over all GPUs of the machine; no data where it has none. At its end trials fail with an out-of-memory "
        "error of CUDA: let fewer share a GPU.",
        (Query(f"sum by (ip) (ray_node_gram_used{{{HERE}}}) * 1e6", "{{ip}}"),),
        "bytes",
        6,
        minimum=0,
    ),
    Panel(
        "timeseries",
        "Disk by machine",
        "Used, of the disk that Ray writes to. Above 95 % objects can no longer be put aside and tasks fail.",
        (
            Query(
                f"max by (ip) (ray_node_disk_usage{{{HERE}}} / "
                f"(ray_node_disk_usage{{{HERE}}} + ray_node_disk_free{{{HERE}}}))",
                "{{ip}}",
            ),
        ),
        "percentunit",
        6,
        FULL,
        minimum=0,
        maximum=1,
        line_at_steps=True,
    ),
    Panel(
        "timeseries",
        "Network by machine",
        "Received, and sent below zero. Peaks as windows travel to a machine; going on for long: the object store is "
        "too small and objects are fetched again.",
        (
            Query(f"max by (ip) (ray_node_network_receive_speed{{{HERE}}})", "{{ip}} received"),
            Query(f"-max by (ip) (ray_node_network_send_speed{{{HERE}}})", "{{ip}} sent"),
        ),
        "Bps",
        6,
    ),
    Panel(
        "timeseries",
        "Machines in the cluster",
        "As the head sees them. A fall: a machine went; its trials go on elsewhere.",
        (Query("sum(ray_cluster_active_nodes)", "active"), Query("sum(ray_cluster_failed_nodes)", "failed")),
        "short",
        6,
        minimum=0,
    ),
    Panel(
        "timeseries",
        "Memory by component",
        "The processes of Ray and of trials that use most. One that grows from epoch to epoch is a leak.",
        (Query(f"topk(5, sum by (Component) (ray_component_rss_bytes{{{COMPONENTS}, {HERE}}}))", "{{Component}}"),),
        "bytes",
        6,
        minimum=0,
    ),
)

RAY = row(
    "Ray",
    8,
    Panel(
        "timeseries",
        "Tasks by state",
        "Ray's own view: what it has started and not finished. PENDING that stays while CPUs are free is a request "
        "that fits on no machine.",
        (Query('sum by (State) (ray_tasks{State!~"FINISHED|FAILED"}) > 0', "{{State}}"),),
        "short",
        6,
        minimum=0,
        stacked=True,
    ),
    Panel(
        "timeseries",
        "CPUs and GPUs that are taken",
        "What trials have reserved, of what there is; reserved is not used. Full while others wait is right.",
        (
            Query('sum by (Name) (ray_resources{Name=~"CPU|GPU", State="USED"})', "{{Name}} taken"),
            Query('sum by (Name) (ray_resources{Name=~"CPU|GPU"})', "{{Name}} in all"),
        ),
        "short",
        6,
        minimum=0,
    ),
    Panel(
        "timeseries",
        "Object store",
        "Windows and results in shared memory; SPILLED lies on disk. Spilling for long slows every trial: give the "
        "store more (--object-store-memory).",
        (Query("sum by (Location) (ray_object_store_memory)", "{{Location}}"),),
        "bytes",
        6,
        minimum=0,
        stacked=True,
    ),
    Panel(
        "timeseries",
        "Workers lost",
        "Processes that Ray killed for want of memory, and others that ended unasked, since the cluster began. Their "
        "trials are tried again three times.",
        (
            Query(since_it_began("ray_memory_manager_worker_eviction_total"), "killed for memory"),
            Query(since_it_began("ray_node_manager_unexpected_worker_failure_total"), "ended unasked"),
        ),
        "short",
        6,
        ((None, BLUE),),
        minimum=0,
    ),
)

BOARD = Board(
    file="training",
    uid="glucast-training",
    title="glucast / Training",
    description="How far are the trials of the sweeps that run, and have their machines room?",
    since="3h",
    refresh="30s",
    variables=(Variable("node", "Machine", "label_values(ray_node_cpu_count, ip)", description="of the Ray cluster"),),
    rows=(GLANCE, TRIALS, MACHINES, RAY),
)
