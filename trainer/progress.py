"""How far long work is: bars where a person looks on, plain lines where there is no terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


@dataclass(frozen=True)
class Progress:
    """One line of news about a long job: how far it is, and what it just found."""

    done: int
    total: int
    note: str = ""


Report = Callable[[Progress], None]


def unheard(_: Progress) -> None:
    """A `Report` that nobody listens to."""


Watch = Callable[[str, Progress], None]  # the job's name comes first


def unwatched(_: str, __: Progress) -> None:
    """A `Watch` that nobody looks at."""


@contextmanager
def shown_progress(console: Console) -> Iterator[Watch]:
    """A `Watch` that draws a bar for each job, or prints a line for every tenth of it without a terminal."""
    if not console.is_terminal:
        yield _plain_lines(console)
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bars(*columns, console=console) as bars:
        yield _draw_in(bars)


def _draw_in(bars: Bars) -> Watch:
    tasks: dict[str, TaskID] = {}

    def watch(name: str, progress: Progress) -> None:
        if name not in tasks:
            tasks[name] = bars.add_task(name, note="")
        bars.update(tasks[name], completed=progress.done, total=progress.total)
        if progress.note:
            bars.update(tasks[name], note=progress.note)

    return watch


def _plain_lines(console: Console) -> Watch:
    tenths: dict[str, int] = {}

    def watch(name: str, progress: Progress) -> None:
        tenth = 10 * progress.done // max(1, progress.total)
        if progress.note or tenth > tenths.get(name, 0):
            tenths[name] = tenth
            console.print(f"  {name}: {10 * tenth} % {progress.note}".rstrip(), highlight=False, soft_wrap=True)

    return watch
