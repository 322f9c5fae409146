"""OhioT1DM: OhioT1DM/{2018,2020}/{train,test}/<id>-ws-{training,testing}.xml (glucose stream)."""

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from forecasting.cgm import GlucoseSeries
from forecasting.errors import InvalidReadings, NotFound
from forecasting.readers.tidy import series_from_readings

PATIENTS = {
    2018: ("559", "563", "570", "575", "588", "591"),
    2020: ("540", "544", "552", "567", "584", "596"),
}
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
    """One patient's glucose, train and test files joined; the test part begins with the test file.

    The clock is local, shifted by whole days. Raises InvalidReadings for a file that is not of this layout.
    """
    train, test = read_glucose(files.train, files.patient_id), read_glucose(files.test, files.patient_id)
    if train.empty or test.empty:
        raise InvalidReadings(f"OhioT1DM patient {files.patient_id} has no glucose_level events in one of its files")
    test_start = test["time"].min()
    if train["time"].max() >= test_start:
        raise InvalidReadings(f"OhioT1DM patient {files.patient_id}: the training file reaches into the test file")
    both = pd.concat([train, test])
    return series_from_readings(
        files.patient_id,
        both["time"].to_numpy("datetime64[s]"),
        both["glucose"].to_numpy(float),
        test_start=test_start.to_datetime64().astype("datetime64[s]"),
    )


def read_glucose(path: Path, patient_id: str) -> pd.DataFrame:
    """The glucose_level events of one file as a table of time and glucose in mg/dL, in the file's order."""
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise InvalidReadings(f"{path.name} is not readable as XML: {error}") from error
    if root.tag != "patient" or root.get("id") != patient_id:
        raise InvalidReadings(
            f'{path.name} should hold <patient id="{patient_id}">, it holds <{root.tag} id="{root.get("id")}">'
        )
    events = [(e.get("ts"), e.get("value")) for e in root.iterfind("glucose_level/event")]
    table = pd.DataFrame(events, columns=["ts", "value"]).dropna()
    try:
        return pd.DataFrame(
            {
                "time": pd.to_datetime(table["ts"], format="%d-%m-%Y %H:%M:%S"),
                "glucose": table["value"].astype(np.float64),
            }
        )
    except ValueError as error:
        raise InvalidReadings(f"{path.name} holds a glucose_level event that cannot be read: {error}") from error
