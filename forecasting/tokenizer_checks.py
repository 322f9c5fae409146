"""A tokenizer is data, and a small program: its parts are looked through before any of them runs."""

import json
from typing import Any

from tokenizers import Tokenizer

from forecasting.errors import IntegrityError

MOST_VALUES = 2_000_000  # of the JSON; a vocabulary of 250,000 pieces with its merges has half of them
# Patterns run in an engine that some take for ever in. These are what the tokenizers of our backbones have.
KNOWN_PATTERNS = {" {2,}"}
LONGEST_ADDED = 8  # characters before a text
MOST_SPECIAL = 16  # tokens around a text


def open_tokenizer(content: bytes) -> Tokenizer:
    """A tokenizer of its file; raises IntegrityError for one that is damaged or could run for ever."""
    if sum(map(content.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise IntegrityError(f"tokenizer.json holds more than {MOST_VALUES:,} values; publish the model again")
    try:
        found = json.loads(content)
        for key in ("normalizer", "pre_tokenizer"):
            _check_part(found[key])
        special = len((found["post_processor"] or {}).get("single", ()))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError("tokenizer.json is no tokenizer; publish the model again") from error
    if special > MOST_SPECIAL:
        raise IntegrityError(f"tokenizer.json puts {special:,} tokens around a text; publish the model again")
    return _opened(content)


def _check_part(part: Any) -> None:
    """Refuse, in a part and in the parts of it, what could run for ever or make a text much longer."""
    if isinstance(part, list):
        for one in part:
            _check_part(one)
    if isinstance(part, dict):
        _check_pattern(part.get("pattern"), part.get("content"))
        if len(str(part.get("prepend", ""))) > LONGEST_ADDED:
            raise IntegrityError("tokenizer.json puts a long text before each; publish the model again")
        _check_part(list(part.values()))


def _check_pattern(pattern: Any, replacement: Any) -> None:
    """A pattern that is known, replaced by nothing longer: a row of such doublings would fill the memory."""
    if not isinstance(pattern, dict):
        return
    regex, text = pattern.get("Regex"), pattern.get("String")
    if regex is not None and regex not in KNOWN_PATTERNS:
        raise IntegrityError(
            f"tokenizer.json has the pattern {str(regex)[:40]!r}, which no backbone of ours has; use another backbone, "
            "or a student without a prompt"
        )
    if isinstance(replacement, str) and len(replacement) > max(1, len(text or "")):
        raise IntegrityError("tokenizer.json replaces texts by longer ones; publish the model again")


def _opened(content: bytes) -> Tokenizer:
    try:
        return Tokenizer.from_buffer(content)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - a panic of the library is no Exception
        raise IntegrityError(
            f"tokenizer.json cannot be opened ({type(error).__name__}); publish the model again"
        ) from None
