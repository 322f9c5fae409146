"""What people read of an evaluation in the terminal, from its JSON: scores, doubtful readings, warnings of lows."""

from collections.abc import Callable, Mapping
from typing import Any

from rich.table import Table

from trainer.alarms import EQUALLY_FALSE, FALSE_PER_DAY, HORIZON
from trainer.tables import LABELS, numbers_table

POOLED = "ridge_pooled"  # one column too many for 80 characters
Show = Callable[[Mapping[str, Any]], str]


def _shown(score: str, pattern: str, times: float = 1) -> Show:
    """How a score is printed where there is one."""
    return lambda scores: "-" if scores.get(score) is None else pattern.format(times * scores[score])


MORE_SCORES: dict[str, Show] = {
    "MARD\n%": _shown("mard", "{:.1f}"),
    "bias\nmg/dL": _shown("bias", "{:+.1f}"),
    "Clarke\nA %": _shown("clarke_a", "{:.0f}"),
    "DTS\nA %": _shown("dts_a", "{:.0f}"),
    "gain\nmin": _shown("temporal_gain", "{:.0f}"),
    "in\n80 %": _shown("coverage_80", "{:.0f}", 100),
    "CRPS\nmg/dL": _shown("crps", "{:.1f}"),
}
ALARMS: dict[str, Show] = {
    "lows": _shown("events", "{}"),
    "fore-\ntold": _shown("detected", "{}"),
    "alarms": _shown("alarms", "{}"),
    "false": _shown("false_alarms", "{}"),
    "sens.\n%": _shown("sensitivity", "{:.0f}", 100),
    "prec.\n%": _shown("precision", "{:.0f}", 100),
    "F1": _shown("f1", "{:.2f}"),
    "false\n/day": _shown("false_per_day", "{:.2f}"),
    "lead\nmin": _shown("median_lead", "{:.0f}"),
    f"% at\n{FALSE_PER_DAY:g}/day": _shown(f"sensitivity_at_{FALSE_PER_DAY:g}_false_per_day", "{:.0f}", 100),
}
ALARMS_LEGEND = (
    f"Thresholds by F1 on validation. Foretold (sens.): by an alarm 15 to {HORIZON} min before. Right (prec.): a "
    f"low begins within {HORIZON} min. Last column: sensitivity where each arm raises at most {EQUALLY_FALSE}."
)


def scores_table(evaluation: dict[str, Any], title: str) -> Table:
    """Mean over patients of every arm at every horizon, from an evaluation's JSON."""
    table = numbers_table("mean over patients\nminutes ahead", title)
    horizons = _horizons(evaluation)
    for name in ("RMSE", "MAE", "skill", "in 90 %"):
        for horizon in horizons:
            table.add_column(f"{name}\n{horizon}", justify="right", no_wrap=True)
    for arm, scores in evaluation["arms"].items():
        mean = [scores["mean"][h] for h in horizons]
        cells = [f"{s[name]:.2f}" for name in ("rmse", "mae") for s in mean]
        cells += [f"{round(100 * s['skill'])} %" for s in mean]
        cells += [f"{100 * s['coverage_90']:.0f} %" if "coverage_90" in s else "-" for s in mean]
        table.add_row(LABELS.get(arm, arm), *cells)
    return table


def more_scores_table(evaluation: dict[str, Any], title: str) -> Table:
    """What RMSE does not say, mean over patients: at each horizon, one after the other."""
    horizons = _horizons(evaluation)
    table = numbers_table(f"mean over patients\n{' / '.join(horizons)} min", title)
    for name in MORE_SCORES:
        table.add_column(name, justify="right", no_wrap=True)
    for arm, scores in evaluation["arms"].items():
        mean = [scores["mean"][h] for h in horizons]
        table.add_row(LABELS.get(arm, arm), *("/".join(map(show, mean)) for show in MORE_SCORES.values()))
    return table


def patients_table(evaluation: dict[str, Any], title: str) -> Table:
    """RMSE of every patient and arm at every horizon; without pooled ridge, which the table of means has."""
    arms, horizons = {arm: one for arm, one in evaluation["arms"].items() if arm != POOLED}, _horizons(evaluation)
    table = numbers_table(f"RMSE at\n{' / '.join(horizons)} min", title)
    for arm in arms:
        heading = LABELS.get(arm, arm).replace(", ", "\n").replace("persist", "persist-\n")
        table.add_column(heading, justify="right", no_wrap=True)
    for patient in next(iter(arms.values()))["patients"]:
        table.add_row(patient, *(_rmses(arm["patients"].get(patient, {})) for arm in arms.values()))
    table.add_section()
    table.add_row("mean", *(_rmses(arm["mean"]) for arm in arms.values()))
    return table


def alarms_table(evaluation: dict[str, Any], title: str) -> Table:
    """What warnings of lows were worth, of everybody together."""
    table = numbers_table("lows below 70", title)
    for name in ALARMS:
        table.add_column(name, justify="right", no_wrap=True)
    for arm, scores in evaluation["alarms"].items():
        table.add_row(LABELS.get(arm, arm), *(show(scores) for show in ALARMS.values()))
    return table


def unflagged_sentence(evaluation: dict[str, Any]) -> str:
    """RMSE where no reading of the newest hour is doubtful, in one line."""
    share = evaluation["protocol"]["flagged"]["any"]
    arms = "; ".join(
        f"{LABELS.get(arm, arm)} {'/'.join(f'{value:.1f}' for value in rmse.values()) or '-'}"
        for arm, rmse in evaluation["unflagged"].items()
    )
    return f"RMSE without the {100 * share:.1f} % of windows with doubtful readings: {arms}"


def _horizons(evaluation: dict[str, Any]) -> list[str]:
    return list(next(iter(evaluation["arms"].values()))["mean"])


def _rmses(scores: dict[str, Any]) -> str:
    return "/".join(f"{s['rmse']:.1f}" for s in scores.values()) or "-"
