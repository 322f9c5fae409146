"""Is the service there, does it answer, and in time?

The first row reads the recording rules, as the alerts do. The curves below read what the chosen instances export, over
as short a span as the picture has points: a fault is seen at once, and on which instance.
"""

from deploy.grafana.expressions import HERE, RATE, per_second, quantile
from deploy.grafana.panels import GREEN, RED, YELLOW, Board, Panel, Query, Variable, row

NO_AND_YES = ((None, RED), (1.0, GREEN))
UNARY = f'grpc_type="UNARY", {HERE}'  # a stream's time is how long its caller stays


GLANCE = row(
    "At a glance: all instances, over five minutes",
    4,
    Panel(
        "stat",
        "Up",
        "Services whose /metrics Prometheus reads. Fewer than you started: look at their logs. It lives and is not "
        "ready: see the next number.",
        (Query('sum(up{job="inference"})'),),
        "short",
        3,
        NO_AND_YES,
    ),
    Panel(
        "stat",
        "Ready",
        "Does the health name `ready` say SERVING on every instance: a champion of the namespace is open and has "
        "forecast made-up readings plausibly? No: there is none, or it could not be opened; see Models.",
        (Query("min(glucose_ready)"),),
        "short",
        3,
        NO_AND_YES,
        words=(("0", "no"), ("1", "yes")),
    ),
    Panel(
        "stat",
        "Calls a second",
        "Calls that began, of all methods. A stream is one call however many readings it brings.",
        (Query("sum(job_method:grpc_server_started:rate5m)"),),
        "reqps",
        3,
    ),
    Panel(
        "stat",
        "Failed",
        "Share of calls that ended as the service should not: INTERNAL, UNKNOWN, DATA_LOSS, UNAVAILABLE, "
        "DEADLINE_EXCEEDED. Readings that were refused and callers who hung up do not count. Above 0.1 %: find the "
        "status below. Above 1 %: callers notice.",
        (Query("job:grpc_server_errors:ratio_rate5m"),),
        "percentunit",
        3,
        ((None, GREEN), (0.001, YELLOW), (0.01, RED)),
        decimals=2,
    ),
    Panel(
        "stat",
        "Refused for load",
        "Share of calls that ended RESOURCE_EXHAUSTED: more came than can be answered in time. Callers are told when "
        "to come again. Not zero for minutes: too few cores, or a caller in a loop.",
        (Query("job:grpc_server_exhausted:ratio_rate5m"),),
        "percentunit",
        3,
        ((None, GREEN), (0.001, YELLOW), (0.05, RED)),
        decimals=2,
    ),
    Panel(
        "stat",
        "Forecast, p99",
        "99 of 100 Forecast calls take no longer, from the call to its end. Above 100 ms something is queueing or the "
        "cores are short; a deadline of a second is near its end at 500 ms.",
        (Query('job_method:grpc_server_handling_seconds:p99_5m{grpc_method="Forecast"}'),),
        "s",
        3,
        ((None, GREEN), (0.1, YELLOW), (0.5, RED)),
    ),
    Panel(
        "stat",
        "Waiting",
        "Forecasts that were left waiting when the last batch began. Near 0 is normal; a number that stays means that "
        "more comes than can be computed. At 1,024 for one version callers are refused.",
        (Query("sum(glucose_infer_queue_depth)"),),
        "short",
        3,
        ((None, GREEN), (256.0, YELLOW), (768.0, RED)),
    ),
    Panel(
        "stat",
        "Streams open",
        "People whose sensors stream now (Monitor). A fall to zero at once is a broken network or a restart, not "
        "people who stopped.",
        (Query("sum(glucose_monitor_streams)"),),
        "short",
        3,
    ),
)

ALERTS = row(
    "Alerts",
    4,
    Panel(
        "table",
        "Alerts that fire",
        "What Prometheus has alerted on and still does; no data here is good. docs/operations.md says what to do "
        "about each.",
        (Query('sum by (alertname, severity) (ALERTS{alertstate="firing"})'),),
        "short",
        24,
        columns=(("alertname", "alert"), ("severity", "severity"), ("Value", "how many")),
    ),
)

