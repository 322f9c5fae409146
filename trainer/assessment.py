"""What is found out about a student at the end, and the page that says it: scores, alarms, costs, how it was made."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from forecasting.baselines import Predictor
from forecasting.bundle import Bundle
from forecasting.errors import InsufficientData
from forecasting.forecaster import Forecaster
from forecasting.readers.datasets import DATASETS, Cohort
from forecasting.windows import Part, Windows, WindowShape
from trainer.alarms import alarm_sentence, low_alarms
from trainer.costs import cost_of
from trainer.evaluate import BOOSTING, PERSISTENCE, Arms, Evaluation, grow_boosting
from trainer.progress import Watch, unwatched
from trainer.report import Curves, RunReport, write_report
from trainer.tables import LABELS

Say = Callable[[str], None]
MODEL = "model"  # the arm of one that is assessed by itself, whose own name may be a person's
SLOW_UP_TO = 3_000  # windows of the part, for which even a slow arm's alarms are scored
PROTOCOL = (
    "Every timeline is split by time into 60 % to train, 10 % to validate and choose, 10 % to calibrate and pass the "
    "gate, and 20 % to test, one window apart. Each horizon is scored where its own target was read. One run with one "
    "seed: a small difference proves nothing."
)


@dataclass(frozen=True)
class Assessment:
    """Arms and what was found of them."""

    arms: Arms
    evaluation: Evaluation


def assess(
    models: Mapping[str, Predictor],
    cohort: Cohort,
    shape: WindowShape,
    part: Part,
    max_windows: int | None,
    alarms: bool,
    say: Say,
    watch: Watch = unwatched,
    slow: Collection[str] = (),
) -> Assessment:
    """Score models beside the baselines, and their alarms on parts after the one that thresholds come from.

    slow: arms whose alarms are left out where there are more than SLOW_UP_TO windows
    """
    arms = Arms.of(models, cohort, shape, part)
    evaluation = arms.score(max_windows, watch)
    if alarms and part in ("calibration", "test"):
        evaluation = _with_alarms(arms, evaluation, slow, say, watch)
    return Assessment(arms, evaluation)


def assess_bundle(
    bundle: Bundle,
    cohort: Cohort,
    part: Part,
    max_windows: int | None,
    boosting: bool,
    alarms: bool,
    say: Say,
    watch: Watch = unwatched,
) -> Assessment:
    """One model beside the baselines; boosting: and LightGBM."""
    shape = bundle.spec.shape
    models: dict[str, Predictor] = {}
    if boosting:
        models[BOOSTING] = grow_boosting(cohort, shape, bundle.spec.inputs, watch)
    models[MODEL] = Forecaster.open(bundle)
    return assess(models, cohort, shape, part, max_windows, alarms, say, watch)


def write_bundle_page(path: Path, found: Assessment, bundle: Bundle) -> Path:
    """The page of one model that was assessed by itself."""
    findings = [*alarm_sentences(found.evaluation, MODEL), *unlike_sentences(bundle, found.evaluation.scored)]
    return write_page(path, found, MODEL, {MODEL: bundle}, findings)


def share_unlike(bundle: Bundle, windows: Windows) -> float | None:
    """Share of the windows after a day unlike those that the model learned from; None for a model that judges none."""
    learned_from = bundle.spec.learned_from
    return None if learned_from is None else float(learned_from.outside(windows.history).mean())


def unlike_sentences(bundle: Bundle, windows: Windows) -> list[str]:
    """How many of these forecasts a caller would be warned of, where there are any."""
    share = share_unlike(bundle, windows)
    return [f"{share:.1%} of these days are unlike those that the model learned from"] if share else []


def _with_alarms(arms: Arms, evaluation: Evaluation, slow: Collection[str], say: Say, watch: Watch) -> Evaluation:
    left_out = {PERSISTENCE} | (set(slow) if evaluation.of_windows > SLOW_UP_TO else set())
    asked = {arm: predictor for arm, predictor in arms.predictors.items() if arm not in left_out}
    for arm in sorted(left_out & set(slow)):
        say(f"alarms of the {arm} are left out: slow, for {evaluation.of_windows} windows and those of validation")
    known = evaluation.forecasts if len(evaluation.scored) == evaluation.of_windows else {}
    try:
        found = low_alarms(asked, arms.people, arms.shape, arms.part, known, watch)
    except InsufficientData as error:
        say(f"alarms are not scored: {error}")
        return evaluation
    return replace(evaluation, alarms=found)


def alarm_sentences(evaluation: Evaluation, arm: str) -> list[str]:
    """An arm's alarms against the best of the others that are no students, plainly."""
    alarms = evaluation.alarms or {}
    rivals = [name for name in alarms if name != arm and not name.startswith(("student", "teacher"))]
    defined = [name for name in rivals if not math.isnan(alarms[name].everybody.f1)]
    if arm not in alarms or not defined:
        return []
    best = max(defined, key=lambda name: alarms[name].everybody.f1)
    return [alarm_sentence(alarms[arm], LABELS.get(best, best), alarms[best])]


