"""neuralforecast's TimeLLM, measured in an environment of its own, and the measuring that both sides go through.

    python -m benchmarks.peer_timellm --backbone FOLDER --windows FILE.npz --prompt-prefix "the data set holds …"

Imports nothing of glucast, which is not installed there. The module is driven directly, as kindly as can be: no
Lightning trainer, no data frames, no loader around it. The last line printed is JSON.
"""

import argparse
import json
import os
import re
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

WARM_UP = 3  # rounds that are not counted
FORECAST_SIZES, FORECAST_ROUNDS = (1, 32), 7

Input = TypeVar("Input")
Forecast = Callable[[np.ndarray], np.ndarray]  # (n, context_length) → (n, prediction_length), mg/dL, in one pass


def measure(
    step: Callable[[slice], object], finish: Callable[[], Forecast], context: np.ndarray, batch: int, steps: int
) -> dict[str, Any]:
    """Train for `steps`, then forecast. One side of the comparison; both are measured here.

    step:    trains once, on these rows of the windows
    finish:  ends the training, and gives what forecasts from then on
    context: (n, context_length) mg/dL, n at least steps * batch
    """
    training = clocked(step, parts(batch, steps))
    peak = peak_memory_mb()  # before anything else can raise it
    forecast = finish()
    asked = {size: [context[rows] for rows in parts(size, WARM_UP + FORECAST_ROUNDS)] for size in FORECAST_SIZES}
    return {
        "training": training,
        "memory_mb": peak,
        "forecasts": {size: clocked(forecast, contexts) for size, contexts in asked.items()},
        "moved_mg_dl": moved_by_others(forecast, context[:batch]),
    }


def clocked(work: Callable[[Input], object], inputs: Sequence[Input]) -> dict[str, float]:
    """Seconds of `work`, one round for each input; the fields of benchmarks.measuring.Times, the warm-up left out."""
    wall, cpu = [], []
    for given in inputs:
        at, spent = time.perf_counter(), time.process_time()
        work(given)
        wall.append(time.perf_counter() - at)
        cpu.append(time.process_time() - spent)
    wall, cpu = wall[WARM_UP:], cpu[WARM_UP:]
    return {
        "wall": statistics.median(wall),
        "cpu": statistics.median(cpu),
        "fastest": min(wall),
        "slowest": max(wall),
        "rounds": len(wall),
    }


def parts(size: int, count: int) -> list[slice]:
    """Rows of the windows: `count` times `size`, one after the other."""
    return [slice(start, start + size) for start in range(0, size * count, size)]


def moved_by_others(forecast: Forecast, context: np.ndarray) -> float:
    """Largest change of a window's forecast, in mg/dL, from being forecast alone to being one of `context`."""
    alone = np.concatenate([forecast(window[None]) for window in context])
    return float(np.abs(forecast(context) - alone).max())


def peak_memory_mb() -> float:
    """Resident, of this process alone. `ru_maxrss` would begin at the peak of the process that started this one."""
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    return int(peak[1]) * 1024 / 1e6


def hold_still(threads: int) -> None:
    """The same for both sides: no GPU, so many threads, and a tokeniser that starts none of its own."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(threads)


class Peer:
    """neuralforecast's TimeLLM with its default loss and optimiser."""

    def __init__(self, arguments: argparse.Namespace, context: np.ndarray, target: np.ndarray) -> None:
        self.context, self.target = torch.from_numpy(context), torch.from_numpy(target)
        self.model = build(arguments, context.shape[1], target.shape[1])
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=arguments.learning_rate)
        self.prompt_lengths: set[int] = set()
        self.model.llm.register_forward_pre_hook(self._note_length, with_kwargs=True)

    def step(self, rows: slice) -> None:
        """As Lightning would, which leaves the language model in the eval mode that it was loaded in."""
        outputs = self.model({"insample_y": self.context[rows, :, None]})[..., 0]
        self.optimiser.zero_grad()
        F.l1_loss(outputs, self.target[rows]).backward()
        self.optimiser.step()

    def finish(self) -> Forecast:
        self.model.eval()
        return self.forecast

    @torch.inference_mode()
    def forecast(self, context: np.ndarray) -> np.ndarray:
        return self.model({"insample_y": torch.from_numpy(context)[..., None]})[..., 0].numpy()

    def _note_length(self, _: Any, __: Any, inputs: dict[str, Any]) -> None:
        self.prompt_lengths.add(inputs["inputs_embeds"].shape[1] - self.model.patch_nums)


def build(arguments: argparse.Namespace, context_length: int, prediction_length: int) -> Any:
    """The model on one channel, its language model checked."""
    from neuralforecast.models import TimeLLM  # only here: the other side measures with this file, and lacks it

    folder = Path(arguments.backbone)
    model = TimeLLM(
        h=prediction_length,
        input_size=context_length,
        patch_len=arguments.patch_len,
        stride=arguments.stride,
        d_model=arguments.d_model,
        d_ff=arguments.d_ff,
        n_heads=arguments.num_heads,
        dropout=arguments.dropout,
        d_llm=json.loads((folder / "config.json").read_text())["hidden_size"],
        enc_in=1,
        dec_in=1,
        llm=str(folder),
        prompt_prefix=arguments.prompt_prefix,
    )
    check_loaded(model.llm, folder)
    return model


def check_loaded(language_model: torch.nn.Module, folder: Path) -> None:
    """Raises ValueError for other weights: what cannot be loaded is replaced by GPT-2 there, with a print."""
    saved = load_file(folder / "model.safetensors")
    for name, parameter in language_model.named_parameters():
        if name not in saved or not torch.equal(parameter, saved[name]):
            raise ValueError(f"neuralforecast runs another model than {folder.name}: {name} differs")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True, help="folder in Hugging Face layout, with safetensors")
    parser.add_argument("--windows", required=True, help=".npz with context and target, mg/dL")
    parser.add_argument("--prompt-prefix", required=True, help="what the data are, in words")
    for name, default in (("patch-len", 6), ("stride", 3), ("d-model", 32), ("d-ff", 32), ("num-heads", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    for name, default in (("batch", 32), ("steps", 10), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    hold_still(arguments.threads)
    with np.load(arguments.windows) as windows:
        context, target = windows["context"], windows["target"]
    peer = Peer(arguments, context, target)
    found = measure(peer.step, peer.finish, context, arguments.batch, arguments.steps)
    found["trained"] = sum(p.numel() for p in peer.model.parameters() if p.requires_grad)
    found["prompt_tokens"] = [min(peer.prompt_lengths), max(peer.prompt_lengths)]
    found["version"] = version("neuralforecast")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
