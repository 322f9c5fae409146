"""From files to windows to a network's inputs: what a million readings cost, and how the cost grows.

The readings are made up, the same every time: 5 minutes apart, waves and noise within what a sensor can tell, one in a
hundred missing. Jittered ones come up to 40 seconds early or late; a drifting clock is a second slow at each reading.
"""

import pickle
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measuring import Findings, Times, timed
from benchmarks.verdicts import Goal
from forecasting.cgm import GlucoseSeries, censor, double_identities, fill_short_gaps
from forecasting.encoding import Normalisation, encode
from forecasting.readers.tidy import read_tidy
from forecasting.windows import PARTS, Windows, WindowShape, cut_all, part_bounds

GOAL_SECONDS = 1.0  # for a million readings, from a file to windows
SHAPE = WindowShape()
PATIENTS = 50
JITTER_SECONDS = 40
SHARE_MISSING = 0.01


def reading_and_windowing(readings: int = 1_000_000) -> Findings:
    """Each step from file to inputs, both of what the goal names, and a loop over windows beside them."""
    found = Findings(
        f"{readings:,} readings of {PATIENTS} people, from files to windows",
        ("what", "ms", "cpu, ms", "readings/s"),
    )
    with tempfile.TemporaryDirectory() as folder:
        files = _files(Path(folder), readings)
        for name, path in files.items():
            _add(found, f"{name}: read", partial(read_tidy, path), readings)
        for name, path in files.items():
            what = f"{name} → windows"
            seconds = _add(found, what, partial(_read_and_cut, path), readings).wall
            found.goals.append(Goal(what, seconds, GOAL_SECONDS * readings / 1e6, unit=" s"))
        series = read_tidy(files["Parquet"])
    train = cut_all(series, SHAPE, "train")
    _add(found, "windows of all parts", lambda: _cut_parts(series), readings)
    _add(found, "search for double identities", lambda: double_identities(series), readings)
    _add(found, f"digest of {len(train):,} windows", lambda: train[:].digest, readings)
    _add(found, f"inputs of {len(train):,} windows", lambda: _inputs(train[:]), readings)
    _compare_with_a_loop(found, series)
    return found


def memory_of_windows(readings: int = 1_000_000) -> Findings:
    """What windows hold and what is sent of them, against a copy of every context and target."""
    found = Findings("Windows in memory", ("what", "windows", "megabytes", "as copies", "times smaller"))
    series = _series(readings, PATIENTS)
    windows = cut_all(series, SHAPE, "train")
    one = windows.of_patient(series[0].patient_id)
    places = (windows.begins, windows.origins, windows.minute_of_day, windows.patient_ids)
    held = sum(values.nbytes for values in (*places, windows.timeline.filled, windows.timeline.raw))
    for what, those, size in (
        ("held, of the train part", windows, held),
        ("pickled, of the train part", windows, len(pickle.dumps(windows))),
        ("pickled, of one person of them", one, len(pickle.dumps(one))),
    ):
        copies = those.context.nbytes + those.target.nbytes + sum(v.nbytes for v in _known_of(those))
        found.add(
            what=what,
            windows=len(those),
            megabytes=size / 1e6,
            **{"as copies": copies / 1e6, "times smaller": copies / size},
        )
    found.notes.append("contexts and targets are copied when somebody asks for all of them, and then held as well")
    return found


