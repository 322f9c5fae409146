"""The command line of the client: what people see."""

import json
import time

import pytest
from typer.testing import CliRunner

from forecasting.cgm import MG_DL_PER_MMOL_L
from services.client.command import app

HEADER = "patient_id,timestamp,glucose_mg_dl\n"


@pytest.fixture
def table(tmp_path, readings):
    path = tmp_path / "readings.csv"
    rows = [f"570,{r.time:%Y-%m-%d %H:%M:%S},{r.value:.0f}\n" for r in readings]
    path.write_text(HEADER + "".join(rows))
    return path


def run(*words: object):
    return CliRunner().invoke(app, list(map(str, words)), env={"COLUMNS": "120"})


def ask(*words: object):
    return run("forecast", *words)


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


def test_a_patient_need_not_be_named_where_there_is_one(service, table):
    assert "virtual-570 version 1" in ask("--file", table, "--address", service.address).output
    table.write_text(table.read_text() + "571,2025-03-01 12:00:00,100\n")
    result = ask("--file", table, "--address", service.address)
    assert result.exit_code == 1
    assert result.stderr == "error: readings.csv holds 2 patients; name one with --patient: 570, 571\n"


def test_a_table_is_in_the_unit_and_on_the_clock_that_were_asked_for(service, table):
    words = ("--file", table, "--address", service.address, "--unit", "mmol/L", "--time-zone", "America/Phoenix")
    output = ask(*words).output
    for part in ("Glucose in mmol/L, forecast at 2025-03-01 12:00 (America/Phoenix)", "12:05", "P(< 3.9 mmol/L)"):
        assert part in output


def test_a_file_is_replayed_as_a_stream(service, table):
    words = ("--file", table, "--address", service.address, "--minutes", 15, "--speed", 6000, "--model")
    result = run("monitor", *words, "virtual-population")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("Readings of 570 in mg/dL, times on the file's clock.")
    assert [line.split()[0] for line in lines[2:]] == ["11:50", "11:55", "12:00"]
    assert all("newest" in line and line.count("(") == 2 for line in lines[2:])


def test_a_replay_keeps_the_pace_of_the_readings(service, table):
    began = time.monotonic()
    run("monitor", "--file", table, "--address", service.address, "--minutes", 15, "--speed", 600)
    assert time.monotonic() - began >= 2 * 300 / 600


def test_a_replay_as_json_is_a_line_for_each_reading(service, table):
    words = ("--file", table, "--address", service.address, "--minutes", 15, "--speed", 0, "--hours", 0.1, "--json")
    updates = [json.loads(line) for line in run("monitor", *words).stdout.splitlines()]
    assert [update["time"][11:16] for update in updates] == ["11:50", "11:55", "12:00"]
    assert {update["problem"]["status"] for update in updates} == {"FAILED_PRECONDITION"}


def test_models_are_listed_and_one_is_described(service):
    listed = run("models", "--address", service.address, "--patient", "570").output
    assert "virtual-population" in listed
    assert "virtual-570" in listed
    one = run("models", "virtual-570@champion", "--address", service.address).output
    assert "virtual-570 version 1" in one
    assert "60 minutes ahead" in one
    assert json.loads(run("models", "virtual-570", "--address", service.address, "--json").output)["backbone"] == "tiny"
    missing = run("models", "virtual-nobody", "--address", service.address)
    assert (missing.exit_code, missing.stderr.count("\n")) == (1, 1)
    assert missing.stderr.startswith("error: there is no virtual-nobody in the registry")


@pytest.mark.parametrize("command", ["forecast", "monitor", "models"])
def test_help_teaches_by_an_example(command):
    told = run(command, "--help").output
    assert f"python -m services.client {command}" in told
    assert "--token-file" in told


def test_a_table_in_mmol_l_is_told_apart(service, table):
    lines = table.read_text().splitlines()[1:]
    rows = [f"570,{stamp},{float(value) / MG_DL_PER_MMOL_L:.1f}\n" for _, stamp, value in (x.split(",") for x in lines)]
    table.write_text(HEADER + "".join(rows))
    result = ask("--file", table, "--patient", "570", "--address", service.address)
    assert result.exit_code == 1
    assert "unit is ambiguous" in result.stderr