def write_page(
    path: Path,
    assessment: Assessment,
    highlighted: str,
    bundles: Mapping[str, Bundle],
    findings: list[str],
) -> Path:
    """Write the report of a run; people have names on it only where they are simulated.

    bundles: {arm: bundle of a model}; that of the highlighted arm must be there
    """
    arms, evaluation = assessment.arms, assessment.evaluation
    costs = {a: cost_of(p, evaluation.scored, bundles.get(a)) for a, p in arms.predictors.items()}
    alarms = evaluation.alarms
    is_simulated = arms.dataset in DATASETS and DATASETS[arms.dataset].bundled
    report = RunReport(
        title=_title(bundles[highlighted], is_simulated),
        dataset=f"{_about(arms.dataset)}.",
        protocol=PROTOCOL,
        evaluation=evaluation.as_json(),
        windows=evaluation.scored,
        forecasts=evaluation.forecasts,
        curves={arm: _curves(bundle) for arm, bundle in bundles.items()},
        costs=costs,
        findings=findings,
        highlighted=highlighted,
        shape=arms.shape,
        alarms=None if alarms is None else {arm: one.everybody for arm, one in alarms.items()},
        equal_alarms={} if alarms is None else {arm: one.sensitivity_at() for arm, one in alarms.items()},
        names=is_simulated,
        provenance=_provenance(bundles[highlighted]),
    )
    write_report(report, path)
    return path


def _title(bundle: Bundle, is_simulated: bool) -> str:
    """Names no real person: a personal model's name does."""
    comment = bundle.origin.get("comment", bundle.spec.backbone)
    if is_simulated:
        return f"{bundle.spec.model}, {comment}"
    whose = "personal" if bundle.origin.get("patient") else "population"
    return f"{bundle.origin.get('dataset', 'data')}, {whose} model, {comment}"


def _about(dataset: str) -> str:
    return f"{dataset}, {DATASETS[dataset].about}" if dataset in DATASETS else f"Data {dataset}"


def _curves(bundle: Bundle) -> Curves:
    losses = (bundle.metrics.get(name, ()) for name in ("train_loss", "validation_loss"))
    return Curves(*(tuple(values) for values in losses))


def _provenance(bundle: Bundle) -> dict[str, str]:
    origin, teacher = bundle.origin, bundle.origin.get("teacher")
    told = {
        "digest of the bundle": bundle.digest,
        "backbone": f"{origin.get('comment', bundle.spec.backbone)}, "
        f"weights: {origin.get('backbone', {}).get('weights', 'unknown')}",
        "taught by": f"{teacher['name']}, digest {teacher['digest']}, weight {origin['teacher_weight']:g}"
        if teacher
        else "nobody",
        "seed": str(origin.get("training", {}).get("seed", "unknown")),
        "epoch that was kept": str(origin.get("best_epoch", "unknown")),
    }
    return told | {f"digest of the {part} windows": digest for part, digest in origin.get("windows", {}).items()}
