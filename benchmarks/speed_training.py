"""Training steps: the paper's form against ours, what each change gave; a teacher's forecasts kept or made anew."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.measuring import Findings, Times, flops_of, gemm_rate, timed
from benchmarks.paper_form import PaperForm, instance_norm
from benchmarks.subjects import (
    PAPER_PROTOTYPES,
    TEACHER,
    contexts,
    paper_form,
    paper_step,
    step_of,
    student,
    teacher,
    tensors,
)
from benchmarks.verdicts import Goal
from trainer.fit import Examples, Training
from trainer.progress import unheard
from trainer.settings import TrainingSettings
from trainer.teacher import BuiltModel, torch_network

BATCH = 32
EPOCHS, WINDOWS = 10, 256  # of the comparison of kept forecasts with new ones


def student_step() -> Findings:
    """A BERT-tiny student: the paper's form freezes its backbone, ours trains all of it and does without a prompt."""
    found = _steps("Training step of a BERT-tiny student, ms on one thread")
    base = _add(found, "paper form", BATCH, paper_step(paper_form("bert-tiny"), BATCH))
    ours = _add(found, "ours", BATCH, step_of(student("bert-tiny"), BATCH), base)
    for batch in (128, 256):
        _add(found, "ours", batch, step_of(student("bert-tiny"), batch), base)
    _add(found, "ours, --compile", 128, step_of(student("bert-tiny"), 128, compile=True), base)
    found.goals = [Goal("student step: times faster than the paper form", base.wall / ours.wall, 8, at_most=False)]
    return found


def teacher_step() -> Findings:
    """A MiniLM teacher with a prompt: what each change gave, one on top of the other."""
    found = _steps("Training step of a MiniLM teacher with a prompt, ms on one thread; each row adds to the one above")
    base = _add(found, "paper form", BATCH, paper_step(paper_form(TEACHER), BATCH))
    _add(found, "+ prompts written and tokenised once", BATCH, _told_before(paper_form(TEACHER), fused=False), base)
    _add(found, "+ attention without outputs (SDPA)", BATCH, _told_before(paper_form(TEACHER), fused=True), base)
    untrimmed = teacher(**PAPER_PROTOTYPES)
    untrimmed.model.trims_prompts = False
    _add(found, "+ prompt in mg/dL, padded; one product per prototype", BATCH, _plain_adam(untrimmed), base)
    _add(found, "+ prompt as long as the batch's longest", BATCH, _plain_adam(teacher(**PAPER_PROTOTYPES)), base)
    ours = _add(found, "+ fused AdamW", BATCH, step_of(teacher(**PAPER_PROTOTYPES), BATCH), base)
    direct = _add(found, "+ prototypes learned directly (default)", BATCH, step_of(teacher(), BATCH), base)
    _add(
        found,
        "  the same, --gradient-checkpointing",
        BATCH,
        step_of(teacher(), BATCH, gradient_checkpointing=True),
        base,
    )
    found.goals = [
        Goal("teacher step, the paper's prototypes: times faster", base.wall / ours.wall, 2.5, at_most=False),
        Goal("teacher step, as it is by default: times faster", base.wall / direct.wall, 2.5, at_most=False),
    ]
    return found


def causal_step() -> Findings:
    """A frozen GPT-2: nothing in its prompt is trained, and nothing later changes it."""
    found = _steps("Training step of a GPT-2 teacher (six layers, prompt), ms on one thread")
    given = {"backbone": "gpt2", "weights": "random", "num_layers": 6}
    through = teacher(**given)
    through.model.prompt_is_constant = False
    base = _add(found, "gradients through the prompt", BATCH, step_of(through, BATCH))
    _add(found, "prompt read without gradients", BATCH, step_of(teacher(**given), BATCH), base)
    return found


def kept_forecasts() -> Findings:
    """Ten epochs of a student: the teacher's forecasts computed once, or again for every batch of every epoch."""
    found = Findings(
        f"A student's {EPOCHS} epochs over {WINDOWS} windows with a MiniLM teacher, s on one thread",
        ("teacher's forecasts", "teacher, s", "student, s", "together, s", "x"),
    )
    kept, anew = _distil(keep=True), _distil(keep=False)
    for name, spent in (("kept", kept), ("computed for every batch", anew)):
        found.add(
            **{
                "teacher's forecasts": name,
                "teacher, s": spent.teacher,
                "student, s": spent.student,
                "together, s": spent.together,
                "x": anew.together / spent.together,
            }
        )
    return found


