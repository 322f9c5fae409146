"""The Forecaster RPCs: protobuf → our types → engine → protobuf."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

import grpc

from forecasting.errors import GlucastError, InvalidInput, Overloaded
from protos.glucast.v1 import forecaster_pb2 as pb
from protos.glucast.v1 import forecaster_pb2_grpc
from services.calls import deadline_of
from services.inference.alarms import Alarm, AlarmKind, Alarms
from services.inference.engine import Engine, Forecast
from services.inference.messages import (
    Responses,
    description_of,
    question_from,
    reading_from,
    readings_from,
    unit_from,
    utc_offset_from,
)
from services.inference.monitor import Person, Update, Watch
from services.inference.opened import Served
from services.inference.patient_stream import Use
from services.inference.settings import Settings
from services.inference.telemetry import Telemetry
from services.inference.truth import LiveAccuracy
from services.inference.wire import nested
from services.statuses import Stopping, status_of

AT_ONCE = 1024  # requests of one batch, outcomes of one report
SLICE = 16  # requests of a batch that are read or answered before others get their turn
RESULTS = pb.ForecastBatchResponse.RESULTS_FIELD_NUMBER
FORECAST, PROBLEM = pb.ForecastResult.FORECAST_FIELD_NUMBER, pb.ForecastResult.PROBLEM_FIELD_NUMBER
STREAMS = 10_000  # open at once; each keeps the readings of one person
USES = {
    Use.NEWEST: pb.NEWEST,
    Use.LATE: pb.LATE,
    Use.CORRECTED: pb.CORRECTED,
    Use.DUPLICATE: pb.DUPLICATE,
    Use.TOO_OLD: pb.TOO_OLD,
}
ALARMS = {
    AlarmKind.LOW_NOW: pb.LOW_NOW,
    AlarmKind.HIGH_NOW: pb.HIGH_NOW,
    AlarmKind.LOW_EXPECTED: pb.LOW_EXPECTED,
    AlarmKind.HIGH_EXPECTED: pb.HIGH_EXPECTED,
}


class ForecasterServicer(forecaster_pb2_grpc.ForecasterServicer):
    """Answers for one engine."""

    def __init__(self, engine: Engine, accuracy: LiveAccuracy, settings: Settings, telemetry: Telemetry) -> None:
        self._engine, self._accuracy = engine, accuracy
        self._settings, self._telemetry = settings, telemetry
        self._responses = Responses()
        self._stopping = asyncio.Event()
        self._streams = 0

    def stop(self) -> None:
        """Let every open stream end after the reading it is answering."""
        self._stopping.set()

    async def Forecast(self, request: pb.ForecastRequest, context: grpc.aio.ServicerContext) -> bytes:
        question = question_from(request, deadline_of(context), bulk=False)
        return await self._engine.forecast(question, self._responses.of)

    async def ForecastBatch(self, request: pb.ForecastBatchRequest, context: grpc.aio.ServicerContext) -> bytes:
        _check_count(len(request.requests), "requests")
        deadline = deadline_of(context)
        # asked for and not answered: enough that the engine never waits for the next ones
        window = 4 * self._settings.batch_size
        accepted: list[asyncio.Future[bytes] | Exception] = []
        results: list[bytes] = []
        try:
            for k, one in enumerate(request.requests):
                accepted.append(await self._accept(one, deadline))
                if k >= window:
                    results.append(await self._result(accepted[k - window], f"requests[{k - window}]"))
                if k % SLICE == SLICE - 1:
                    await asyncio.sleep(0)
            for k in range(len(results), len(accepted)):
                results.append(await self._result(accepted[k], f"requests[{k}]"))
        finally:
            _give_up(accepted)
        return b"".join(results)

    async def Monitor(
        self, requests: AsyncIterator[pb.MonitorRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.MonitorResponse]:
        if self._streams >= STREAMS:
            raise Overloaded(f"{STREAMS} streams are open, which is all that may; try again in 60 s", 60.0)
        self._streams += 1
        self._telemetry.streams.inc()
        try:
            # closed before the call is: what waits for the next step would fail with it, and the log quote the refusal
            async with aclosing(self._until_stopping(requests)) as steps:
                monitor = self._monitor_from(await anext(steps, None))
                async for step in steps:
                    yield await self._answer(monitor, step)
        finally:
            self._streams -= 1
            self._telemetry.streams.dec()

    async def ReportOutcome(
        self, request: pb.ReportOutcomeRequest, context: grpc.aio.ServicerContext
    ) -> pb.ReportOutcomeResponse:
        _check_count(len(request.outcomes), "outcomes")
        return pb.ReportOutcomeResponse(results=[self._compared(outcome) for outcome in request.outcomes])

    async def ListModels(
        self, request: pb.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListModelsResponse:
        references = self._engine.models_for(request.patient_id)
        found = [await self._engine.models.find(reference) for reference in references]
        return pb.ListModelsResponse(models=[self._described(served) for served in found if served is not None])

    async def GetModel(self, request: pb.GetModelRequest, context: grpc.aio.ServicerContext) -> pb.ModelDescription:
        if not request.model:
            raise InvalidInput("the request names no model; write name, name@alias or name/version", "model")
        return self._described(await self._engine.models.first((request.model,)))

    def _described(self, served: Served) -> pb.ModelDescription:
        return description_of(served, self._engine.models.aliases_of(served.opened))

    async def _accept(self, request: pb.ForecastRequest, deadline: float | None) -> "asyncio.Future[bytes] | Exception":
        try:
            return await self._engine.accept(question_from(request, deadline, bulk=True), self._responses.of)
        except Exception as error:  # noqa: BLE001 - told as this request's own result, and nobody else's
            return error

    async def _result(self, accepted: "asyncio.Future[bytes] | Exception", place: str) -> bytes:
        """One of the results, as it stands in the response."""
        try:
            if isinstance(accepted, Exception):
                raise accepted
            return nested(RESULTS, nested(FORECAST, await accepted))
        except Exception as error:  # noqa: BLE001 - likewise
            if isinstance(error, InvalidInput):
                error.field = f"{place}.{error.field}" if error.field else place
            return nested(RESULTS, nested(PROBLEM, status_of(error).SerializeToString()))

    def _compared(self, outcome: pb.Outcome) -> pb.OutcomeResult:
        try:
            readings = readings_from(outcome.readings, "readings")
            minutes = self._engine.compare(outcome.forecast_id, readings, unit_from(outcome.unit))
        except GlucastError as error:
            return pb.OutcomeResult(problem=status_of(error))
        return pb.OutcomeResult(minutes_ahead=minutes)

    async def _until_stopping(
        self, requests: AsyncIterator[pb.MonitorRequest]
    ) -> AsyncGenerator[pb.MonitorRequest, None]:
        """The steps of a stream; raises Stopping between two of them when the service stops."""
        stopping = asyncio.ensure_future(self._stopping.wait())
        coming = asyncio.ensure_future(anext(requests, None))
        try:
            while True:
                await asyncio.wait({coming, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    raise Stopping("the service is stopping; start again, with another, from the last hours' readings")
                step = coming.result()
                if step is None:
                    return
                coming = asyncio.ensure_future(anext(requests, None))
                yield step
        finally:
            for task in (stopping, coming):
                task.cancel()

    def _monitor_from(self, step: pb.MonitorRequest | None) -> Watch:
        if step is None or step.WhichOneof("step") != "start":
            raise InvalidInput("the stream does not begin with start; say whose readings will come", "start")
        start = step.start
        person = Person(
            start.patient_id,
            unit_from(start.unit, "start.unit"),
            lambda seconds: utc_offset_from(start, seconds),
            start.model,
        )
        person.clock(0)  # refuses an unknown zone now, and not at the first reading
        self._engine.check_patient(start.patient_id, start.model)
        monitor = Watch(
            self._engine, self._accuracy, person, Alarms(self._settings.alarm_low, self._settings.alarm_high)
        )
        monitor.resume(readings_from(start.history, "start.history"), start.forecast_ids)
        return monitor

    async def _answer(self, monitor: Watch, step: pb.MonitorRequest) -> pb.MonitorResponse:
        if step.WhichOneof("step") != "reading":
            raise InvalidInput("start comes once, before the readings; open another stream", "start")
        try:
            update = await monitor.add(*reading_from(step.reading, "reading"))
        except InvalidInput as error:
            update = Update(None, error)
        return self._update_message(update, step.reading)

    def _update_message(self, update: Update, reading: pb.Reading) -> pb.MonitorResponse:
        use = pb.REFUSED if update.use is None else USES[update.use]
        self._telemetry.monitor_readings.labels(pb.ReadingUse.Name(use)).inc()
        response = pb.MonitorResponse(time=reading.time, use=use, alarms=[_alarm(alarm) for alarm in update.alarms])
        if isinstance(update.outcome, Forecast):
            response.forecast.MergeFromString(self._responses.of(update.outcome))
        elif update.outcome is not None:
            response.problem.CopyFrom(status_of(update.outcome))
        return response


def _check_count(count: int, field: str) -> None:
    if not 1 <= count <= AT_ONCE:
        raise InvalidInput(f"the message has {count} {field}; 1 to {AT_ONCE:,} are allowed: send several", field)


def _give_up(accepted: "Sequence[asyncio.Future[bytes] | Exception]") -> None:
    """Nobody waits any longer: what was not computed need not be."""
    for one in accepted:
        if isinstance(one, asyncio.Future):
            one.cancel()  # does nothing to a future that has its result


def _alarm(alarm: Alarm) -> pb.Alarm:
    return pb.Alarm(
        kind=ALARMS[alarm.kind],
        minutes_ahead=alarm.minutes_ahead,
        probability=alarm.probability,
        is_new=alarm.is_new,
    )
