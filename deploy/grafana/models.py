"""Which versions are open, which of them answer, and does the service still hear the registry?"""

from deploy.grafana.expressions import HERE, per_second
from deploy.grafana.panels import GREEN, RED, YELLOW, Board, Panel, Query, Variable, row

MODEL_HERE = f'name=~"$name", {HERE}'

GLANCE = row(
    "At a glance",
    4,
    Panel(
        "stat",
        "Versions open",
        "Networks that are open, over all instances: champions, the ones before them, challengers and whatever was "
        "asked for by number.",
        (Query(f"count(glucose_model_info{{{MODEL_HERE}}} == 1)"),),
        "short",
        4,
    ),
    Panel(
        "stat",
        "Registry last answered",
        "Time since the registry last answered, on the instance where it is longest. It is asked every 5 s; above 30 "
        "s it is down. The service goes on with what it has, and does not see a rollback.",
        (Query(f"max(time() - glucose_registry_last_sync_timestamp_seconds{{{HERE}}})"),),
        "s",
        4,
        ((None, GREEN), (30.0, YELLOW), (300.0, RED)),
        decimals=0,
    ),
    Panel(
        "stat",
        "Versions that could not be opened",
        "In the time shown. Each is tried again at growing pauses while the old version answers: one number is one "
        "try. Not zero: the list of reasons below says what to do.",
        (Query(f"sum(increase(glucose_model_load_failures_total{{{HERE}}}[$__range])) or vector(0)"),),
        "short",
        4,
        ((None, GREEN), (0.5, RED)),
        decimals=0,
    ),
    Panel(
        "stat",
        "Versions opened",
        "In the time shown. A number that keeps rising without new versions: networks are closed for want of memory "
        "and opened again.",
        (Query(f"sum(increase(glucose_model_load_seconds_count{{{HERE}}}[$__range]))"),),
        "short",
        4,
        decimals=0,
    ),
    Panel(
        "stat",
        "Time to open one",
        "Mean time to fetch, verify, open and warm up a version in the time shown. Seconds are usual for a first "
        "fetch, less from the cache. The old version answers meanwhile.",
        (
            Query(
                f"sum(increase(glucose_model_load_seconds_sum{{{HERE}}}[$__range])) / "
                f"(sum(increase(glucose_model_load_seconds_count{{{HERE}}}[$__range])) > 0)"
            ),
        ),
        "s",
        4,
        ((None, GREEN), (10.0, YELLOW), (60.0, RED)),
    ),
    Panel(
        "stat",
        "Memory of networks",
        "Size of all open networks, on the instance with most. At --memory-mb (512 MB) the least recently used are "
        "closed.",
        (Query(f"max(sum by (instance) (glucose_model_memory_bytes{{{HERE}}}))"),),
        "bytes",
        4,
        ((None, GREEN), (430e6, YELLOW), (512e6, RED)),
    ),
)

OPEN = row(
    "What is open, and what answers",
    9,
    Panel(
        "table",
        "Open now",
        "Every version that is open, its aliases, the digest of its files, and for how long. Two instances with "
        "different champions for more than a few seconds: one of them cannot open the new one.",
        (
            Query(
                "time() - glucose_model_loaded_timestamp_seconds * on (instance, name, version) group_right () "
                f"(glucose_model_info{{{MODEL_HERE}}} == 1)"
            ),
        ),
        "dtdurations",
        14,
        decimals=0,
        columns=(
            ("name", "model"),
            ("version", "version"),
            ("alias", "aliases"),
            ("digest", "digest"),
            ("instance", "instance"),
            ("Value", "open for"),
        ),
    ),
    Panel(
        "timeseries",
        "Forecasts by version",
        "Who answers, streams included. When a champion moves, one colour ends where the other begins; both at once "
        "for long means a canary, shadow forecasts, or instances that disagree.",
        (
            Query(
                per_second("glucose_infer_inferences_total", MODEL_HERE, "name, version"),
                "{{name}} {{version}}",
            ),
        ),
        "cps",
        10,
        minimum=0,
        stacked=True,
    ),
)

CHANGES = row(
    "Opening and closing",
    8,
    Panel(
        "timeseries",
        "Opened, failed and closed, within five minutes",
        "Versions opened, tries that failed, and networks closed to make room. Failures at growing distances are one "
        "version that is tried again and again.",
        (
            Query(f"sum(increase(glucose_model_load_seconds_count{{{HERE}}}[5m]))", "opened"),
            Query(f"sum(increase(glucose_model_load_failures_total{{{HERE}}}[5m]))", "failed"),
            Query(f"sum(increase(glucose_model_evictions_total{{{HERE}}}[5m]))", "closed for room"),
        ),
        "short",
        8,
        minimum=0,
    ),
    Panel(
        "bargauge",
        "Why versions could not be opened",
        "Failed tries in the time shown. Files that are not what was published: publish anew. Unreachable artifacts: "
        "look at the registry. Implausible forecasts of made-up readings: the model is bad; roll back.",
        (
            Query(
                f"sum by (reason) (increase(glucose_model_load_failures_total{{{HERE}}}[$__range])) > 0",
                "{{reason}}",
            ),
        ),
        "short",
        8,
        ((None, RED),),
        decimals=0,
        minimum=0,
    ),
    Panel(
        "heatmap",
        "Time to open a version",
        "Fetch, verify, open, warm up; darker is more versions. Slow ones delay a new champion and a start after an "
        "empty cache, never an answer.",
        (Query(f"sum by (le) (increase(glucose_model_load_seconds_bucket{{{HERE}}}[5m]))", "{{le}}"),),
        "s",
        8,
    ),
)

REGISTRY = row(
    "Memory and the registry",
    8,
    Panel(
        "timeseries",
        "Memory of networks by model",
        "Size of open networks. A champion that moves needs room for two for a moment.",
        (Query(f"sum by (name) (glucose_model_memory_bytes{{{MODEL_HERE}}})", "{{name}}"),),
        "bytes",
        8,
        minimum=0,
        stacked=True,
    ),
    Panel(
        "timeseries",
        "Time since the registry answered",
        "A saw between 0 and 6 s is health. A line that climbs: the registry is down, or cannot be reached from this "
        "instance.",
        (
            Query(
                f"time() - max by (instance) (glucose_registry_last_sync_timestamp_seconds{{{HERE}}})",
                "{{instance}}",
            ),
        ),
        "s",
        8,
        ((None, GREEN), (30.0, RED)),
        minimum=0,
        line_at_steps=True,
    ),
    Panel(
        "timeseries",
        "Look-ups that failed, and shadows",
        "Look-ups the registry did not answer; and forecasts of the challenger in the shadow by what became of them. "
        "`cast` is what should be there; `UnknownModel` says that there is no challenger.",
        (
            Query(per_second("glucose_registry_sync_failures_total"), "look-ups failed"),
            Query(per_second("glucose_shadow_forecasts_total", by="outcome"), "shadow: {{outcome}}"),
        ),
        "cps",
        8,
        minimum=0,
    ),
)

BOARD = Board(
    file="models",
    uid="glucast-models",
    title="glucast / Models",
    description="Which model versions are open, which of them answer, and does the service still hear the registry?",
    since="6h",
    refresh="30s",
    variables=(
        Variable("instance", "Instance", "label_values(glucose_model_info, instance)", description="whose /metrics"),
        Variable(
            "name",
            "Model",
            'label_values(glucose_model_info{instance=~"$instance"}, name)',
            description="as registered; all models of single people are `personal`",
        ),
    ),
    rows=(GLANCE, OPEN, CHANGES, REGISTRY),
)
