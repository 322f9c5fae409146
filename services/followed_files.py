"""What files hold, read again when they are replaced: tokens and certificates change without a restart."""

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from forecasting.errors import InvalidSetting

LOOK_SECONDS = 1.0  # between two looks at the files, however many ask
AGAIN_SECONDS = 30.0  # after which files that could not be used are tried again, though nobody changed them

_log = logging.getLogger("glucast.files")
T = TypeVar("T")
Stamp = tuple[tuple[int, int, int], ...]


class FollowedFiles(Generic[T]):
    """The newest content of some files that can be used.

    Files that are gone, empty or damaged leave what was read before in force: a slip of whoever replaces them neither
    opens a service nor stops it. It is said and counted once, and tried again when the files change, and from time to
    time: a certificate may begin to be valid, and a disk be there again.
    """

    def __init__(self, files: tuple[Path, ...], read: Callable[[], T], failed: Callable[[], None]) -> None:
        """read: their content, or InvalidSetting, which comes through here; failed: called for each failure later."""
        self._files, self._read, self._failed = files, read, failed
        self._stamp = self._stamped()  # before the content: what changes in between is read again
        self._content = read()
        self._looked = self._tried = time.monotonic()
        self._is_refused = False
        self._looking = threading.Lock()

    def now(self) -> T:
        """The content; looks at the files at most once a second. May be called from several threads."""
        if time.monotonic() - self._looked >= LOOK_SECONDS and self._looking.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._looking.release()
        return self._content

    def _look(self) -> None:
        self._looked = time.monotonic()
        stamp = self._stamped()
        if stamp != self._stamp:
            self._is_refused = not self._take_up(is_new=True)
        elif self._is_refused and self._looked - self._tried >= AGAIN_SECONDS:
            self._is_refused = not self._take_up(is_new=False)
        self._stamp = stamp

    def _take_up(self, is_new: bool) -> bool:
        """Read the files; can they be used? is_new: what is amiss has not been said yet"""
        self._tried = time.monotonic()
        try:
            self._content = self._read()
        except InvalidSetting as error:
            if is_new:
                self._failed()
                _log.warning("replaced files cannot be used, the old ones stay in force: %s", error)
            return False
        _log.info("taken up anew: %s", ", ".join(file.name for file in self._files))
        return True

    def _stamped(self) -> Stamp:
        """What changes when a file is replaced, or written over, or gone."""
        return tuple(_stamp(file) for file in self._files)


def read_at_most(file: Path, most: int) -> bytes:
    """The content, of a longer file one byte more than `most`; raises OSError. Never waits: a pipe holds nothing."""
    with open(file, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as opened:
        return opened.read(most + 1) or b""


def _stamp(file: Path) -> tuple[int, int, int]:
    try:
        found = file.stat()  # of what a link leads to: orchestrators replace the link
    except OSError:
        return (0, 0, 0)
    return found.st_mtime_ns, found.st_ino, found.st_size
