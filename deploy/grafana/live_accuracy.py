"""How good are the forecasts, measured by what really came?

Read from the recording rules over the last hour or day ($window is part of their names), which the alerts read too.
Every figure stands twice: once where at least $few truths are behind it, and once in grey where they are fewer.
"""

from typing import Any

from deploy.grafana.expressions import RATE
from deploy.grafana.panels import FEW, GREEN, LAST_READING, RED, YELLOW, Board, Panel, Query, Steps, Variable, row

CHOSEN = 'name=~"$name", version=~"$version", horizon=~"$horizon"'
ARM = "name, version, horizon"
ONE = "{{name}} {{version}}, {{horizon}} min"
SHORT = "version {{version}}, {{horizon}} min"  # where there is little room
MG_DL = "conmgdL"
BOTH = f"{ARM}, role"  # champion and challenger


def rule(metric: str, operation: str) -> str:
    """A series of the recording rules, of the versions that were chosen."""
    return f"model_horizon:{metric}:{operation}${{window}}{{{CHOSEN}}}"


OUTCOMES = rule("glucose_forecast_outcomes", "increase")
LOWS = rule("glucose_lows", "increase")
LOW_ALARMS = rule("glucose_low_alarms", "increase")
ERROR = rule("glucose_forecast_abs_error_mgdl", "mean")
PERSISTENCE = rule("glucose_persistence_abs_error_mgdl", "mean")
SKILL = rule("glucose_forecast", "skill")
BIAS = rule("glucose_forecast_error_mgdl", "mean")
COVERAGE = rule("glucose_forecast_interval", "coverage")
MISSED = rule("glucose_lows_missed", "ratio")
FALSE_ALARMS = rule("glucose_low_alarms_false", "ratio")


def shadows(series: str, by: str, labels: str = CHOSEN) -> str:
    """How much a series of forecasts that both made grew; no rule records it."""
    return f"sum by ({by}) (increase(glucose_shadow_abs_error_mgdl_{series}{{{labels}}}[$window]))"


def marked(expression: str, legend: str, known: str = OUTCOMES, by: str = ARM) -> tuple[Query, Query]:
    """A figure where enough truths stand behind it, and the same where they are few, which its legend says."""
    return (
        Query(f"{expression} and on ({by}) {known} >= $few", legend),
        Query(f"{expression} and on ({by}) {known} < $few", f"{legend}, {FEW}"),
    )


def figure(title: str, text: str, expression: str, unit: str, steps: Steps, known: str = OUTCOMES) -> Panel:
    """A number for each version and horizon."""
    decimals = 1 if unit == MG_DL else 0
    return Panel("stat", title, text, marked(expression, SHORT, known), unit, 6, steps, decimals=decimals)


def curve(title: str, text: str, queries: tuple[Query, ...], unit: str, **more: Any) -> Panel:
    """The same for each version and horizon, as it moved."""
    return Panel("timeseries", title, text, queries, unit, more.pop("width", 12), **more)


def inputs(name: str) -> str:
    """What part of the steps that were forecast from was not a plain reading."""
    return f"sum(rate({name}[{RATE}])) / (sum(rate(glucose_input_readings_total[{RATE}])) > 0)"


