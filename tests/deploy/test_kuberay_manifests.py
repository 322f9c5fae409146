"""The KubeRay manifests say only what Kubernetes and KubeRay know, are locked down, and agree with the repository.

What is checked by what, without a Kubernetes cluster:

- NetworkPolicy, PersistentVolumeClaim and every pod template inside the Ray kinds: by Kubernetes' own OpenAPI, in the
  strict form that refuses unknown fields (package kubernetes-validate).
- The fields that RayCluster and RayJob add: by kuberay_schema.json, written from the field reference of a named KubeRay
  release. It is not KubeRay's CRD, which no package carries; `source` in the file says where each fact is from.
- What neither knows, because any key is allowed there: rayStartParams by the options of the installed `ray start`;
  labels, claims, images, variables and the command by what they have to agree with.

Nothing here shows that a pod starts.
"""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from functools import reduce
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from packaging.requirements import Requirement
from referencing import Registry, Resource

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "k8s"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
KUBERNETES = "1.34"  # not the newest: what it knows, newer ones know too
ANY_KEY = {"rayStartParams", "clusterSelector", "matchLabels", "requests", "limits"}  # maps whose keys are not fields


# ---------------------------------------------------------------- schemas


def kubernetes_schema() -> dict[str, Any]:
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{KUBERNETES}.0-local-strict"
    return json.loads((folder / "_definitions.json").read_text())


def kinds(schema: dict[str, Any]) -> dict[tuple[str, str], str]:
    """(apiVersion, kind) → where its schema is, as Kubernetes marks it."""
    return {
        (f"{kind['group']}/{kind['version']}".lstrip("/"), kind["kind"]): f"{schema['$id']}#/$defs/{name}"
        for name, definition in schema["$defs"].items()
        for kind in definition.get("x-kubernetes-group-version-kind", [])
    }


CORE = kubernetes_schema()
KUBERAY = json.loads(Path(__file__).with_name("kuberay_schema.json").read_text())
REGISTRY: Registry = [Resource.from_contents(CORE), Resource.from_contents(KUBERAY)] @ Registry()
SCHEMAS = kinds(CORE) | {("ray.io/v1", kind): f"{KUBERAY['$id']}#/$defs/{kind}" for kind in ("RayCluster", "RayJob")}


def problems(manifest: dict[str, Any]) -> list[str]:
    """What Kubernetes or KubeRay would refuse, and where; empty for a valid manifest."""
    kind = (manifest.get("apiVersion"), manifest.get("kind"))
    if kind not in SCHEMAS:
        return [f"neither Kubernetes {KUBERNETES} nor KubeRay knows {kind}"]
    validator = Draft202012Validator({"$ref": SCHEMAS[kind]}, registry=REGISTRY)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]


# ---------------------------------------------------------------- manifests


def read(path: Path) -> dict[str, Any]:
    """A manifest, written out: parts that an anchor shares become parts of their own."""
    return json.loads(json.dumps(yaml.safe_load(path.read_text())))


def at(manifest: Any, path: str) -> Any:
    """The part at a path like `spec containers 0 image`: blanks, since labels have dots and slashes."""
    return reduce(lambda part, key: part[int(key) if isinstance(part, list) else key], path.split(), manifest)


def changed(name: str, path: str, value: Any) -> dict[str, Any]:
    """A copy of a manifest with another value at one place."""
    manifest = deepcopy(MANIFESTS[name])
    parent, _, key = path.rpartition(" ")
    at(manifest, parent)[key] = value
    return manifest


def misspelt(name: str, path: str, typo: str) -> dict[str, Any]:
    """A copy of a manifest with another name for one field."""
    manifest = deepcopy(MANIFESTS[name])
    parent, _, key = path.rpartition(" ")
    holder = at(manifest, parent)
    holder[typo] = holder.pop(key)
    return manifest


