"""What a study found, told to people and machines: means, and each arm against the arm with the same data."""

from typing import Any

import numpy as np
from rich.table import Table

from trainer.comparison import Comparison, compare
from trainer.study import BARS, PAIRS
from trainer.study_record import SetRecord, rmse_table, strata_of
from trainer.tables import numbers_table
from trainer.terminal import console

SHOWN = ("rmse", "mae", "crps", "coverage_80", "clarke_a")


def comparisons_of(records: list[SetRecord]) -> list[Comparison]:
    """Gains by distillation, then the bars; on the people of all sets, horizon by horizon."""
    table, strata = rmse_table(records), strata_of(records)
    horizons = sorted(next(iter(table.values())))
    present = [(arm, against) for arm, against in (*PAIRS, *BARS) if arm in table and against in table]
    return [found for arm, against in present for found in compare(table, arm, against, strata, horizons)]


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


def study_json(records: list[SetRecord]) -> dict[str, Any]:
    """Means of every set, and the comparisons with their verdicts."""
    return {
        "sets": {
            record.dataset: {
                "people": len(record.people),
                "windows": record.windows,
                "teacher_weight": record.teacher_weight,
                "means": means_of(record),
            }
            for record in records
        },
        "comparisons": [
            vars(found) | {"verdict": found.verdict, "sentence": found.sentence} for found in comparisons_of(records)
        ],
    }


def means_table(record: SetRecord) -> Table:
    """RMSE, CRPS and coverage of every arm."""
    means = means_of(record)
    horizons = list(next(iter(means.values())))
    title = f"{record.dataset}: {len(record.people)} people, {record.windows} windows of the test part"
    table = numbers_table(f"mean over people\nand seeds, at {' / '.join(horizons)} min", title)
    for name in ("seeds", "RMSE", "CRPS", "in 80 %"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm, found in means.items():
        cells = [
            " / ".join(form.format(found[h][name]) for h in horizons)
            for name, form in (("rmse", "{:.2f}"), ("crps", "{:.2f}"), ("coverage_80", "{:.0%}"))
        ]
        table.add_row(arm.replace("_", " "), str(len(record.arms[arm])), *cells)
    return table


def print_study(records: list[SetRecord]) -> None:
    """Tables, then a sentence for each comparison."""
    for record in records:
        console.print(means_table(record))
    for found in comparisons_of(records):
        console.print(found.sentence, highlight=False)
