"""All scores of forecasts, per patient and horizon, and their mean over patients."""

import numpy as np

from forecasting.forecaster import Forecasts
from forecasting.metrics.error_grids import clarke_zones, dts_zones, parkes_zones, zone_shares
from forecasting.metrics.point import bias, grmse, mae, mard, rmse, temporal_gain
from forecasting.metrics.probabilistic import calibration_error, crps, interval_coverages, interval_widths, pinball
from forecasting.windows import Windows

Scores = dict[str, float]
HORIZONS = (30, 60)  # minutes, reported everywhere


def score_step(target: np.ndarray, forecasts: Forecasts, step: int) -> Scores:
    """All scores of one forecast step; target (n, prediction_length) mg/dL, at least one of that step real."""
    y, f = target[:, step].astype(np.float64), forecasts.mean[:, step]
    scores = {
        "rmse": rmse(y, f),
        "mae": mae(y, f),
        "bias": bias(y, f),
        "mard": mard(y, f),
        "grmse": grmse(y, f),
        "scored": int((~np.isnan(y)).sum()),
    }
    scores |= _zone_percentages(y, f)
    if forecasts.levels:
        scores |= _quantile_scores(y, forecasts.quantiles[:, step], forecasts.levels)
    return scores


def _zone_percentages(y: np.ndarray, f: np.ndarray) -> Scores:
    """Percent of forecasts in zones A and, where they occur in people, D and E; A+B tells nothing, nearly all are."""
    clarke, parkes, dts = (zone_shares(zones(y, f)) for zones in (clarke_zones, parkes_zones, dts_zones))
    return {
        "clarke_a": 100 * clarke["A"],
        "clarke_de": 100 * (clarke["D"] + clarke["E"]),
        "parkes_a": 100 * parkes["A"],
        "dts_a": 100 * dts["A"],
        "dts_de": 100 * (dts["D"] + dts["E"]),
    }


def _quantile_scores(y: np.ndarray, quantiles: np.ndarray, levels: tuple[float, ...]) -> Scores:
    scores = {
        "pinball": pinball(y, quantiles, levels),
        "crps": crps(y, quantiles, levels),
        "calibration_error": calibration_error(y, quantiles, levels),
    }
    scores |= {f"coverage_{percent}": share for percent, share in interval_coverages(y, quantiles, levels).items()}
    return scores | {f"width_{percent}": width for percent, width in interval_widths(quantiles, levels).items()}


def score_patients(windows: Windows, forecasts: Forecasts, steps: dict[int, int]) -> dict[str, dict[str, Scores]]:
    """{patient: {horizon in minutes: scores}}; a patient with no real target at a horizon has no entry there.

    steps: {horizon: index of its step}, see WindowShape.steps_at.
    """
    table: dict[str, dict[str, Scores]] = {}
    for patient in windows.patients:
        rows = windows.patient_ids == patient
        own = Forecasts(forecasts.outputs[rows], forecasts.levels)
        target = windows.target[rows]
        origins = windows.origins[rows]
        table[patient] = {
            str(horizon): score_step(target, own, step)
            | _gain(origins, target[:, step], own.mean[:, step], horizon, step)
            for horizon, step in steps.items()
            if not np.isnan(target[:, step]).all()
        }
    return table


def _gain(origins: np.ndarray, y: np.ndarray, f: np.ndarray, horizon: int, step: int) -> Scores:
    """Temporal gain along windows that follow each other, of those that are not thinned; nothing where none do.

    origins: (n,) datetime64 in order; y, f: (n,) mg/dL at a step that lies `horizon` minutes ahead
    """
    sampling = horizon // (step + 1)
    segments = np.cumsum(np.diff(origins, prepend=origins[:1]) > np.timedelta64(sampling, "m"))
    gain = temporal_gain(y.astype(np.float64), f, horizon, sampling, segments)
    return {"temporal_gain": gain} if np.isfinite(gain) else {}


def mean_over_patients(table: dict[str, dict[str, Scores]]) -> dict[str, Scores]:
    """{horizon: scores}, each score the mean over the patients who have it; `scored` is their sum."""
    horizons = dict.fromkeys(h for scores in table.values() for h in scores)
    means: dict[str, Scores] = {}
    for horizon in horizons:
        rows = [scores[horizon] for scores in table.values() if horizon in scores]
        names = dict.fromkeys(name for row in rows for name in row)
        means[horizon] = {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
        means[horizon]["scored"] = int(sum(row["scored"] for row in rows))
        means[horizon]["patients"] = len(rows)
    return means
