"""The dashboards of Grafana are whole, say what they mean, and read only what is exported or recorded.

Grafana itself does not run here: nothing shows that it draws them.
"""

import json
from collections.abc import Iterator
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations, product
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from matplotlib.figure import Figure
from typer.testing import CliRunner

from deploy.grafana.__main__ import BOARDS, written
from deploy.grafana.asked import Prometheus, Span
from deploy.grafana.panels import COLUMNS, SOURCE
from deploy.grafana.pictures import Canvas, app, draw, picture
from deploy.grafana.queries import FOLDER, dashboards, filled_in, first_choices, panels, variable_series
from deploy.grafana.units import UNITS, said
from tests.deploy.exported import exported_names, recorded_names
from tests.deploy.promql import metric_names

GRAFANA = FOLDER.parent
BUILTINS = {"__rate_interval": "1m", "__range": "1h", "__interval": "15s"}
DASHBOARDS = dashboards()
each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS.keys())


def choices(dashboard: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Every combination of what its written-down variables can be; the others as they are at first."""
    written_down = [one for one in dashboard["templating"]["list"] if one["type"] == "custom"]
    options = [[(one["name"], option["value"]) for option in one["options"]] for one in written_down]
    for chosen in product(*options):
        yield BUILTINS | first_choices(dashboard) | dict(chosen)


def read_by(dashboard: dict[str, Any]) -> set[str]:
    """Every series that a panel or a variable of a dashboard reads, whatever is chosen."""
    expressions = [target["expr"] for panel in panels(dashboard) for target in panel["targets"]]
    expressions += [series for one in dashboard["templating"]["list"] if (series := variable_series(one))]
    every = {filled_in(expression, values) for values in choices(dashboard) for expression in expressions}
    return set().union(*map(metric_names, every))


def unknown_to_prometheus(dashboard: dict[str, Any]) -> set[str]:
    return read_by(dashboard) - exported_names() - recorded_names()


def test_the_files_are_what_the_tables_say():
    """Else a change of a file would be lost with the next change of its table: run python -m deploy.grafana."""
    assert {board.file: written(board) for board in BOARDS} == {
        name: (FOLDER / f"{name}.json").read_text() for name in DASHBOARDS
    }


@each_dashboard
def test_every_series_that_is_read_is_exported_or_recorded(dashboard):
    assert not unknown_to_prometheus(dashboard)


@pytest.mark.parametrize(
    "wrong",
    [
        "glucose_forecast_outcome_total",
        "rate(grpc_server_handled[$__rate_interval])",
        "model_horizon:nothing:mean${window}",
    ],
)
def test_a_series_that_nobody_exports_is_found(wrong):
    dashboard = deepcopy(DASHBOARDS["live-accuracy"])
    dashboard["panels"][1]["targets"][0]["expr"] = wrong
    assert unknown_to_prometheus(dashboard)


def test_a_variable_that_asks_a_series_nobody_exports_is_found():
    dashboard = deepcopy(DASHBOARDS["models"])
    dashboard["templating"]["list"][0]["definition"] = "label_values(glucose_models, instance)"
    assert unknown_to_prometheus(dashboard) == {"glucose_models"}


@each_dashboard
def test_no_variable_is_used_that_is_not_offered_and_none_is_offered_in_vain(dashboard):
    used = set()

    class Asked(dict):
        def __missing__(self, name: str) -> str:
            used.add(name)
            return "1m"

    for panel in panels(dashboard):
        for target in panel["targets"]:
            filled_in(target["expr"], Asked())
    offered = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert used - set(BUILTINS) == offered


@each_dashboard
def test_every_panel_says_what_it_means_in_what_unit_and_from_where(dashboard):
    for panel in panels(dashboard):
        assert len(panel["description"]) > 25, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["targets"], panel["title"]
        for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
            assert source == SOURCE, panel["title"]


@each_dashboard
def test_ids_and_titles_are_given_once(dashboard):
    for key in ("id", "title"):
        values = [panel[key] for panel in dashboard["panels"]]
        assert len(set(values)) == len(values), key
    for panel in panels(dashboard):
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_dashboards_are_told_apart():
    for key in ("uid", "title"):
        assert len({dashboard[key] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)


@each_dashboard
def test_no_panel_lies_on_another_and_none_beside_the_grid(dashboard):
    places = [(panel["title"], panel["gridPos"]) for panel in dashboard["panels"]]
    for title, place in places:
        assert place["x"] >= 0 and place["x"] + place["w"] <= COLUMNS, title  # noqa: PT018
    for (one, a), (other, b) in combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        apart = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or apart, f"{one} and {other}"


@each_dashboard
def test_thresholds_rise_from_one_that_holds_for_everything(dashboard):
    """Grafana takes the last step that is reached, and none where the first does not begin at null."""
    for panel in panels(dashboard):
        first, *others = [step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
        assert first is None, panel["title"]
        assert others == sorted(others), panel["title"]


def test_the_datasource_is_the_one_that_panels_name_and_compose_starts():
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert {"type": source["type"], "uid": source["uid"]} == SOURCE
    assert source["url"] == "http://prometheus:9090"
    scraped = yaml.safe_load((GRAFANA.parent / "prometheus/prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped


def test_grafana_looks_for_dashboards_where_compose_puts_them():
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/glucast.yml").read_text())["providers"]
    grafana = yaml.safe_load((GRAFANA.parent / "compose.yaml").read_text())["services"]["grafana"]
    mounts = dict(volume.removesuffix(":ro").rsplit(":", 1) for volume in grafana["volumes"])
    assert provider["options"]["path"] == mounts["./grafana/dashboards"]
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "words"),
    [
        (0.0123, "percentunit", 2, "1.23 %"),
        (0.0042, "s", None, "4.2 ms"),
        (7200.0, "dtdurations", 0, "2 h"),
        (158e6, "bytes", None, "158 MB"),
        (-3.14, "conmgdL", 1, "-3.1 mg/dL"),
        (float("nan"), "short", None, "–"),
    ],
)
def test_numbers_are_said_with_their_unit(value, unit, decimals, words):
    assert said(value, unit, decimals) == words


@each_dashboard
def test_a_panel_without_data_says_so_in_its_picture(dashboard):
    for panel in panels(dashboard):
        figure = Figure(figsize=(4, 3))
        draw(Canvas(figure, 0, 0, 4, 3), panel, [], None)  # type: ignore[arg-type]
        assert "no data" in [text.get_text() for text in figure.texts]


@pytest.fixture
def prometheus():
    """Answers every expression with three series that have whatever labels a panel asks for."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            moments = [float(asked[key][0]) for key in ("start", "end", "time") if key in asked]
            series = [
                {
                    "metric": {"le": le, "version": le, "horizon": "30", "grpc_method": "Forecast"},
                    "values": [[moment, str(k + 1)] for moment in moments],
                    "value": [moments[0], str(k + 1)],
                }
                for k, le in enumerate(("5", "10", "+Inf"))
            ]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": {"result": series}}).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@each_dashboard
def test_every_panel_is_drawn_from_what_prometheus_answers(dashboard, prometheus):
    span = Span(1_795_000_000.0, 1_795_000_900.0, 15.0)
    image = picture(Prometheus(prometheus), dashboard, first_choices(dashboard), span)
    assert image.width > 1000
    assert len(image.getcolors()) > 8  # something was drawn


def test_pictures_say_in_a_sentence_that_no_prometheus_answers(tmp_path):
    result = CliRunner().invoke(
        app, ["--prometheus", "http://127.0.0.1:9", "--out", str(tmp_path), "--only", "service"]
    )
    assert result.exit_code == 1
    assert "no Prometheus answers at http://127.0.0.1:9" in result.output


def test_json_is_plain():
    """NaN and the like are no JSON, which Python writes all the same."""
    for board in BOARDS:
        json.loads(written(board), parse_constant=pytest.fail)
