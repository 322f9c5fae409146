"""The one way anything is predicted or scored: check → normalise → network → mg/dL."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from forecasting.bundle import Bundle, ModelSpec, read_bundle
from forecasting.cgm import ACCEPTED_MG_DL, check_range
from forecasting.conformal import shifted
from forecasting.encoding import encode
from forecasting.errors import IntegrityError, InvalidReadings
from forecasting.events import EVENTS, check_events
from forecasting.history import STATISTICS
from forecasting.onnx_checks import RunBounds, check_network
from forecasting.prompts import tokenise, unpadded, write_prompts
from forecasting.tokenizer_checks import open_tokenizer
from forecasting.windows import Windows, statistics_of

# (x, prompt_ids or None) → y; shapes in ModelSpec
Network = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
PROBABILITY_RANGE = (0.01, 0.99)  # nothing is certain
SLOWER_FUSIONS = ["SkipLayerNormFusion"]  # the fused kernel takes longer than both it replaces (docs/performance.md)


@dataclass(frozen=True)
class Forecasts:
    """Forecasts of n windows in mg/dL.

    outputs: (n, prediction_length, 1 + levels): the mean, then the quantiles, ascending
    """

    outputs: np.ndarray
    levels: tuple[float, ...]

    @classmethod
    def of(cls, mean: np.ndarray, quantiles: np.ndarray, levels: tuple[float, ...]) -> "Forecasts":
        """From mean (n, prediction_length) and quantiles (n, prediction_length, levels)."""
        return cls(np.concatenate([mean[..., None], quantiles], axis=-1), levels)

    @property
    def mean(self) -> np.ndarray:
        """(n, prediction_length)"""
        return self.outputs[..., 0]

    @property
    def quantiles(self) -> np.ndarray:
        """(n, prediction_length, levels)"""
        return self.outputs[..., 1:]

    def probability_below(self, threshold_mg_dl: float) -> np.ndarray:
        """(n, prediction_length): P(glucose < threshold), by linear interpolation of the predicted quantiles."""
        q, levels = self.quantiles.reshape(-1, len(self.levels)), np.asarray(self.levels)
        rows = np.arange(len(q))
        upper = np.clip((q < threshold_mg_dl).sum(axis=1), 1, len(levels) - 1)
        q_low, q_high = q[rows, upper - 1], q[rows, upper]
        p_low = levels[upper - 1]
        width = np.where(q_high > q_low, q_high - q_low, 1.0)
        inside = p_low + (levels[upper] - p_low) * np.clip((threshold_mg_dl - q_low) / width, 0, 1)
        is_above_all, is_inside = threshold_mg_dl > q[:, -1], threshold_mg_dl >= q[:, 0]
        low, high = PROBABILITY_RANGE
        return np.clip(np.where(is_above_all, 1.0, inside * is_inside), low, high).reshape(self.outputs.shape[:2])

    def probability_above(self, threshold_mg_dl: float) -> np.ndarray:
        """(n, prediction_length): P(glucose > threshold)."""
        return 1.0 - self.probability_below(threshold_mg_dl)


class Forecaster:
    """A model opened for use. Stateless after construction; `predict` may be called from several threads."""

    def __init__(self, spec: ModelSpec, network: Network, tokenizer: Tokenizer | None = None) -> None:
        if (spec.prompt.kind == "none") != (tokenizer is None):
            raise IntegrityError(f"{spec.model}: a model with a prompt needs its tokenizer, one without has none")
        self.spec = spec
        self.network = network
        self._tokenizer = tokenizer
        self._shifts = None if spec.quantile_shifts is None else np.array(spec.quantile_shifts)

    @classmethod
    def open(cls, bundle: Bundle | Path, threads: int = 1, bounds: RunBounds = RunBounds()) -> "Forecaster":
        """Open a bundle (verified first when given as a folder).

        Raises IntegrityError where it cannot be run, or may not: what it holds was looked through before anything
        runs it, and would take no more than `bounds`.
        """
        bundle = read_bundle(bundle) if isinstance(bundle, Path) else bundle
        if not bundle.has("model.onnx"):
            raise IntegrityError(f"{bundle.folder.name} has no model.onnx; export the model first")
        tokenizer = None
        if bundle.spec.prompt.kind != "none":
            with _in_bundle(bundle):
                tokenizer = unpadded(open_tokenizer(bundle.read("tokenizer.json")))
        return cls(bundle.spec, _onnx_network(bundle, threads, bounds), tokenizer)

    def predict(
        self,
        context: np.ndarray,
        minute_of_day: np.ndarray,
        history: np.ndarray | None = None,
        events: np.ndarray | None = None,
        *,
        batch_size: int = 256,
    ) -> Forecasts:
        """Forecast n windows.

        context: (n, context_length) mg/dL without gaps; minute_of_day: (n,) at the origin, NaN where unknown;
        history: (n, 4) of forecasting.history.STATISTICS; without it a model that looks further back than the
        context is told that nothing before it is known;
        events: (n, context_length, 3) of forecasting.events.EVENTS in g, U and U/h, NaN where not recorded; None where
        nothing is. Only models that have `spec.inputs` look at them.
        Raises InvalidReadings for another shape or for gaps, IntegrityError for a network that gives no numbers.
        """
        shape = self.spec.shape
        if context.ndim != 2 or context.shape[1] != shape.context_length or len(minute_of_day) != len(context):
            raise InvalidReadings(
                f"got contexts of shape {context.shape}, {self.spec.model} needs (n, {shape.context_length}) "
                "and one minute of day for each"
            )
        if not np.isfinite(context).all():
            raise InvalidReadings(f"{self.spec.model} needs contexts without gaps; fill or drop them first")
        check_range(context.ravel())
        past, taken = self._past(context, history), self._taken(context, events)
        outputs = np.empty((len(context), shape.prediction_length, self.spec.outputs), np.float64)
        for start in range(0, len(context), batch_size):
            rows = slice(start, start + batch_size)
            outputs[rows] = self._predict_batch(
                context[rows],
                minute_of_day[rows],
                None if past is None else past[rows],
                None if taken is None else taken[rows],
            )
        if self._shifts is not None:
            outputs[..., 1:] = np.clip(shifted(outputs[..., 1:], self._shifts), *ACCEPTED_MG_DL)
        return Forecasts(outputs, self.spec.quantiles)

    def predict_windows(self, windows: Windows) -> Forecasts:
        """Forecast windows with all that they know."""
        events = windows.events if self.spec.inputs and windows.timeline.events is not None else None
        return self.predict(windows.context, windows.minute_of_day, windows.history, events)

    def _past(self, context: np.ndarray, history: np.ndarray | None) -> np.ndarray | None:
        """(n, 4) statistics for a model that knows them, else None. Raises InvalidReadings for what are none."""
        if not self.spec.knows_history:
            return None
        if history is None:
            return statistics_of(context, self.spec.shape)
        if history.shape != (len(context), len(STATISTICS)) or not np.isfinite(history).all():
            raise InvalidReadings(
                f"got a history of shape {history.shape}, {self.spec.model} needs {len(STATISTICS)} numbers for each "
                "context"
            )
        return history

    def _taken(self, context: np.ndarray, events: np.ndarray | None) -> np.ndarray | None:
        """(n, context_length, 3) for a model that has inputs, else None. Raises InvalidReadings for what is none."""
        if not self.spec.inputs:
            return None
        if events is None:
            return np.full((*context.shape, len(EVENTS)), np.nan, np.float32)
        if events.shape != (*context.shape, len(EVENTS)):
            raise InvalidReadings(
                f"got events of shape {events.shape}, {self.spec.model} needs {(*context.shape, len(EVENTS))}: "
                f"{', '.join(EVENTS)} at every step"
            )
        check_events(events)
        return events

    def _predict_batch(
        self,
        context: np.ndarray,
        minute_of_day: np.ndarray,
        history: np.ndarray | None,
        events: np.ndarray | None,
    ) -> np.ndarray:
        spec = self.spec
        minutes = spec.shape.sampling_minutes
        encoded = encode(context, minute_of_day, minutes, spec.normalisation, history, events, spec.inputs)
        prompt_ids = None
        if self._tokenizer is not None:
            prompts = write_prompts(context, self.spec.shape.prediction_length, self.spec.prompt.kind)
            prompt_ids = tokenise(self._tokenizer, prompts, self.spec.prompt)
        outputs = self.network(encoded.x, prompt_ids)
        if not np.isfinite(outputs).all():
            raise IntegrityError(f"{self.spec.model} gave a forecast that is no number; roll it back or train it again")
        return encoded.to_mg_dl(outputs)


@contextmanager
def _in_bundle(bundle: Bundle) -> Iterator[None]:
    """Say which bundle a file was refused in."""
    try:
        yield
    except IntegrityError as error:
        raise IntegrityError(f"{bundle.folder.name}/{error}") from error


def open_session(content: bytes, threads: int = 1) -> ort.InferenceSession:
    """A model's bytes, as they are run everywhere."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    _share_memory()
    options.add_session_config_entry("session.use_env_allocators", "1")
    return ort.InferenceSession(
        content, options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOWER_FUSIONS
    )


