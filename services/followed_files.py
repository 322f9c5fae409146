"""What files hold, read again when they are replaced: tokens and certificates change without a restart."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from forecasting.errors import InvalidSetting

LOOK_SECONDS = 1.0  # between two looks at the files, however many ask

_log = logging.getLogger("glucast.files")
T = TypeVar("T")
Stamp = tuple[tuple[int, int, int], ...]


class FollowedFiles(Generic[T]):
    """The newest content of some files that can be used.

    Files that are gone, empty or damaged leave what was read before in force: a slip of whoever replaces them neither
    opens a service nor stops it. It is said once, and counted, and tried again when the files change.
    """

    def __init__(self, files: tuple[Path, ...], read: Callable[[], T], failed: Callable[[], None]) -> None:
        """read: their content, or InvalidSetting, which comes through here; failed: called for each failure later."""
        self._files, self._read, self._failed = files, read, failed
        self._stamp = self._stamped()  # before the content: what changes in between is read again
        self._content = read()
        self._looked = time.monotonic()

    def now(self) -> T:
        """The content; looks at the files at most once a second. May be called from several threads."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._look()
        return self._content

    def _look(self) -> None:
        self._looked = time.monotonic()
        stamp = self._stamped()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        names = ", ".join(file.name for file in self._files)
        try:
            self._content = self._read()
        except InvalidSetting as error:
            self._failed()
            _log.warning("replaced files cannot be used, the old ones stay in force: %s", error)
        else:
            _log.info("taken up anew: %s", names)

    def _stamped(self) -> Stamp:
        """What changes when a file is replaced, or written over, or gone."""
        return tuple(_stamp(file) for file in self._files)


def _stamp(file: Path) -> tuple[int, int, int]:
    try:
        found = file.stat()  # of what a link leads to: orchestrators replace the link
    except OSError:
        return (0, 0, 0)
    return found.st_mtime_ns, found.st_ino, found.st_size
