"""The OhioT1DM layout, written by our generator from simulated people under ids of the user's command."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forecasting.errors import InvalidReadings, NotFound
from forecasting.readers.datasets import load_cohort
from forecasting.readers.ohio import OhioFiles, find_ohio, read_ohio
from forecasting.windows import WindowShape, cut_windows, part_bounds

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def write_ohio(tmp_path):
    """(train events, test events), each {time: value} → the files of patient 559."""

    def write(train: dict[str, str], test: dict[str, str], root: str = '<patient id="559" weight="99">') -> OhioFiles:
        paths = []
        for name, events in (("training", train), ("testing", test)):
            lines = "".join(f'<event ts="{ts}" value="{value}"/>' for ts, value in events.items())
            path = tmp_path / f"559-ws-{name}.xml"
            path.write_text(f"<?xml version='1.0'?>{root}<glucose_level>{lines}</glucose_level></patient>")
            paths.append(path)
        return OhioFiles("559", *paths)

    return write


def events(start: str, count: int, value: str = "120") -> dict[str, str]:
    return {t.strftime("%d-%m-%Y %H:%M:%S"): value for t in pd.date_range(start, periods=count, freq="5min")}


def test_the_patients_of_the_users_command_are_read_and_no_others(ohio_folder):
    cohort = load_cohort("ohiot1dm", ohio_folder, "570,584")
    assert [s.patient_id for s in cohort.chosen] == ["570", "584"]
    assert [s.patient_id for s in load_cohort("ohiot1dm", ohio_folder / "OhioT1DM", "584").chosen] == ["584"]


def test_what_is_read_is_what_was_simulated(ohio_folder, virtual):
    [series] = load_cohort("ohiot1dm", ohio_folder, "570").chosen
    source = next(s for s in virtual.everyone if s.patient_id == "adult_002").glucose_mg_dl[: 7 * 288]
    first, last = np.flatnonzero(~np.isnan(source))[[0, -1]]
    np.testing.assert_array_equal(series.glucose_mg_dl, source[first : last + 1])


def test_what_was_eaten_and_taken_is_what_was_simulated(ohio_folder, virtual):
    [series] = load_cohort("ohiot1dm", ohio_folder, "570").chosen
    source = next(s for s in virtual.everyone if s.patient_id == "adult_002").events
    days = slice(0, len(series.glucose_mg_dl))
    recorded = series.events.columns
    assert 0.97 < np.nansum(recorded[:, 1]) / np.nansum(source.bolus_units[days]) < 1.03  # the pump rounds
    assert np.isnan(recorded[:, 0]).mean() < 0.01
    assert abs(np.nanmean(recorded[:, 2]) - np.nanmean(source.basal_units_h[days])) < 0.05


def test_meals_boluses_and_rates_are_read_where_they_were_logged(write_ohio):
    files = write_ohio(events("2027-01-06 00:00", 12), events("2027-01-10 00:00", 12))
    streams = (
        '<meal><event ts="06-01-2027 00:07:00" type="Snack" carbs="25"/></meal>'
        '<basal><event ts="06-01-2027 00:10:00" value="0.8"/></basal>'
        '<temp_basal><event ts_begin="06-01-2027 00:30:00" ts_end="06-01-2027 00:40:00" value="0.0"/></temp_basal>'
        '<bolus><event ts_begin="06-01-2027 00:20:00" ts_end="06-01-2027 00:20:00" type="normal" dose="2.5" '
        'bwz_carb_input="25"/></bolus>'
    )
    files.train.write_text(files.train.read_text().replace("</patient>", f"{streams}</patient>"))
    taken = read_ohio(files).events.columns
    assert taken[:12, 0].tolist() == [0, 0, 25, *[0] * 9]
    assert taken[:12, 1].tolist() == [0, 0, 0, 0, 2.5, *[0] * 7]
    np.testing.assert_array_equal(taken[:12, 2], np.float32([np.nan] * 2 + [0.8] * 4 + [0] * 2 + [0.8] * 4))
    assert np.isnan(taken[-12:]).all()  # the test file has none of these


@pytest.mark.parametrize("patient", ["570", "584"])
def test_the_test_part_holds_the_test_file_and_nothing_else_does(ohio_folder, patient):
    files = next(f for f in find_ohio(ohio_folder) if f.patient_id == patient)
    series, shape = read_ohio(files), WindowShape()
    [begins] = pd.read_xml(files.test, xpath="glucose_level/event[1]", parser="etree")["ts"]
    begins = pd.to_datetime(begins, format="%d-%m-%Y %H:%M:%S").to_datetime64()
    test, calibration = (cut_windows(series, shape, part) for part in ("test", "calibration"))
    step = np.timedelta64(5, "m")
    assert (test.origins - step * 35).min() >= begins
    assert (calibration.origins + step * 12).max() < begins
    assert part_bounds(series, shape, "calibration")[1] == part_bounds(series, shape, "test")[0] - 48


@pytest.mark.parametrize("shift", ["00:00", "01:10", "02:20", "03:40", "04:50"])
def test_no_test_reading_leaks_into_the_other_parts_whatever_the_sensors_restart(write_ohio, shift):
    """The grid may tell the first test reading up to half a step earlier than its file does."""
    series = read_ohio(
        write_ohio(events("2027-05-02 10:00:00", 900, "100"), events(f"2027-05-06 10:{shift}", 200, "300"))
    )
    for part in ("train", "validation", "calibration"):
        first, end = part_bounds(series, WindowShape(), part)
        assert not (series.glucose_mg_dl[first:end] == 300).any()
    first, end = part_bounds(series, WindowShape(), "test")
    assert (series.glucose_mg_dl[first - 48 : end] == 300).sum() == 200


def test_days_come_first_in_dates(write_ohio):
    series = read_ohio(write_ohio(events("2027-02-01 10:00:00", 3), events("2027-02-03 10:00:00", 3)))
    assert series.start == np.datetime64("2027-02-01T10:00:00")
    assert series.clock == "local"
    assert series.minute_of_day[0] == 600


def test_the_fictitious_patients_of_the_repository_are_readable():
    cohort = load_cohort("ohiot1dm", REPOSITORY / "data" / "sim" / "ohio_like_xml")
    assert [s.patient_id for s in cohort.chosen] == ["901", "902"]


def test_a_patient_without_the_test_file_is_refused_by_name(ohio_folder, tmp_path):
    shutil.copytree(ohio_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "OhioT1DM/2018/test/570-ws-testing.xml").unlink()
    with pytest.raises(NotFound, match=r"570 has no test file 570-ws-testing.xml; put it in test/"):
        find_ohio(tmp_path)


def test_a_folder_without_the_layout_says_what_was_expected(tmp_path):
    with pytest.raises(NotFound, match=r"no OhioT1DM files under .*expected OhioT1DM/2018/train/559-ws-training.xml"):
        find_ohio(tmp_path)


def test_a_patient_of_the_real_set_who_is_not_there_says_which_file_is_missing(ohio_folder):
    missing = "OhioT1DM/2018/train/559-ws-training.xml"
    with pytest.raises(NotFound, match=f"patient 559 of ohiot1dm has no file {missing}.*there are 570, 584"):
        load_cohort("ohiot1dm", ohio_folder, "570,559")


@pytest.mark.parametrize(
    ("train", "test", "root", "sentence"),
    [
        ({}, events("2027-02-03", 3), '<patient id="559">', "559 has no glucose_level events in one of its files"),
        (events("2027-02-03", 3), events("2027-02-03", 3), '<patient id="559">', "training file reaches into the test"),
        (events("2027-02-03", 3), events("2027-02-03 00:10", 3), '<patient id="559">', "reaches into the test file"),
        (
            events("2027-02-03", 3),
            {},
            '<patient id="570">',
            'should hold <patient id="559">, it holds <patient id="570">',
        ),
        ({"2027-02-03 10:00:00": "9"}, {}, '<patient id="559">', "glucose_level event that cannot be read"),
        (events("2027-02-03", 3, "High"), {}, '<patient id="559">', "glucose_level event that cannot be read"),
        ({}, {}, "<patient", "559-ws-training.xml is not readable as XML"),
        (events("2027-02-03", 3, "5"), events("2027-02-04", 3, "5"), '<patient id="559">', "patient 559: the unit is"),
    ],
)
def test_files_that_cannot_be_used_are_refused_in_a_sentence(write_ohio, train, test, root, sentence):
    with pytest.raises(InvalidReadings, match=sentence):
        read_ohio(write_ohio(train, test, root))
