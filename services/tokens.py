"""Bearer tokens: who may call what. The file of tokens holds, a line each, `scope token`; # begins a comment.

# a phone's backend
forecast  mZr1S3VwNDRkYXRhLW5vdC1hLXJlYWwtdG9rZW4x
admin     bm90LWEtcmVhbC10b2tlbi1laXRoZXItc29ycnkh
"""

import hashlib
import hmac
import re
from collections.abc import Hashable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from forecasting.errors import GlucastError, InvalidSetting
from services.followed_files import read_at_most

SHORTEST = 32  # characters
MOST = 256  # tokens: each call is compared with all of them
LARGEST = 1 << 18  # bytes of the file
BEARER = re.compile(r"[Bb]earer +([A-Za-z0-9._~+/=-]{32,512})")


class Scope(IntEnum):
    """What a call needs, or a token allows; each includes those below."""

    OPEN = 0  # anybody: health
    FORECAST = 1
    ADMIN = 2  # what changes others' answers


SCOPES = {"forecast": Scope.FORECAST, "admin": Scope.ADMIN}


class Unauthenticated(GlucastError):
    """A call without a token that is known here."""


class PermissionDenied(GlucastError):
    """A call that its token does not allow."""


@dataclass(frozen=True)
class Holder:
    """Who has a token. digest: stands for the token where it must be told from others"""

    scope: Scope
    digest: bytes


class Tokens:
    """The tokens of one file. Only their digests are kept."""

    def __init__(self, holders: tuple[Holder, ...]) -> None:
        self._holders = holders
        self._digests = frozenset(holder.digest for holder in holders)

    def knows(self, digest: Hashable) -> bool:
        """Is there still a token of somebody who was let in?"""
        return digest in self._digests

    def holder(self, authorization: str | bytes | None) -> Holder:
        """Who sends this in the metadata `authorization`; raises Unauthenticated.

        Every token is compared, each in the same time, so that how long it takes tells nothing of any.
        """
        found = BEARER.fullmatch(authorization) if isinstance(authorization, str) else None
        if found is None:
            raise Unauthenticated("the call brings no token; send the metadata authorization: Bearer TOKEN")
        given, holder = _digest(found[1]), None
        for known in self._holders:
            if hmac.compare_digest(known.digest, given):
                holder = known
        if holder is None:
            raise Unauthenticated("the call's token is not known here; ask who runs the service for another")
        return holder


def read_tokens(file: Path) -> Tokens:
    """The tokens of a file; raises InvalidSetting, which never quotes one."""
    try:
        content = read_at_most(file, LARGEST)
    except OSError as error:
        raise _refused(file, f"cannot be read ({error.strerror})") from error
    if len(content) > LARGEST:
        raise _refused(file, f"is larger than {LARGEST:,} bytes")
    try:
        lines = content.decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise _refused(file, "is not plain text") from None  # the error would quote it
    rows = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip() and line.strip()[0] != "#"]
    if not rows or len(rows) > MOST:
        raise _refused(file, f"holds {len(rows)} tokens, 1 to {MOST} are allowed")
    return Tokens(_distinct(file, [_holder(file, number, words) for number, words in rows]))


def _holder(file: Path, number: int, words: list[str]) -> Holder:
    if len(words) != 2 or words[0] not in SCOPES:
        raise _refused(file, f"has no scope and token in line {number}")
    if len(words[1]) < SHORTEST:
        raise _refused(file, f"has a token of {len(words[1])} characters in line {number}, {SHORTEST} are the least")
    if not BEARER.fullmatch(f"Bearer {words[1]}"):
        raise _refused(
            file, f"has a token in line {number} that cannot be sent (up to 512 of A-Z a-z 0-9 . _ ~ + / = -)"
        )
    return Holder(SCOPES[words[0]], _digest(words[1]))


def _distinct(file: Path, holders: list[Holder]) -> tuple[Holder, ...]:
    if len({holder.digest for holder in holders}) < len(holders):
        raise _refused(file, "holds one token twice")
    return tuple(holders)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _refused(file: Path, why: str) -> InvalidSetting:
    return InvalidSetting(
        f"token_file {file} {why}; write `forecast TOKEN` or `admin TOKEN` a line, tokens of {SHORTEST} characters "
        "or more, such as those of `openssl rand -base64 32`",
        "token_file",
    )
