"""From a bundle on disk to a served model: publish as challenger, pass the gate, become champion, roll back."""

from dataclasses import dataclass

from forecasting.bundle import Bundle
from forecasting.forecaster import Forecaster
from forecasting.gate import Decision, GateName
from forecasting.readers.datasets import Cohort
from forecasting.registry import CHAMPION, Registry, Version
from trainer.evaluate import RIDGE_PERSONAL, RIDGE_POOLED, Evaluation, compare_at_gate


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


def publish_bundle(registry: Registry, bundle: Bundle) -> tuple[Version, bool]:
    """Publish with its origin as tags; (version, is it new)."""
    origin = bundle.origin
    tags = {
        "kind": origin.get("kind", "unknown"),
        "dataset": origin.get("dataset", "unknown"),
        "backbone": bundle.spec.backbone,
        "model_comment": origin.get("comment", bundle.spec.backbone),
        "teacher": (origin.get("teacher") or {}).get("name", "none"),
        "teacher_weight": str(origin.get("teacher_weight", 0.0)),
        "seed": str(origin.get("training", {}).get("seed", "unknown")),
    }
    for horizon, scores in bundle.metrics.get("test", {}).get("mean", {}).items():
        tags[f"test_rmse_{horizon}"] = f"{scores['rmse']:.3f}"
    return registry.publish(bundle, tags)


def promote(registry: Registry, reference: str, cohort: Cohort, gate: GateName, threads: int = 1) -> Promotion:
    """Let a version become champion if it passes the gate on the calibration part of these patients."""
    version = registry.resolve(reference)
    champion = registry.find(f"{version.name}@{CHAMPION}")
    if champion is not None and champion.version == version.version:
        said = (f"version {version.version} is the champion already",)
        return Promotion(version, champion, Decision(True, said), None)
    rival = Forecaster.open(registry.fetch(champion), threads) if champion else None
    challenger = Forecaster.open(registry.fetch(version), threads)
    decision, calibration = compare_at_gate(challenger, rival, cohort, gate)
    if decision.passed:
        registry.promote(version, {"gate": gate, "gate_reasons": "; ".join(decision.reasons)})
    return Promotion(version, champion, decision, calibration)