def fields(part: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The path of every field whose name is not ours to choose."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
        if isinstance(part, dict) and not ANY_KEY & set(path[-1:]):
            yield " ".join((*path, key))
        yield from fields(value, (*path, str(key)))


KUSTOMIZATION = read(FOLDER / "kustomization.yaml")
MANIFESTS = {path.name: read(path) for path in sorted(FOLDER.glob("*.yaml")) if path.name != "kustomization.yaml"}
CLUSTER, JOB = MANIFESTS["raycluster.yaml"], MANIFESTS["rayjob.yaml"]
HEAD, WORKERS = CLUSTER["spec"]["headGroupSpec"], CLUSTER["spec"]["workerGroupSpecs"]
PORTS = {port["name"]: port["containerPort"] for port in HEAD["template"]["spec"]["containers"][0]["ports"]}
GROUPS = {"head": HEAD} | {group["groupName"]: group for group in WORKERS}
PODS = {name: group["template"]["spec"] for name, group in GROUPS.items()}
PODS["submitter"] = JOB["spec"]["submitterPodTemplate"]["spec"]
CONTAINERS = [
    pytest.param(pod, container, id=f"{name}/{container['name']}")
    for name, pod in PODS.items()
    for container in pod.get("initContainers", []) + pod["containers"]
]


def gibibytes(quantity: str) -> int:
    assert quantity.endswith("Gi"), quantity
    return int(quantity.removesuffix("Gi")) * 2**30


# ---------------------------------------------------------------- valid, and no typo gets through


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_is_valid(name):
    assert problems(MANIFESTS[name]) == []


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_misspelt_field_is_refused(name):
    paths = list(fields(MANIFESTS[name]))
    assert {"apiVersion", "spec", "metadata name"} <= set(paths)
    assert [path for path in paths if not problems(misspelt(name, path, path.split()[-1] + "e"))] == []


@pytest.mark.parametrize(
    ("name", "path", "typo"),
    [
        ("raycluster.yaml", "spec authOptions", "authOption"),
        ("raycluster.yaml", "spec rayVersion", "rayversion"),
        ("raycluster.yaml", "spec workerGroupSpecs 1 replicas", "replica"),
        ("raycluster.yaml", "spec headGroupSpec template spec containers 0 image", "imagee"),
        ("raycluster.yaml", "spec headGroupSpec template spec securityContext runAsNonRoot", "runAsNonroot"),
        ("rayjob.yaml", "spec submitterPodTemplate", "submitterPod"),
        ("rayjob.yaml", "spec clusterSelector ray.io/cluster", "ray.io/name"),
        ("networkpolicy.yaml", "spec ingress 0 from", "form"),
        ("storage.yaml", "spec accessModes", "accessMode"),
    ],
)
def test_a_misspelt_field_is_refused(name, path, typo):
    assert problems(misspelt(name, path, typo))


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("raycluster.yaml", "kind", "RayClusters"),
        ("raycluster.yaml", "apiVersion", "ray.io/v2"),
        ("raycluster.yaml", "spec authOptions mode", "tokens"),
        ("raycluster.yaml", "spec headGroupSpec rayStartParams num-cpus", 0),
        ("raycluster.yaml", "spec workerGroupSpecs 0 replicas", "2"),
        ("raycluster.yaml", "spec headGroupSpec template spec containers 0 ports 0 containerPort", "gcs"),
        ("rayjob.yaml", "spec submissionMode", "K8sJob"),
        ("rayjob.yaml", "spec backoffLimit", 2),
        ("rayjob.yaml", "spec ttlSecondsAfterFinished", 600),
        ("storage.yaml", "spec accessModes", "ReadWriteMany"),
    ],
)
def test_a_wrong_value_is_refused(name, path, value):
    assert problems(changed(name, path, value))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray's own modules
def test_ray_start_knows_the_parameters():
    from ray.scripts.scripts import start

    options = {option for parameter in start.params for option in parameter.opts}
    assert {f"--{name}" for group in GROUPS.values() for name in group["rayStartParams"]} <= options


# ---------------------------------------------------------------- locked down