GLANCE = row(
    "Over the chosen versions",
    5,
    Panel(
        "stat",
        "Truths that came",
        "Forecasts compared with a real reading while looking back. Neighbours in time are alike, so the figures are "
        "worth fewer than this says. Below 100: wait before you judge. None: nobody sends truth.",
        (Query(OUTCOMES, SHORT),),
        "short",
        6,
        ((None, RED), (30.0, YELLOW), (100.0, GREEN)),
        decimals=0,
    ),
    figure(
        "Mean absolute error",
        "How far the mean forecast is off. It depends on who streams, so compare it with persistence beside it before "
        "you compare it with last week. Coloured at 20 and 30 mg/dL, about what simple models reach.",
        ERROR,
        MG_DL,
        ((None, GREEN), (20.0, YELLOW), (30.0, RED)),
    ),
    figure(
        "The last reading's error",
        "Persistence: what it would cost to forecast no change, on the same truths. It measures how restless the "
        "readings are, not the model.",
        PERSISTENCE,
        MG_DL,
        ((None, "text"),),
    ),
    figure(
        "Skill",
        "The part of persistence's error that the model saves. On test data 15 to 25 % are usual. Near 0: the model "
        "adds nothing. Below 0: forecasting no change would be better; roll back.",
        SKILL,
        "percentunit",
        ((None, RED), (0.0, YELLOW), (0.1, GREEN)),
    ),
    figure(
        "Bias",
        "Mean forecast less truth. Above 0 it says too much: lows come unforeseen. Within 5 mg/dL is fine; a drift "
        "that goes on is a sensor or a population that the model did not see.",
        BIAS,
        MG_DL,
        ((None, RED), (-10.0, YELLOW), (-5.0, GREEN), (5.0, YELLOW), (10.0, RED)),
    ),
    figure(
        "Inside the 90 % interval",
        "Of 100 truths 90 should lie inside. Fewer than 85: the service is surer than it may be, and its risks are "
        "wrong too. More than 95: intervals too wide to be of use.",
        COVERAGE,
        "percentunit",
        ((None, RED), (0.8, YELLOW), (0.85, GREEN), (0.95, YELLOW)),
    ),
    figure(
        "Lows without an alarm",
        "Of the truths below 70 mg/dL, the share that was forecast without an alarm (P(< 70) under --alarm-low). "
        "Marked by the number of lows, which are rare. Read it beside the false alarms.",
        MISSED,
        "percentunit",
        ((None, GREEN), (0.3, YELLOW), (0.6, RED)),
        LOWS,
    ),
    figure(
        "Alarms without a low",
        "Of the forecasts that raised an alarm for a low, the share where none came. Many false alarms are turned off "
        "by people. --alarm-low moves both numbers, against each other.",
        FALSE_ALARMS,
        "percentunit",
        ((None, GREEN), (0.5, YELLOW), (0.75, RED)),
        LOW_ALARMS,
    ),
)

BY_VERSION = row(
    "Error, by version",
    9,
    curve(
        "Error beside the last reading's",
        "Mean absolute error of each version, and dotted that of persistence on the same truths. Both rise: restless "
        "days. The model's alone rises, or crosses persistence: something is wrong with it, or with what comes in.",
        (
            *marked(ERROR, ONE),
            *marked(PERSISTENCE, f"{LAST_READING}, for {ONE}"),
        ),
        MG_DL,
        minimum=0,
    ),
    curve(
        "Skill over time",
        "The part of persistence's error that each version saves. What to watch after a promotion. The line is 0: "
        "below it the last reading is the better forecast.",
        marked(SKILL, ONE),
        "percentunit",
        steps=((None, RED), (0.0, GREEN)),
        minimum=-0.25,
        maximum=0.5,
        line_at_steps=True,
    ),
    curve(
        "Bias over time",
        "Mean forecast less truth. Lines at -10 and 10 mg/dL. A slow drift is a change in people or sensors, a jump "
        "is a new version or a wrong unit.",
        marked(BIAS, ONE),
        MG_DL,
        steps=((None, RED), (-10.0, GREEN), (10.0, RED)),
        line_at_steps=True,
    ),
    curve(
        "Inside the 90 % interval, over time",
        "Should stay near 90 %; lines at 85 and 95 %. A fall with an equal error: the days became more restless than "
        "those that the intervals were learned from.",
        (*marked(COVERAGE, ONE), Query("vector(0.9)", "target")),
        "percentunit",
        steps=((None, RED), (0.85, GREEN), (0.95, YELLOW)),
        maximum=1,
        line_at_steps=True,
    ),
)

LOW = row(
    "Lows, and how much is known",
    8,
    curve(
        "Lows without an alarm, over time",
        "Share of the lows that came unforeseen, grey and dashed where they are few. A rise is the first thing to "
        "explain: it is what hurts.",
        marked(MISSED, ONE, LOWS),
        "percentunit",
        width=8,
        minimum=0,
        maximum=1,
    ),
    curve(
        "Alarms without a low, over time",
        "Share of the low alarms that nothing followed, grey and dashed where they are few.",
        marked(FALSE_ALARMS, ONE, LOW_ALARMS),
        "percentunit",
        width=8,
        minimum=0,
        maximum=1,
    ),
    curve(
        "Truths, lows and alarms",
        "What stands behind the shares while looking back. A fall to zero: streams end, or ids are not known to the "
        "replica that is asked (GLUCAST_ID_SECRET differs).",
        (
            Query(f"sum by (horizon) ({OUTCOMES})", "truths, {{horizon}} min"),
            Query(f"sum by (horizon) ({LOWS})", "lows, {{horizon}} min"),
            Query(f"sum by (horizon) ({LOW_ALARMS})", "low alarms, {{horizon}} min"),
        ),
        "short",
        width=8,
        minimum=0,
    ),
)

