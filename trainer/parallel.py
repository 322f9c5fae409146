"""The only file that imports Ray: fan plain functions out, and bring their news and results back.

run_jobs        functions side by side, as Ray tasks
train_together  one function in several processes that average their gradients, by Ray Train
run_trials      many resumable trainings that compete, by Ray Tune

What is told of jobs and trials while they run also goes to Ray's metrics, where Prometheus reads it.
"""

import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # results are kept by us
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # an interrupt ends the command, which can be run again
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import ray
import torch
from ray import cloudpickle, train, tune
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler
from ray.util import metrics
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from forecasting.errors import GlucastError
from trainer.progress import Progress, Report, Watch, unheard
from trainer.room import Room, Share
from trainer.training_telemetry import JOB_DONE, Record, Series, TrialTelemetry
from trainer.trials import Ended, Heard, Status, Stopping, Trial

RETRIES = 3  # of work whose process or machine was lost
LOST = "its process or its machine was lost"


class JobFailed(GlucastError):
    """A worker ended without a result."""


@contextmanager
def cluster() -> Iterator[Room]:
    """The cluster that RAY_ADDRESS names, or one started in this process."""
    address = os.environ.get("RAY_ADDRESS", "local")
    _require_answer(address)
    ask_to_end = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address,
            include_dashboard=False if address == "local" else None,
            configure_logging=True,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise JobFailed(f"Ray does not answer at {address}: {str(error).strip().splitlines()[0]}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ask_to_end)  # Ray put its own there
    for library in ("ray.train", "ray.tune"):  # failures come back as ours; no traceback of each try
        logging.getLogger(library).setLevel(logging.CRITICAL)
    try:
        yield Room(tuple(_machine(node["Resources"]) for node in ray.nodes() if node["Alive"]))
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Raises JobFailed where nothing listens at host:port; Ray would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise JobFailed(
            f"Ray does not answer at {address} ({type(error).__name__}); start it, or unset RAY_ADDRESS to train here"
        ) from error


def require_shared(folder: Path) -> None:
    """Raises JobFailed, naming the machine, where one of the cluster does not see this folder of ours."""
    folder.mkdir(parents=True, exist_ok=True)
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".seen-") as mark:
        sees = [(node["NodeManagerHostname"], _on(node["NodeID"], os.path.isfile, mark.name)) for node in others]
        blind = [machine for machine, seen in sees if not ray.get(seen)]
    if blind:
        raise JobFailed(
            f"machine {blind[0]} does not see {folder}; give a folder that all {len(others) + 1} machines share with "
            "--runs or GLUCAST_RUNS"
        )


def _on(node_id: str, function: Any, *arguments: Any) -> Any:
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(function).options(num_cpus=0, scheduling_strategy=there).remote(*arguments)  # type: ignore[attr-defined]


def _machine(resources: Mapping[str, float]) -> Share:
    return Share(int(resources.get("CPU", 0)), resources.get("GPU", 0.0), int(resources.get("memory", 0)))


# ---------------------------------------------------------------- telemetry


@contextmanager
def _recording() -> Iterator[Record]:
    """Records series as Ray's metrics, each made as it is first needed; where Ray exports none, they go nowhere.

    Ray reports a gauge once for each time it is set, and forgets it soon after: they are set again while this is open.
    """
    made, gauges = cache(_make_metric), dict[tuple[Series, frozenset[tuple[str, str]]], float]()
    lock = threading.Lock()

    def record(series: Series, value: float, labels: Mapping[str, str]) -> None:
        with lock:
            if series.kind == "gauge":
                gauges[series, frozenset(labels.items())] = value
            made(series)(value, dict(labels))

    def remind() -> None:
        with lock:
            for (series, labels), value in gauges.items():
                made(series)(value, dict(labels))

    with _repeating(remind, 1.0):  # Ray's shortest time between reports
        yield record


