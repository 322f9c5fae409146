"""The two places where a message is a table: readings that come in, points that go out.

Through objects, a request of four hours costs a hundred Python objects and an answer a hundred assignments, which
together took as long as computing the forecast. Here both go between bytes and columns at once. What does not have
the plain form is left to the objects, and tests compare both ways.
"""

import numpy as np

from forecasting.context import Readings
from protos.glucast.v1 import forecaster_pb2 as pb

# A plain reading in a request: 1a 11 (readings, 17 bytes) 0a 06 08 (time, 6 bytes, seconds) five bytes of varint,
# 11 (value) eight bytes. Five bytes hold seconds of 1978 to 3058; the first four have their highest bit set.
_PATTERN = np.array([0x1A, 17, 0x0A, 6, 0x08, 0x80, 0x80, 0x80, 0x80, 0x00, 0x11, *[0] * 8], np.uint8)
_MASK = np.array([0xFF] * 5 + [0x80] * 5 + [0xFF] + [0x00] * 8, np.uint8)
_SIZE = len(_PATTERN)
_SECONDS, _VALUE = slice(5, 10), slice(11, 19)
_SHIFTS = np.arange(5, dtype=np.int64) * 7
_WEIGHTS = 1 << _SHIFTS
_CONTINUED = np.array([0x80] * 4 + [0x00], np.int64)
_ID_BYTES = 64  # an id that can name a model is no longer


def plain_readings(request: pb.ForecastRequest) -> Readings | None:
    """The readings of a request with a unit, where each has whole seconds and a value; else None.

    Values are not looked at: what is no glucose is for the context to refuse.
    """
    count, patient = len(request.readings), len(request.patient_id.encode())
    if not count or patient > _ID_BYTES:
        return None
    start = (2 + patient if patient else 0) + 2  # patient_id, unit
    wire = request.SerializeToString()
    if len(wire) < start + count * _SIZE:
        return None
    rows = np.frombuffer(wire, np.uint8, count * _SIZE, start).reshape(count, _SIZE)
    if (rows & _MASK).tobytes() != _PATTERN.tobytes() * count:
        return None
    seconds = (rows[:, _SECONDS] & 0x7F) @ _WEIGHTS
    return Readings(seconds, rows[:, _VALUE].copy().view("<f8")[:, 0])


def nested(number: int, message: bytes) -> bytes:
    """A message as field `number`, up to 15, of another."""
    length, size = b"", len(message)
    while size > 0x7F:
        length += bytes((size & 0x7F | 0x80,))
        size >>= 7
    return bytes((number << 3 | 2,)) + length + bytes((size,)) + message


class Frame:
    """The bytes of a message whose times and numbers are filled in anew for each answer.

    Made from a message in which they are marks, and found in its bytes by these.
    """

    def __init__(self, message: pb.ForecastResponse, times: int, numbers: int) -> None:
        """message: its times are `time_mark(k)` and its numbers `number_mark(k)`, each once and in order."""
        wire = message.SerializeToString()
        self._wire = np.frombuffer(wire, np.uint8)
        self._times = _places(wire, [_varints(np.array([time_mark(k)])).tobytes() for k in range(times)])
        self._numbers = _places(wire, [np.float64(number_mark(k)).tobytes() for k in range(numbers)])

    def filled_in(self, seconds: np.ndarray, numbers: np.ndarray) -> bytes:
        """seconds: (times,) int64 of 1978 to 3058; numbers: (numbers,) float64, both in order of their marks."""
        wire = self._wire.copy()
        wire[self._times] = _varints(seconds)
        wire[self._numbers] = numbers.view(np.uint8)
        return wire.tobytes()


def time_mark(k: int) -> int:
    """Seconds that mark the k-th time."""
    return (1 << 34) + k


def number_mark(k: int) -> float:
    """A number that marks the k-th number."""
    return -1e300 * (1 + k)


def _places(wire: bytes, marks: list[bytes]) -> np.ndarray:
    """(marks * bytes,) where the bytes of each mark stand; each stands in one place, or this is no frame."""
    starts = [wire.index(mark) for mark in marks]
    if any(wire.count(mark) != 1 for mark in marks):
        raise ValueError("a mark stands in two places of the message")
    return (np.array(starts)[:, None] + np.arange(len(marks[0]))).ravel()


def _varints(seconds: np.ndarray) -> np.ndarray:
    """(n,) int64 → (n * 5,) uint8"""
    return (((seconds[:, None] >> _SHIFTS) & 0x7F) | _CONTINUED).astype(np.uint8).ravel()
