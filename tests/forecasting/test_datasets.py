"""Data sets by name or path, and the choice of patients."""

import numpy as np
import pandas as pd
import pytest

from forecasting.errors import InvalidReadings, InvalidSetting, NotFound
from forecasting.readers.datasets import dataset_name, load_cohort


@pytest.fixture
def write_table(tmp_path, wave):
    """{patient: (minutes between readings, seed of its wave)} → a tidy CSV."""

    def write(people: dict[str, tuple[int, int]], name: str = "people.csv"):
        tables = [
            pd.DataFrame({"timestamp": pd.date_range("2025-01-06", periods=60, freq=f"{minutes}min")}).assign(
                patient_id=patient, glucose_mg_dl=wave(60, seed)
            )
            for patient, (minutes, seed) in people.items()
        ]
        pd.concat(tables).to_csv(tmp_path / name, index=False)
        return tmp_path / name

    return write


def test_the_bundled_cohort_holds_thirty_people_on_a_five_minute_grid(virtual):
    assert len(virtual.everyone) == 30
    assert {s.sampling_minutes for s in virtual.everyone} == {5}
    assert sum(int((~np.isnan(s.glucose_mg_dl)).sum()) for s in virtual.everyone) == 455_218
    assert (virtual.left_out, virtual.dataset) == ((), "virtual")


def test_patients_are_chosen_in_the_order_they_are_asked_for_and_once(write_table):
    path = write_table({"a": (5, 1), "b": (5, 2), "c": (5, 3)})
    cohort = load_cohort(str(path), patients=" c, a,c,")
    assert [s.patient_id for s in cohort.chosen] == ["c", "a"]
    assert [s.patient_id for s in cohort.everyone] == ["a", "b", "c"]
    assert [s.patient_id for s in cohort.only("a").chosen] == ["a"]
    assert [s.patient_id for s in load_cohort(str(path), patients="ALL").chosen] == ["a", "b", "c"]


def test_people_of_another_grid_are_left_out_aloud(write_table):
    path = str(write_table({"a": (5, 1), "slow": (15, 2)}))
    cohort = load_cohort(path)
    assert [s.patient_id for s in cohort.everyone] == ["a"]
    assert cohort.left_out == ("patient slow is left out: sampled every 15 minutes, not every 5",)
    assert [s.patient_id for s in load_cohort(path, sampling_minutes=15).chosen] == ["slow"]
    with pytest.raises(NotFound, match="patient slow is left out: sampled every 15 minutes, not every 5"):
        load_cohort(path, patients="slow")
    with pytest.raises(NotFound, match=r"no patient of .* is sampled every 10 minutes; patient a is left out"):
        load_cohort(path, sampling_minutes=10)


def test_one_person_under_two_ids_is_refused_by_both_names(write_table):
    with pytest.raises(InvalidReadings, match=r"under two ids \(a and twin\); take one of them out"):
        load_cohort(str(write_table({"a": (5, 1), "b": (5, 2), "twin": (5, 1)})))


def test_an_unknown_data_set_is_refused_with_the_known_ones():
    with pytest.raises(
        NotFound, match="no data set or file 'ohio'; known are virtual, t1d_uom, azt1d, ohiot1dm, or a path"
    ):
        load_cohort("ohio")


def test_an_unknown_patient_is_refused_with_some_who_are_there(virtual):
    with pytest.raises(NotFound, match=r"no patient 570 in virtual; there are adolescent_001, .*, …$"):
        load_cohort("virtual", patients="adult_001,570")


@pytest.mark.parametrize("nobody", ["", " ", ",", " , ,"])
def test_choosing_nobody_is_refused(write_table, nobody):
    with pytest.raises(InvalidSetting, match="no patient was named; give --patients all, or ids such as 570,584"):
        load_cohort(str(write_table({"a": (5, 1)})), patients=nobody)


@pytest.mark.parametrize(
    ("dataset", "sentence"),
    [("t1d_uom", "say where t1d_uom.parquet is with --data-dir"), ("ohiot1dm", "say where the folder OhioT1DM is")],
)
def test_a_data_set_that_is_not_bundled_asks_for_its_folder(tmp_path, dataset, sentence):
    with pytest.raises(NotFound, match=f"{dataset} is not bundled; {sentence}"):
        load_cohort(dataset)
    with pytest.raises(NotFound, match=r"there is no data folder .*nowhere; check --data-dir"):
        load_cohort(dataset, tmp_path / "nowhere")
    with pytest.raises(NotFound, match=str(tmp_path)):
        load_cohort(dataset, tmp_path)


def test_a_named_set_is_found_in_the_data_folder_or_in_its_own(tmp_path, write_table):
    table = pd.read_csv(write_table({"2301": (5, 1)}), parse_dates=["timestamp"], dtype={"patient_id": str})
    table.to_parquet(tmp_path / "azt1d.parquet")
    (tmp_path / "t1d_uom").mkdir()
    table.to_parquet(tmp_path / "t1d_uom" / "t1d_uom.parquet")
    for dataset in ("azt1d", "t1d_uom"):
        assert [s.patient_id for s in load_cohort(dataset, tmp_path).chosen] == ["2301"]


@pytest.mark.parametrize(
    ("dataset", "name"), [("virtual", "virtual"), ("/data/My Clinic-2.csv", "my_clinic_2"), ("a/b.c.parquet", "b_c")]
)
def test_a_path_gives_a_name_that_models_can_bear(dataset, name):
    assert dataset_name(dataset) == name


def test_a_file_never_takes_the_model_names_of_a_known_data_set():
    assert dataset_name("somewhere/virtual.csv") == "virtual_file"
    assert dataset_name("somewhere/My data.csv") == "my_data"
    assert dataset_name("virtual") == "virtual"
