"""The only file that imports Ray: fan plain functions out, and bring their news and results back."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util.queue import Empty, Queue

from forecasting.errors import GlucastError
from trainer.progress import Progress, Watch


class JobFailed(GlucastError):
    """A worker ended without a result."""


@dataclass(frozen=True)
class Job:
    """A function to run somewhere: function(**arguments, report=…). `cpus` is also its number of threads."""

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    cpus: int = 1
    gpus: float = 0.0


@dataclass(frozen=True)
class Room:
    """CPUs and GPUs of a cluster."""

    cpus: int
    gpus: int


@contextmanager
def cluster() -> Iterator[Room]:
    """The cluster that RAY_ADDRESS names, or one started in this process."""
    ray.init(
        address=os.environ.get("RAY_ADDRESS"),
        include_dashboard=False if "RAY_ADDRESS" not in os.environ else None,
        configure_logging=True,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    try:
        found = ray.cluster_resources()
        yield Room(max(1, int(found.get("CPU", 1))), int(found.get("GPU", 0)))
    finally:
        ray.shutdown()


def run_jobs(jobs: Sequence[Job], watch: Watch) -> list[Any]:
    """Run jobs side by side, as many at once as the cluster has room for; results in the order of the jobs.

    watch(name, progress) hears what every job reports. An error of ours comes back as itself; a worker that
    died or raised anything else becomes JobFailed.
    """
    if not jobs:
        return []
    news = Queue(actor_options={"num_cpus": 0})
    try:
        waiting = [_run.options(num_cpus=job.cpus, num_gpus=job.gpus, name=job.name).remote(job, news) for job in jobs]
        names = dict(zip(waiting, (job.name for job in jobs), strict=True))
        pending = list(waiting)
        while pending:
            done, pending = ray.wait(pending, timeout=0.2)
            _pass_on(news, watch)
            for finished in done:
                _result(finished, names[finished])  # the first failure ends the wait
        return [_result(reference, names[reference]) for reference in waiting]
    finally:
        news.shutdown(force=True)


@ray.remote(max_retries=1)
def _run(job: Job, news: Queue) -> Any:
    torch.set_num_threads(job.cpus)
    return job.function(**job.arguments, report=_Sparing(job.name, news))


class _Sparing:
    """Puts every note and about one in a hundred steps on the queue: a queue call costs more than a small step."""

    def __init__(self, name: str, news: Queue) -> None:
        self.name, self.news, self.last = name, news, 0

    def __call__(self, progress: Progress) -> None:
        if progress.note or progress.done == progress.total or progress.done - self.last >= progress.total / 100:
            self.last = progress.done
            self.news.put((self.name, progress))


def _pass_on(news: Queue, watch: Watch) -> None:
    while True:
        try:
            name, progress = news.get(block=False)
        except Empty:
            return
        watch(name, progress)


def _result(reference: Any, name: str) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, GlucastError):
            raise error.cause from None
        raise JobFailed(f"{name} failed: {type(error.cause).__name__}: {error.cause}") from error
    except RayError as error:
        raise JobFailed(
            f"{name} lost its worker ({type(error).__name__}); look at memory, then run it again"
        ) from error