@contextmanager
def _repeating(work: Callable[[], None], seconds: float) -> Iterator[None]:
    """Do something again and again in a thread of its own, and once more at the end."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            work()
        work()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _make_metric(series: Series) -> Callable[[float, dict[str, str]], None]:
    match series.kind:
        case "counter":
            return metrics.Counter(series.name, series.text, series.labels).inc
        case "gauge":
            return metrics.Gauge(series.name, series.text, series.labels).set
        case "histogram":
            return metrics.Histogram(series.name, series.text, list(series.buckets), series.labels).observe


# ---------------------------------------------------------------- jobs


@dataclass(frozen=True)
class Job:
    """A function to run somewhere: function(**arguments, report=…). Its name is a label of telemetry: no patient's."""

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    share: Share = field(default_factory=Share)


def run_jobs(jobs: Sequence[Job], watch: Watch) -> None:
    """Run jobs side by side, as many at once as the cluster has room for; what they make, they keep themselves.

    watch(name, progress) hears what every job reports. An error of ours comes back as itself; a worker that
    died again and again, or raised anything else, becomes JobFailed.
    """
    if not jobs:
        return
    with _listening(watch) as news:
        waiting = {_submit(job, news): job.name for job in jobs}
        pending = list(waiting)
        while pending:
            done, pending = ray.wait(pending)
            for finished in done:
                _require_success(finished, waiting[finished])  # the first failure ends the wait


def _submit(job: Job, news: Queue) -> Any:
    share = job.share
    options = _run.options(num_cpus=share.cpus, num_gpus=share.gpus, memory=share.memory or None, name=job.name)
    return options.remote(job, news)


@ray.remote(max_retries=RETRIES)
def _run(job: Job, news: Queue) -> None:
    torch.set_num_threads(job.share.cpus)
    job.function(**job.arguments, report=_Sparing(job.name, news))


def _require_success(reference: Any, name: str) -> None:
    try:
        ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, GlucastError):
            raise error.cause from None
        raise JobFailed(f"{name} failed: {type(error.cause).__name__}: {error.cause}") from error
    except RayError as error:
        raise JobFailed(
            f"{name} lost its worker ({type(error).__name__}); look at memory, then run it again"
        ) from error


class _Sparing:
    """Puts every note and about one in a hundred steps on the queue: a queue call costs more than a small step."""

    def __init__(self, name: str, news: Queue) -> None:
        self.name, self.news, self.last = name, news, 0

    def __call__(self, progress: Progress) -> None:
        if progress.note or progress.done == progress.total or progress.done - self.last >= progress.total / 100:
            self.last = progress.done
            self.news.put((self.name, progress))


