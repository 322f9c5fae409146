"""A forecast as a table for a terminal."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Column, Table

from protos.glucast.v1 import forecaster_pb2 as pb

NOT_A_DEVICE = "Research prototype, not a medical device; no dosing advice."


def print_forecast(
    console: Console, answer: pb.ForecastResponse, truth: Mapping[int, float] | None = None, clock: str = "UTC"
) -> None:
    """Print points, risks, model version and warnings.

    truth: what was really read, {minutes ahead: mg/dL}, for a column beside the forecast; clock: what the times are on.
    """
    console.print(_points(answer, truth, clock))
    if answer.risks:
        console.print(_risks(answer))
    model = answer.model
    console.print(f"model    {model.name} version {model.version} (digest {model.digest[:12]})", highlight=False)
    for warning in answer.warnings:
        console.print(f"[yellow]warning[/yellow]  {warning}", highlight=False)
    console.print(NOT_A_DEVICE, style="bold")


def _points(answer: pb.ForecastResponse, truth: Mapping[int, float] | None, clock: str) -> Table:
    origin = answer.origin.ToDatetime()
    title = f"Glucose in mg/dL, forecast at {origin:%Y-%m-%d %H:%M} ({clock})"
    table = Table("time", Column("min ahead", justify="right"), title=title, title_justify="left")
    for column in ("mean", "90 % interval", *(["truth"] if truth is not None else [])):
        table.add_column(column, justify="right")
    for point in answer.points:
        row = [
            f"{point.time.ToDatetime():%H:%M}",
            f"{point.minutes_ahead}",
            f"{point.mean_mg_dl:.0f}",
            _interval(point),
        ]
        if truth is not None:
            row.append(f"{truth[point.minutes_ahead]:.0f}" if point.minutes_ahead in truth else "–")
        table.add_row(*row)
    return table


def _interval(point: pb.ForecastPoint) -> str:
    at = {quantile.level: quantile.value_mg_dl for quantile in point.quantiles}
    return f"{at[0.05]:.0f} – {at[0.95]:.0f}" if {0.05, 0.95} <= at.keys() else "–"


def _risks(answer: pb.ForecastResponse) -> Table:
    table = Table("risk", *(f"in {risk.minutes_ahead} min" for risk in answer.risks))
    table.add_row("P(< 70 mg/dL)", *(f"{risk.below_70:.0%}" for risk in answer.risks))
    table.add_row("P(> 180 mg/dL)", *(f"{risk.above_180:.0%}" for risk in answer.risks))
    return table
