"""Training and distillation: masks, weights of the loss, reproducibility."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from forecasting.errors import InsufficientData, IntegrityError, InvalidSetting
from forecasting.windows import WindowShape, cut_all, thin
from trainer.fit import Examples, Training, build_examples, compiled, epochs, fit, forecast_loss, rate_schedule
from trainer.peers import Peers
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


def test_a_teacher_of_the_mean_alone_leaves_the_quantiles_to_the_truth():
    outputs, levels = torch.tensor([[[0.5, 0.1, 0.4, 0.9]]]), torch.tensor(LEVELS)
    of_mean = Examples(torch.zeros(1, 1, 1), None, torch.tensor([[1.0]]), torch.full((1, 1, 1), 0.2))
    pinball = float(forecast_loss(outputs, of_mean, levels, 0.0)) - 0.25
    taught = float(forecast_loss(outputs, of_mean, levels, 0.6))
    assert taught == pytest.approx(0.4 * 0.25 + 0.6 * (0.5 - 0.2) ** 2 + pinball)


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


def resumable(cohort, **changes) -> Training:
    torch.set_num_threads(1)
    train, validation = (thin(cut_all(cohort.everyone, SHAPE, part), 150) for part in ("train", "validation"))
    settings = SETTINGS.model_copy(update={"dropout": 0.2})  # what is random in an epoch must come back too
    built = build_model("small-population", settings, SHAPE, 1)
    examples = build_examples(train, built.spec, None), build_examples(validation, built.spec, None)
    return Training(built.model, *examples, LEVELS, TRAINING.model_copy(update={"epochs": 4, **changes}), ignore)


def test_a_training_cut_off_anywhere_ends_as_if_it_had_not_been(cohort, tmp_path):
    whole = resumable(cohort)
    expected = fit(whole)
    for cut in (1, 3):
        state = tmp_path / str(cut) / "state.pt"
        first = epochs(resumable(cohort), state)
        seen = [next(first) for _ in range(cut)]
        resumed = resumable(cohort)
        again = list(epochs(resumed, state))
        assert again[:cut] == seen
        assert resumed.fitted() == expected
        assert same(resumed.model.trained_tensors(), whole.model.trained_tensors())


def test_a_resumed_training_computes_no_epoch_twice(cohort, tmp_path, monkeypatch):
    state = tmp_path / "state.pt"
    cut = epochs(resumable(cohort), state)
    next(cut), next(cut)
    computed = []
    run_epoch = Training.run_epoch

    def counted(self):
        computed.append(len(self.validation_loss) + 1)
        run_epoch(self)

    monkeypatch.setattr(Training, "run_epoch", counted)
    assert len(list(epochs(resumable(cohort), state))) == 4
    assert computed == [3, 4]
    computed.clear()
    assert len(list(epochs(resumable(cohort), state))) == 4
    assert computed == []


def test_a_damaged_state_is_refused_with_what_to_do(cohort, tmp_path):
    state = tmp_path / "state.pt"
    list(epochs(resumable(cohort, epochs=1), state))
    state.write_bytes(state.read_bytes()[:-200])
    with pytest.raises(IntegrityError, match="remove it to train from the start"):
        list(epochs(resumable(cohort, epochs=1), state))
    state.write_bytes(pickle.dumps(Path))
    with pytest.raises(IntegrityError):
        list(epochs(resumable(cohort, epochs=1), state))


class Rank(Peers):
    """A peer of another, whose sums are added by hand."""

    others: tuple[float, ...] = ()

    def sum(self, value):
        return value.detach() + self.others[0]


def test_gradients_of_unequal_shares_average_to_those_of_the_whole_batch():
    target = torch.randn(5, 3)
    target[0] = float("nan")  # the first share has fewer real targets than the second
    outputs = torch.randn(5, 3, 4)
    whole = outputs.clone().requires_grad_()
    forecast_loss(whole, Examples(target, None, target), torch.tensor(LEVELS), 0.0).backward()
    gradients = torch.zeros_like(outputs)
    for rank in range(2):
        mine = slice(rank, None, 2)
        peer, other = Rank(rank, 2), target[1 - rank :: 2]
        object.__setattr__(peer, "others", (float((~torch.isnan(other)).sum()),))
        share = outputs[mine].clone().requires_grad_()
        forecast_loss(share, Examples(target[mine], None, target[mine]), torch.tensor(LEVELS), 0.0, peer).backward()
        gradients[mine] = share.grad / 2  # averaged over two processes
    assert torch.allclose(gradients, whole.grad, atol=1e-6)


def test_compile_says_what_it_needs(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InvalidSetting, match="compile needs the C\\+\\+ compiler no-such-compiler"):
        compiled(build_model("small-population", SETTINGS, SHAPE, 1).model)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_training_learns_the_same(cohort):
    def losses(**more):
        train, validation = (thin(cut_all(cohort.everyone, SHAPE, part), 150) for part in ("train", "validation"))
        built = build_model("small-population", SETTINGS, SHAPE, 1)
        examples = [build_examples(windows, built.spec, None) for windows in (train, validation)]
        return fit(Training(built.model, *examples, LEVELS, TRAINING.model_copy(update=more), ignore)).validation_loss

    assert losses(compile=True) == pytest.approx(losses(), rel=1e-3)