@contextmanager
def _listening(watch: Watch) -> Iterator[Queue]:
    """A queue that passes what workers put on it to `watch`; on this machine, since others may be lost."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    news = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    try:
        with _recording() as record, _repeating(partial(_pass_on, news, watch, record), 0.2):
            yield news
    finally:
        news.shutdown(force=True)


def _pass_on(news: Queue, watch: Watch, record: Record) -> None:
    while True:
        try:
            name, progress = news.get(block=False)
        except Empty:
            return
        record(JOB_DONE, progress.done / max(1, progress.total), {"work": name})
        watch(name, progress)


# ---------------------------------------------------------------- one model, several processes


def train_together(job: Job, workers: int, storage: Path, watch: Watch) -> None:
    """Run a job in `workers` processes that are peers of each other (torch.distributed), each with the job's share.

    Lost processes are started again; the job goes on from what it kept itself.
    storage: a folder that all machines share
    """
    with _listening(watch) as news:
        trainer = TorchTrainer(
            _run_as_peer,
            train_loop_config={"job": ray.put(job), "news": news},
            torch_config=TorchConfig(backend=_backend(job.share)),
            scaling_config=train.ScalingConfig(
                num_workers=workers,
                use_gpu=job.share.gpus > 0,
                resources_per_worker={"CPU": job.share.cpus, **({"GPU": job.share.gpus} if job.share.gpus else {})},
            ),
            run_config=train.RunConfig(
                name=job.name.replace(" ", "_"),
                storage_path=str(storage),
                failure_config=train.FailureConfig(max_failures=RETRIES),
            ),
        )
        try:
            trainer.fit()
        except train.TrainingFailedError as error:
            raise _cause_of(error, job.name) from error


def _run_as_peer(config: dict[str, Any]) -> None:
    job = ray.get(config["job"])
    device = train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # peers of one machine see all its GPUs
    torch.set_num_threads(job.share.cpus)
    first = train.get_context().get_world_rank() == 0
    report: Report = _Sparing(job.name, config["news"]) if first else unheard
    job.function(**job.arguments, report=report)


def _backend(share: Share) -> str:
    """How peers talk: NCCL where torch sees the GPUs that Ray declares, else gloo."""
    if not share.gpus:
        return "gloo"
    sees = ray.remote(num_gpus=share.gpus)(lambda: torch.cuda.is_available())
    return "nccl" if ray.get(sees.remote()) else "gloo"


def _cause_of(error: Any, name: str) -> GlucastError:
    causes = list(getattr(error, "worker_failures", {}).values())
    for cause in causes:
        original = getattr(cause, "cause", cause)
        if isinstance(original, GlucastError):
            return original
    said = f"{type(causes[0]).__name__}: {causes[0]}" if causes else str(error)
    return JobFailed(f"{name} failed: {said.strip().splitlines()[-1]}")


# ---------------------------------------------------------------- many trainings that compete


def run_trials(
    trials: Sequence[Trial],
    share: Share,
    storage: Path,
    stopping: Stopping | None,
    heard: Heard,
) -> list[Ended]:
    """Run trials side by side, as many as the cluster has room for; what became of each, in their order.

    Processes are used again from trial to trial. What the arguments of several trials share is kept once in the
    memory of each machine. A trial whose process or machine is lost goes on from what it kept itself; one that
    raises an error of ours has failed, one that raises anything else is tried again before it has.
    storage: a folder that all machines share
    """
    by_name = {trial.name: trial for trial in trials}
    scheduler = FIFOScheduler() if stopping is None else _WithinGroups(by_name, stopping)
    trainable = tune.with_parameters(_Trainable, trials=by_name, threads=share.cpus)
    resources = {"cpu": share.cpus, "gpu": share.gpus, "memory": share.memory}
    with _recording() as record, closing(TrialTelemetry(trials, record)) as telemetry:
        watcher = _Watcher(by_name, heard, telemetry)
        while remaining := [name for name in by_name if name not in watcher.ended]:
            # Tune gives a trial up, without another try, when its machine is lost just as its process starts
            _tune(tune.with_resources(trainable, resources), remaining, scheduler, watcher, storage)
    return [watcher.ended[name] for name in by_name]


def _tune(trainable: Any, names: list[str], scheduler: FIFOScheduler, watcher: "_Watcher", storage: Path) -> None:
    tuner = tune.Tuner(
        trainable,
        param_space={"trial": tune.grid_search(names)},
        tune_config=tune.TuneConfig(
            metric="validation_loss",
            mode="min",
            reuse_actors=True,
            scheduler=scheduler,
            trial_name_creator=_name_of,
            trial_dirname_creator=_name_of,
        ),
        run_config=tune.RunConfig(
            name=f"round-{watcher.rounds}",
            storage_path=str(storage),
            verbose=0,
            callbacks=[watcher],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )
    watcher.rounds += 1
    tuner.fit()


def _name_of(trial: TuneTrial) -> str:
    return str(trial.config["trial"])


class _Trainable(tune.Trainable):
    """One epoch of a trial per step. The same process takes another trial when one has ended."""

    def setup(self, config: dict[str, Any], trials: dict[str, Trial], threads: int) -> None:  # type: ignore[override]
        torch.set_num_threads(threads)
        self.trials = trials
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        trial = self.trials[new_config["trial"]]
        self.epochs = trial.epochs(**trial.arguments)
        self.last: dict[str, Any] = {"validation_loss": float("inf"), "epoch": 0, "finished": False, "failed": ""}
        return True

    def step(self) -> dict[str, Any]:
        try:
            loss = next(self.epochs)
        except StopIteration:
            return {**self.last, "finished": True, "done": True}
        except GlucastError as error:  # it would be raised again: no reason to try again
            return {**self.last, "failed": str(error), "done": True}
        self.last |= {"validation_loss": loss, "epoch": self.last["epoch"] + 1}
        return dict(self.last)

    def cleanup(self) -> None:
        self.epochs.close()  # type: ignore[attr-defined]


class _Watcher(tune.Callback):
    """Collects what becomes of each trial, and tells it on."""

    def __init__(self, trials: Mapping[str, Trial], heard: Heard, telemetry: TrialTelemetry) -> None:
        self.losses: dict[str, dict[int, float]] = {name: {} for name in trials}
        self.ended: dict[str, Ended] = {}
        self.heard, self.telemetry = heard, telemetry
        self.rounds = 0

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune stores its callbacks for a restore; ours is to run the command again

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self.telemetry.began(_name_of(trial))

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        name, epoch = _name_of(trial), result["epoch"]
        if epoch and epoch not in self.losses[name]:
            self.losses[name][epoch] = result["validation_loss"]
            self.telemetry.epoch(name, result["validation_loss"], result["time_this_iter_s"])
            self.heard.epoch(name, epoch, result["validation_loss"])

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        last = trial.last_result
        status: Status = "failed" if last["failed"] else "finished" if last["finished"] else "stopped"
        self._end(trial, status, last["failed"])

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        lost = isinstance(_error_of(trial), RayActorError)
        if lost and trial.num_failures <= RETRIES and self.rounds <= RETRIES:  # it never had its tries
            self.telemetry.retry(_name_of(trial), "lost")
        else:
            self._end(trial, "failed", _why(trial))

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        why = _why(trial)
        self.telemetry.retry(_name_of(trial), "lost" if why == LOST else "raised")
        self.heard.retry(_name_of(trial), why)

    def _end(self, trial: TuneTrial, status: Status, error: str) -> None:
        name = _name_of(trial)
        losses = tuple(loss for _, loss in sorted(self.losses[name].items()))
        self.ended[name] = Ended(name, status, losses, error, (trial.last_result or {}).get("time_total_s", 0.0))
        self.telemetry.ended(self.ended[name])
        self.heard.end(self.ended[name])


def _why(trial: TuneTrial) -> str:
    """Why a process ended: the error it raised, or that it, or its machine, was lost."""
    error = _error_of(trial)
    if isinstance(error, RayActorError) and "creation task" not in str(error):
        return LOST
    error = getattr(error, "cause", None) or error
    return f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"


def _error_of(trial: TuneTrial) -> Any:
    """What its process ended with last. Tune's get_pickled_error() reads a copy of this file that is made later."""
    path = trial.pickled_error_file
    return cloudpickle.loads(Path(path).read_bytes()) if path else None


class _WithinGroups(FIFOScheduler):
    """ASHA within each group: trials of a patient who is easy to foretell do not stop those of one who is not."""

    def __init__(self, trials: Mapping[str, Trial], stopping: Stopping) -> None:
        super().__init__()
        self.places = {name: (trial.group, trial.length) for name, trial in trials.items()}
        self.stopping = stopping
        self.schedulers: dict[str, AsyncHyperBandScheduler] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True  # declared below

    def _of(self, trial: TuneTrial) -> AsyncHyperBandScheduler:
        group, _ = self.places[_name_of(trial)]
        if group not in self.schedulers:
            self.schedulers[group] = AsyncHyperBandScheduler(
                time_attr="epoch",
                metric="validation_loss",
                mode="min",
                grace_period=self.stopping.grace_epochs,
                reduction_factor=self.stopping.reduction,
                max_t=1_000_000,  # a training ends by itself
            )
        return self.schedulers[group]

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        decision = str(self._of(trial).on_trial_result(tune_controller, trial, result))
        _, length = self.places[_name_of(trial)]
        return self.CONTINUE if result["epoch"] == length else decision  # what is trained already is kept

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        if result["epoch"]:
            self._of(trial).on_trial_complete(tune_controller, trial, result)
