"""The manifests of the service and of the registry agree with each other, with the code and with MLflow.

Each fact that stands in two places is compared: variables and settings, ports and probes, selectors and pods, times,
the autoscaler's metric and the series that is exported. MLflow itself is started with the manifest's own command.
"""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
import yaml

from services import serving
from services.inference.settings import PREFIX, Settings
from services.inference.telemetry import Telemetry
from services.inference.workers import SLACK
from tests.deploy.manifests import ADAPTER, FILES, MANIFESTS, PODS, ROOT, selected, variables

INFERENCE, MLFLOW = PODS["glucast-inference"], PODS["mlflow"]
SERVICE, REGISTRY = INFERENCE.containers[0], MLFLOW.containers[0]
AUTOSCALER = MANIFESTS["HorizontalPodAutoscaler/glucast-inference"]["spec"]
SERVICES = {name: m["spec"] for name, m in MANIFESTS.items() if m["kind"] == "Service"}
RULES = {name: m["spec"] for name, m in MANIFESTS.items() if m["kind"] == "NetworkPolicy"}
ADAPTER_RULE = FILES[ADAPTER][0]["rules"]["custom"][0]
GIVEN = {name: value for name, value in variables(SERVICE).items() if name.startswith(PREFIX)}
REGISTRY_SCRIPT = ROOT / "deploy" / "images" / "registry.py"  # the entry point of its image


def settings():
    """The settings that the pods would have, but for the secret, whose file is not here."""
    given = {name.removeprefix(PREFIX).lower(): value for name, value in GIVEN.items()}
    return Settings(**{name: value for name, value in given.items() if name != "id_secret_file"})


def ports_of(rule):
    return {port["port"] for port in rule["ports"]}


# ---------------------------------------------------------------- the service


def test_the_service_has_a_setting_for_every_variable():
    assert {name.removeprefix(PREFIX).lower() for name in GIVEN} <= set(Settings.model_fields)
    assert settings().host == "0.0.0.0"


def test_the_ports_are_those_of_the_settings():
    assert INFERENCE.ports == {"grpc": settings().port, "metrics": settings().metrics_port}


def test_pods_live_by_the_empty_name_and_are_ready_by_the_one_that_has_a_model():
    port = INFERENCE.ports["grpc"]
    assert SERVICE["startupProbe"]["grpc"] == SERVICE["livenessProbe"]["grpc"] == {"port": port}
    assert SERVICE["readinessProbe"]["grpc"] == {"port": port, "service": serving.READY}


