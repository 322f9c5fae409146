"""What a study found, told to people and machines: means, and each arm against the arm with the same data."""

from typing import Any

import numpy as np
from rich.table import Table

from trainer.comparison import Comparison, compare
from trainer.evaluate import BOOSTING
from trainer.study_record import (
    ALONE,
    DISTILLED,
    FEW,
    PERSONAL,
    POPULATION_ALONE,
    POPULATION_DISTILLED,
    TEACHERS,
    TUNED,
    TUNED_DISTILLED,
    OfSeed,
    SetRecord,
    rmse_table,
    strata_of,
)
from trainer.tables import numbers_table
from trainer.terminal import console

SHOWN = ("rmse", "mae", "crps", "coverage_80", "clarke_a")
COVERED = (0.7, 0.9)  # of a person's truths are to lie within their 80 % intervals
PAIRS = (  # what counts as a gain by distillation: the same data, the same beginning
    (POPULATION_DISTILLED, POPULATION_ALONE),
    (f"{PERSONAL}_{DISTILLED}", f"{PERSONAL}_{ALONE}"),
    (f"{PERSONAL}_{TUNED_DISTILLED}", f"{PERSONAL}_{TUNED}"),
    (f"{FEW}_{DISTILLED}", f"{FEW}_{ALONE}"),
    (f"{FEW}_{TUNED_DISTILLED}", f"{FEW}_{TUNED}"),
)
BARS = (  # what a student must meet
    (POPULATION_DISTILLED, BOOSTING),
    (POPULATION_ALONE, BOOSTING),
    (POPULATION_DISTILLED, TEACHERS),
    (f"{FEW}_{TUNED_DISTILLED}", POPULATION_DISTILLED),
)


def comparisons_of(records: list[SetRecord]) -> list[Comparison]:
    """Gains by distillation, then the bars; on the people of all these records, horizon by horizon."""
    table, strata = rmse_table(records), strata_of(records)
    horizons = sorted(next(iter(table.values())))
    present = [(arm, against) for arm, against in (*PAIRS, *BARS) if arm in table and against in table]
    return [found for arm, against in present for found in compare(table, arm, against, strata, horizons)]


def comparisons_by_kind(records: list[SetRecord]) -> dict[str, list[Comparison]]:
    """Of people whom the models know, and of people who are new to them: never of both together."""
    kinds = {"known people": False, "new people": True}
    of_kind = {kind: [record for record in records if record.new_people is new] for kind, new in kinds.items()}
    return {kind: comparisons_of(own) for kind, own in of_kind.items() if own}


def means_of(record: SetRecord) -> dict[str, dict[str, dict[str, float]]]:
    """{arm: {horizon: {score: mean over seeds and people}}}"""
    return {
        arm: {
            horizon: {name: _mean(seeds, horizon, name) for name in SHOWN} for horizon in next(iter(seeds[0].values()))
        }
        for arm, seeds in record.arms.items()
    }


def _mean(seeds: list[dict[str, dict[str, Any]]], horizon: str, name: str) -> float:
    found = [scores[horizon][name] for seed in seeds for scores in seed.values() if name in scores.get(horizon, {})]
    return float(np.mean(found)) if found else float("nan")


def share_covered(seeds: list[OfSeed], horizon: str) -> float:
    """Share of people of whose truths 70 to 90 % lie within their 80 % intervals, mean over seeds."""
    low, high = COVERED
    shares = [[scores[horizon]["coverage_80"] for scores in seed.values() if horizon in scores] for seed in seeds]
    return float(np.mean([np.mean([low <= share <= high for share in own]) for own in shares]))


def study_json(records: list[SetRecord]) -> dict[str, Any]:
    """Means of every set, and the comparisons with their verdicts."""
    return {
        "sets": {record.dataset: _set_json(record) for record in records},
        "comparisons": [
            vars(found) | {"people_are": kind, "verdict": found.verdict, "sentence": found.sentence}
            for kind, own in comparisons_by_kind(records).items()
            for found in own
        ],
    }


def _set_json(record: SetRecord) -> dict[str, Any]:
    means = means_of(record)
    return {
        "people": len(record.people),
        "windows": record.windows,
        "teacher_weight": record.teacher_weight,
        "means": means,
        "people_covered": {
            arm: {horizon: share_covered(record.arms[arm], horizon) for horizon in own} for arm, own in means.items()
        },
        "alarms": record.alarms,
        "alarm_findings": record.alarm_findings,
    }


def means_table(record: SetRecord) -> Table:
    """RMSE, CRPS and coverage of every arm."""
    means = means_of(record)
    horizons = list(next(iter(means.values())))
    title = f"{record.dataset}: {len(record.people)} people, {record.windows} windows of the test part"
    table = numbers_table(f"mean over people\nand seeds, at {' / '.join(horizons)} min", title)
    for name in ("seeds", "RMSE", "CRPS", "in 80 %", "people at\n70 to 90 %"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm, found in means.items():
        cells = [
            " / ".join(form.format(found[h][name]) for h in horizons)
            for name, form in (("rmse", "{:.2f}"), ("crps", "{:.2f}"), ("coverage_80", "{:.0%}"))
        ]
        covered = " / ".join(f"{share_covered(record.arms[arm], h):.0%}" for h in horizons)
        table.add_row(arm.replace("_", " "), str(len(record.arms[arm])), *cells, covered)
    return table


def print_study(records: list[SetRecord]) -> None:
    """Tables, then a sentence for each comparison."""
    for record in records:
        console.print(means_table(record))
        for sentence in record.alarm_findings:
            console.print(f"{record.dataset}, {sentence}", highlight=False)
    for kind, comparisons in comparisons_by_kind(records).items():
        for found in comparisons:
            console.print(f"{kind}: {found.sentence}", highlight=False)
