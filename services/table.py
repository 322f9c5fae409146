"""Answers of a service as tables and lines for a terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Column, Table

from forecasting.cgm import HIGH_MG_DL, LOW_MG_DL, MG_DL_PER_MMOL_L, Unit
from forecasting.context import Reading
from services.client.clock import Clock
from services.client.results import Alarm, Curve, Forecast, Model, Update

NOT_A_DEVICE = "Research prototype, not a medical device; no dosing advice."
SHARE = 0.9  # of the interval that is shown
HORIZONS = (30, 60)  # minutes, of the forecasts on a line
WIDTH = 24  # of one of them
ALARMS = {"low_now": "LOW", "high_now": "HIGH", "low_expected": "LOW EXPECTED", "high_expected": "HIGH EXPECTED"}


def print_forecast(
    console: Console,
    forecast: Forecast,
    truth: Mapping[int, float] | None = None,
    clock: Clock = Clock(),
    unit: Unit = "mg/dL",
) -> None:
    """Print points, risks, model version and warnings.

    truth: what was really read, {minutes ahead: mg/dL}, for a column beside the forecast
    clock, unit: what times and glucose are shown in
    """
    when = f"{clock.at(forecast.origin):%Y-%m-%d %H:%M} ({clock.name})"
    console.print(f"Glucose in {unit}, forecast at {when}", style="italic", highlight=False)
    console.print(_points(forecast, truth, clock, unit))
    if forecast.risks:
        console.print(_risks(forecast, unit))
    console.print(f"model    {forecast.model}", highlight=False)
    for warning in forecast.warnings:
        console.print(f"[yellow]warning[/yellow]  {warning}", highlight=False)
    console.print(NOT_A_DEVICE, style="bold")


def _points(forecast: Forecast, truth: Mapping[int, float] | None, clock: Clock, unit: Unit) -> Table:
    table = Table("time", Column("min ahead", justify="right"))
    for column in ("mean", "90 % interval", *(["truth"] if truth is not None else [])):
        table.add_column(column, justify="right")
    curve = forecast.in_unit(unit)
    for k, minutes in enumerate(curve.minutes_ahead):
        row = [f"{clock.at(curve.times[k]):%H:%M}", f"{minutes}", number(curve.mean[k], unit), _interval(curve, k)]
        if truth is not None:
            row.append(_in_unit(truth[minutes], unit) if minutes in truth else "–")
        table.add_row(*row)
    return table


def number(glucose: float, unit: Unit) -> str:
    """Glucose in `unit`, with as many digits as people write."""
    return f"{glucose:.0f}" if unit == "mg/dL" else f"{glucose:.1f}"


def _in_unit(glucose_mg_dl: float, unit: Unit) -> str:
    return number(glucose_mg_dl if unit == "mg/dL" else glucose_mg_dl / MG_DL_PER_MMOL_L, unit)


def _interval(curve: Curve, step: int) -> str:
    edges = curve.interval(SHARE)
    return "–" if edges is None else " – ".join(number(edge[step], curve.unit) for edge in edges)


def _risks(forecast: Forecast, unit: Unit) -> Table:
    table = Table("risk", *(f"in {risk.minutes_ahead} min" for risk in forecast.risks))
    table.add_row(f"P(< {_in_unit(LOW_MG_DL, unit)} {unit})", *(f"{risk.below_70:.0%}" for risk in forecast.risks))
    table.add_row(f"P(> {_in_unit(HIGH_MG_DL, unit)} {unit})", *(f"{risk.above_180:.0%}" for risk in forecast.risks))
    return table


def print_watched(console: Console, patient_id: str, clock: Clock, unit: Unit) -> None:
    """Print what the lines of `print_update` are under."""
    console.print(f"Readings of {patient_id} in {unit}, times on {clock.name}. {NOT_A_DEVICE}", highlight=False)
    ahead = "".join(f"in {minutes} min (90 %)".ljust(WIDTH) for minutes in HORIZONS)
    console.print(f"{'time':7}{'read':>6}  {'use':11}{ahead}alarms", style="bold", highlight=False)


def print_update(console: Console, update: Update, reading: Reading, clock: Clock, unit: Unit) -> None:
    """Print one line: the reading, what became of it, the forecast or what there is in its place, alarms.

    reading: as it was sent, in `unit`
    """
    read = reading.value if isinstance(reading.value, str) else number(reading.value, unit)
    told = _ahead(update.forecast.in_unit(unit)) if update.forecast else f"{update.problem or ''}".ljust(2 * WIDTH)
    alarms = ", ".join(map(_alarm, update.alarms))
    line = f"{clock.at(update.time):%H:%M}  {read:>6}  {update.use:11}{told}"
    console.print(f"{line}[bold red]{alarms}[/bold red]", highlight=False, soft_wrap=True)


def _ahead(curve: Curve) -> str:
    steps = [curve.minutes_ahead.index(minutes) for minutes in HORIZONS if minutes in curve.minutes_ahead]
    return "".join(f"{number(curve.mean[k], curve.unit)} ({_interval(curve, k)})".ljust(WIDTH) for k in steps)


def _alarm(alarm: Alarm) -> str:
    name = ALARMS.get(alarm.kind, alarm.kind)
    when = f" in {alarm.minutes_ahead} min, {alarm.probability:.0%}" if alarm.minutes_ahead else ""
    return f"{name}{when}{' (new)' if alarm.is_new else ''}"


def print_models(console: Console, models: Sequence[Model]) -> None:
    """Print a row for each model."""
    table = Table(Column("model", no_wrap=True), Column("version", justify="right"), "aliases", "backbone")
    table.add_column("RMSE in mg/dL on the test part")
    for one in models:
        scores = ", ".join(f"{score.rmse_mg_dl:.1f} at {score.minutes_ahead} min" for score in one.scores)
        aliases = ", ".join(one.aliases)
        table.add_row(one.model.name, one.model.version, aliases, one.backbone, scores or "not scored")
    console.print(table)


def print_model(console: Console, model: Model) -> None:
    """Print what one model takes, gives and scored."""
    levels = ", ".join(f"{level:g}" for level in model.quantile_levels)
    lines = {
        "model": f"{model.model}",
        "aliases": ", ".join(model.aliases) or "none",
        "backbone": model.backbone,
        "takes": f"the last {model.context_minutes} minutes, a reading every {model.sampling_minutes}; "
        f"fills gaps of up to {model.longest_gap_steps} missing",
        "gives": f"{model.horizon_minutes} minutes ahead: mean, and quantiles {levels}",
    }
    for name, text in lines.items():
        console.print(f"{name:9}{text}", highlight=False, soft_wrap=True)
    for score in model.scores:
        console.print(
            f"scored   at {score.minutes_ahead} min: RMSE {score.rmse_mg_dl:.1f}, MAE {score.mae_mg_dl:.1f} mg/dL, "
            f"{score.coverage_90:.0%} of truths in the 90 % interval, {score.patients} patients",
            highlight=False,
            soft_wrap=True,
        )