def test_prometheus_is_told_where_the_metrics_are():
    annotations = MANIFESTS["Deployment/glucast-inference"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "true"
    assert annotations["prometheus.io/port"] == str(INFERENCE.ports["metrics"])


def test_a_pod_may_drain_before_it_is_killed():
    ending = settings().pause_seconds + serving.TAKE_IN_SECONDS + settings().drain_seconds
    assert settings().pause_seconds > 0
    assert INFERENCE.spec["terminationGracePeriodSeconds"] > ending + SLACK


def test_secret_and_cache_lie_where_the_settings_say():
    mounts = {mount["mountPath"]: mount["name"] for mount in SERVICE["volumeMounts"]}
    folder, _, key = GIVEN["GLUCAST_ID_SECRET_FILE"].rpartition("/")
    volumes = {volume["name"]: volume for volume in INFERENCE.spec["volumes"]}
    assert key == "id_secret"  # as the command in docs/kubernetes.md makes it
    assert volumes[mounts[folder]]["secret"] == {"secretName": "glucast-inference", "defaultMode": 0o440}
    assert "emptyDir" in volumes[mounts[GIVEN["GLUCAST_CACHE"]]]


def test_the_networks_that_are_kept_fit_the_memory():
    limit = SERVICE["resources"]["limits"]["memory"]
    assert limit == "1Gi"
    assert settings().memory_mb + 300 <= 1024  # MB; the process itself has about 160


def test_an_update_takes_no_pod_away_before_the_new_one_is_ready():
    update = MANIFESTS["Deployment/glucast-inference"]["spec"]["strategy"]["rollingUpdate"]
    assert (update["maxUnavailable"], update["maxSurge"]) == (0, 1)


# ---------------------------------------------------------------- selectors, ports and walls


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_leads_to_the_pods_that_have_its_port(name):
    pods = selected({"matchLabels": SERVICES[name]["selector"]})
    assert pods == ({"mlflow"} if name == "Service/mlflow" else {"glucast-inference"})
    for port in SERVICES[name]["ports"]:
        assert all(PODS[pod].ports[port["targetPort"]] == port["port"] for pod in pods)


def test_one_name_gives_all_pods_and_one_gives_one_address():
    assert SERVICES["Service/glucast-inference-headless"]["clusterIP"] == "None"
    assert "clusterIP" not in SERVICES["Service/glucast-inference"]


@pytest.mark.parametrize(
    "selector",
    [
        MANIFESTS["Deployment/glucast-inference"]["spec"]["selector"],
        MANIFESTS["PodDisruptionBudget/glucast-inference"]["spec"]["selector"],
        RULES["NetworkPolicy/glucast-inference"]["podSelector"],
        *(spread["labelSelector"] for spread in INFERENCE.spec["topologySpreadConstraints"]),
    ],
)
def test_selectors_mean_the_pods_of_the_service(selector):
    assert selected(selector) == {"glucast-inference"}


@pytest.mark.parametrize(
    "selector",
    [MANIFESTS["Deployment/mlflow"]["spec"]["selector"], RULES["NetworkPolicy/mlflow"]["podSelector"]],
)
def test_selectors_mean_the_pod_of_the_registry(selector):
    assert selected(selector) == {"mlflow"}


def test_the_service_is_asked_by_labelled_pods_and_scraped_from_the_monitoring_namespace():
    clients, monitoring = RULES["NetworkPolicy/glucast-inference"]["ingress"]
    assert clients["from"] == [{"podSelector": {"matchLabels": {"glucast-client": "true"}}}]
    assert ports_of(clients) == {INFERENCE.ports["grpc"]}
    namespace = {"kubernetes.io/metadata.name": "monitoring"}
    assert monitoring["from"] == [{"namespaceSelector": {"matchLabels": namespace}}]
    assert ports_of(monitoring) == {INFERENCE.ports["metrics"]}


def test_the_service_reaches_the_registry_and_names_and_nothing_else():
    rule = RULES["NetworkPolicy/glucast-inference"]
    registry, names = rule["egress"]
    assert "Egress" in rule["policyTypes"]
    assert [selected(peer["podSelector"]) for peer in registry["to"]] == [{"mlflow"}]
    assert ports_of(registry) == set(MLFLOW.ports.values())
    assert ports_of(names) == {53}


def test_the_registry_is_reached_by_the_service_and_the_ray_cluster_and_calls_nobody():
    rule = RULES["NetworkPolicy/mlflow"]
    (users,) = rule["ingress"]
    assert set().union(*(selected(peer["podSelector"]) for peer in users["from"])) == {
        pod
        for pod, what in PODS.items()
        if set(variables(what.containers[0])) & {"GLUCAST_REGISTRY", "MLFLOW_TRACKING_URI"}
    }
    assert ports_of(users) == set(MLFLOW.ports.values())
    assert ("Egress" in rule["policyTypes"], rule["egress"]) == (True, [])


# ---------------------------------------------------------------- scaling


def test_the_budget_leaves_a_pod_of_the_fewest():
    budget = MANIFESTS["PodDisruptionBudget/glucast-inference"]["spec"]
    assert AUTOSCALER["minReplicas"] > budget["maxUnavailable"]
    assert "replicas" not in MANIFESTS["Deployment/glucast-inference"]["spec"], "applying would undo the autoscaler"


def test_the_autoscaler_scales_the_service():
    target = AUTOSCALER["scaleTargetRef"]
    assert f"{target['kind']}/{target['name']}" in MANIFESTS
    assert [metric["type"] for metric in AUTOSCALER["metrics"]] == ["Pods", "Resource"]


def test_the_autoscalers_metric_is_made_from_a_series_that_is_exported():
    (histogram,) = Telemetry().queue_seconds.describe()
    series = f"{histogram.name}_bucket"
    assert ADAPTER_RULE["seriesQuery"].partition("{")[0] == series
    assert re.fullmatch(ADAPTER_RULE["name"]["matches"], series)
    assert AUTOSCALER["metrics"][0]["pods"]["metric"] == {"name": ADAPTER_RULE["name"]["as"]}


def test_pods_leave_more_slowly_than_clients_learn_of_them():
    age = dict(serving.OPTIONS)["grpc.max_connection_age_ms"] / 1000
    assert AUTOSCALER["behavior"]["scaleDown"]["stabilizationWindowSeconds"] > age


def test_the_query_gives_the_percentile_of_each_pod_and_zero_for_an_idle_one(tmp_path):
    """Two models of one pod count together; of 100 forecasts a second 98 wait up to 10 ms and two up to 100 ms."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on PATH; it comes with Debian's prometheus")
    query = ADAPTER_RULE["metricsQuery"]
    for placeholder, value in {
        "<<.Series>>": "glucose_infer_queue_seconds_bucket",
        "<<.LabelMatchers>>": 'namespace="glucast",pod=~"busy|idle"',
        "<<.GroupBy>>": "pod",
    }.items():
        query = query.replace(placeholder, value)
    assert "<<" not in query

    def series(pod, le, a_minute, name="virtual-population", namespace="glucast"):
        labels = {"namespace": namespace, "pod": pod, "le": le, "name": name, "version": "1"}
        text = ",".join(f'{key}="{value}"' for key, value in labels.items())
        return {"series": f"glucose_infer_queue_seconds_bucket{{{text}}}", "values": f"0+{a_minute}x10"}

    counts = {"0.01": 49, "0.1": 50, "+Inf": 50}
    busy = [series("busy", le, n, name) for le, n in counts.items() for name in ("virtual-population", "personal")]
    idle = [series("idle", le, 0) for le in counts]
    other = [series("busy", le, 0, namespace="other") for le in counts]
    (tmp_path / "rules.yml").write_text(
        yaml.safe_dump({"groups": [{"name": "adapter", "rules": [{"record": "wanted:p99", "expr": query}]}]})
    )
    expected = [{"labels": 'wanted:p99{pod="busy"}', "value": 0.055}, {"labels": 'wanted:p99{pod="idle"}', "value": 0}]
    (tmp_path / "test.yml").write_text(
        yaml.safe_dump(
            {
                "rule_files": ["rules.yml"],
                "tests": [
                    {
                        "interval": "1m",
                        "input_series": busy + idle + other,
                        "promql_expr_test": [
                            {"expr": "round(wanted:p99, 0.001)", "eval_time": "10m", "exp_samples": rounded(expected)}
                        ],
                    }
                ],
            }
        )
    )
    done = subprocess.run([promtool, "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def rounded(samples):
    """As round() gives them: without the name."""
    return [sample | {"labels": sample["labels"].removeprefix("wanted:p99")} for sample in samples]


# ---------------------------------------------------------------- the registry


def test_service_and_trainer_know_the_registry_by_the_name_that_it_answers_to():
    address = f"mlflow:{MLFLOW.ports['http']}"
    assert GIVEN["GLUCAST_REGISTRY"] == f"http://{address}"
    uris = {variables(PODS[name].containers[0]).get("MLFLOW_TRACKING_URI") for name in ("head", "cpu-workers")}
    assert uris == {f"http://{address}"}
    assert address in variables(REGISTRY)["REGISTRY_ALLOWED_HOSTS"].split(",")
    assert f'"0.0.0.0:{MLFLOW.ports["http"]}"' in REGISTRY_SCRIPT.read_text()  # where it listens


def test_there_is_never_a_second_server_on_the_database():
    spec = MANIFESTS["Deployment/mlflow"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_database_and_files_lie_on_the_volume():
    mounts = {mount["name"]: mount["mountPath"] for mount in REGISTRY["volumeMounts"]}
    claims = {v["name"]: v["persistentVolumeClaim"] for v in MLFLOW.spec["volumes"] if "persistentVolumeClaim" in v}
    assert claims == {
        "registry": {"claimName": MANIFESTS["PersistentVolumeClaim/glucast-registry"]["metadata"]["name"]}
    }
    assert f'FOLDER = "{mounts["registry"]}"' in REGISTRY_SCRIPT.read_text()


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """MLflow, started as the manifest does but for where it listens and keeps things: its address and its log."""
    folder = tmp_path_factory.mktemp("registry")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log"
    here = {"REGISTRY_ADDRESS": f"127.0.0.1:{port}", "REGISTRY_STORE": f"sqlite:///{folder}/mlflow.db"}
    here |= {"REGISTRY_ARTIFACTS": f"{folder}/artifacts", "HOME": str(folder), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, str(REGISTRY_SCRIPT), *REGISTRY["args"]]
    with log.open("w") as out:
        server = subprocess.Popen(
            command, cwd=folder, env=variables(REGISTRY) | here, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        end = time.monotonic() + 120
        while answer(f"http://127.0.0.1:{port}/health") != 200:
            if server.poll() is not None or time.monotonic() > end:
                pytest.fail(log.read_text())
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", log
    finally:
        server.terminate()
        assert server.wait(30) is not None


def answer(url, host=None, body=None):
    """The HTTP status; None where nobody listens."""
    headers = {"Host": host} if host else {}
    data = None if body is None else json.dumps(body).encode()
    try:
        request = urllib.request.Request(url, data, headers | {"Content-Type": "application/json"})
        return urllib.request.urlopen(request, timeout=30).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


@pytest.mark.parametrize(
    ("host", "expected"),
    [("mlflow:5000", 200), ("localhost:5000", 200), ("mlflow.elsewhere:5000", 403), ("10.0.0.1:5000", 403)],
)
def test_the_registry_answers_to_its_names_alone(registry, host, expected):
    assert answer(f"{registry[0]}/api/2.0/mlflow/registered-models/search", host) == expected


def test_kubernetes_may_ask_for_its_health_by_the_address_of_the_pod(registry):
    paths = {REGISTRY[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert [answer(f"{registry[0]}{path}", "10.0.0.1:5000") for path in paths] == [200]


def test_the_log_of_the_registry_holds_no_name_of_a_model(registry):
    url, log = registry
    name, api = "virtual-patient007", f"{url}/api/2.0/mlflow"
    assert answer(f"{api}/registered-models/create", "mlflow:5000", {"name": name}) == 200
    assert answer(f"{api}/registered-models/create", "mlflow:5000", {"name": name}) == 400
    assert answer(f"{api}/registered-models/get?name={name}", "mlflow:5000") == 200
    assert answer(f"{api}/registered-models/alias?name={name}&alias=champion", "mlflow:5000") == 400
    assert answer(f"{url}/api/2.0/mlflow-artifacts/artifacts/{name}/model.onnx", "mlflow:5000") == 404
    assert answer(f"{api}/registered-models/get?name={name}", "elsewhere") == 403
    assert "elsewhere" in log.read_text(), "the log is read before it is written"
    assert name not in log.read_text()
