"""Both clients behind one door, so that what holds for one is tested of the other."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from forecasting.context import Reading
from services.client import AsyncForecastClient, ForecastClient, Update


class Blocking:
    """Asks with ForecastClient."""

    def __init__(self, address: str, *given: Any, **named: Any) -> None:
        self.make = lambda: ForecastClient(address, *given, **named)

    def ask(self, method: str, *given: Any, **named: Any) -> Any:
        with self.make() as client:
            return getattr(client, method)(*given, **named)

    def watch(self, readings: Iterable[Reading], *given: Any, **named: Any) -> list[Update]:
        with self.make() as client, client.monitor(*given, **named) as stream:
            return [stream.send(reading) for reading in readings]


class Awaited:
    """Asks with AsyncForecastClient."""

    def __init__(self, address: str, *given: Any, **named: Any) -> None:
        self.make = lambda: AsyncForecastClient(address, *given, **named)

    def ask(self, method: str, *given: Any, **named: Any) -> Any:
        async def asked() -> Any:
            async with self.make() as client:
                return await getattr(client, method)(*given, **named)

        return asyncio.run(asked())

    def watch(self, readings: Iterable[Reading], *given: Any, **named: Any) -> list[Update]:
        async def watched() -> list[Update]:
            async with self.make() as client, client.monitor(*given, **named) as stream:
                return [await stream.send(reading) for reading in readings]

        return asyncio.run(watched())


both_faces = pytest.mark.parametrize("face", [Blocking, Awaited])
