"""The engine: a question about one person → the model that answers → its forecast. Knows no transport."""

import datetime as dt
from asyncio import Future
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from forecasting.cgm import Unit
from forecasting.context import Context, Readings, check_order, context_from, sensor_mg_dl
from forecasting.errors import GlucastError
from forecasting.events import EventRows
from services.inference.batcher import Row
from services.inference.forecast_ids import Ids, Record
from services.inference.models import Models, Opened, Served
from services.inference.records import record_of
from services.inference.routing import Routing
from services.inference.shadows import Shadows
from services.inference.telemetry import Telemetry
from services.inference.tracing import Tracer
from services.inference.truth import LiveAccuracy

T = TypeVar("T")
FOREIGN = "the model that was named is another patient's own: it does not know this one"


@dataclass(frozen=True, slots=True)
class Query:
    """What a forecast is made from. as_of: seconds since 1970."""

    readings: Readings
    unit: Unit
    as_of: float | None = None
    utc_offset: dt.timedelta | None = None
    events: EventRows | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """One question. read: gives what was sent, and raises InvalidInput; called in the thread of the batch.

    deadline: of time.monotonic(); bulk: computed after all that is not
    """

    patient_id: str
    read: Callable[[], Query]
    model: str = ""
    deadline: float | None = None
    bulk: bool = False


@dataclass(frozen=True, slots=True)
class Forecast:
    """One answer. origin: seconds since 1970 UTC; warnings: sentences for whoever reads it."""

    served: Served
    origin: int
    row: Row
    warnings: tuple[str, ...]
    forecast_id: str
    record: Record | None


class Engine:
    """Answers questions from the models of a registry. Used from one event loop."""

    def __init__(
        self,
        models: Models,
        routing: Routing,
        ids: Ids,
        accuracy: LiveAccuracy,
        telemetry: Telemetry,
        tracer: Tracer,
    ) -> None:
        self.models = models
        self.ids, self.telemetry, self._tracer = ids, telemetry, tracer
        self._routing, self._accuracy = routing, accuracy
        self._shadows = Shadows(models, accuracy, telemetry)

    async def forecast(self, question: Question, render: Callable[[Forecast], T]) -> T:
        """Answer one question, rendered in the thread of the batch.

        Raises InvalidInput and InsufficientData for what was sent, NotFound, IntegrityError and RegistryUnavailable
        for the model, Overloaded and TooLate where the answer would not come in time.
        """
        with self._tracer.span("accept"):
            answer = await self.accept(question, render)
        with self._tracer.span("wait and compute"):
            return await answer

    async def accept(self, question: Question, render: Callable[[Forecast], T]) -> "Future[T]":
        """Find the model and queue the question; waits only for a model that is not open yet."""
        route = self._routing.route(question.patient_id, question.model)
        served = self.models.ready(route.references) or await self.models.first(route.references)
        is_foreign = self._routing.is_for_another_patient(served.opened.version.name, question.patient_id)
        job = _Job(self, served, question, is_foreign, render)
        future = served.opened.batcher.submit(job, question.deadline, question.bulk)
        if route.with_shadow:
            self._shadows.cast(served, job, future)
        return future

    def submit(
        self, served: Served, read: Callable[[], Context], deadline: float | None, bulk: bool
    ) -> "Future[np.ndarray]":
        """Queue one context for a model that was found already; (steps, 1 + levels) mg/dL.

        read: gives the context, and raises InvalidInput; called in the thread of the batch
        deadline, bulk: as in Question; raises Overloaded
        """
        return served.opened.batcher.submit(_ContextJob(self.telemetry, served, read), deadline, bulk)

    def compare(self, forecast_id: str, readings: Readings, unit: Unit) -> tuple[int, ...]:
        """Compare a forecast with what really came; the horizons that were compared now, in minutes.

        Raises InvalidInput for an id that this service did not make, and for readings that are none.
        """
        record = self.ids.unseal(forecast_id)
        check_order(readings.seconds)
        return self._accuracy.compare(record, readings.seconds, sensor_mg_dl(readings, unit)[0])

    def record_of(self, forecast_id: str) -> Record:
        """What a forecast of ours said; raises InvalidInput."""
        return self.ids.unseal(forecast_id)

    def models_for(self, patient_id: str) -> tuple[str, ...]:
        """References of the models that a caller may be told of; raises InvalidInput for what is no patient id."""
        return self._routing.listed(patient_id)

    def check_patient(self, patient_id: str, model: str) -> None:
        """Raises InvalidInput for a patient id that is missing or cannot name a model."""
        self._routing.route(patient_id, model)

    def hold(self, is_held: bool) -> None:
        """Let no forecast begin, or let them go on."""
        for opened in self.models.opened():
            opened.batcher.hold(is_held)

    async def close(self) -> None:
        """End what goes on behind the answers."""
        await self._shadows.close()


