"""What is trained, in order: a teacher, its forecasts, students. Every stage keeps its result and uses an equal one."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from forecasting.bundle import read_bundle
from forecasting.readers.datasets import Cohort
from forecasting.windows import Windows
from trainer.catalogue import find_backbone
from trainer.distil import StudentData, StudentRun, train_student
from trainer.parallel import Job, cluster, require_shared, run_jobs, run_trials, train_together
from trainer.progress import Progress, Report, Watch
from trainer.room import Room, Share, student_gpus
from trainer.settings import PipelineSettings
from trainer.teacher import open_trained, teacher_key, teacher_windows, train_teacher
from trainer.teacher_forecasts import TeacherForecasts, read_shards, shards_of, store_forecasts
from trainer.trials import Ended, Heard, Stopping, Trial

Say = Callable[[str], None]


@dataclass(frozen=True)
class Student:
    """A student to train, with what it learns from and where its bundle goes.

    name: says which it is among the students of a run
    """

    name: str
    run: StudentRun
    data: StudentData
    forecasts: TeacherForecasts | None
    folder: Path


@contextmanager
def stages_on_ray(cohort: Cohort, runs: Path, say: Say, watch: Watch) -> Iterator["Stages"]:
    """The stages of training, with Ray running."""
    say("starting Ray")
    with cluster() as room:
        require_shared(runs.resolve())
        yield Stages(cohort, room, runs, say, watch)


@dataclass(frozen=True)
class Stages:
    """runs: where results are kept, each under a fingerprint of everything it depends on."""

    cohort: Cohort
    room: Room
    runs: Path
    say: Say
    watch: Watch

    def teacher(self, settings: PipelineSettings) -> Path:
        """The teacher's folder."""
        train, validation = teacher_windows(self.cohort, settings.shape, settings.teacher_training)
        key = teacher_key(settings, train, validation)
        name = find_backbone(settings.teacher.backbone).name
        folder = (self.runs / "teachers" / f"{self.cohort.dataset}-{name}-{key}").resolve()
        if folder.is_dir():
            self.say(f"teacher {folder.name}: kept from an equal run")
            return folder
        workers, share = self._teacher_share(settings)
        self.say(f"teacher {folder.name}: training on {len(self.cohort.everyone)} patients, {workers} x {share}")
        arguments = {
            "settings": settings,
            "dataset": self.cohort.dataset,
            "train": train,
            "validation": validation,
            "folder": folder,
        }
        with self._ray_notes() as notes:
            train_together(Job(f"teacher {name}", train_teacher, arguments, share), workers, notes, self.watch)
        return folder

    def teacher_forecasts(self, settings: PipelineSettings, teacher: Path, windows: Windows) -> TeacherForecasts:
        """The teacher's forecasts of these windows: each computed once, then read by every student."""
        name = find_backbone(settings.teacher.backbone).name
        shards = shards_of(windows, read_bundle(teacher).digest, self.runs / "teacher_forecasts")
        missing = [shard for shard in shards if not shard[0].is_file()]
        count = sum(len(own) for _, own in missing)
        self.say(f"forecasts of teacher {name}: {count} windows to compute, {len(windows) - count} kept")
        workers, share = self._teacher_share(settings)
        jobs = [
            Job(
                f"forecasts of {name}" + (f" {k + 1}/{workers}" if workers > 1 else ""),
                forecast_shards,
                {"settings": settings, "teacher": teacher, "shards": missing[k::workers]},
                share,
            )
            for k in range(workers)
            if missing[k::workers]
        ]
        run_jobs(jobs, self.watch)
        return read_shards(shards)

    def student(self, name: str, run: StudentRun, data: StudentData, forecasts: TeacherForecasts | None) -> Student:
        """A student with the folder where its bundle is kept."""
        return Student(name, run, data, forecasts, run.folder(self.runs / "students", data))

    def students(
        self,
        students: Sequence[Student],
        share: Share | None = None,
        stopping: Stopping | None = None,
        on_end: Callable[[Ended], None] = lambda ended: None,
    ) -> list[Ended]:
        """Train students side by side; what became of each, in their order."""
        share = share or Share(1, student_gpus(self.room.gpus))
        self.room.require(share)
        missing = sum(not student.folder.is_dir() for student in students)
        self.say(f"students: {missing} to train, {len(students) - missing} kept from equal runs")
        trials = [_trial(student) for student in students]
        tally = _Tally({s.name: s.run.training.epochs for s in students}, self.watch)

        def end(ended: Ended) -> None:
            tally.end(ended)
            on_end(ended)

        with self._ray_notes() as notes:
            return run_trials(trials, share, notes, stopping, Heard(tally.epoch, tally.retry, end))

    @contextmanager
    def _ray_notes(self) -> Iterator[Path]:
        """A folder that all machines share, for what Ray writes about a stage; what matters is kept elsewhere."""
        self.runs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.runs.resolve(), prefix=".ray-", ignore_cleanup_errors=True) as notes:
            yield Path(notes)

    def _teacher_share(self, settings: PipelineSettings) -> tuple[int, Share]:
        """How many processes work on a teacher, and what each takes: a GPU, or the CPUs there are."""
        workers = settings.teacher_workers or max(1, self.room.gpus)
        share = Share(1, 1.0) if self.room.gpus >= workers else Share(self.room.cpus_for(workers))
        self.room.require(share, workers, "the teacher")
        return workers, share


def forecast_shards(
    settings: PipelineSettings, teacher: Path, shards: list[tuple[Path, Windows]], report: Report
) -> None:
    """One pass of a trained teacher over the windows of these shards."""
    built, _ = open_trained(teacher, settings.teacher, settings.teacher_training.seed)
    store_forecasts(built.forecaster(), shards, report)


def _trial(student: Student) -> Trial:
    arguments = {
        "run": student.run,
        "data": student.data,
        "forecasts": student.forecasts,
        "folder": student.folder,
    }
    run = student.run
    teacher = run.teacher if run.teacher_weight else ""
    return Trial(student.name, run.patient or "", run.training.epochs, train_student, arguments, run.backbone, teacher)


class _Tally:
    """One bar for all students: epochs done, of those there will be; a line for each that ended."""

    def __init__(self, epochs: dict[str, int], watch: Watch) -> None:
        self.left, self.total, self.watch = dict(epochs), sum(epochs.values()), watch

    def epoch(self, name: str, epoch: int, loss: float) -> None:
        self.left[name] = max(0, self.left[name] - 1)
        self._tell("")

    def retry(self, name: str, why: str) -> None:
        self._tell(f"{name}: goes on in another process, {why}")

    def end(self, ended: Ended) -> None:
        self.left[ended.name] = 0
        best = f"validation {min(ended.losses):.4f}" if ended.losses else "no epoch"
        said = {"finished": "done", "stopped": f"stopped after epoch {len(ended.losses)}", "failed": "failed"}
        self._tell(f"{ended.name}: {said[ended.status]}, {ended.error or best}")

    def _tell(self, note: str) -> None:
        self.watch("students", Progress(self.total - sum(self.left.values()), self.total, note))
