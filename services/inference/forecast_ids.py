"""Forecast ids: sealed records of what forecasts said, so that truth can be compared later and nothing is kept.

An id holds what was forecast at the compared horizons and by which version, and a seal over it. Whoever has the secret
can compare it with the truth: this process, another worker, another replica, the next start. It holds no patient.
"""

import base64
import hashlib
import hmac
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from forecasting.errors import InvalidInput, InvalidSetting

SEAL_BYTES, KEY_BYTES = 12, 8
LAYOUT = b"record/2"  # part of every seal: ids of another layout are refused, never misread
_HEAD = struct.Struct(f"<{KEY_BYTES}sqHfB")  # key, origin, sampling minutes, last reading, number of claims
_CLAIM = struct.Struct("<Hffff")


class Claim(NamedTuple):
    """What a forecast said at one horizon: mean and 90 % interval in mg/dL, and P(< 70 mg/dL).

    A plain tuple, since two are made and packed for every forecast.
    """

    minutes_ahead: int
    mean: float
    low: float
    high: float
    below_70: float


@dataclass(frozen=True, slots=True)
class Record:
    """What a forecast said, and which model version said it.

    model: public name, that names no patient; origin: seconds since 1970 UTC; key: this forecast's own
    last_mg_dl: the reading at the origin, which is what persistence forecasts
    """

    model: str
    version: str
    alias: str
    origin: int
    sampling_minutes: int
    last_mg_dl: float
    claims: tuple[Claim, ...]
    key: bytes = field(default_factory=lambda: os.urandom(KEY_BYTES))  # forked workers draw different ones


class Ids:
    """Seals records and opens them again."""

    def __init__(self, secrets: Sequence[bytes] = ()) -> None:
        """secrets: the first one seals, every one opens; without any, one is drawn that this process alone knows.

        Raises InvalidSetting for an empty secret, with which anybody could make ids.
        """
        if b"" in secrets:
            raise InvalidSetting("the secret of forecast ids is empty; give a long random one, or none", "id_secret")
        self._keys = [hashlib.blake2s(secret).digest() for secret in secrets or (os.urandom(32),)]  # of any length

    def seal(self, record: Record) -> str:
        """The id of a forecast, in characters that URLs may hold; numbers are rounded to float32."""
        body = b"".join(
            (
                _HEAD.pack(record.key, record.origin, record.sampling_minutes, record.last_mg_dl, len(record.claims)),
                *[_CLAIM.pack(*claim) for claim in record.claims],
                _packed(record.model, record.version, record.alias),
            )
        )
        return _text(_seal_of(body, self._keys[0]) + body)

    def unseal(self, text: str) -> Record:
        """Raises InvalidInput for whatever was not sealed with one of the secrets."""
        sealed = _bytes(text)
        seal, body = sealed[:SEAL_BYTES], sealed[SEAL_BYTES:]
        # the text is compared too: base64 has several spellings of one content
        if not self._is_ours(seal, body) or _text(sealed) != text:
            raise InvalidInput(
                "this is no forecast id of this service; send forecast_id as it came with the forecast", "forecast_id"
            )
        return _read(body)

    def _is_ours(self, seal: bytes, body: bytes) -> bool:
        return any(hmac.compare_digest(seal, _seal_of(body, key)) for key in self._keys)


def _seal_of(body: bytes, key: bytes) -> bytes:
    return hashlib.blake2s(body, key=key, digest_size=SEAL_BYTES, person=LAYOUT).digest()


def _text(sealed: bytes) -> str:
    return base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    """What a text stands for; nothing where it is no base64."""
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:  # binascii.Error is one too
        return b""


@lru_cache(maxsize=1024)
def _packed(*words: str) -> bytes:
    """Model, version and alias, which few forecasts differ in; none of them can hold a NUL."""
    return "\0".join(words).encode()


def _read(body: bytes) -> Record:
    """A body whose seal was checked: it is one of ours, and whole."""
    key, origin, sampling_minutes, last_mg_dl, count = _HEAD.unpack_from(body)
    end = _HEAD.size + count * _CLAIM.size
    claims = tuple(map(Claim._make, _CLAIM.iter_unpack(body[_HEAD.size : end])))
    model, version, alias = body[end:].decode().split("\0")
    return Record(model, version, alias, origin, sampling_minutes, last_mg_dl, claims, key)
