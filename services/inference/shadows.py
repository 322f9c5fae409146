"""Shadow forecasts: what the challenger would have said, unseen by callers, compared on the same truth."""

import asyncio
from typing import Any, Protocol

from forecasting.context import Context
from forecasting.errors import GlucastError
from forecasting.references import CHALLENGER
from services.inference.batcher import Plain
from services.inference.forecast_ids import Record
from services.inference.models import Models, Served
from services.inference.records import record_of
from services.inference.telemetry import Telemetry
from services.inference.truth import LiveAccuracy

AT_ONCE = 256  # shadows under way; more are left out, so that they never crowd out answers


class Answered(Protocol):
    """What an answer was made from, and what it said; there once the answer is."""

    context: Context | None
    record: Record | None


class Shadows:
    """Casts them behind the answers, in the bulk queue of the challenger."""

    def __init__(self, models: Models, accuracy: LiveAccuracy, telemetry: Telemetry) -> None:
        self._models, self._accuracy, self._telemetry = models, accuracy, telemetry
        self._under_way: set[asyncio.Task[None]] = set()

    def cast(self, served: Served, answered: Answered, answer: "asyncio.Future[Any]") -> None:
        """Once the answer is there, let the challenger of its model forecast the same context; returns at once."""
        if len(self._under_way) >= AT_ONCE:
            self._telemetry.shadows.labels("crowded").inc()
            return
        task = asyncio.create_task(self._cast(served, answered, answer))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def close(self) -> None:
        """Give up those under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _cast(self, served: Served, answered: Answered, answer: "asyncio.Future[Any]") -> None:
        await asyncio.wait([answer])
        if answered.context is None or answered.record is None:
            return  # there was no answer to compare with
        try:
            challenger = await self._models.first((f"{served.opened.version.name}@{CHALLENGER}",))
            if challenger.opened is served.opened:
                self._telemetry.shadows.labels("itself").inc()
                return
            if challenger.opened.forecaster.spec.shape != served.opened.forecaster.spec.shape:
                self._telemetry.shadows.labels("other_shape").inc()
                return
            row = await challenger.opened.batcher.submit(Plain(answered.context), bulk=True)
        except GlucastError as error:  # no challenger, or no room: nobody waits for this, and the count says it
            self._telemetry.shadows.labels(type(error).__name__).inc()
            return
        shadow = record_of(challenger, answered.context, row)
        if shadow is not None:
            self._accuracy.remember_shadow(answered.record.key, shadow)
            self._telemetry.shadows.labels("cast").inc()