@cache
def _share_memory() -> None:
    """One arena for all networks of this process: of their own, each would keep what its largest batch took."""
    anywhere = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(anywhere, None)


def _onnx_network(bundle: Bundle, threads: int, bounds: RunBounds) -> Network:
    content = bundle.read("model.onnx")
    with _in_bundle(bundle):
        check_network(content, bundle.spec, bounds)
    try:
        session = open_session(content, threads)
    except Exception as error:
        kind = type(error).__name__  # the text is for who made the file, not for who asks for a forecast
        raise IntegrityError(f"{bundle.folder.name}/model.onnx cannot be run ({kind}); export it again") from error
    _check_signature(session, bundle)

    def run(x: np.ndarray, prompt_ids: np.ndarray | None) -> np.ndarray:
        feeds = {"x": x} if prompt_ids is None else {"x": x, "prompt_ids": prompt_ids}
        return session.run(["y"], feeds)[0]

    return run


def _check_signature(session: ort.InferenceSession, bundle: Bundle) -> None:
    spec = bundle.spec
    expected = {"x": [spec.shape.context_length, len(spec.channels)]}
    if spec.prompt.kind != "none":
        expected["prompt_ids"] = [spec.prompt.length]
    found = {i.name: list(i.shape[1:]) for i in session.get_inputs()}
    output = {o.name: list(o.shape[1:]) for o in session.get_outputs()}
    if found != expected or output != {"y": [spec.shape.prediction_length, spec.outputs]}:
        raise IntegrityError(
            f"{bundle.folder.name}/model.onnx takes {found} and gives {output}; model.json says otherwise"
        )
