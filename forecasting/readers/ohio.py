"""OhioT1DM: OhioT1DM/{2018,2020}/{train,test}/<id>-ws-{training,testing}.xml: glucose, meals and insulin."""

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from forecasting.cgm import GlucoseSeries
from forecasting.errors import InvalidReadings, NotFound
from forecasting.events import EventRows
from forecasting.readers.tidy import series_from_readings

PATIENTS = {
    2018: ("559", "563", "570", "575", "588", "591"),
    2020: ("540", "544", "552", "567", "584", "596"),
}
LOGGED = np.timedelta64(12 * 3600, "s")  # around meals and boluses: as long as that, none is none
HELD = np.timedelta64(24 * 3600, "s")  # how long a basal rate holds without another
SPACING = np.timedelta64(300, "s")
YEAR_OF = {patient: year for year, patients in PATIENTS.items() for patient in patients}


@dataclass(frozen=True)
class OhioFiles:
    """The two files of one patient."""

    patient_id: str
    train: Path
    test: Path


def find_ohio(folder: Path) -> list[OhioFiles]:
    """The patients of an OhioT1DM folder (or of the folder that holds one), in order of id.

    Raises NotFound where there are none, or where a patient has only one of the two files.
    """
    root = folder / "OhioT1DM" if (folder / "OhioT1DM").is_dir() else folder
    found = []
    for train in sorted(root.glob("20*/train/*-ws-training.xml")):
        patient_id = train.name.split("-")[0]
        test = train.parents[1] / "test" / f"{patient_id}-ws-testing.xml"
        if not test.is_file():
            raise NotFound(f"OhioT1DM patient {patient_id} has no test file {test.name}; put it in {test.parent.name}/")
        found.append(OhioFiles(patient_id, train, test))
    if not found:
        raise NotFound(
            f"no OhioT1DM files under {folder}; expected OhioT1DM/2018/train/559-ws-training.xml and its like "
            "(the data set is given out by its authors under an agreement)"
        )
    return found


def read_ohio(files: OhioFiles) -> GlucoseSeries:
    """One patient's glucose and events, train and test files joined; the test part begins with the test file.

    The clock is local, shifted by whole days. Raises InvalidReadings for a file that is not of this layout.
    """
    roots = [_read_root(path, files.patient_id) for path in (files.train, files.test)]
    train, test = (read_glucose(root, path.name) for root, path in zip(roots, (files.train, files.test), strict=True))
    if train.empty or test.empty:
        raise InvalidReadings(f"OhioT1DM patient {files.patient_id} has no glucose_level events in one of its files")
    test_start = test["time"].min()
    if train["time"].max() >= test_start:
        raise InvalidReadings(f"OhioT1DM patient {files.patient_id}: the training file reaches into the test file")
    both = pd.concat([train, test])
    each = [
        read_events(root, table["time"].to_numpy("datetime64[s]"), path.name)
        for root, table, path in zip(roots, (train, test), (files.train, files.test), strict=True)
    ]
    return series_from_readings(
        files.patient_id,
        both["time"].to_numpy("datetime64[s]"),
        both["glucose"].to_numpy(float),
        test_start=test_start.to_datetime64().astype("datetime64[s]"),
        events=EventRows(np.concatenate([e.times for e in each]), np.concatenate([e.values for e in each])),
    )


def _read_root(path: Path, patient_id: str) -> ElementTree.Element:
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise InvalidReadings(f"{path.name} is not readable as XML: {error}") from error
    if root.tag != "patient" or root.get("id") != patient_id:
        raise InvalidReadings(
            f'{path.name} should hold <patient id="{patient_id}">, it holds <{root.tag} id="{root.get("id")}">'
        )
    return root


def read_glucose(root: ElementTree.Element, name: str) -> pd.DataFrame:
    """The glucose_level events of one file as a table of time and glucose in mg/dL, in the file's order."""
    table = _stream(root, "glucose_level", ("ts",), "value", name)
    return table.rename(columns={"ts": "time", "value": "glucose"})


def _stream(root: ElementTree.Element, stream: str, times: tuple[str, ...], value: str, name: str) -> pd.DataFrame:
    """The events of one stream: `times` as datetimes and `value` as numbers; those that lack one are left out."""
    wanted = (*times, value)
    rows = [[e.get(key) or None for key in wanted] for e in root.iterfind(f"{stream}/event")]
    table = pd.DataFrame(rows, columns=list(wanted), dtype=object).dropna()
    try:
        moments = {key: pd.to_datetime(table[key], format="%d-%m-%Y %H:%M:%S") for key in times}
        return pd.DataFrame({**moments, value: table[value].astype(np.float64)})
    except ValueError as error:
        raise InvalidReadings(f"{name} holds a {stream} event that cannot be read: {error}") from error


def read_events(root: ElementTree.Element, times: np.ndarray, name: str) -> EventRows:
    """Meals, boluses and basal rates of one file, beside its readings at `times` (n,) datetime64[s].

    Between them every five minutes say that there was none, where meals or boluses were logged at all within twelve
    hours, and which rate held. A bolus counts whole when it begins, whatever its type; what a pump's calculator was
    told of carbohydrates is not counted beside the meals.
    """
    meals, boluses = _stream(root, "meal", ("ts",), "carbs", name), _stream(root, "bolus", ("ts_begin",), "dose", name)
    often = np.arange(times.min(), times.max() + SPACING, SPACING)
    often = np.unique(np.concatenate([times, often]))
    quiet = [_none_while_logged(table.iloc[:, 0].to_numpy("datetime64[s]"), often) for table in (meals, boluses)]
    rows = [(often, np.stack([*quiet, _rates(root, often, name)], axis=1))]
    for column, table in enumerate((meals, boluses)):
        values = np.full((len(table), 3), np.nan)
        values[:, column] = table.iloc[:, 1]
        rows.append((table.iloc[:, 0].to_numpy("datetime64[s]"), values))
    return EventRows(*(np.concatenate(parts) for parts in zip(*rows, strict=True)))


def _none_while_logged(logged: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(n,) 0 from twelve hours before the first that was logged until twelve hours after the last, NaN elsewhere."""
    if not len(logged):
        return np.full(len(times), np.nan)
    inside = (times >= logged.min() - LOGGED) & (times <= logged.max() + LOGGED)
    return np.where(inside, 0.0, np.nan)


def _rates(root: ElementTree.Element, times: np.ndarray, name: str) -> np.ndarray:
    """(n,) U/h at each time, NaN where none is known; a temporary rate replaces the usual one."""
    basal = _stream(root, "basal", ("ts",), "value", name).sort_values("ts", kind="stable")
    begins = basal["ts"].to_numpy("datetime64[s]")
    rates = np.full(len(times), np.nan)
    latest = np.searchsorted(begins, times, side="right") - 1
    held = latest >= 0
    held[held] = times[held] - begins[latest[held]] <= HELD
    rates[held] = basal["value"].to_numpy()[latest[held]]
    temporary = _stream(root, "temp_basal", ("ts_begin", "ts_end"), "value", name)
    for begin, end, rate in temporary.itertuples(index=False):
        rates[(times >= begin.to_datetime64()) & (times < end.to_datetime64())] = rate
    return rates
