"""Forecast ids: what is sealed comes back as it was, and nothing else comes back at all."""

import re
import struct
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.errors import InvalidInput, InvalidSetting
from services.inference import forecast_ids
from services.inference.forecast_ids import Claim, Ids, Record

IDS = Ids(b"a secret of this test")
RECORD = Record(
    model="virtual-population",
    version="12",
    alias="champion",
    origin=1_740_830_400,
    sampling_minutes=5,
    claims=(Claim(30, 120.5, 90.25, 151.0, 0.03125), Claim(60, 131.0, 80.0, 190.0, 0.0625)),
)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

float32 = st.floats(width=32, allow_nan=False)
words = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)
claims = st.builds(Claim, st.integers(0, 2**16 - 1), float32, float32, float32, float32)
records = st.builds(
    Record,
    model=words,
    version=words,
    alias=words,
    origin=st.integers(0, 2**40),
    sampling_minutes=st.integers(1, 2**16 - 1),
    claims=st.lists(claims, max_size=4).map(tuple),
)


def assert_refused(ids: Ids, text: str) -> None:
    with pytest.raises(InvalidInput, match="no forecast id of this service") as refused:
        ids.unseal(text)
    assert refused.value.field == "forecast_id"


@given(records)
def test_what_is_sealed_comes_back_as_it_was(record):
    assert IDS.unseal(IDS.seal(record)) == record


def test_numbers_come_back_to_the_precision_that_models_compute_in():
    claim = Claim(30, 123.456789, 90.0, 151.0, 0.3)
    opened = IDS.unseal(IDS.seal(Record("personal", "1", "", 0, 15, (claim,)))).claims[0]
    assert opened == pytest.approx(claim, rel=1e-7)
    assert opened.below_70 >= 0.3  # the usual threshold is still reached


def test_an_id_fits_a_url_and_150_characters():
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,150}", IDS.seal(RECORD))


def test_every_forecast_has_an_id_of_its_own_even_where_all_it_says_is_the_same():
    again = [Record(RECORD.model, "12", "champion", RECORD.origin, 5, RECORD.claims) for _ in range(100)]
    assert len({IDS.seal(one) for one in again}) == len({one.key for one in again}) == 100


@pytest.mark.parametrize("place", range(len(IDS.seal(RECORD))))
def test_an_id_with_any_one_character_changed_is_refused(place):
    text = IDS.seal(RECORD)
    for other in set(ALPHABET + "+/=") - {text[place]}:
        assert_refused(IDS, text[:place] + other + text[place + 1 :])


@given(st.integers(0, len(IDS.seal(RECORD)) - 1))
def test_an_id_cut_short_is_refused(length):
    assert_refused(IDS, IDS.seal(RECORD)[:length])


@pytest.mark.parametrize("more", ["A", "AAAA", "=", "==", "\n", " ", "\0"])
def test_an_id_with_something_added_is_refused(more):
    text = IDS.seal(RECORD)
    assert_refused(IDS, text + more)
    assert_refused(IDS, more + text)


def test_characters_that_base64_passes_over_are_refused():
    text = IDS.seal(RECORD)
    assert_refused(IDS, text[:20] + "\r\n*" + text[20:])


@settings(max_examples=300)
@given(st.text() | st.text(ALPHABET) | st.binary(min_size=12).map(forecast_ids._text))
def test_junk_is_refused_and_never_anything_worse(text):
    assert_refused(IDS, text)


def test_a_lone_surrogate_is_refused_too():
    assert_refused(IDS, "\ud800")


def test_only_the_same_secret_opens_an_id():
    assert Ids(b"a secret of this test").unseal(IDS.seal(RECORD)) == RECORD  # another replica, the next start
    assert_refused(Ids(b"another secret"), IDS.seal(RECORD))


def test_without_a_secret_ids_are_known_to_one_service_alone():
    ids = Ids(None)
    assert ids.unseal(ids.seal(RECORD)) == RECORD
    assert_refused(Ids(None), ids.seal(RECORD))


def test_a_secret_of_any_length_will_do_but_none_of_it_is_left_unused():
    shared = b"s" * 64
    assert Ids(shared).unseal(Ids(shared).seal(RECORD)) == RECORD
    assert_refused(Ids(shared + b"!"), Ids(shared).seal(RECORD))


def test_an_empty_secret_is_refused_since_anybody_has_it():
    with pytest.raises(InvalidSetting, match="is empty"):
        Ids(b"")


def test_ids_of_another_layout_are_refused_and_not_misread(monkeypatch):
    monkeypatch.setattr(forecast_ids, "LAYOUT", b"record/2")
    of_a_later_release = IDS.seal(RECORD)
    monkeypatch.undo()
    assert_refused(IDS, of_a_later_release)


def test_a_layout_that_changes_takes_another_name():
    """If this fails, change LAYOUT with the layout, or ids of the running release will be misread."""
    record = Record("personal", "3", "", 7, 5, (Claim(30, 1.0, 2.0, 3.0, 0.5),), key=b"\1" * 8)
    body = forecast_ids._bytes(IDS.seal(record))[forecast_ids.SEAL_BYTES :]
    assert forecast_ids.LAYOUT == b"record/1"
    assert body == b"\1" * 8 + struct.pack("<qHBHffff", 7, 5, 1, 30, 1.0, 2.0, 3.0, 0.5) + b"personal\x003\0"


def test_what_is_remembered_of_models_is_bounded():
    for version in range(2_000):
        IDS.seal(Record("personal", str(version), "", 0, 5, ()))
    assert forecast_ids._packed.cache_info().currsize <= 1024


def test_streams_ids_alarms_and_truth_know_no_transport():
    program = (
        "import sys\n"
        "from services.inference import alarms, forecast_ids, patient_stream, truth\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'grpc', 'google', 'protos'}))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
