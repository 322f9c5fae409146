"""Training and distillation: masks, weights of the loss, reproducibility."""

import numpy as np
import pytest
import torch

from forecasting.errors import InsufficientData
from forecasting.windows import WindowShape, cut_all, thin
from trainer.fit import Examples, Training, build_examples, fit, forecast_loss, rate_schedule
from trainer.settings import ModelSettings, TrainingSettings
from trainer.teacher import build_model

LEVELS = (0.1, 0.5, 0.9)
SHAPE = WindowShape()
SETTINGS = ModelSettings(backbone="bert-tiny", weights="random", num_prototypes=8, d_ff=8, quantiles=LEVELS)
TRAINING = TrainingSettings(epochs=2, batch_size=32)


def ignore(_) -> None:
    pass


def trained(cohort, teacher_weight, with_teacher=True, seed=1):
    torch.set_num_threads(1)
    train, validation = (thin(cut_all(cohort.everyone, SHAPE, part), 150) for part in ("train", "validation"))
    built = build_model("small-population", SETTINGS, SHAPE, seed)
    teacher = np.full((len(train), SHAPE.prediction_length, 4), 150.0) if with_teacher else None
    training = Training(
        built.model,
        build_examples(train, built.spec, None, teacher),
        build_examples(validation, built.spec, None),
        LEVELS,
        TRAINING.model_copy(update={"seed": seed}),
        ignore,
        teacher_weight,
    )
    fit(training)
    return built.model.trained_tensors()


def same(a, b) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_weight_zero_is_the_student_alone_bit_for_bit(cohort):
    assert same(trained(cohort, 0.0), trained(cohort, 0.0, with_teacher=False))


def test_the_teacher_weight_reaches_the_training(cohort):
    assert not same(trained(cohort, 0.0), trained(cohort, 0.5))


def test_one_seed_gives_one_student_and_another_seed_another(cohort):
    first = trained(cohort, 0.5)
    assert same(first, trained(cohort, 0.5))
    assert not same(first, trained(cohort, 0.5, seed=2))


def batch(target: list[float], teacher: float) -> Examples:
    steps = len(target)
    return Examples(torch.zeros(1, 1, 1), None, torch.tensor([target]), torch.full((1, steps, 4), teacher))


def test_the_loss_is_the_weighted_sum_of_its_parts():
    outputs, levels = torch.tensor([[[0.5, 0.1, 0.4, 0.9]]]), torch.tensor(LEVELS)
    truth = forecast_loss(outputs, batch([1.0], 0.0), levels, 0.0)
    gaps = [1.0 - q for q in (0.1, 0.4, 0.9)]
    assert float(truth) == pytest.approx(0.25 + np.mean([t * g for t, g in zip(LEVELS, gaps, strict=True)]))
    imitation = float((outputs**2).mean())
    both = forecast_loss(outputs, batch([1.0], 0.0), levels, 0.3)
    assert float(both) == pytest.approx(0.7 * float(truth) + 0.3 * imitation)


def test_missing_targets_do_not_count():
    outputs, levels = torch.zeros(1, 2, 4), torch.tensor(LEVELS)
    with_gap = forecast_loss(outputs, batch([1.0, float("nan")], 0.0), levels, 0.0)
    outputs[0, 1] = 99.0
    assert float(forecast_loss(outputs, batch([1.0, float("nan")], 0.0), levels, 0.0)) == float(with_gap)


def test_a_missing_target_sends_no_gradient():
    outputs = torch.zeros(1, 2, 4, requires_grad=True)
    forecast_loss(outputs, batch([1.0, float("nan")], 0.0), torch.tensor(LEVELS), 0.0).backward()
    assert torch.isfinite(outputs.grad).all()
    assert outputs.grad[0, 1].abs().max() == 0
    assert outputs.grad[0, 0].abs().max() > 0


def test_the_learning_rate_rises_then_falls():
    share = rate_schedule(100, 0.1)
    rates = [share(step) for step in range(100)]
    assert max(rates) == pytest.approx(1.0)
    assert np.argmax(rates) in (9, 10)
    assert rates[0] < rates[9]
    assert rates[-1] < 0.02
    assert all(np.diff(rates[10:]) < 0)


def test_it_stops_early_and_keeps_the_weights_of_the_best_epoch(cohort, monkeypatch):
    losses = iter([0.5, 0.3, 0.4, 0.6, 0.2])
    seen = []

    def scripted(model, *_):
        seen.append(model.trained_tensors()["head.project.bias"].clone())
        return next(losses)

    monkeypatch.setattr("trainer.fit.validation_loss", scripted)
    windows = thin(cut_all(cohort.everyone, SHAPE, "train"), 64)
    built = build_model("small-population", SETTINGS, SHAPE, 1)
    examples = build_examples(windows, built.spec, None)
    patient = TRAINING.model_copy(update={"epochs": 5, "patience": 2})
    fitted = fit(Training(built.model, examples, examples, LEVELS, patient, ignore))
    assert fitted.best_epoch == 2
    assert fitted.validation_loss == (0.5, 0.3, 0.4, 0.6)
    assert torch.equal(built.model.trained_tensors()["head.project.bias"], seen[1])
    assert not torch.equal(seen[1], seen[3])


def test_an_empty_part_is_refused(cohort):
    built = build_model("small-population", SETTINGS, SHAPE, 1)
    windows = thin(cut_all(cohort.everyone, SHAPE, "train"), 150)
    nothing = build_examples(windows[:0], built.spec, None)
    with pytest.raises(InsufficientData, match="no windows"):
        Training(built.model, nothing, nothing, LEVELS, TRAINING, ignore)
