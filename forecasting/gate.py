"""The gate: what a challenger must beat, on the calibration part, before it may serve."""

from dataclasses import dataclass
from typing import Literal

GateName = Literal["ridge", "persistence"]
TOLERANCE = 1.005  # at most 0.5 % above the champion at any horizon
Rmse = dict[str, float]  # {horizon in minutes: RMSE in mg/dL, mean over patients}


@dataclass(frozen=True)
class Decision:
    """passed, and a sentence for every comparison that was made."""

    passed: bool
    reasons: tuple[str, ...]


def decide(challenger: Rmse, bar: Rmse, bar_name: str, champion: Rmse | None) -> Decision:
    """May the challenger become champion?

    It must be below the bar at every horizon that both have, and not above the present champion by more than
    0.5 % at any; where it improves on the champion at none, the champion stays.
    """
    verdicts = []
    shared = [h for h in challenger if h in bar]
    for h in shared:
        verdicts.append((challenger[h] < bar[h], f"{h} min: {challenger[h]:.2f} against {bar_name} {bar[h]:.2f} mg/dL"))
    if not shared:
        verdicts.append((False, f"the challenger and {bar_name} have no horizon in common"))
    if champion is not None:
        verdicts += _against_champion(challenger, champion)
    reasons = tuple(f"{sentence}: {'passed' if ok else 'not passed'}" for ok, sentence in verdicts)
    return Decision(all(ok for ok, _ in verdicts), reasons)


def _against_champion(challenger: Rmse, champion: Rmse) -> list[tuple[bool, str]]:
    shared = [h for h in challenger if h in champion]
    if not shared:
        return [(False, "the challenger and the champion have no horizon in common")]
    verdicts = [
        (
            challenger[h] <= champion[h] * TOLERANCE,
            f"{h} min: {challenger[h]:.2f} against champion {champion[h]:.2f} mg/dL",
        )
        for h in shared
    ]
    improves = any(challenger[h] < champion[h] for h in shared)
    return [*verdicts, (improves, "better than the champion at one horizon at least")]


def lower(first: Rmse, second: Rmse) -> Rmse:
    """The lower of two bars at each horizon that both have."""
    return {h: min(first[h], second[h]) for h in first if h in second}