CALLS = row(
    "Calls of the chosen instances",
    9,
    Panel(
        "timeseries",
        "Calls by method",
        "Calls that began, each second. What to compare everything else with: a fault that grows with the calls is "
        "another one than a fault that comes alone.",
        (Query(per_second("grpc_server_started_total", by="grpc_method"), "{{grpc_method}}"),),
        "reqps",
        8,
        minimum=0,
    ),
    Panel(
        "timeseries",
        "Calls that did not end OK, by status",
        "INVALID_ARGUMENT, FAILED_PRECONDITION, NOT_FOUND: the callers' readings or names. CANCELLED: they hung up. "
        "RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED: too much came. INTERNAL: a fault; its id is in the log. Worry about "
        "any that is new.",
        (
            Query(
                per_second("grpc_server_handled_total", f'grpc_code!="OK", {HERE}', "grpc_code"),
                "{{grpc_code}}",
            ),
        ),
        "reqps",
        8,
        minimum=0,
        stacked=True,
    ),
    Panel(
        "timeseries",
        "Time of a call",
        "From a call to its end, median and 99th percentile, without streams. Read from buckets, so an estimate. A "
        "p99 that leaves its median behind: a queue (see below), a model that loads, or cores that others use.",
        (
            Query(quantile(0.5, "grpc_server_handling_seconds", UNARY, "grpc_method, "), "p50 {{grpc_method}}"),
            Query(quantile(0.99, "grpc_server_handling_seconds", UNARY, "grpc_method, "), "p99 {{grpc_method}}"),
        ),
        "s",
        8,
        minimum=0,
    ),
)

QUEUE = row(
    "From the queue to the answer",
    9,
    Panel(
        "timeseries",
        "Time in the queue",
        "How long a forecast waited for its batch. About --batch-wait-ms (2 ms) is intended: batches form. More: "
        "batches cannot keep up.",
        tuple(
            Query(
                quantile(q, "glucose_infer_queue_seconds", HERE, "name, version, "),
                f"{said} {{{{name}}}} {{{{version}}}}",
            )
            for q, said in ((0.5, "p50"), (0.99, "p99"))
        ),
        "s",
        8,
        minimum=0,
    ),
    Panel(
        "timeseries",
        "Time to compute a batch",
        "Inside the network alone. It grows with the batch; at equal batches it grows where cores are short or a "
        "larger model became champion.",
        tuple(
            Query(
                quantile(q, "glucose_infer_compute_seconds", HERE, "name, version, "),
                f"{said} {{{{name}}}} {{{{version}}}}",
            )
            for q, said in ((0.5, "p50"), (0.99, "p99"))
        ),
        "s",
        8,
        minimum=0,
    ),
    Panel(
        "heatmap",
        "Forecasts computed together",
        "How many forecasts a batch held; darker is more batches. Mostly 1: calls come one by one, which is fine. "
        "Mostly at --batch-size (64): the service is at its limit.",
        (Query(f"sum by (le) (increase(glucose_infer_batch_size_bucket{{{HERE}}}[{RATE}]))", "{{le}}"),),
        "short",
        8,
    ),
    Panel(
        "timeseries",
        "Left waiting as a batch began",
        "Forecasts of each version that a batch left in the queue. Short peaks are batches of callers "
        "(ForecastBatch); a plateau is too much traffic.",
        (Query(f"sum by (name, version) (glucose_infer_queue_depth{{{HERE}}})", "{{name}} {{version}}"),),
        "short",
        8,
        minimum=0,
    ),
    Panel(
        "timeseries",
        "Forecasts not computed",
        "queue_full and deadline: refused as they came, with a time to try again. Expired: the deadline passed in the "
        "queue; callers ask for less time than the service needs. Cancelled: the caller was gone. All zero on a good "
        "day.",
        (
            Query(per_second("glucose_infer_rejected_total", by="reason"), "refused: {{reason}}"),
            Query(per_second("glucose_infer_expired_total"), "expired"),
            Query(per_second("glucose_infer_cancelled_total"), "cancelled"),
        ),
        "cps",
        8,
        minimum=0,
        stacked=True,
    ),
    Panel(
        "timeseries",
        "Forecasts and batches",
        "Forecasts computed and the batches they were computed in, each second. The closer the lines, the smaller the "
        "batches.",
        (
            Query(per_second("glucose_infer_inferences_total"), "forecasts"),
            Query(per_second("glucose_infer_executions_total"), "batches"),
        ),
        "cps",
        8,
        minimum=0,
    ),
)