def loading() -> Findings:
    """What a step waits for its windows."""
    found = Findings(
        "Rows of a batch on their way to a step, one thread", ("batch", "rows, ms", "step, ms", "share, %")
    )
    for batch in (32, 256):
        built = student("bert-tiny")
        x, _ = tensors(built, 4096)
        examples = Examples(x, None, torch.randn(4096, 12), torch.randn(4096, 12, 10))
        rows = torch.randperm(4096)[:batch]
        taken = timed(lambda e=examples, r=rows: e.rows(r, torch.device("cpu")), 50, 5)  # type: ignore[misc]
        step = timed(step_of(built, batch), 9)
        found.add(**{"batch": batch, "rows, ms": taken, "step, ms": step, "share, %": 100 * taken.wall / step.wall})
    return found


@dataclass(frozen=True)
class Spent:
    """Seconds."""

    teacher: float
    student: float

    @property
    def together(self) -> float:
        return self.teacher + self.student


def _distil(keep: bool) -> Spent:
    taught, learner = teacher(), student("bert-tiny")
    forecast = torch_network(taught.model)
    x, ids = (tensor.numpy() for tensor in tensors(taught, WINDOWS) if tensor is not None)
    settings = TrainingSettings(epochs=EPOCHS, batch_size=BATCH)
    examples = Examples(tensors(learner, WINDOWS)[0], None, torch.randn(WINDOWS, 12))
    training = Training(learner.model, examples, examples, learner.spec.quantiles, settings, unheard, 0.5)
    learner.model.train()
    spent = {"teacher": 0.0, "student": 0.0}

    def ask(rows: slice) -> torch.Tensor:
        began = time.perf_counter()
        outputs = torch.from_numpy(forecast(x[rows], ids[rows]))
        spent["teacher"] += time.perf_counter() - began
        return outputs

    ask(slice(0, BATCH))  # warm
    spent["teacher"] = 0.0
    batches = [slice(start, start + BATCH) for start in range(0, WINDOWS, BATCH)]
    kept = [ask(rows) for rows in batches] if keep else None
    for _ in range(EPOCHS):
        for number, rows in enumerate(batches):
            outputs = ask(rows) if kept is None else kept[number]
            began = time.perf_counter()
            training.step(Examples(examples.x[rows], None, examples.target[rows], outputs))
            spent["student"] += time.perf_counter() - began
    return Spent(**spent)


def _steps(title: str) -> Findings:
    return Findings(title, ("what", "batch", "step", "cpu, ms", "ms a window", "% of GEMM", "x"))


def _add(found: Findings, what: str, batch: int, step: Callable[[], object], base: Times | None = None) -> Times:
    """x: windows a second against the first row's."""
    times = timed(step, 7, 2, seconds=25)
    ratio = 1.0 if base is None else (base.wall / BATCH) / (times.wall / batch)
    found.add(
        **{
            "what": what,
            "batch": batch,
            "step": times,
            "cpu, ms": 1e3 * times.cpu,
            "ms a window": 1e3 * times.wall / batch,
            "% of GEMM": round(100 * flops_of(step) / times.wall / gemm_rate()),
            "x": ratio,
        }
    )
    return times


def _told_before(form: PaperForm, fused: bool) -> Callable[[], object]:
    """The paper's step with its prompts tokenised beforehand; fused: attention that returns no weights."""
    glucose = torch.from_numpy(contexts(BATCH))
    ids = form.tokenise(form.write_prompts(instance_norm(glucose)[0]))
    if fused:
        form.backbone.set_attn_implementation("sdpa")
        form.returns_attention = False
    form.tokenise = lambda prompts: ids  # type: ignore[method-assign]
    form.write_prompts = lambda normalised: []  # type: ignore[method-assign]
    return paper_step(form, BATCH)


def _plain_adam(built: BuiltModel) -> Callable[[], object]:
    """Our step with the optimiser that the paper's form has."""
    x, ids = tensors(built, BATCH)
    examples = Examples(x, ids, torch.randn(BATCH, 12))
    training = Training(built.model, examples, examples, built.spec.quantiles, TrainingSettings(epochs=1000), unheard)
    training.optimiser = torch.optim.AdamW(training.parameters, lr=1e-3)
    training.schedule = torch.optim.lr_scheduler.LambdaLR(training.optimiser, lambda _: 1.0)
    built.model.train()
    return lambda: training.step(examples)
