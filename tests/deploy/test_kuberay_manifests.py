"""The manifests of the training cluster agree with Ray, with each other and with the repository.

What no schema knows, because any key is allowed there: rayStartParams by the options of the installed `ray start`;
labels, claims, variables and the command by what they have to agree with. test_manifests.py has the schemas.
"""

import re
import shlex
import tomllib

import pytest
from packaging.requirements import Requirement

from tests.deploy.manifests import MANIFESTS, PODS, ROOT, gibibytes

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CLUSTER, JOB = MANIFESTS["RayCluster/glucast"], MANIFESTS["RayJob/glucast-sweep"]
RULE, CLAIM = MANIFESTS["NetworkPolicy/glucast"], MANIFESTS["PersistentVolumeClaim/glucast-runs"]
HEAD, WORKERS = CLUSTER["spec"]["headGroupSpec"], CLUSTER["spec"]["workerGroupSpecs"]
GROUPS = {"head": HEAD} | {group["groupName"]: group for group in WORKERS}
PORTS = PODS["head"].ports


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray's own modules
def test_ray_start_knows_the_parameters():
    from ray.scripts.scripts import start

    options = {option for parameter in start.params for option in parameter.opts}
    assert {f"--{name}" for group in GROUPS.values() for name in group["rayStartParams"]} <= options


# ---------------------------------------------------------------- locked down


def test_who_comes_without_the_token_is_refused():
    assert CLUSTER["spec"]["authOptions"] == {"mode": "token"}


def test_from_other_namespaces_come_the_operator_to_the_dashboard_and_prometheus_to_the_metrics():
    within, operator, prometheus = RULE["spec"]["ingress"]
    assert within == {"from": [{"podSelector": {}}]}
    assert [peer["podSelector"]["matchLabels"] for peer in operator["from"]] == [
        {"app.kubernetes.io/component": "kuberay-operator"}
    ]
    assert [port["port"] for port in operator["ports"]] == [PORTS["dashboard"]]
    assert {"podSelector"}.isdisjoint(*prometheus["from"])
    assert [port["port"] for port in prometheus["ports"]] == [PORTS["metrics"]]


# ---------------------------------------------------------------- one cluster that fits its job


def test_head_names_its_ports():
    assert PORTS == {"gcs": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080}


def test_head_takes_no_trials_and_gpu_workers_are_started_by_hand():
    gpu = GROUPS["gpu-workers"]
    assert HEAD["rayStartParams"]["num-cpus"] == "0"
    assert (gpu["replicas"], gpu["minReplicas"]) == (0, 0)
    assert gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1


@pytest.mark.parametrize("name", GROUPS)
def test_the_object_store_fits_its_memory(name):
    shm = next(volume["emptyDir"] for volume in PODS[name].spec["volumes"] if volume["name"] == "shm")
    assert shm["medium"] == "Memory"
    assert int(GROUPS[name]["rayStartParams"]["object-store-memory"]) <= gibibytes(shm["sizeLimit"])
    assert "/dev/shm" in {mount["mountPath"] for mount in PODS[name].containers[0]["volumeMounts"]}


def test_job_and_network_rule_name_the_cluster():
    label = {"ray.io/cluster": CLUSTER["metadata"]["name"]}
    assert JOB["spec"]["clusterSelector"] == label
    assert RULE["spec"]["podSelector"] == {"matchLabels": label}


def test_head_and_workers_share_the_folder_that_runs_go_to():
    assert CLAIM["spec"]["accessModes"] == ["ReadWriteMany"]
    for name in GROUPS:
        mounts = {mount["name"]: mount["mountPath"] for mount in PODS[name].containers[0]["volumeMounts"]}
        claims = {
            v["name"]: v["persistentVolumeClaim"] for v in PODS[name].spec["volumes"] if "persistentVolumeClaim" in v
        }
        assert claims == {"runs": {"claimName": CLAIM["metadata"]["name"]}}
        assert {"name": "GLUCAST_RUNS", "value": mounts["runs"]} in PODS[name].containers[0]["env"]


# ---------------------------------------------------------------- agrees with the repository


def test_ray_is_the_one_that_pyproject_pins():
    needed = map(Requirement, PROJECT["optional-dependencies"]["train"])
    pins = [pin.version for requirement in needed if requirement.name == "ray" for pin in requirement.specifier]
    assert pins == [CLUSTER["spec"]["rayVersion"]]


def test_the_command_of_the_job_is_ours():
    *command, run_file = shlex.split(JOB["spec"]["entrypoint"])
    assert command == ["python", "-m", "trainer", "sweep"]
    assert (ROOT / run_file).parent == ROOT / "trainer" / "runs"
    assert (ROOT / run_file).is_file()


def test_the_trainer_reads_the_variables_that_are_set():
    known = set(re.findall(r'envvar="(\w+)"', (ROOT / "trainer" / "options.py").read_text()))
    names = {variable["name"] for name in GROUPS for variable in PODS[name].containers[0]["env"]}
    assert names - {"HOME", "RAY_USAGE_STATS_ENABLED"} <= known
