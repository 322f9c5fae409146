"""Accuracy, in mg/dL and percent: point and quantile scores, error grids, alarms, and all of them per patient.

Every function takes truth first; NaN in the truth is not scored.
"""

from forecasting.metrics.alarms import (
    HIGH,
    LOW,
    AlarmCase,
    AlarmRule,
    AlarmScores,
    best_threshold,
    find_events,
    pooled,
    score_alarms,
    sensitivity_at,
    sweep_thresholds,
)
from forecasting.metrics.error_grids import ZONES, clarke_zones, dts_zones, parkes_zones, zone_shares
from forecasting.metrics.patients import HORIZONS, Scores, mean_over_patients, score_patients, score_step
from forecasting.metrics.point import bias, grmse, mae, mard, rmse, skill, temporal_gain
from forecasting.metrics.probabilistic import (
    brier,
    calibration_error,
    coverage,
    crps,
    interval_coverages,
    interval_widths,
    pinball,
    quantile_calibration,
)

__all__ = [
    "HIGH",
    "HORIZONS",
    "LOW",
    "ZONES",
    "AlarmCase",
    "AlarmRule",
    "AlarmScores",
    "Scores",
    "best_threshold",
    "bias",
    "brier",
    "calibration_error",
    "clarke_zones",
    "coverage",
    "crps",
    "dts_zones",
    "find_events",
    "grmse",
    "interval_coverages",
    "interval_widths",
    "mae",
    "mard",
    "mean_over_patients",
    "parkes_zones",
    "pinball",
    "pooled",
    "quantile_calibration",
    "rmse",
    "score_alarms",
    "score_patients",
    "score_step",
    "sensitivity_at",
    "skill",
    "sweep_thresholds",
    "temporal_gain",
    "zone_shares",
]
