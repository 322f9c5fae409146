"""The Open Inference Protocol on our engine: messages → rows in mg/dL → engine → messages; more in docs/serving.md."""

import asyncio
import time
from asyncio import Future
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial

import grpc
import numpy as np

from forecasting.errors import IntegrityError, InvalidInput, Overloaded, RegistryUnavailable
from forecasting.references import parse_reference
from protos.inference import open_inference_pb2 as pb
from protos.inference import open_inference_pb2_grpc
from services.calls import deadline_of
from services.inference.engine import Engine
from services.inference.in_order import in_order
from services.inference.open_inference_models import (
    PRIORITY_LEVELS,
    config_of,
    metadata_of,
    server_metadata,
    statistics_of,
)
from services.inference.open_inference_rows import FORECAST, Rows, rows_from
from services.inference.open_inference_tensors import Parameters, response_from, whole_number
from services.inference.opened import Opened, Served
from services.inference.settings import Settings
from services.statuses import status_of

ADMIN_METHODS = frozenset({"RepositoryModelLoad", "RepositoryModelUnload"})  # they change what others are answered by
STREAMS = 1_000  # open at once
UNDER_WAY = 64  # requests of one stream
US = 1e6  # in a second
NAME_AT_MOST = 200  # characters of a model's name


class OpenInferenceServicer(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers for one engine."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine, self._settings = engine, settings
        self._stopping = asyncio.Event()
        self._streams = 0

    def stop(self) -> None:
        """Be ready no longer, and let every open stream end after what it was sent."""
        self._stopping.set()

    async def ServerLive(
        self, request: pb.ServerLiveRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: pb.ServerReadyRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._engine.models.is_ready and not self._stopping.is_set())

    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelReadyResponse:
        reference = reference_from(request.name, request.version, "name")
        return pb.ModelReadyResponse(ready=await self._is_ready(reference))

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerMetadataResponse:
        return server_metadata()

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelMetadataResponse:
        served = await self._served(reference_from(request.name, request.version, "name"))
        return metadata_of(served.opened, self._engine.models.versions_of(served.opened.version.name))

    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelInferResponse:
        return await self._infer(request, deadline_of(context))

    async def ModelStreamInfer(
        self, requests: AsyncIterator[pb.ModelInferRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        if self._streams >= STREAMS:
            raise Overloaded(f"{STREAMS} streams are open, which is all that may; try again in 60 s", 60.0)
        answer = self._streamed if _wants_status(context) else self._streamed_or_told
        answer_in_time = partial(answer, deadline=deadline_of(context))
        self._streams += 1
        try:
            async with aclosing(in_order(requests, answer_in_time, UNDER_WAY, self._stopping)) as responses:
                async for response in responses:
                    yield response
        finally:
            self._streams -= 1

    async def ModelConfig(
        self, request: pb.ModelConfigRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelConfigResponse:
        served = await self._served(reference_from(request.name, request.version, "name"))
        return pb.ModelConfigResponse(config=config_of(served.opened, self._settings))

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelStatisticsResponse:
        return pb.ModelStatisticsResponse(model_stats=[statistics_of(one) for one in await self._counted(request)])

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: grpc.aio.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        _check_repository(request.repository_name)
        models = self._engine.models
        rows = [
            _index_row(name, number, is_open, models.is_unloaded(name))
            for name in sorted(self._public_names())
            for number, is_open in models.versions_of(name).items()
            if is_open or not request.ready
        ]
        return pb.RepositoryIndexResponse(models=rows)

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: grpc.aio.ServicerContext
    ) -> pb.RepositoryModelLoadResponse:
        _check_repository(request.repository_name)
        for name in request.parameters:
            raise InvalidInput(
                "models come from the registry with all that they are; load takes no parameters, neither config nor "
                "files: publish a version instead",
                f"parameters[{name[:NAME_AT_MOST]}]",
            )
        await self._engine.models.load(reference_from(request.model_name, "", "model_name"))
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: grpc.aio.ServicerContext
    ) -> pb.RepositoryModelUnloadResponse:
        _check_repository(request.repository_name)
        self._engine.models.unload(reference_from(request.model_name, "", "model_name"))
        return pb.RepositoryModelUnloadResponse()

    async def _served(self, reference: str) -> Served:
        return await self._engine.models.first((reference,))

    async def _is_ready(self, reference: str) -> bool:
        if self._engine.models.is_unloaded(parse_reference(reference)[0]):
            return False
        try:
            return await self._engine.models.find(reference) is not None
        except (IntegrityError, RegistryUnavailable):
            return False

    def _public_names(self) -> set[str]:
        """The models that anybody may be told of: none that is named after a patient."""
        return {parse_reference(reference)[0] for reference in self._engine.models_for("")}

    async def _counted(self, request: pb.ModelStatisticsRequest) -> list[Opened]:
        """The version that was named, or all that are open: of the model that was named, else of the public ones."""
        if not request.name:
            names = self._public_names()
        else:
            served = await self._served(reference_from(request.name, request.version, "name"))
            if request.version:
                return [served.opened]
            names = {served.opened.version.name}
        return [one for one in self._engine.models.opened() if one.version.name in names]

    async def _infer(self, request: pb.ModelInferRequest, deadline: float | None) -> pb.ModelInferResponse:
        """deadline: of time.monotonic()"""
        began = time.perf_counter()
        served = await self._served(reference_from(request.model_name, request.model_version, "model_name"))
        with served.opened.batcher.statistics.request(began):
            spec = served.opened.forecaster.spec
            rows = rows_from(request, spec.shape, spec.inputs)
            outputs = await self._forecasts(served, rows, request.parameters, deadline)
        response = response_from(request, served.opened.version, FORECAST, outputs)
        response.parameters["clinical_use"].bool_param = False
        response.parameters["digest"].string_param = served.opened.version.digest
        return response

    async def _forecasts(
        self, served: Served, rows: Rows, parameters: Parameters, deadline: float | None
    ) -> np.ndarray:
        """(rows, prediction_length, 1 + levels) mg/dL"""
        deadline, bulk = _in_queue(parameters, deadline), _is_bulk(parameters, len(rows))
        window = 4 * self._settings.batch_size  # asked for and not answered: enough that no batch waits for rows
        asked: list[Future[np.ndarray]] = []
        try:
            for k in range(len(rows)):
                if k >= window:
                    await asked[k - window]
                asked.append(self._engine.submit(served, partial(rows.context, k), deadline, bulk))
            return np.stack([await one for one in asked])
        finally:
            for one in asked:
                one.cancel()  # does nothing to a future that has its result

    async def _streamed(self, request: pb.ModelInferRequest, deadline: float | None) -> pb.ModelStreamInferResponse:
        response = await self._infer(request, deadline)
        response.parameters["triton_final_response"].bool_param = True  # one response for each request, never empty
        return pb.ModelStreamInferResponse(infer_response=response)

    async def _streamed_or_told(
        self, request: pb.ModelInferRequest, deadline: float | None
    ) -> pb.ModelStreamInferResponse:
        try:
            return await self._streamed(request, deadline)
        except Exception as error:  # noqa: BLE001 - told as this message's own answer; the stream goes on
            return pb.ModelStreamInferResponse(
                error_message=status_of(error).message, infer_response=pb.ModelInferResponse(id=request.id)
            )


def reference_from(name: str, version: str, field: str) -> str:
    """The reference of a model and version, the champion where that is empty; raises InvalidInput.

    field: the one that holds the name
    """
    if len(name) > NAME_AT_MOST or len(version) > NAME_AT_MOST:
        raise InvalidInput(f"the model's name or version has more than {NAME_AT_MOST} characters; none has", field)
    reference = f"{name}/{version}" if version else name
    try:
        parse_reference(reference)
    except InvalidInput as error:
        raise InvalidInput(str(error), field) from error
    return reference


def _in_queue(parameters: Parameters, deadline: float | None) -> float | None:
    """The deadline, or the end of the time that the request lets itself wait, whichever comes first."""
    timeout = whole_number(parameters, "timeout")
    if not timeout:
        return deadline
    end = time.monotonic() + timeout / US
    return end if deadline is None else min(deadline, end)


def _is_bulk(parameters: Parameters, rows: int) -> bool:
    """Where no priority is said, several rows are bulk, as a ForecastBatch is; one that does not exist is none."""
    priority = whole_number(parameters, "priority")
    return priority == PRIORITY_LEVELS if 1 <= priority <= PRIORITY_LEVELS else rows > 1


def _wants_status(context: grpc.aio.ServicerContext) -> bool:
    """Is a stream to end with the status of what goes wrong in it?"""
    return dict(context.invocation_metadata() or ()).get("triton_grpc_error") == "true"


def _check_repository(name: str) -> None:
    if name:
        raise InvalidInput("there is one repository, which has no name; leave repository_name empty", "repository_name")


def _index_row(name: str, number: str, is_open: bool, is_unloaded: bool) -> pb.RepositoryIndexResponse.ModelIndex:
    reason = "" if is_open else "unloaded" if is_unloaded else "not open; it is opened when it is asked for"
    state = "READY" if is_open else "UNAVAILABLE"
    return pb.RepositoryIndexResponse.ModelIndex(name=name, version=number, state=state, reason=reason)
