"""Log lines, as text or as JSON; each names the call that it belongs to, and none holds an exception's text.

The text of an exception may quote what was sent: a reading, a patient's id. What is logged of it is its type and where
it came from.
"""

import asyncio
import json
import logging
import time
import traceback
from contextvars import ContextVar
from enum import StrEnum
from types import TracebackType
from typing import Any, Protocol

Raised = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


class LogFormat(StrEnum):
    """How a line is written."""

    TEXT = "text"
    JSON = "json"


class Call(Protocol):
    """What a log line belongs to. A call has no id until somebody asks: most calls log nothing."""

    @property
    def request_id(self) -> str:
        """The id; empty once the call has ended, for what it began may go on for others."""


CALL: ContextVar[Call | None] = ContextVar("call", default=None)


def request_id() -> str:
    """Of the call under way; empty where there is none."""
    call = CALL.get()
    return "" if call is None else call.request_id


def start_logging(form: LogFormat, worker: int | None = None) -> None:
    """Write log lines on standard error from now on. worker: which of several processes this is"""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(worker) if form is LogFormat.JSON else TextLines(worker))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def log_loop_errors(loop: asyncio.AbstractEventLoop) -> None:
    """Let an event loop log what nobody awaited without its text, which the loop itself would quote."""
    loop.set_exception_handler(_log_loop_error)


def _log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    text = "" if error is None else f": {without_text(error)}"
    logging.getLogger("glucast.loop").error("an error that nobody awaited%s", text)


def without_text(error: BaseException) -> str:
    """Type and frames of an error, in place of what Python writes: that ends with its text."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}".rstrip()


class _Lines(logging.Formatter):
    """What both formats have in common."""

    default_msec_format = "%s.%03d"

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = worker

    def formatException(self, ei: Raised) -> str:
        """For logging, which would write the text."""
        return "" if ei[1] is None else without_text(ei[1])

    def raised(self, record: logging.LogRecord) -> str:
        """The exception of a record; empty where it has none."""
        return self.formatException(record.exc_info) if record.exc_info else ""


class TextLines(_Lines):
    """For people."""

    def format(self, record: logging.LogRecord) -> str:
        """One record; its exception in lines of their own."""
        who = "" if self._worker is None else f" worker {self._worker}"
        call = f" [{found}]" if (found := request_id()) else ""
        line = f"{self.formatTime(record)}{who} {record.levelname} {record.name}:{call} {record.getMessage()}"
        return "\n".join(filter(None, (line, self.raised(record))))


class JsonLines(_Lines):
    """For machines: one object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        written = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{written}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id(),
            "worker": self._worker,
            "exception": self.raised(record),
        }
        return json.dumps({name: value for name, value in line.items() if value not in ("", None)})
