"""glucast's Time-LLM against neuralforecast's: same backbone, weights, tokenizer, windows, batch and threads.

Each side runs in a fresh process, ours here and theirs in an environment of its own, and is measured by the same
functions: those of benchmarks.peer_timellm.
"""

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel

from benchmarks.measuring import Findings, Times, in_fresh_process, make_environment
from benchmarks.paper_form import DESCRIPTION
from benchmarks.peer_timellm import FORECAST_SIZES, Forecast, hold_still, measure
from benchmarks.subjects import SHAPE, TEACHER, TEACHER_WEIGHTS
from benchmarks.verdicts import Goal
from forecasting.bundle import write_bundle
from forecasting.cgm import GlucoseSeries
from forecasting.forecaster import Forecaster
from forecasting.windows import Windows, cut_windows
from trainer.backbones import find_weights, true_config
from trainer.catalogue import find_backbone
from trainer.export import export_onnx
from trainer.fit import Training, build_examples
from trainer.progress import unheard
from trainer.settings import TEACHER_DEFAULTS, ModelSettings, TrainingSettings
from trainer.teacher import build_model

REQUIREMENTS = Path(__file__).with_name("peer-requirements.txt")
ENVIRONMENT = Path("runs/neuralforecast")  # kept between runs
BATCH, THREADS, SEED = 32, 1, 1
TRAINING = TrainingSettings(batch_size=BATCH, seed=SEED)


@dataclass(frozen=True)
class Case:
    """A model to build on both sides, and how many steps it is trained."""

    settings: ModelSettings
    steps: int

    @property
    def windows(self) -> int:
        return BATCH * self.steps


CASES = {
    "student": Case(ModelSettings(), steps=40),
    "teacher": Case(ModelSettings(**TEACHER_DEFAULTS | {"backbone": TEACHER}), steps=10),  # type: ignore[arg-type]
    "teacher, prototypes as theirs": Case(  # whose number cannot be chosen
        ModelSettings(
            **TEACHER_DEFAULTS  # type: ignore[arg-type]
            | {"backbone": TEACHER, "prototypes": "vocabulary", "num_prototypes": 1024}
        ),
        steps=10,
    ),
}
HOW = (
    "Ratios are neuralforecast over glucast, of CPU time with one thread each: neighbours disturb it least. Ours "
    "trains on prompts tokenised once beforehand, and forecasts through the exported bundle with its checks and "
    "prompts; theirs is the bare module, which writes and tokenises prompts in every pass. Memory counts each side's "
    "libraries. 'Moved': the most that a forecast differs between being made alone and among the other windows of a "
    "batch, where padding is not masked; how much depends on what was trained and for how long."
)
SHARED = ("patch_len", "stride", "d_model", "d_ff", "num_heads", "dropout")  # settings that both sides have


def against_neuralforecast(peer_python: Path | None = None) -> Findings:
    """Time, memory and steadiness of both, as student and as teacher.

    peer_python: of an environment with benchmarks/peer-requirements.txt; one is made where none is given
    """
    python = peer_python or make_environment(ENVIRONMENT, REQUIREMENTS)
    columns = ("what", "glucast", "neuralforecast", "ratio")
    found = Findings(f"against neuralforecast's TimeLLM, {THREADS} thread each", columns)
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as scratch:
            write_case(case, Path(scratch))
            given = peer_arguments(case, Path(scratch))
            theirs = in_fresh_process("benchmarks.peer_timellm", *given, python=str(python))
            ours = in_fresh_process("benchmarks.speed_peer", name, scratch)
        _add_rows(found, name, ours, theirs)
        found.notes.append(_differences(name, ours, theirs))
    found.notes.append(HOW)
    found.goals = [
        Goal(f"{row['what']}: times faster than neuralforecast", row["ratio"], 1, at_most=False)
        for row in found.rows
        if isinstance(row["glucast"], Times)
    ]
    return found


def write_case(case: Case, folder: Path) -> None:
    """What both sides read: `backbone` in Hugging Face layout, `windows.npz`."""
    write_backbone(case.settings.backbone, folder / "backbone")
    windows = made_up_windows(case.windows)
    np.savez(folder / "windows.npz", context=windows.context, target=windows.target)


def write_backbone(name: str, folder: Path) -> None:
    """MiniLM as it was pretrained; another one of BERT's vocabulary with random weights, and MiniLM's tokenizer."""
    shutil.copytree(find_weights(find_backbone(TEACHER), TEACHER_WEIGHTS), folder)
    if name != TEACHER:
        torch.manual_seed(SEED)
        AutoModel.from_config(true_config(find_backbone(name))).save_pretrained(folder)


