"""From a bundle on disk to a served model: publish as challenger, pass the gate, become champion, roll back."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from forecasting.bundle import Bundle, read_bundle, write_bundle
from forecasting.errors import InvalidSetting
from forecasting.forecaster import Forecaster
from forecasting.gate import Decision, GateName
from forecasting.readers.datasets import ALL, Cohort, dataset_name, load_cohort
from forecasting.references import CHAMPION, Version
from forecasting.registry import ROLLED_BACK_TAG, Registry
from trainer.evaluate import RIDGE_PERSONAL, RIDGE_POOLED, Evaluation, compare_at_gate
from trainer.kept import write_text, written_whole


@dataclass(frozen=True)
class Promotion:
    """What the gate said of a version.

    calibration: the scores it judged by; None where the version was champion already
    """

    version: Version
    champion_before: Version | None
    decision: Decision
    calibration: Evaluation | None

    @property
    def below_ridge(self) -> bool:
        """Is the challenger below both ridges at every horizon of the calibration part?"""
        if self.calibration is None:
            return True
        own = self.calibration.rmse("challenger")
        bars = [self.calibration.rmse(arm) for arm in (RIDGE_POOLED, RIDGE_PERSONAL)]
        return all(own[h] < bar[h] for bar in bars for h in own if h in bar)


def with_test_scores(folder: Path, evaluation: Evaluation, arm: str) -> tuple[Bundle, Path]:
    """A copy of a bundle with its scores inside, and the file beside it with the whole evaluation.

    What training left stays as it was, for the next run to keep.
    arm: which of the evaluation the bundle is
    """
    trained = read_bundle(folder)
    scored, report = scored_beside(folder)
    write_text(report, json.dumps(evaluation.as_json(), indent=1) + "\n")
    scores = {"protocol": evaluation.as_json()["protocol"], "mean": evaluation.arms[arm]["mean"]}
    with written_whole(scored) as scratch:
        shutil.copytree(folder, scratch, dirs_exist_ok=True)
        write_bundle(scratch, trained.spec, trained.metrics | {"test": scores}, trained.origin)
    return read_bundle(scored), report


def scored_beside(folder: Path) -> tuple[Path, Path]:
    """Where the scored copy of a bundle, and its report, are kept."""
    return folder.with_name(folder.name + "-scored"), folder.with_name(folder.name + "-report.json")


def page_beside(report: Path) -> Path:
    """Where the page for people of an evaluation is kept, beside its file for machines."""
    return report.with_suffix(".html")


def publish_bundle(registry: Registry, bundle: Bundle, run_id: str | None = None) -> tuple[Version, bool]:
    """Publish with its origin as tags; (version, is it new).

    run_id: the MLflow run that the bundle comes from; a run of its own by default
    """
    origin = bundle.origin
    tags = {
        "kind": origin.get("kind", "unknown"),
        "dataset": origin.get("dataset", "unknown"),
        "backbone": bundle.spec.backbone,
        "weights": origin.get("backbone", {}).get("weights", "unknown"),
        "model_comment": origin.get("comment", bundle.spec.backbone),
        "teacher": (origin.get("teacher") or {}).get("name", "none"),
        "teacher_weight": str(origin.get("teacher_weight", 0.0)),
        "seed": str(origin.get("training", {}).get("seed", "unknown")),
    }
    for horizon, scores in bundle.metrics.get("test", {}).get("mean", {}).items():
        tags[f"test_rmse_{horizon}"] = f"{scores['rmse']:.3f}"
    return registry.publish(bundle, tags, run_id)


def publication_sentence(version: Version, is_new: bool) -> str:
    """What became of publishing a bundle."""
    return f"{version.name} version {version.version}: {'published' if is_new else 'published before, nothing new'}"


def own_cohort(bundle: Bundle, dataset: str | None, data_dir: Path | None) -> Cohort:
    """The people a bundle was made for, whom alone the gate may judge it by.

    dataset: needed where the bundle was made from a file; must otherwise be the bundle's own
    Raises InvalidSetting for another data set.
    """
    made_from = str(bundle.origin.get("dataset"))
    asked = dataset or made_from
    if dataset_name(asked) != made_from:
        raise InvalidSetting(
            f"{bundle.spec.model} was made from {made_from}, the gate was asked to judge it by {dataset_name(asked)}; "
            f"give --dataset {made_from}, or the path of that file"
        )
    return load_cohort(asked, data_dir, bundle.origin.get("patient") or ALL, bundle.spec.shape.sampling_minutes)


def promote(registry: Registry, version: Version, cohort: Cohort, gate: GateName, threads: int = 1) -> Promotion:
    """Let a version become champion if it passes the gate on the calibration part of these patients."""
    champion = registry.find(f"{version.name}@{CHAMPION}")
    if champion is not None and champion.version == version.version:
        said = (f"version {version.version} is the champion already",)
        return Promotion(version, champion, Decision(True, said), None)
    rival = Forecaster.open(registry.fetch(champion), threads) if champion else None
    challenger = Forecaster.open(registry.fetch(version), threads)
    decision, calibration = compare_at_gate(challenger, rival, cohort, gate)
    if decision.passed:
        registry.require_champion(version.name, champion)
        registry.promote(version, {"gate": gate, "gate_reasons": "; ".join(decision.reasons)})
    return Promotion(version, champion, decision, calibration)


def promote_unless_rolled_back(registry: Registry, version: Version, cohort: Cohort, gate: GateName) -> Promotion:
    """What a pipeline may do by itself: a version that a person rolled back stays back."""
    if ROLLED_BACK_TAG not in version.tags:
        return promote(registry, version, cohort, gate)
    champion = registry.find(f"{version.name}@{CHAMPION}")
    said = (f"version {version.version} was rolled back: promote it by hand if that is meant",)
    return Promotion(version, champion, Decision(False, said), None)