SHADOW = row(
    "Champion and challenger",
    8,
    curve(
        "Champion and challenger on the same truths",
        "Mean absolute error of both where --shadow-share lets the challenger forecast unseen. The challenger must be "
        "lower, solid, and for days, before it is promoted: a few hours prove nothing.",
        marked(
            f"({shadows('sum', BOTH)} / ({shadows('count', BOTH)} > 0))",
            f"{{{{role}}}}: {ONE}",
            f"({shadows('count', BOTH)})",
            BOTH,
        ),
        MG_DL,
        width=16,
        minimum=0,
    ),
    Panel(
        "stat",
        "Truths that both met",
        "Forecasts of both that were compared while looking back. None: --shadow-share is 0, or there is no "
        "challenger.",
        (Query(shadows("count", "horizon", f'{CHOSEN}, role="challenger"'), "{{horizon}} min"),),
        "short",
        8,
        ((None, RED), (100.0, YELLOW), (1000.0, GREEN)),
        decimals=0,
    ),
)

SPREAD = row(
    "What is forecast, and how far it is off",
    9,
    Panel(
        "heatmap",
        "Forecasts by glucose",
        "Mean forecasts in mg/dL; darker is more. A band that moves is another population or a unit that is mixed up; "
        "all in one cell is a model that always says the same.",
        (Query(f"sum by (le) (increase(glucose_forecast_mgdl_bucket{{{CHOSEN}}}[{RATE}]))", "{{le}}"),),
        MG_DL,
        12,
    ),
    Panel(
        "heatmap",
        "Errors by size",
        "Absolute errors in mg/dL; darker is more. The mean hides these: a second band far up is a group of people "
        "whom the model does not fit.",
        (
            Query(
                f"sum by (le) (increase(glucose_forecast_abs_error_mgdl_bucket{{{CHOSEN}}}[{RATE}]))",
                "{{le}}",
            ),
        ),
        MG_DL,
        12,
    ),
)

INPUT = row(
    "What comes in",
    8,
    Panel(
        "timeseries",
        "Refused for their readings, by reason",
        "InsufficientData: too few, a gap, or old ones: sensors as they are. InvalidReadings, InvalidInput: a "
        "caller's mistake, such as a wrong unit. Refused people get no forecast, so they are missing above.",
        (Query(f"sum by (reason) (rate(glucose_input_refused_total[{RATE}]))", "{{reason}}"),),
        "cps",
        12,
        minimum=0,
        stacked=True,
    ),
    Panel(
        "timeseries",
        "Readings that were filled or censored",
        "Share of the steps forecast from that were filled on a straight line, or taken as the edge of the sensor's "
        "range (Low, High). Rising: connections or sensors get worse, and the figures above with them.",
        (
            Query(inputs("glucose_input_filled_total"), "filled"),
            Query(inputs("glucose_input_censored_total"), "censored"),
        ),
        "percentunit",
        12,
        minimum=0,
    ),
)

BOARD = Board(
    file="live-accuracy",
    uid="glucast-live-accuracy",
    title="glucast / Live accuracy",
    description="How good are the forecasts, measured by the readings that came after them? Only forecasts whose truth "
    "came (streams, ReportOutcome) count.",
    since="24h",
    refresh="1m",
    variables=(
        Variable(
            "name",
            "Model",
            "label_values(glucose_forecast_outcomes_total, name)",
            description="as registered; all models of single people are `personal`",
        ),
        Variable("version", "Version", 'label_values(glucose_forecast_outcomes_total{name=~"$name"}, version)'),
        Variable(
            "horizon",
            "Minutes ahead",
            'label_values(glucose_forecast_outcomes_total{name=~"$name", version=~"$version"}, horizon)',
        ),
        Variable("window", "Looking back", "1h,1d", "1d", "the truths that a figure is made from"),
        Variable(
            "few", "Few are less than", "30,100,300,1000", "100", "outcomes below which a figure is marked as uncertain"
        ),
    ),
    rows=(GLANCE, BY_VERSION, LOW, SHADOW, SPREAD, INPUT),
)
