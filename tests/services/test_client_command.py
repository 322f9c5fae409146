"""The command line of the client: what people see."""

import json

import pytest
from typer.testing import CliRunner

from forecasting.cgm import MG_DL_PER_MMOL_L
from services.client import app

HEADER = "patient_id,timestamp,glucose_mg_dl\n"


@pytest.fixture
def table(tmp_path, readings):
    path = tmp_path / "readings.csv"
    rows = [f"570,{r.time:%Y-%m-%d %H:%M:%S},{r.value:.0f}\n" for r in readings]
    path.write_text(HEADER + "".join(rows))
    return path


def ask(*words: str):
    return CliRunner().invoke(app, ["forecast", *map(str, words)], env={"COLUMNS": "120"})


def test_a_forecast_is_printed_with_its_model_and_its_limits(service, table):
    result = ask("--file", table, "--patient", "570", "--address", service.address)
    assert result.exit_code == 0, result.output
    for words in ("12:05", "90 % interval", "P(< 70 mg/dL)", "virtual-570 version 1", "warning", "time of day"):
        assert words in result.output
    assert "Research prototype, not a medical device; no dosing advice." in result.output


def test_a_zone_turns_the_files_clock_into_instants(service, table):
    result = ask(
        "--file", table, "--patient", "570", "--address", service.address, "--time-zone", "America/Phoenix", "--json"
    )
    answer = json.loads(result.output)
    assert answer["origin"] == "2025-03-01T19:00:00Z"
    assert not [w for w in answer["warnings"] if "time of day" in w]
    assert answer["clinical_use"] is False


def test_both_units_and_an_earlier_moment_give_one_answer(service, table):
    words = ("--file", table, "--patient", "570", "--address", service.address, "--as-of", "2025-03-01T11:31", "--json")
    first, second = json.loads(ask(*words).output), json.loads(ask(*words, "--unit", "mmol/L").output)
    assert first["origin"] == "2025-03-01T11:30:00Z"
    assert first["points"] == second["points"]


def test_a_picture_is_drawn(service, table, tmp_path):
    result = ask(
        "--file", table, "--patient", "570", "--address", service.address, "--plot", tmp_path / "new" / "p.png"
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "new" / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--patient", "571"), "there is no patient 571 in readings.csv"),
        (("--file", "nowhere.csv"), "there is no file nowhere.csv"),
        (("--time-zone", "Mars/Olympus"), "there is no time zone 'Mars/Olympus'"),
        (("--time-zone", "Europe/London", "--utc-offset-minutes", "0"), "give one"),
        (("--as-of", "yesterday"), "--as-of is 'yesterday'"),
        (("--model", "nobody"), "there is no nobody in the registry"),
        (("--hours", "2"), "send a longer history"),
        (("--address", "127.0.0.1:1"), "nobody listens at 127.0.0.1:1"),
        (("--plot", "/dev/null/picture.png"), "cannot be written"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_goes_wrong_is_one_sentence(service, table, words, sentence):
    """Later options replace earlier ones."""
    result = ask("--file", table, "--patient", "570", "--address", service.address, *words)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_table_in_mmol_l_is_told_apart(service, table):
    lines = table.read_text().splitlines()[1:]
    rows = [f"570,{stamp},{float(value) / MG_DL_PER_MMOL_L:.1f}\n" for _, stamp, value in (x.split(",") for x in lines)]
    table.write_text(HEADER + "".join(rows))
    result = ask("--file", table, "--patient", "570", "--address", service.address)
    assert result.exit_code == 1
    assert "unit is ambiguous" in result.stderr