class _Job(Generic[T]):
    """A question on its way through a batch."""

    __slots__ = ("_engine", "_is_foreign", "_question", "_render", "context", "record", "served")

    def __init__(
        self, engine: Engine, served: Served, question: Question, is_foreign: bool, render: Callable[[Forecast], T]
    ) -> None:
        self._engine, self.served, self._question = engine, served, question
        self._is_foreign, self._render = is_foreign, render
        self.context: Context | None = None
        self.record: Record | None = None

    def prepare(self) -> Context:
        """Check the readings and lay them out as the model looks at them."""
        self.context = _read(self._lay_out, self._engine.telemetry)
        return self.context

    def finish(self, context: Context, row: Row) -> T:
        """The answer, as it was asked for."""
        self.record = record = record_of(self.served, context, row)
        warnings = (*context.warnings, FOREIGN) if self._is_foreign else context.warnings
        forecast_id = "" if record is None else self._engine.ids.seal(record)
        _observe(self._engine.telemetry, self.served.opened, context, record)
        return self._render(Forecast(self.served, context.origin, row, warnings, forecast_id, record))

    def _lay_out(self) -> Context:
        query, spec = self._question.read(), self.served.opened.forecaster.spec
        return context_from(
            query.readings,
            query.unit,
            spec.shape,
            as_of=query.as_of,
            utc_offset=query.utc_offset,
            events=query.events,
            inputs=spec.inputs,
            learned_from=spec.learned_from,
        )


class _ContextJob:
    """A context that came laid out, on its way through a batch."""

    __slots__ = ("_lay_out", "_served", "_telemetry")

    def __init__(self, telemetry: Telemetry, served: Served, lay_out: Callable[[], Context]) -> None:
        self._telemetry, self._served, self._lay_out = telemetry, served, lay_out

    def prepare(self) -> Context:
        """Check it."""
        return _read(self._lay_out, self._telemetry)

    def finish(self, context: Context, row: Row) -> np.ndarray:
        """(steps, 1 + levels) mg/dL: the mean, then the quantiles."""
        _observe(self._telemetry, self._served.opened, context, record_of(self._served, context, row))
        return row.outputs


def _read(lay_out: Callable[[], Context], telemetry: Telemetry) -> Context:
    """A context; what is refused is counted."""
    try:
        return lay_out()
    except GlucastError as error:
        telemetry.refused.labels(type(error).__name__).inc()
        raise


def _observe(telemetry: Telemetry, opened: Opened, context: Context, record: Record | None) -> None:
    telemetry.readings.inc(len(context.glucose_mg_dl))
    if context.filled:
        telemetry.filled.inc(context.filled)
    if context.censored:
        telemetry.censored.inc(context.censored)
    if np.isnan(context.minute_of_day):
        telemetry.timeless.inc()
    if context.is_unlike:
        telemetry.unlike.inc()
    for claim in record.claims if record else ():
        opened.batcher.telemetry.forecast_mgdl(claim.minutes_ahead).observe(claim.mean)
