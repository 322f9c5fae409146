"""What commands say: results on standard output, what is going on on standard error."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from trainer.sweep_record import BOARD, SweepRecord
from trainer.tables import configurations_table, published_table, sweep_table

if TYPE_CHECKING:  # torch and ray take seconds to import
    from trainer.pipeline import Outcome
    from trainer.publication import Promotion
    from trainer.sweep import Published

console = Console(width=None if sys.stdout.isatty() else 120)
news = Console(stderr=True)  # a script that reads results is not disturbed


def say(sentence: str) -> None:
    """One line of news."""
    news.print(sentence, highlight=False, soft_wrap=True)


def print_outcome(outcome: "Outcome") -> None:
    """Scores of a pipeline's student on the test part, and what the gate said."""
    evaluation = outcome.evaluation.as_json()
    scored, possible = len(outcome.evaluation.scored), outcome.evaluation.of_windows
    share = f"{scored} windows" if scored == possible else f"{scored} of {possible} windows, evenly spaced"
    title = f"{outcome.version.name}: test part of {outcome.evaluation.dataset}, {share}"
    print_evaluation(evaluation, title)
    for sentence in outcome.verdicts:
        console.print(sentence, highlight=False)
    print_promotion(outcome.promotion)
    console.print(f"bundle   {outcome.bundle.folder}", highlight=False, soft_wrap=True)
    console.print(f"scores   {outcome.report}", highlight=False, soft_wrap=True)
    console.print(f"report   {outcome.page}", highlight=False, soft_wrap=True)


def print_evaluation(evaluation: dict[str, Any], title: str) -> None:
    """Everything that was scored, from an evaluation's JSON."""
    from trainer.score_tables import (
        ALARMS_LEGEND,
        alarms_table,
        more_scores_table,
        patients_table,
        scores_table,
        unflagged_sentence,
    )

    for table in (patients_table, scores_table, more_scores_table):
        console.print(table(evaluation, title))
    console.print(unflagged_sentence(evaluation), highlight=False)
    if "alarms" in evaluation:
        console.print(alarms_table(evaluation, title))
        console.print(ALARMS_LEGEND, highlight=False)


def print_promotion(promotion: "Promotion") -> None:
    """What the gate said of a version."""
    version = promotion.version
    for reason in promotion.decision.reasons:
        console.print(f"  gate: {reason}", highlight=False)
    verdict = "is champion" if promotion.decision.passed else "did not pass the gate; the champion stays as it was"
    console.print(f"{version.name} version {version.version} ({version.digest[:12]}) {verdict}", highlight=False)
    if not promotion.below_ridge:
        console.print(
            "Ridge regression is better than this student on the calibration part: prefer it.", highlight=False
        )


def print_leaderboard(record: SweepRecord, folder: Path) -> None:
    """What a sweep found on the validation part, and where its page is."""
    console.print(sweep_table(record))
    console.print(configurations_table(record))
    console.print(f"leaderboard {folder / BOARD}", highlight=False, soft_wrap=True)


def print_published(published: "list[Published]") -> None:
    """Who was published, and what the gate said of each."""
    if published:
        console.print(published_table(published))
    for one in published:
        print_promotion(one.promotion)
