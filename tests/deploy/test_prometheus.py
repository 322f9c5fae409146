"""What Prometheus and Alertmanager are told: valid for them, about series that exist, each alert tried in two cases."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.exported import RULES, exported_names, recorded_names, rules
from tests.deploy.promql import metric_names

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
CASES = sorted((PROMETHEUS / "tests").glob("*.yml"))
OPERATIONS = ROOT / "docs" / "operations.md"
ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
TESTED = re.compile(r'ALERTS\{alertname=(~?)"([^"]+)"')
BYTES = {"m": 1 << 20, "g": 1 << 30, "Mi": 1 << 20, "Gi": 1 << 30}


def run(tool: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """One of Prometheus' own tools, over files; skips where it is not installed."""
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} is not on PATH; it comes with Debian's prometheus and prometheus-alertmanager")
    return subprocess.run([found, *map(str, arguments)], capture_output=True, text=True)


def assert_passes(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_its_configuration_and_rules():
    assert_passes(run("promtool", "check", "config", PROMETHEUS / "prometheus.yml"))
    assert_passes(run("promtool", "check", "rules", *RULES.glob("*.yml")))


@pytest.mark.parametrize("cases", CASES, ids=lambda file: file.stem)
def test_rules_do_in_every_case_what_is_expected(cases):
    assert_passes(run("promtool", "test", "rules", cases))


def test_alertmanager_takes_its_configuration():
    assert_passes(run("amtool", "check-config", ROOT / "deploy" / "alertmanager" / "alertmanager.yml"))


# --- series


def unknown_names(expression: str) -> set[str]:
    """What an expression reads that nothing exports and no rule records."""
    return metric_names(expression) - exported_names() - recorded_names()


@pytest.mark.parametrize("rule", list(rules()), ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_read_series_that_exist(rule):
    assert not unknown_names(rule["expr"])


def test_a_series_that_nobody_exports_is_noticed():
    told = 'sum(rate(glucose_outcomes_total[5m])) / job:nothing:rate5m > 0 and up{job="glucose_not_read"}'
    assert unknown_names(told) == {"glucose_outcomes_total", "job:nothing:rate5m"}
    assert unknown_names("glucose_infer_queue_seconds > 1"), "a histogram has no series of its own name"


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        (
            'sum by (name) (rate(a_total{le="x_total"}[$__rate_interval])) / ignoring (b) c:d:e offset 1h',
            "a_total c:d:e",
        ),
        ("max_over_time((a unless b)[1h:${__interval}]) > bool on (c) group_left (d) -e", "a b e"),
        ('{__name__="a",b="c"} and absent(d)', "a d"),
        ('label_replace(a, "b", "$1", "c", "(.*)") or vector(1)', "a"),
        ("time() - 300", ""),
    ],
)
def test_the_series_of_an_expression_are_found(expression, names):
    assert metric_names(expression) == set(names.split())


@pytest.mark.parametrize("expression", ["sum(", '{__name__=~"glucose_.*"}', '{job="a"}', ""])
def test_what_cannot_be_read_is_refused_and_not_passed_over(expression):
    with pytest.raises(ValueError, match=r"\w"):
        metric_names(expression)


def test_a_recorded_series_has_one_rule_and_a_name_that_says_its_level():
    recorded = [rule["record"] for rule in rules() if "record" in rule]
    assert len(set(recorded)) == len(recorded)
    assert all(re.fullmatch(r"[a-z_]+:[a-z_]+:[a-z0-9_]+", name) for name in recorded)


# --- alerts


def expectations() -> Iterator[tuple[str, bool]]:
    """(alert, does it fire?) of everything that the cases expect."""
    for file in CASES:
        for case in yaml.safe_load(file.read_text())["tests"]:
            for expected in case["promql_expr_test"]:
                for is_pattern, alert in TESTED.findall(expected["expr"]):
                    names = filter(re.compile(alert).fullmatch, ALERTS) if is_pattern else [alert]
                    yield from ((name, bool(expected["exp_samples"])) for name in names)


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not():
    assert set(expectations()) == {(alert, fires) for alert in ALERTS for fires in (True, False)}