def growth(most: int = 1_000_000) -> Findings:
    """Reading a CSV with jittered times and cutting its windows, by readings and by people."""
    found = Findings("Jittered CSV → windows, by size", ("readings", "people", "wall", "cpu s", "microseconds/reading"))
    sizes = [(most // 10, PATIENTS), (3 * most // 10, PATIENTS), (most, PATIENTS), (most, 5), (most, 500)]
    for readings, patients in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "jittered.csv"
            _table(readings, patients, jitter_seconds=JITTER_SECONDS).to_csv(path, index=False)
            times = timed(partial(_read_and_cut, path), rounds=5, warm_up=1)
        found.add(
            readings=readings,
            people=patients,
            wall=times,
            **{"cpu s": times.cpu, "microseconds/reading": 1e6 * times.wall / readings},
        )
    return found


def _add(found: Findings, what: str, work: Callable[[], object], readings: int) -> Times:
    times = timed(work, rounds=5, warm_up=1)
    found.add(what=what, ms=times, **{"cpu, ms": 1e3 * times.cpu, "readings/s": round(readings / times.wall)})
    return times


def _compare_with_a_loop(found: Findings, series: list[GlucoseSeries]) -> None:
    """Both on a tenth of the people, as the loop is slow; the windows are the same."""
    some = series[: max(1, len(series) // 10)]
    readings = sum(len(one.glucose_mg_dl) for one in some)
    assert sum(map(len, _cut_one_by_one(some))) == sum(map(len, _cut_parts(some)))
    at_once = _add(found, "a tenth: windows of all parts", lambda: _cut_parts(some), readings)
    in_a_loop = _add(found, "a tenth: the same, a loop over windows", lambda: _cut_one_by_one(some), readings)
    found.notes.append(f"the loop over windows takes {in_a_loop.wall / at_once.wall:.0f} times as long")


def _cut_one_by_one(series: list[GlucoseSeries]) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """The contexts and targets of each part, a window at a time: how it is commonly written."""
    return [[window for one in series for window in _windows_of(one, *part_bounds(one, SHAPE, part))] for part in PARTS]


def _windows_of(series: GlucoseSeries, first: int, end: int) -> list[tuple[np.ndarray, np.ndarray]]:
    past, ahead = SHAPE.context_length, SHAPE.prediction_length
    raw = series.glucose_mg_dl[first:end]
    filled = fill_short_gaps(censor(raw), SHAPE.max_fill_bins)
    found = []
    for begin in range(len(raw) - past - ahead + 1):
        context, target = filled[begin : begin + past], raw[begin + past : begin + past + ahead]
        if not (np.isnan(context).any() or np.isnan(raw[begin + past - 1]) or np.isnan(target).all()):
            found.append((context.copy(), target.copy()))
    return found


def _read_and_cut(path: Path) -> list[Windows]:
    return _cut_parts(read_tidy(path))


def _cut_parts(series: list[GlucoseSeries]) -> list[Windows]:
    return [cut_all(series, SHAPE, part) for part in PARTS]


def _inputs(windows: Windows) -> np.ndarray:
    return encode(windows.context, windows.minute_of_day, SHAPE.sampling_minutes, Normalisation()).x


def _known_of(windows: Windows) -> tuple[np.ndarray, ...]:
    """What copies need beside contexts and targets."""
    return windows.patient_ids, windows.origins, windows.minute_of_day


def _files(folder: Path, readings: int) -> dict[str, Path]:
    """{what it is: a tidy table of made-up readings}."""
    even = _table(readings, PATIENTS)
    even.to_parquet(folder / "even.parquet")
    tables = {
        "CSV": even,
        "jittered CSV": _table(readings, PATIENTS, jitter_seconds=JITTER_SECONDS),
        "drifting CSV": _table(readings, PATIENTS, spacing_seconds=301),
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    return {"Parquet": folder / "even.parquet", **{name: folder / f"{name}.csv" for name in tables}}


def _table(readings: int, patients: int, jitter_seconds: int = 0, spacing_seconds: int = 300) -> pd.DataFrame:
    """A tidy table of about `readings` rows."""
    rng = np.random.default_rng(0)
    people = []
    for k in range(patients):
        one = _person(readings // patients, jitter_seconds, spacing_seconds, rng)
        people.append(one.assign(patient_id=f"p{k:03}"))
    return pd.concat(people)


def _person(readings: int, jitter_seconds: int, spacing_seconds: int, rng: np.random.Generator) -> pd.DataFrame:
    seconds = spacing_seconds * np.arange(readings) + rng.integers(-jitter_seconds, jitter_seconds + 1, readings)
    glucose = np.clip(140 + 60 * np.sin(rng.normal(0, 0.1, readings).cumsum()) + rng.normal(0, 2, readings), 40, 400)
    times = np.datetime64("2024-01-01T00:00:00") + seconds.astype("timedelta64[s]")
    table = pd.DataFrame({"timestamp": times, "glucose_mg_dl": glucose.round()})
    return table[rng.random(readings) >= SHARE_MISSING]


def _series(readings: int, patients: int) -> list[GlucoseSeries]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.parquet"
        _table(readings, patients).to_parquet(path)
        return read_tidy(path)


ALL: tuple[Callable[[], Findings], ...] = (reading_and_windowing, memory_of_windows, growth)
