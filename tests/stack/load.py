"""Forecasts asked for one after another, for a while: python -m tests.stack.load ADDRESS SECONDS DEADLINE PATIENT

Prints a JSON list of [time in seconds since 1970, what was answered].
"""

import datetime as dt
import json
import sys
import time

from forecasting.context import Reading
from services.client import ForecastClient, ServiceError

PAUSE_SECONDS, HISTORY = 0.02, 48


def main(address: str, seconds: float, deadline_seconds: float, patient: str) -> None:
    """Ask until the time is over."""
    answers, end = [], time.time() + seconds
    with ForecastClient(address, deadline_seconds) as client:
        while time.time() < end:
            answers.append([time.time(), _ask(client, patient)])
            time.sleep(PAUSE_SECONDS)
    json.dump(answers, sys.stdout)


def _ask(client: ForecastClient, patient: str) -> str:
    now = dt.datetime.now(dt.UTC)
    readings = [Reading(now - dt.timedelta(minutes=5 * k), 120.0 + k % 7) for k in reversed(range(HISTORY))]
    try:
        client.forecast(patient, readings, "mg/dL", utc_offset_minutes=0)
    except ServiceError as error:
        return error.status.name
    return "OK"


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
