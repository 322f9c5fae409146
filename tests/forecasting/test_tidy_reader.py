"""Tidy tables: clocks, order, and what is refused."""

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas._libs.parsers import STR_NA_VALUES

from forecasting.cgm import GlucoseSeries
from forecasting.errors import InvalidReadings, NotFound
from forecasting.readers import tidy
from forecasting.readers.tidy import MISSING, in_repeated_hour, read_tidy

HEADER = "patient_id,timestamp,glucose_mg_dl\n"


@pytest.fixture
def read(tmp_path):
    """Rows without a header → the series of a CSV."""

    def reader(rows: str, header: str = HEADER, zone: str | None = None) -> list[GlucoseSeries]:
        path = tmp_path / "table.csv"
        path.write_text(header + rows)
        return read_tidy(path, zone)

    return reader


def stamped(*stamps: str) -> str:
    return "".join(f"a,{stamp},{100 + k}\n" for k, stamp in enumerate(stamps))


def test_a_table_gives_every_patient_a_series_on_a_grid_of_its_own(read):
    b, a = "b,2025-01-06 10:00,90\nb,2025-01-06 10:15,95\n", "a,2025-01-06 00:00,100\na,2025-01-06 00:10,120\n"
    first, second = read(b + a + "a,2025-01-06 00:05,110\na,2025-01-06 00:20,140\n")
    assert (first.patient_id, first.sampling_minutes, second.patient_id, second.sampling_minutes) == ("a", 5, "b", 15)
    np.testing.assert_array_equal(first.glucose_mg_dl, [100, 110, 120, np.nan, 140])
    assert first.findings == ("readings were not in order of time",)
    assert second.start == np.datetime64("2025-01-06T10:00:00")


def test_of_readings_in_one_step_the_later_entry_of_the_file_wins_and_is_reported(read):
    [series] = read(stamped("2025-01-06 00:00", "2025-01-06 00:05", "2025-01-06 00:05", "2025-01-06 00:10"))
    np.testing.assert_array_equal(series.glucose_mg_dl, [100, 102, 103])
    assert series.findings == ("1 readings shared a 5-minute step with a later entry",)


def test_csv_and_parquet_of_one_table_are_read_alike(tmp_path):
    table = pd.DataFrame(
        {"patient_id": [570] * 4, "timestamp": pd.date_range("2025-01-06", periods=4, freq="5min")}
    ).assign(glucose_mg_dl=[100.0, np.nan, 120, 130])
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    [from_csv], [from_parquet] = read_tidy(tmp_path / "t.csv"), read_tidy(tmp_path / "t.parquet")
    assert (from_csv.patient_id, from_csv.start, from_csv.clock) == ("570", from_parquet.start, from_parquet.clock)
    np.testing.assert_array_equal(from_csv.glucose_mg_dl, from_parquet.glucose_mg_dl)


@pytest.mark.parametrize(
    ("offset", "minutes"), [("+01:00", 60), ("+0100", 60), ("+01", 60), ("-03:30", -210), ("+05:45", 345)]
)
@pytest.mark.parametrize("between", [" ", "T"])
def test_times_with_one_offset_are_turned_to_that_clock(read, offset, minutes, between):
    [series] = read(stamped(f"2025-01-06{between}08:00:00{offset}", f"2025-01-06{between}08:05:00{offset}"))
    assert (series.clock, series.utc_offset_minutes) == ("local", minutes)
    assert series.start == np.datetime64("2025-01-06T08:00:00")
    np.testing.assert_array_equal(series.minute_of_day, [480, 485])


@pytest.mark.parametrize(
    "stamps",
    [
        ("2025-03-30 00:55:00Z", "2025-03-30 01:00:00Z"),
        ("2025-03-30 00:55:00+00:00", "2025-03-30 01:00:00+00:00"),
        ("2025-03-30 00:55:00+00:00", "2025-03-30 02:00:00+01:00"),
    ],
)
def test_utc_and_mixed_offsets_keep_the_instant_and_mask_the_time_of_day(read, stamps):
    [series] = read(stamped(*stamps))
    assert series.clock == "utc"
    assert series.start == np.datetime64("2025-03-30T00:55:00")
    assert len(series.glucose_mg_dl) == 2
    assert np.isnan(series.minute_of_day).all()


