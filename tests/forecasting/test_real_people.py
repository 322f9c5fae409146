"""The published baselines on real people: what a leak, a lost reading or a wrong split would move."""

import os
from pathlib import Path

import numpy as np
import pytest

from forecasting.baselines import Persistence, Ridge
from forecasting.metrics import HORIZONS, mean_over_patients, score_patients
from forecasting.readers.datasets import load_cohort
from forecasting.windows import WindowShape, cut_all

FOLDER = os.environ.get("GLUCAST_DATA_DIR")


@pytest.mark.skipif(not FOLDER, reason="GLUCAST_DATA_DIR does not name a folder with t1d_uom.parquet (real people)")
def test_baselines_on_t1d_uom_score_what_others_measured():
    cohort, shape = load_cohort("t1d_uom", Path(FOLDER or "")), WindowShape()
    train, validation, test = (cut_all(cohort.everyone, shape, part) for part in ("train", "validation", "test"))
    rmse = {
        name: {
            horizon: scores["rmse"]
            for horizon, scores in mean_over_patients(
                score_patients(test, predictor.predict_windows(test), shape.steps_at(HORIZONS))
            ).items()
        }
        for name, predictor in {
            "persistence": Persistence.fit(validation),
            "ridge": Ridge.fit(train, validation),
        }.items()
    }
    assert len(cohort.everyone) == 8
    assert rmse["persistence"] == {"30": pytest.approx(24.6, abs=0.4), "60": pytest.approx(39.2, abs=0.6)}
    assert rmse["ridge"]["30"] < 0.9 * rmse["persistence"]["30"]
    assert rmse["ridge"]["60"] < 0.9 * rmse["persistence"]["60"]
    assert rmse["ridge"]["30"] > 17.5, "too good to be true: look for a leak"
    assert np.isfinite(test.context).all()
