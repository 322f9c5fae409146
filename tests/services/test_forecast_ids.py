"""Forecast ids: what is sealed comes back as it was, and nothing else comes back at all."""

import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.errors import InvalidInput, InvalidSetting
from services.inference import forecast_ids
from services.inference.__main__ import _settings
from services.inference.forecast_ids import Claim, Ids, Record
from services.inference.settings import Settings

IDS = Ids([b"a secret of this test"])
RECORD = Record(
    model="virtual-population",
    version="12",
    alias="champion",
    origin=1_740_830_400,
    sampling_minutes=5,
    last_mg_dl=112.5,
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
    last_mg_dl=float32,
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
    opened = IDS.unseal(IDS.seal(Record("personal", "1", "", 0, 15, 99.9, (claim,)))).claims[0]
    assert opened == pytest.approx(claim, rel=1e-7)
    assert opened.below_70 >= 0.3  # the usual threshold is still reached


def test_an_id_fits_a_url_and_150_characters():
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,150}", IDS.seal(RECORD))


def test_every_forecast_has_an_id_of_its_own_even_where_all_it_says_is_the_same():
    again = [Record(RECORD.model, "12", "champion", RECORD.origin, 5, 112.5, RECORD.claims) for _ in range(100)]
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
    assert Ids([b"a secret of this test"]).unseal(IDS.seal(RECORD)) == RECORD  # another replica, the next start
    assert_refused(Ids([b"another secret"]), IDS.seal(RECORD))


def test_an_old_id_opens_as_long_as_its_secret_is_among_the_others():
    of_before = Ids([b"old"]).seal(RECORD)
    assert Ids([b"new", b"old"]).unseal(of_before) == RECORD
    assert_refused(Ids([b"new"]), of_before)


def test_the_first_secret_seals():
    sealed = Ids([b"new", b"old"]).seal(RECORD)
    assert Ids([b"new"]).unseal(sealed) == RECORD
    assert_refused(Ids([b"old"]), sealed)


def test_without_a_secret_ids_are_known_to_one_service_alone():
    ids = Ids()
    assert ids.unseal(ids.seal(RECORD)) == RECORD
    assert_refused(Ids(), ids.seal(RECORD))


def test_a_secret_of_any_length_will_do_but_none_of_it_is_left_unused():
    shared = b"s" * 64
    assert Ids([shared]).unseal(Ids([shared]).seal(RECORD)) == RECORD
    assert_refused(Ids([shared + b"!"]), Ids([shared]).seal(RECORD))


def test_an_empty_secret_is_refused_since_anybody_has_it():
    for secrets in ([b""], [b"a good one", b""]):
        with pytest.raises(InvalidSetting, match="is empty"):
            Ids(secrets)


def ids_of(file: Path) -> Ids:
    return Ids(Settings(id_secret_file=file).id_secrets())


def test_a_secret_is_replaced_by_writing_another_above_it(tmp_path):
    file = tmp_path / "secrets"
    file.write_text("old\n")
    of_before = ids_of(file).seal(RECORD)
    assert Ids([b"old"]).unseal(of_before) == RECORD, "a secret means the same in a file as in the environment"
    file.write_text("new\n\n  old\r\n \n")
    assert Settings(id_secret_file=file).id_secrets() == (b"new", b"old")
    assert ids_of(file).unseal(of_before) == RECORD
    of_after = ids_of(file).seal(RECORD)
    file.write_text("new")
    assert ids_of(file).unseal(of_after) == RECORD
    assert_refused(ids_of(file), of_before)


def test_one_secret_of_the_environment_is_one_and_none_is_none():
    assert Settings(id_secret="key").id_secrets() == (b"key",)
    assert Settings().id_secrets() == Settings(id_secret="").id_secrets() == ()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read (No such file or directory); name one that holds a secret a line"),
        ("", "holds no secret; write one a line, newest first"),
        (" \n\n\t\n", "holds no secret; write one a line, newest first"),
    ],
)
def test_a_file_of_secrets_that_cannot_be_used_is_told_in_one_sentence(tmp_path, content, sentence):
    file = tmp_path / "secrets"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InvalidSetting) as told:
        _settings({"id_secret_file": str(file)})
    assert str(told.value).startswith("--id-secret-file is ")
    assert sentence in str(told.value)


def test_a_file_of_secrets_that_goes_away_later_is_told_too(tmp_path):
    file = tmp_path / "secrets"
    file.write_text("key")
    settings = Settings(id_secret_file=file)
    file.unlink()
    with pytest.raises(InvalidSetting, match=r"id_secret_file .* cannot be read") as told:
        settings.id_secrets()
    assert told.value.field == "id_secret_file"


def test_a_secret_and_a_file_of_them_are_refused_and_neither_is_shown(tmp_path, monkeypatch):
    file = tmp_path / "secrets"
    file.write_text("hidden in a file")
    monkeypatch.setenv("GLUCAST_ID_SECRET", "hidden in the environment")
    with pytest.raises(InvalidSetting, match="GLUCAST_ID_SECRET is set too; give one of the two") as told:
        _settings({"id_secret_file": str(file)})
    assert "hidden" not in str(told.value)


def test_ids_of_another_layout_are_refused_and_not_misread(monkeypatch):
    monkeypatch.setattr(forecast_ids, "LAYOUT", b"record/3")
    of_a_later_release = IDS.seal(RECORD)
    monkeypatch.undo()
    assert_refused(IDS, of_a_later_release)


def test_a_layout_that_changes_takes_another_name():
    """If this fails, change LAYOUT with the layout, or ids of the running release will be misread."""
    record = Record("personal", "3", "", 7, 5, 9.5, (Claim(30, 1.0, 2.0, 3.0, 0.5),), key=b"\1" * 8)
    body = forecast_ids._bytes(IDS.seal(record))[forecast_ids.SEAL_BYTES :]
    assert forecast_ids.LAYOUT == b"record/2"
    assert body == b"\1" * 8 + struct.pack("<qHfBHffff", 7, 5, 9.5, 1, 30, 1.0, 2.0, 3.0, 0.5) + b"personal\x003\0"


def test_what_is_remembered_of_models_is_bounded():
    for version in range(2_000):
        IDS.seal(Record("personal", str(version), "", 0, 5, 100.0, ()))
    assert forecast_ids._packed.cache_info().currsize <= 1024


def test_streams_ids_alarms_and_truth_know_no_transport():
    program = (
        "import sys\n"
        "from services.inference import alarms, forecast_ids, patient_stream, truth\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'grpc', 'google', 'protos'}))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