def test_who_comes_without_the_token_is_refused():
    assert CLUSTER["spec"]["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize(("pod", "container"), CONTAINERS)
def test_no_container_is_root_or_can_become_it(pod, container):
    rights = pod["securityContext"] | container["securityContext"]
    assert rights["runAsNonRoot"] is True
    assert rights["runAsUser"] > 0
    assert rights["allowPrivilegeEscalation"] is False
    assert rights["capabilities"] == {"drop": ["ALL"]}
    assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not rights.get("privileged")


@pytest.mark.parametrize(("pod", "container"), CONTAINERS)
def test_a_container_writes_only_to_its_mounts(pod, container):
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    home = next(variable["value"] for variable in container["env"] if variable["name"] == "HOME")
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {"/tmp", home} <= mounts
    assert {key for volume in pod["volumes"] for key in volume} <= {"name", "emptyDir", "persistentVolumeClaim"}


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_a_pod_reaches_neither_its_machine_nor_the_kubernetes_api(pod):
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & set(pod)


@pytest.mark.parametrize(("pod", "container"), CONTAINERS)
def test_a_container_cannot_take_more_than_it_asked_for(pod, container):
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    assert {"cpu", "memory"} <= set(requests) == set(limits) <= {"cpu", "memory", "nvidia.com/gpu"}
    assert requests["memory"] == limits["memory"]


def test_from_other_namespaces_only_the_operator_comes_in_and_only_to_the_dashboard():
    within, operator = MANIFESTS["networkpolicy.yaml"]["spec"]["ingress"]
    assert within == {"from": [{"podSelector": {}}]}
    assert [peer["podSelector"]["matchLabels"] for peer in operator["from"]] == [
        {"app.kubernetes.io/component": "kuberay-operator"}
    ]
    assert [port["port"] for port in operator["ports"]] == [PORTS["dashboard"]]


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
    shm = next(volume["emptyDir"] for volume in PODS[name]["volumes"] if volume["name"] == "shm")
    assert shm["medium"] == "Memory"
    assert int(GROUPS[name]["rayStartParams"]["object-store-memory"]) <= gibibytes(shm["sizeLimit"])
    assert "/dev/shm" in {mount["mountPath"] for mount in PODS[name]["containers"][0]["volumeMounts"]}


def test_job_and_network_rule_name_the_cluster():
    label = {"ray.io/cluster": CLUSTER["metadata"]["name"]}
    assert JOB["spec"]["clusterSelector"] == label
    assert MANIFESTS["networkpolicy.yaml"]["spec"]["podSelector"] == {"matchLabels": label}


def test_head_and_workers_share_the_folder_that_runs_go_to():
    claim = MANIFESTS["storage.yaml"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for name in GROUPS:
        mounts = {mount["name"]: mount["mountPath"] for mount in PODS[name]["containers"][0]["volumeMounts"]}
        claims = {v["name"]: v["persistentVolumeClaim"] for v in PODS[name]["volumes"] if "persistentVolumeClaim" in v}
        assert claims == {"runs": {"claimName": claim["metadata"]["name"]}}
        assert {"name": "GLUCAST_RUNS", "value": mounts["runs"]} in PODS[name]["containers"][0]["env"]


def test_kustomization_lists_all_but_the_job():
    assert set(KUSTOMIZATION["resources"]) == set(MANIFESTS) - {"rayjob.yaml"}


# ---------------------------------------------------------------- agrees with the repository


def test_ray_is_the_one_that_pyproject_pins():
    needed = map(Requirement, PROJECT["optional-dependencies"]["train"])
    pins = [pin.version for requirement in needed if requirement.name == "ray" for pin in requirement.specifier]
    assert pins == [CLUSTER["spec"]["rayVersion"]]


def test_every_container_runs_the_image_of_this_version():
    images = {container["image"] for pod in PODS.values() for container in pod["containers"]}
    assert images == {f"glucast/trainer:{PROJECT['version']}"}


def test_the_command_of_the_job_is_ours():
    *command, run_file = shlex.split(JOB["spec"]["entrypoint"])
    assert command == ["python", "-m", "trainer", "sweep"]
    assert (ROOT / run_file).parent == ROOT / "trainer" / "runs"
    assert (ROOT / run_file).is_file()


def test_the_trainer_reads_the_variables_that_are_set():
    known = set(re.findall(r'envvar="(\w+)"', (ROOT / "trainer" / "options.py").read_text()))
    names = {variable["name"] for name in GROUPS for variable in PODS[name]["containers"][0]["env"]}
    assert names - {"HOME", "RAY_USAGE_STATS_ENABLED"} <= known
