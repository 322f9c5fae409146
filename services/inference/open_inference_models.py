"""What the Open Inference Protocol tells of a model version: its tensors, how it is batched, what it did."""

from collections.abc import Iterable

from forecasting.bundle import ModelSpec
from forecasting.events import columns_of
from protos.inference import open_inference_pb2 as pb
from services.inference.open_inference_rows import FORECAST, GLUCOSE, HISTORY, MINUTE, ROWS_AT_MOST
from services.inference.open_inference_tensors import DATATYPE
from services.inference.opened import Opened
from services.inference.settings import Settings
from services.inference.statistics import Parts, Statistics, Total

SERVER, SERVER_VERSION = "glucast", "0.1.0"
EXTENSIONS = ("model_repository", "model_configuration", "statistics", "schedule_policy")
PLATFORM = "glucast_onnx"  # a network in ONNX, between the readings and forecasts in mg/dL that the tensors hold
PRIORITY_LEVELS = 2  # the second is computed after all of the first
NS = 1e9  # in a second


def server_metadata() -> pb.ServerMetadataResponse:
    """Who answers, and what beside inference."""
    return pb.ServerMetadataResponse(name=SERVER, version=SERVER_VERSION, extensions=EXTENSIONS)


def metadata_of(opened: Opened, versions: Iterable[str]) -> pb.ModelMetadataResponse:
    """The tensors of a model version; versions: those that can be asked for."""
    return pb.ModelMetadataResponse(
        name=opened.version.name,
        versions=versions,
        platform=PLATFORM,
        inputs=[_tensor(name, (-1, *dims)) for name, dims in _inputs(opened.forecaster.spec).items()],
        outputs=[_tensor(FORECAST, (-1, *_output(opened.forecaster.spec)))],
    )


def config_of(opened: Opened, settings: Settings) -> pb.ModelConfig:
    """How it is batched, and what its numbers mean."""
    spec = opened.forecaster.spec
    inputs = [
        pb.ModelInput(name=name, data_type=pb.TYPE_FP32, dims=dims, optional=name != GLUCOSE)
        for name, dims in _inputs(spec).items()
    ]
    return pb.ModelConfig(
        name=opened.version.name,
        platform=PLATFORM,
        backend=SERVER,
        version_policy=pb.ModelVersionPolicy(specific={"versions": [int(opened.version.version)]}),
        max_batch_size=ROWS_AT_MOST,
        input=inputs,
        output=[pb.ModelOutput(name=FORECAST, data_type=pb.TYPE_FP32, dims=_output(spec))],
        dynamic_batching=_batching(settings),
        parameters={key: pb.ModelParameter(string_value=text) for key, text in _meaning(opened).items()},
        model_transaction_policy=pb.ModelTransactionPolicy(decoupled=False),
    )


def statistics_of(opened: Opened) -> pb.ModelStatistics:
    """What it did since it was opened."""
    statistics, version = opened.batcher.statistics, opened.version
    by_size = statistics.by_size()
    return pb.ModelStatistics(
        name=version.name,
        version=version.version,
        last_inference=int(statistics.last_at * 1e3),
        inference_count=sum(size * parts.batches for size, parts in by_size.items()),
        execution_count=sum(parts.batches for parts in by_size.values()),
        inference_stats=_inference_statistics(statistics, by_size),
        batch_stats=[pb.InferBatchStatistics(batch_size=size, **_durations(parts)) for size, parts in by_size.items()],
        memory_usage=[pb.MemoryUsage(type="CPU", byte_size=opened.size_bytes)],
    )


def _inputs(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The sizes of each input, without that of the batch; Triton's tools know no input that has none."""
    shape = spec.shape
    history = {HISTORY: (shape.history_length,)} if shape.history_length else {}
    events = dict.fromkeys(columns_of(spec.inputs), (shape.context_length,))
    return {GLUCOSE: (shape.context_length,), **history, **events, MINUTE: (1,)}


def _output(spec: ModelSpec) -> tuple[int, ...]:
    return spec.shape.prediction_length, spec.outputs


def _tensor(name: str, shape: tuple[int, ...]) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=name, datatype=DATATYPE, shape=shape)


def _batching(settings: Settings) -> pb.ModelDynamicBatching:
    return pb.ModelDynamicBatching(
        preferred_batch_size=[settings.batch_size],
        max_queue_delay_microseconds=int(settings.batch_wait_ms * 1e3),
        priority_levels=PRIORITY_LEVELS,
        default_priority_level=1,
        default_queue_policy=pb.ModelQueuePolicy(
            timeout_action=pb.ModelQueuePolicy.REJECT, allow_timeout_override=True, max_queue_size=settings.queue_size
        ),
    )


def _meaning(opened: Opened) -> dict[str, str]:
    """What no tensor says of itself."""
    spec = opened.forecaster.spec
    return {
        "unit": spec.unit,
        "sampling_minutes": str(spec.shape.sampling_minutes),
        "minutes_ahead": _listed(spec.shape.minutes_ahead),
        "values": _listed(("mean", *(f"quantile_{level:g}" for level in spec.quantiles))),
        "quantile_levels": _listed(f"{level:g}" for level in spec.quantiles),
        "clinical_use": "false",
        "digest": opened.version.digest,
    }


def _listed(values: Iterable[object]) -> str:
    return ",".join(map(str, values))


def _inference_statistics(statistics: Statistics, by_size: dict[int, Parts]) -> pb.InferStatistics:
    """The parts count once for each forecast of a batch, so that a mean is what one of them met."""
    met = Parts()
    for size, parts in by_size.items():
        met.add(size * parts.batches, (size * parts.reading, size * parts.network, size * parts.writing))
    return pb.InferStatistics(
        success=_duration(statistics.successes),
        fail=_duration(statistics.failures),
        queue=_duration(statistics.waits),
        **_durations(met),
    )


def _durations(parts: Parts) -> dict[str, pb.StatisticDuration]:
    seconds = {"compute_input": parts.reading, "compute_infer": parts.network, "compute_output": parts.writing}
    return {name: _duration(Total(parts.batches, one)) for name, one in seconds.items()}


def _duration(total: Total) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=total.count, ns=int(total.seconds * NS))