PROCESS = row(
    "Streams and process",
    8,
    Panel(
        "timeseries",
        "Streams by instance",
        "Open Monitor streams. A stream stays with its instance: after a restart the others carry more.",
        (Query(f"sum by (instance) (glucose_monitor_streams{{{HERE}}})", "{{instance}}"),),
        "short",
        6,
        minimum=0,
    ),
    Panel(
        "timeseries",
        "Readings of streams, by use",
        "NEWEST: forecast from. LATE, CORRECTED, DUPLICATE: put in order. REFUSED: no reading that can be used. Many "
        "duplicates: a sender repeats itself; many too old: a wrong clock.",
        (Query(per_second("glucose_monitor_readings_total", by="use"), "{{use}}"),),
        "cps",
        6,
        minimum=0,
        stacked=True,
    ),
    Panel(
        "timeseries",
        "Memory by instance",
        "Resident memory; about 160 MB and the open networks. It rises while streams open (70 kB each) and then "
        "stays. Rising for hours at equal load is a leak.",
        (Query(f'max by (instance) (process_resident_memory_bytes{{job="inference", {HERE}}})', "{{instance}}"),),
        "bytes",
        6,
        minimum=0,
    ),
    Panel(
        "timeseries",
        "Cores used",
        "CPU seconds each second. One event loop uses one core, batches in threads more. Near the container's limit "
        "(2), everything above slows down.",
        (
            Query(
                f'sum by (instance) (rate(process_cpu_seconds_total{{job="inference", {HERE}}}[{RATE}]))',
                "{{instance}}",
            ),
        ),
        "short",
        6,
        minimum=0,
    ),
)

GUARD = row(
    "TLS and tokens",
    8,
    Panel(
        "timeseries",
        "Time until the certificate ends",
        "Of the server's certificate that each instance shows, the soonest of its workers. No data: no TLS. Instances "
        "apart: one has not taken the new files up, see beside. Below 14 days: replace it, without a restart.",
        (
            Query(
                f"min by (instance) (glucose_certificate_expiry_timestamp_seconds{{{HERE}}} > 0) - time()",
                "{{instance}}",
            ),
        ),
        "dtdurations",
        8,
    ),
    Panel(
        "timeseries",
        "Replaced files that could not be used",
        "Tokens or certificates that were replaced and are damaged; the old ones stay in force, and the log says what "
        "is amiss. One as a certificate and its key are moved in turn is normal. It does not fall: a restart forgets.",
        (Query(f"sum by (instance, files) (glucose_reload_failures_total{{{HERE}}})", "{{files}} {{instance}}"),),
        "short",
        8,
        minimum=0,
    ),
    Panel(
        "timeseries",
        "Calls without leave",
        "UNAUTHENTICATED: no token, or one that is not known here. PERMISSION_DENIED: one that may not. Many at once "
        "after a token was replaced: a caller still has the old one. Else somebody tries.",
        (
            Query(
                per_second(
                    "grpc_server_handled_total",
                    f'grpc_code=~"UNAUTHENTICATED|PERMISSION_DENIED", {HERE}',
                    "grpc_code, grpc_method",
                ),
                "{{grpc_code}} {{grpc_method}}",
            ),
        ),
        "reqps",
        8,
        minimum=0,
        stacked=True,
    ),
)

BOARD = Board(
    file="service",
    uid="glucast-service",
    title="glucast / Service",
    description="Is the service there, does it answer, and in time? Start here when somebody complains.",
    since="1h",
    refresh="15s",
    variables=(
        Variable("instance", "Instance", 'label_values(up{job="inference"}, instance)', description="whose /metrics"),
    ),
    rows=(GLANCE, ALERTS, CALLS, QUEUE, PROCESS, GUARD),
)
