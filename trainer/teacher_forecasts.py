"""A teacher's forecasts of the training windows: computed once, stored with window ids, checked against them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forecasting.errors import IntegrityError
from forecasting.forecaster import Forecaster
from forecasting.windows import Windows
from trainer.kept import fingerprint, whole_file
from trainer.progress import Progress, Report

FORMAT_VERSION = 1
CHUNK = 512  # windows between two lines of progress
SHARD = 8192  # windows of a file, at most


@dataclass(frozen=True)
class TeacherForecasts:
    """Forecasts aligned to windows by id.

    window_ids: (n,) str; values: (n, prediction_length, 1 + quantiles) float32 mg/dL, mean first; or the mean alone
    fingerprint: of the teacher, the windows and this format
    """

    window_ids: np.ndarray
    values: np.ndarray
    fingerprint: str

    def of(self, windows: Windows) -> np.ndarray:
        """The values of these windows, in their order; IntegrityError where one has none."""
        place = {window: row for row, window in enumerate(self.window_ids.tolist())}
        try:
            return self.values[[place[window] for window in windows.ids.tolist()]]
        except KeyError as error:
            raise IntegrityError(
                f"the stored teacher forecasts have none for window {error}; compute them again"
            ) from error


def forecasts_key(teacher_digest: str, windows: Windows, dtype: str = "float32") -> str:
    """Everything that can change a stored forecast."""
    return fingerprint("teacher forecasts", teacher_digest, windows.digest, dtype, FORMAT_VERSION)


def compute_teacher_forecasts(teacher: Forecaster, windows: Windows, key: str, report: Report) -> TeacherForecasts:
    """One pass of the teacher over every window."""
    spec = teacher.spec
    values = np.empty((len(windows), spec.shape.prediction_length, spec.outputs), np.float32)
    for start in range(0, len(windows), CHUNK):
        rows = slice(start, start + CHUNK)
        forecasts = teacher.predict_windows(windows[rows])
        values[rows, :, 0], values[rows, :, 1:] = forecasts.mean, forecasts.quantiles
        report(Progress(min(start + CHUNK, len(windows)), len(windows)))
    return TeacherForecasts(windows.ids, values, key)


def shards_of(windows: Windows, teacher_digest: str, folder: Path) -> list[tuple[Path, Windows]]:
    """Windows in parts of one patient each, with the file that holds, or will hold, a teacher's forecasts of them."""
    shards = []
    for patient in windows.patients:
        own = windows.of_patient(patient)
        for start in range(0, len(own), SHARD):
            shard = own[start : start + SHARD]
            shards.append(((folder / f"{forecasts_key(teacher_digest, shard)}.npz").resolve(), shard))
    return shards


def store_forecasts(teacher: Forecaster, shards: list[tuple[Path, Windows]], report: Report) -> None:
    """Compute and store the shards that are not there yet: one pass over every window."""
    total, done = sum(len(windows) for _, windows in shards), 0

    def within(progress: Progress) -> None:
        report(Progress(done + progress.done, total))

    for path, windows in shards:
        if not path.is_file():
            write_teacher_forecasts(compute_teacher_forecasts(teacher, windows, path.stem, within), path)
        done += len(windows)
        report(Progress(done, total))


def read_shards(shards: list[tuple[Path, Windows]]) -> TeacherForecasts:
    """The stored forecasts of all shards, as one."""
    read = [read_teacher_forecasts(path, path.stem) for path, _ in shards]
    ids, values = np.concatenate([f.window_ids for f in read]), np.concatenate([f.values for f in read])
    return TeacherForecasts(ids, values, fingerprint(*(f.fingerprint for f in read)))


def write_teacher_forecasts(forecasts: TeacherForecasts, path: Path) -> None:
    """Store as .npz without pickle."""
    with whole_file(path) as scratch:
        np.savez(
            scratch,
            window_ids=forecasts.window_ids,
            values=forecasts.values,
            fingerprint=np.array(forecasts.fingerprint),
        )


def read_teacher_forecasts(path: Path, key: str) -> TeacherForecasts:
    """Read stored forecasts; IntegrityError where they belong to another teacher, other windows or another format."""
    with np.load(path, allow_pickle=False) as stored:
        forecasts = TeacherForecasts(stored["window_ids"], stored["values"], str(stored["fingerprint"]))
    if forecasts.fingerprint != key:
        raise IntegrityError(f"{path.name} holds forecasts of another teacher or other windows; compute them again")
    return forecasts
