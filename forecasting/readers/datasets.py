"""Data sets by name or by path, and the choice of patients."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from forecasting.cgm import GlucoseSeries, double_identities
from forecasting.errors import InvalidReadings, InvalidSetting, NotFound
from forecasting.readers.ohio import YEAR_OF, find_ohio, read_ohio
from forecasting.readers.tidy import read_tidy

BUNDLED = Path(__file__).resolve().parents[2] / "data" / "sim" / "simglucose_t1d_30x56.parquet"
ALL, EACH = "all", "each"  # the population; everybody for themselves


@dataclass(frozen=True)
class NamedSet:
    """A data set known by name: where its files are expected and how they are read."""

    name: str
    about: str
    bundled: bool
    load: Callable[[Path | None], list[GlucoseSeries]]


@dataclass(frozen=True)
class Cohort:
    """A data set as it was read.

    everyone: every usable patient, whom a teacher may learn from
    chosen:   the patients who were asked for
    left_out: a sentence for every patient of the data set who cannot be used
    """

    dataset: str
    everyone: tuple[GlucoseSeries, ...]
    chosen: tuple[GlucoseSeries, ...]
    left_out: tuple[str, ...]

    def only(self, patient_id: str | None) -> "Cohort":
        """The same cohort with one chosen patient; with all that were chosen for None."""
        if patient_id is None:
            return self
        return replace(self, chosen=tuple(s for s in self.chosen if s.patient_id == patient_id))


def _tidy_in_data_dir(name: str, zone: str | None) -> Callable[[Path | None], list[GlucoseSeries]]:
    def load(data_dir: Path | None) -> list[GlucoseSeries]:
        if data_dir is None:
            raise NotFound(f"data set {name} is not bundled; say where {name}.parquet is with --data-dir")
        candidates = [data_dir / f"{name}.parquet", data_dir / name / f"{name}.parquet"]
        path = next((p for p in candidates if p.is_file()), None)
        if path is None:
            raise NotFound(f"there is no {name}.parquet in {data_dir} or in {data_dir / name}; check --data-dir")
        return read_tidy(path, zone)

    return load


def _ohio(data_dir: Path | None) -> list[GlucoseSeries]:
    if data_dir is None:
        raise NotFound("data set ohiot1dm is not bundled; say where the folder OhioT1DM is with --data-dir")
    return [read_ohio(files) for files in find_ohio(data_dir)]


DATASETS = {
    one.name: one
    for one in (
        NamedSet(
            "virtual",
            "30 simulated people with type 1 diabetes, 56 days, 5 min",
            True,
            lambda _: read_tidy(BUNDLED),
        ),
        NamedSet(
            "t1d_uom",
            "T1D-UOM, 8 people sampled every 5 min (and 8 every 15)",
            False,
            _tidy_in_data_dir("t1d_uom", "Europe/London"),
        ),
        NamedSet(
            "azt1d",
            "AZT1D, 25 people on automated insulin delivery, 5 min",
            False,
            _tidy_in_data_dir("azt1d", "America/Phoenix"),
        ),
        NamedSet("ohiot1dm", "OhioT1DM 2018 and 2020, 12 people, 5 min, XML", False, _ohio),
    )
}


def load_cohort(dataset: str, data_dir: Path | None = None, patients: str = ALL, sampling_minutes: int = 5) -> Cohort:
    """Read a data set by name, or any path to a tidy CSV or Parquet table, and choose patients.

    patients: ids separated by commas; "all" and "each" choose everybody.
    Raises NotFound for an unknown data set or patient, InvalidReadings for unusable files or a double identity.
    """
    everyone = _load(dataset, data_dir)
    usable = tuple(s for s in everyone if s.sampling_minutes == sampling_minutes)
    left_out = tuple(
        f"patient {s.patient_id} is left out: sampled every {s.sampling_minutes} minutes, not every {sampling_minutes}"
        for s in everyone
        if s.sampling_minutes != sampling_minutes
    )
    if not usable:
        raise NotFound(
            f"no patient of {dataset} is sampled every {sampling_minutes} minutes; {'; '.join(left_out[:3])}"
        )
    if pairs := double_identities(list(usable)):
        raise InvalidReadings(
            f"{dataset} holds the same readings under two ids ({pairs[0][0]} and {pairs[0][1]}); take one of them out"
        )
    return Cohort(dataset_name(dataset), usable, _choose(usable, patients, dataset, left_out), left_out)


def dataset_name(dataset: str) -> str:
    """The name of a data set, or of the file that a path leads to, as it appears in model names."""
    if dataset in DATASETS:
        return dataset
    stem = "".join(c if c.isascii() and c.isalnum() else "_" for c in Path(dataset).stem.lower())
    return f"{stem}_file" if stem in DATASETS else stem  # a file never takes the models of a known data set


def _load(dataset: str, data_dir: Path | None) -> list[GlucoseSeries]:
    if data_dir is not None and not data_dir.is_dir():
        raise NotFound(f"there is no data folder {data_dir}; check --data-dir")
    if dataset in DATASETS:
        return DATASETS[dataset].load(data_dir)
    if Path(dataset).is_file():
        return read_tidy(Path(dataset))
    raise NotFound(
        f"there is no data set or file {dataset!r}; known are {', '.join(DATASETS)}, or a path to a tidy table"
    )


def _choose(
    usable: tuple[GlucoseSeries, ...], patients: str, dataset: str, left_out: tuple[str, ...]
) -> tuple[GlucoseSeries, ...]:
    asked = split_patients(patients)
    if {ALL, EACH} & set(asked):
        return usable
    by_id = {s.patient_id: s for s in usable}
    for patient in asked:
        if patient not in by_id:
            raise NotFound(_unknown_patient(patient, dataset, list(by_id), left_out))
    return tuple(by_id[p] for p in asked)


def split_patients(patients: str) -> list[str]:
    """Ids and the words all and each, each once, in order. Raises InvalidSetting where there is none."""
    names = (p.strip() for p in patients.split(",") if p.strip())
    asked = list(dict.fromkeys(n.lower() if n.lower() in (ALL, EACH) else n for n in names))
    if not asked:
        raise InvalidSetting("no patient was named; give --patients all, or ids such as 570,584")
    return asked


def _unknown_patient(patient: str, dataset: str, known: list[str], left_out: tuple[str, ...]) -> str:
    for sentence in left_out:
        if sentence.startswith(f"patient {patient} "):
            return sentence
    listed = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
    if dataset == "ohiot1dm" and patient in YEAR_OF:
        missing = f"OhioT1DM/{YEAR_OF[patient]}/train/{patient}-ws-training.xml"
        return f"patient {patient} of ohiot1dm has no file {missing} in the data folder; there are {listed}"
    return f"there is no patient {patient} in {dataset}; there are {listed}"