def test_times_without_an_offset_are_the_patients_own_clock(read):
    [series] = read(stamped("2025-01-06", "2025-01-07"))  # a date alone ends in what looks like an offset
    assert (series.clock, series.utc_offset_minutes) == ("local", None)


def test_the_hour_that_the_clock_repeats_is_left_out_where_the_zone_is_known(read):
    stamps = [f"2023-10-29 {h:02}:{m:02}" for h in range(4) for m in range(0, 60, 5)]
    [there], [elsewhere] = read(stamped(*stamps), zone="Europe/London"), read(stamped(*stamps), zone="America/Phoenix")
    assert np.flatnonzero(np.isnan(there.glucose_mg_dl)).tolist() == list(range(12, 24))
    assert there.findings == ("12 readings of an hour that the clock repeats were left out",)
    assert not np.isnan(elsewhere.glucose_mg_dl).any()


def test_only_the_end_of_daylight_saving_repeats_an_hour():
    year = np.arange(np.datetime64("2023-01-01T00:30"), np.datetime64("2024-01-01T00:00"), np.timedelta64(1, "h"))
    repeated = year[in_repeated_hour(year, "Europe/London")]
    assert repeated.tolist() == [np.datetime64("2023-10-29T01:30").item()]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "patient_id,glucose\na,100\n",
            "table.csv has no column timestamp, glucose_mg_dl; a tidy table has patient_id",
        ),
        (HEADER + "a,2025-01-06 00:00,\n", "holds no readings; it needs rows with a glucose_mg_dl"),
        (HEADER + "a,2025-01-06 00:00,Low\n", "glucose_mg_dl must be numbers: .*Low"),
        (HEADER + ",2025-01-06 00:00,100\n", "1 readings have no patient_id; fill it in or take the rows out"),
        (HEADER + "a,,100\n", "1 readings have no timestamp; fill it in or take the rows out"),
        (HEADER + "a,06/01/2025 00:00,100\n", "timestamps must be ISO 8601, such as 2025-01-31 08:05:00"),
        (HEADER + "a,1736121600,100\n", "timestamps must be ISO 8601"),
        (HEADER + "a,2025-01-06 00:00Z,100\na,2025-01-06 00:05,100\n", "all with or all without an offset: some"),
        (HEADER + "a,2025-01-06 00:00,5.5\n", "patient a: the unit is ambiguous.*median reading is 5.5"),
        (HEADER + "a,2025-01-06 00:00,100\na,2025-01-06 00:05,0\n", "patient a: 1 of 2 readings are outside 10 to 600"),
        ("", "cannot be read as a CSV or Parquet table"),
        ('a,"b\n', "table.csv"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_a_sentence(read, text, sentence):
    with pytest.raises(InvalidReadings, match=sentence) as refused:
        read(text, header="")
    assert "\n" not in str(refused.value)


def outcome(path: Path) -> list[str] | str:
    """What reading gives, to compare: every series in words, or the sentence of the refusal."""
    try:
        return [f"{astuple(series)} {series.glucose_mg_dl.tolist()}" for series in read_tidy(path)]
    except InvalidReadings as refused:
        return str(refused)


USUAL = {
    "patient_id": ["a", "b"],
    "timestamp": ["2025-01-06 00:00", "2025-01-06 00:05"],
    "glucose_mg_dl": ["100", "9e1"],
}
ODD = {
    "patient_id": ["007", " a", "", " ", '""', "NA", "None", "1.0", "é", '"a,b"', '"a""b"', '"a\nb"', 'a"b'],
    "timestamp": [
        *(
            "2025-01-06",
            "2025-01-06T00:10",
            "2025-01-06 00",
            "20250106T0005",
            "2025-01-06 00:05:00.25",
            "2025-01-06 24:00",
        ),
        *(
            "2025-01-06 00:05Z",
            "2025-01-06T00:05:00+01:00",
            "2025-01-06 00:05-0330",
            "2025-01-06 00:05+01",
            "2025-02-30",
        ),
        *(
            " 2025-01-06 00:05 ",
            '"2025-01-06 00:05"',
            "06/01/2025",
            "2025/01/06",
            "1736121600",
            "NA",
            "",
            "2025-1-6",
            "2025",
        ),
    ],
    "glucose_mg_dl": [
        *(
            "120.5",
            "1.2E+02",
            "+100",
            " 100 ",
            "Low",
            "NA",
            "Nan",
            "NAN",
            "inf",
            "",
            "1_000",
            '"1,000"',
            '"100"',
            "0x64",
        ),
        *("1e400", "100.", ".5e3", "True", "99.99999999999999999", "-nan", "nan(1)", "9", "5.5"),
    ],
}
CELLS = [st.one_of(st.sampled_from(USUAL[name]), st.sampled_from(ODD[name])) for name in USUAL]
ROWS = st.one_of(
    st.tuples(*map(st.sampled_from, USUAL.values())), st.tuples(*CELLS), st.lists(st.just("1"), max_size=5)
)


@given(st.lists(ROWS, max_size=4), st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from([b"", b"\xff", b"\0"]))
def test_arrow_reads_nothing_otherwise_than_pandas_alone(tmp_path_factory, rows, line_end, tail):
    path = tmp_path_factory.getbasetemp() / "table.csv"
    path.write_bytes(line_end.join([HEADER.strip(), *map(",".join, rows)]).encode() + tail)
    found = outcome(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tidy, "_read_plain_csv", lambda *_: None)
        assert found == outcome(path)


def test_plain_tables_are_read_by_arrow(tmp_path, monkeypatch):
    """Else the comparison with pandas compares pandas with itself."""
    monkeypatch.setattr(pd, "read_csv", None)
    for times in (("2025-01-06 08:00", "2025-01-06T08:05:30"), ("2025-01-06 08:00+01:00", "2025-01-06 08:05+01:00")):
        (tmp_path / "t.csv").write_text("\ufeff" + HEADER + stamped(*times))
        [series] = read_tidy(tmp_path / "t.csv")
        assert series.start == np.datetime64("2025-01-06T08:00:00")


def test_what_counts_as_missing_is_what_pandas_counts():
    assert set(MISSING) == STR_NA_VALUES


def test_a_compressed_table_is_read_too(tmp_path):
    pd.DataFrame({"patient_id": ["007"], "timestamp": ["2025-01-06"], "glucose_mg_dl": [100]}).to_csv(
        tmp_path / "t.csv.gz"
    )
    assert [series.patient_id for series in read_tidy(tmp_path / "t.csv.gz")] == ["007"]


@pytest.mark.parametrize("column", ["patient_id", "timestamp"])
def test_a_reading_without_its_person_or_time_is_refused_in_parquet_too(tmp_path, column):
    times = pd.to_datetime(["2025-01-06", "2025-01-07"])
    table = pd.DataFrame({"patient_id": ["a", "a"], "timestamp": times, "glucose_mg_dl": [100.0, 110]})
    table.loc[1, column] = None
    table.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InvalidReadings, match=f"1 readings have no {column}"):
        read_tidy(tmp_path / "t.parquet")


def test_files_that_are_no_tables_are_refused_by_name(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no more")
    (tmp_path / "t.csv").write_bytes(bytes(range(256)))
    for name in ("t.parquet", "t.csv"):
        with pytest.raises(InvalidReadings, match=name):
            read_tidy(tmp_path / name)
    with pytest.raises(NotFound, match=r"there is no file .*none.csv; give the path of a tidy CSV or Parquet"):
        read_tidy(tmp_path / "none.csv")


def test_a_date_in_the_wrong_century_is_refused(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("patient_id,timestamp,glucose_mg_dl\np,2025-01-06 00:00,120\np,2205-01-06 00:05,121\n")
    with pytest.raises(InvalidReadings, match="at most 20 years"):
        read_tidy(table)