def made_up_windows(count: int) -> Windows:
    """An hour apart, from one person's waves and a sensor's noise; the same in every run. Nobody knows the hour."""
    steps = np.arange(20 * (count + 10))  # a little more than enough: the training part is 60 %
    waves = 150 + 45 * np.sin(2 * np.pi * steps / 61) + 30 * np.sin(2 * np.pi * steps / 217)
    glucose = waves + np.random.default_rng(SEED).normal(0, 3, len(steps))
    series = GlucoseSeries("made-up", np.datetime64("2025-01-01", "s"), 5, glucose.astype(np.float32), clock="utc")
    return cut_windows(series, SHAPE, "train")[::12][:count]


def peer_arguments(case: Case, folder: Path) -> list[str]:
    given = {name: getattr(case.settings, name) for name in SHARED}
    given |= {"backbone": folder / "backbone", "windows": folder / "windows.npz", "prompt_prefix": DESCRIPTION + " "}
    given |= {"learning_rate": TRAINING.learning_rate, "batch": BATCH, "steps": case.steps, "threads": THREADS}
    return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]


class Ours:
    """glucast's model as it is trained (trainer.fit) and as it is served (an exported bundle)."""

    def __init__(self, settings: ModelSettings, windows: Windows, folder: Path) -> None:
        self.folder = folder
        self.built = build_model("made-up", settings, SHAPE, SEED)
        examples = build_examples(windows, self.built.spec, self.built.tokenizer)
        self.training = Training(self.built.model, examples, examples, settings.quantiles, TRAINING, unheard)
        self.training.joined.train()

    def step(self, rows: slice) -> None:
        examples = self.training.train
        self.training.step(examples.rows(torch.arange(len(examples))[rows], self.training.device))

    def finish(self) -> Forecast:
        self.folder.mkdir()
        export_onnx(self.built.model, self.built.spec, self.folder / "model.onnx")
        if self.built.tokenizer is not None:
            self.built.tokenizer.save(str(self.folder / "tokenizer.json"))
        forecaster = Forecaster.open(write_bundle(self.folder, self.built.spec, {}, {}), THREADS)
        return lambda context: forecaster.predict(context, np.full(len(context), np.nan)).mean


def our_side(name: str, folder: Path) -> dict[str, Any]:
    """Measured in this process; what benchmarks.peer_timellm finds of the peer."""
    hold_still(THREADS)
    case = CASES[name]
    windows = made_up_windows(case.windows)
    ours = Ours(case.settings.model_copy(update={"weights": str(folder / "backbone")}), windows, folder / "bundle")
    found = measure(ours.step, ours.finish, windows.context, BATCH, case.steps)
    trained = sum(tensor.numel() for tensor in ours.built.model.trained_tensors().values())
    return found | {"trained": trained, "prompt_tokens": ours.built.spec.prompt.length}


def _add_rows(found: Findings, name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    timed = {f"training step of {BATCH}": (ours["training"], theirs["training"])}
    for size in map(str, FORECAST_SIZES):  # JSON made the sizes strings
        timed[f"forecast of {size}"] = (ours["forecasts"][size], theirs["forecasts"][size])
    for what, sides in timed.items():
        own, peers = (Times(**side) for side in sides)
        found.add(what=f"{name}: {what}, ms", glucast=own, neuralforecast=peers, ratio=peers.cpu / own.cpu)
    own_mb, peers_mb = ours["memory_mb"], theirs["memory_mb"]
    what = f"{name}: peak memory of training, MB"
    found.add(what=what, glucast=own_mb, neuralforecast=peers_mb, ratio=peers_mb / own_mb)
    what = f"{name}: moved by its batch, mg/dL, after {CASES[name].steps} steps"
    found.add(what=what, glucast=ours["moved_mg_dl"], neuralforecast=theirs["moved_mg_dl"])


def _differences(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """What the two sides of a case do not have in common."""
    settings = CASES[name].settings
    prompt = "no prompt" if settings.prompt == "none" else f"a prompt of {ours['prompt_tokens']} tokens"
    fewest, most = theirs["prompt_tokens"]
    return (
        f"{name}, on {settings.backbone}: {prompt} against {fewest} to {most} tokens; "
        f"{ours['trained'] / 1e6:.1f} M numbers trained against {theirs['trained'] / 1e6:.1f} M; "
        f"a mean and {len(settings.quantiles)} quantiles of every step against one value "
        f"(neuralforecast {theirs['version']})"
    )


if __name__ == "__main__":
    print(json.dumps(our_side(sys.argv[1], Path(sys.argv[2]))))