@pytest.mark.parametrize("alert", ALERTS.values(), ids=ALERTS)
def test_an_alert_says_how_bad_it_is_what_it_means_and_where_to_read_on(alert):
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert alert["labels"]["service"] in {"glucast", "monitoring"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    assert len(alert["annotations"]["summary"]) < 200
    assert "{{" not in alert["annotations"]["description"], "it is about any case of this; the summary has the numbers"
    assert alert["annotations"]["runbook"] == f"docs/operations.md#{alert['alert'].lower()}"


def test_every_alert_has_its_part_in_the_runbook():
    if not OPERATIONS.exists():
        pytest.skip("docs/operations.md is not written yet")
    headings = {line.lstrip("# ").strip().strip("`") for line in OPERATIONS.read_text().splitlines() if line[:1] == "#"}
    assert set(ALERTS) <= headings


def as_alert_tests(cases: dict[str, Any]) -> dict[str, Any]:
    """The same cases, each expecting an alert without a text wherever one fires: promtool then tells the real texts."""
    tests = []
    for case in cases["tests"]:
        firing = [expected for expected in case.pop("promql_expr_test") if expected["exp_samples"]]
        asked = [
            {"eval_time": expected["eval_time"], "alertname": alert, "exp_alerts": [{}]}
            for expected in firing
            for _, alert in TESTED.findall(expected["expr"])
        ]
        tests.append({**case, "alert_rule_test": asked})
    files = [str(RULES / Path(file).name) for file in cases["rule_files"]]
    return {**cases, "rule_files": files, "tests": tests}


def test_texts_say_their_numbers_and_labels(tmp_path):
    """Templates are filled in by promtool; a fault in one would be seen at 3 at night and not before."""
    said = ""
    for file in CASES:
        (tmp_path / file.name).write_text(yaml.safe_dump(as_alert_tests(yaml.safe_load(file.read_text()))))
        said += run("promtool", "test", "rules", tmp_path / file.name).stderr
    summaries = re.findall(r'summary="((?:[^"\\]|\\.)*)"', said)
    assert all(any(part in text for text in summaries) for part in EXPECTED_TEXTS), "\n".join(sorted(set(summaries)))
    assert not re.search(r"\{\{|error expanding|<no value>|NaN|%!", said)


EXPECTED_TEXTS = (
    "8% of the calls of the last hour failed by the service's fault",
    "3.5% of the calls of the last six hours failed",
    "2% of the forecasts are refused: the queue is full",
    "25% of the forecasts are refused: the service is overloaded",
    "a began anew 3 times in half an hour",
    "b began anew 3 times in half an hour",
    "a holds 900MiB of the 1 GiB that it is allowed",
    "A model version could not be opened (IntegrityError)",
    "The registry last answered 11m 0s ago",
    "60 models were closed in half an hour",
    "360 requests in an hour were refused for their readings",
    "virtual-population version worse is worse than repeating the last reading, 30 minutes ahead (skill -6.667%)",
    "84% of the truths lie in the 90 % interval of virtual-population version narrow, 30 minutes ahead",
    "60% of the lows came without an alarm (virtual-population version blind)",
)


def test_the_alert_on_memory_knows_the_limit_that_the_service_is_given():
    written = re.search(r"> 0\.85 \* 1024 \^ 3", ALERTS["GlucastMemoryHigh"]["expr"])
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]["inference"]
    deployment = next(
        part
        for part in yaml.safe_load_all((ROOT / "deploy/k8s/inference/deployment.yaml").read_text())
        if part["kind"] == "Deployment"
    )
    pod = deployment["spec"]["template"]["spec"]
    limits = [compose["deploy"]["resources"]["limits"], *(c["resources"]["limits"] for c in pod["containers"])]
    assert written
    assert {in_bytes(limit["memory"]) for limit in limits} == {1 << 30}


def in_bytes(size: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(\w+)", size).groups()
    return int(number) * BYTES[unit]


# --- who is told


def test_nobody_is_told_until_somebody_is_named_and_each_severity_has_its_receiver():
    told = yaml.safe_load((ROOT / "deploy" / "alertmanager" / "alertmanager.yml").read_text())
    assert all(set(receiver) == {"name"} for receiver in told["receivers"])
    assert {route["matchers"][0] for route in told["route"]["routes"]} == {
        f'severity="{severity}"' for severity in {alert["labels"]["severity"] for alert in ALERTS.values()}
    }


def test_inhibitions_name_alerts_that_exist():
    told = yaml.safe_load((ROOT / "deploy" / "alertmanager" / "alertmanager.yml").read_text())
    matchers = [m for rule in told["inhibit_rules"] for m in (*rule["source_matchers"], *rule["target_matchers"])]
    named = {name for matcher in matchers for name in re.search(r'"(.+)"', matcher)[1].split("|")}
    assert named <= set(ALERTS)


def test_what_is_down_is_silent_about_the_rest():
    told = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"
    (rule,) = [r for r in yaml.safe_load(told.read_text())["inhibit_rules"] if "GlucastDown" in r["source_matchers"][0]]
    assert rule["equal"] == ["service"]
    others = [alert for alert in ALERTS.values() if alert["labels"]["service"] == "glucast"]
    assert ALERTS["GlucastDown"] in others
    assert ALERTS["GlucastMonitoringBroken"] not in others


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ("severity=critical service=glucast", "page"),
        ("severity=warning service=glucast", "ticket"),
        ("service=glucast", "nobody"),
    ],
)
def test_alerts_go_where_their_severity_says(labels, receiver):
    config = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"
    assert (
        run("amtool", "config", "routes", "test", f"--config.file={config}", *labels.split()).stdout == f"{receiver}\n"
    )
