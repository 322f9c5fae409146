"""The manifests of deploy/k8s say only what Kubernetes and KubeRay know, are locked down, and are all listed.

What is checked by what, without a Kubernetes cluster:

- Kubernetes' own kinds, and every pod template inside the Ray kinds: by Kubernetes' OpenAPI, in the strict form that
  refuses unknown fields (package kubernetes-validate).
- The fields that RayCluster and RayJob add: by kuberay_schema.json, written from the field reference of a named KubeRay
  release. It is not KubeRay's CRD, which no package carries; `source` in the file says where each fact is from.
- The kustomizations: by a real kubectl where one is on PATH; it talks to no cluster for that.

Nothing here shows that a pod starts.
"""

import os
import re
import shutil
import subprocess
import tomllib

import pytest

from tests.deploy.manifests import (
    ADAPTER,
    COMPONENTS,
    FILES,
    FOLDER,
    KUSTOMIZATIONS,
    MANIFESTS,
    MANIFESTS_OF,
    PODS,
    ROOT,
    applied,
    changed,
    documents,
    fields,
    misspelt,
    name_of,
    problems,
    selected,
    variables,
)

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
UID = 10001  # of the images
STARTED_BY_HAND = {"training/rayjob.yaml"}
CONTAINERS = [
    pytest.param(pod.spec, container, id=f"{name}/{container['name']}")
    for name, pod in PODS.items()
    for container in pod.containers
]
RAY, DEPLOYMENT = "RayCluster/glucast", "Deployment/glucast-inference"
AUTOSCALER = "HorizontalPodAutoscaler/glucast-inference"


# ---------------------------------------------------------------- valid, and no typo gets through


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_is_valid(name):
    assert problems(MANIFESTS[name]) == []


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_misspelt_field_is_refused(name):
    paths = fields(MANIFESTS[name])
    assert {"apiVersion", "metadata name"} <= set(paths)
    assert [path for path in paths if not problems(misspelt(name, path, path.split()[-1] + "e"))] == []


@pytest.mark.parametrize(
    ("name", "path", "typo"),
    [
        (RAY, "spec authOptions", "authOption"),
        (RAY, "spec rayVersion", "rayversion"),
        (RAY, "spec workerGroupSpecs 1 replicas", "replica"),
        (RAY, "spec headGroupSpec template spec containers 0 image", "imagee"),
        (RAY, "spec headGroupSpec template spec securityContext runAsNonRoot", "runAsNonroot"),
        ("RayJob/glucast-sweep", "spec submitterPodTemplate", "submitterPod"),
        ("RayJob/glucast-sweep", "spec clusterSelector ray.io/cluster", "ray.io/name"),
        ("NetworkPolicy/glucast", "spec ingress 0 from", "form"),
        ("NetworkPolicy/glucast-inference", "spec egress 1 ports 0 protocol", "protokol"),
        ("PersistentVolumeClaim/glucast-runs", "spec accessModes", "accessMode"),
        (DEPLOYMENT, "spec template spec containers 0 readinessProbe grpc service", "name"),
        (DEPLOYMENT, "spec template spec terminationGracePeriodSeconds", "terminationGraceSeconds"),
        (AUTOSCALER, "spec metrics 0 pods target averageValue", "value_average"),
        ("PodDisruptionBudget/glucast-inference", "spec maxUnavailable", "maxUnavailble"),
        ("Service/glucast-inference-headless", "spec clusterIP", "clusterIp"),
    ],
)
def test_a_misspelt_field_is_refused(name, path, typo):
    assert problems(misspelt(name, path, typo))


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        (RAY, "kind", "RayClusters"),
        (RAY, "apiVersion", "ray.io/v2"),
        (RAY, "spec authOptions mode", "tokens"),
        (RAY, "spec headGroupSpec rayStartParams num-cpus", 0),
        (RAY, "spec workerGroupSpecs 0 replicas", "2"),
        (RAY, "spec headGroupSpec template spec containers 0 ports 0 containerPort", "gcs"),
        ("RayJob/glucast-sweep", "spec submissionMode", "K8sJob"),
        ("RayJob/glucast-sweep", "spec backoffLimit", 2),
        ("RayJob/glucast-sweep", "spec ttlSecondsAfterFinished", 600),
        ("PersistentVolumeClaim/glucast-runs", "spec accessModes", "ReadWriteMany"),
        (DEPLOYMENT, "spec template spec containers 0 env 0 value", 8),
        (DEPLOYMENT, "spec template spec containers 0 livenessProbe grpc port", "grpc"),
        (AUTOSCALER, "apiVersion", "autoscaling/v2beta2"),
        ("ConfigMap/glucast-inference", "data GLUCAST_NAMESPACE", True),
    ],
)
def test_a_wrong_value_is_refused(name, path, value):
    assert problems(changed(name, path, value))


# ---------------------------------------------------------------- locked down


@pytest.mark.parametrize(("pod", "container"), CONTAINERS)
def test_no_container_is_root_or_can_become_it(pod, container):
    rights = pod["securityContext"] | container["securityContext"]
    assert rights["runAsNonRoot"] is True
    assert {rights["runAsUser"], rights["runAsGroup"], rights["fsGroup"]} == {UID}
    assert rights["allowPrivilegeEscalation"] is False
    assert rights["capabilities"] == {"drop": ["ALL"]}
    assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not rights.get("privileged")


@pytest.mark.parametrize(("pod", "container"), CONTAINERS)
def test_a_container_writes_only_to_its_mounts(pod, container):
    mounts = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {"/tmp", variables(container)["HOME"]} <= mounts
    assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}
    kinds = {key for volume in pod["volumes"] for key in volume}
    assert kinds <= {"name", "emptyDir", "persistentVolumeClaim", "secret"}


@pytest.mark.parametrize("pod", [pod.spec for pod in PODS.values()], ids=PODS)
def test_a_pod_reaches_neither_its_machine_nor_the_kubernetes_api(pod):
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & set(pod)


@pytest.mark.parametrize("pod", [pod.spec for pod in PODS.values()], ids=PODS)
def test_no_service_of_the_namespace_becomes_a_variable(pod):
    """A Service `mlflow` would set MLFLOW_PORT=tcp://…, which is an option of MLflow."""
    assert pod["enableServiceLinks"] is False


@pytest.mark.parametrize(("pod", "container"), CONTAINERS)
def test_a_container_cannot_take_more_than_it_asked_for(pod, container):
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    assert {"cpu", "memory"} <= set(requests) == set(limits) <= {"cpu", "memory", "nvidia.com/gpu"}
    assert requests["memory"] == limits["memory"]


@pytest.mark.parametrize("pod", [pod.spec for pod in PODS.values()], ids=PODS)
def test_a_scratch_folder_cannot_fill_its_machine(pod):
    assert all("sizeLimit" in volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume)


def test_the_repository_holds_no_secret():
    assert "Secret" not in {manifest["kind"] for manifest in MANIFESTS.values()}
    assert not any("secretGenerator" in part for part in (KUSTOMIZATIONS | COMPONENTS).values())


def test_every_container_runs_an_image_of_this_version():
    images = {container["image"] for pod in PODS.values() for container in pod.containers}
    assert images == {f"glucast/{name}:{VERSION}" for name in ("inference", "registry", "trainer")}


# ---------------------------------------------------------------- one network


def test_every_pod_but_the_submitter_is_behind_a_network_rule():
    rules = [manifest["spec"] for manifest in MANIFESTS.values() if manifest["kind"] == "NetworkPolicy"]
    assert set().union(*(selected(rule["podSelector"]) for rule in rules)) == set(PODS) - {"submitter"}
    assert all("Ingress" in rule["policyTypes"] for rule in rules)


# ---------------------------------------------------------------- kustomizations


def test_everything_is_applied_once_but_what_is_started_by_hand():
    assert sorted(applied()) == sorted(set(FILES) - STARTED_BY_HAND - set(COMPONENTS) - {ADAPTER})


@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)
def test_kubectl_builds_what_the_files_say(kustomization):
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not on PATH; any version that has `kubectl kustomize` will do")
    done = subprocess.run(
        [kubectl, "kustomize", (FOLDER / kustomization).parent],
        capture_output=True,
        text=True,
        env=os.environ | {"KUBECONFIG": os.devnull},  # no cluster is asked
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [problem for manifest in documents(done.stdout) for problem in problems(manifest)] == []
    built = documents(re.sub(r"\b(glucast-inference)-[a-z0-9]{10}$", r"\1", done.stdout, flags=re.MULTILINE))
    written = [manifest for path in applied(kustomization) for manifest in MANIFESTS_OF[path]]
    assert sorted(built, key=name_of) == sorted(written, key=name_of)


def test_a_changed_setting_is_another_config_map_so_that_pods_are_replaced():
    for kustomization in (KUSTOMIZATIONS | COMPONENTS).values():
        assert not kustomization.get("generatorOptions", {}).get("disableNameSuffixHash")
    assert not any(m.get("kind") == "ConfigMap" for parts in FILES.values() for m in parts)


# ---------------------------------------------------------------- what documents say


def test_documents_and_comments_name_files_that_exist():
    texts = [path.read_text() for path in (ROOT / "docs").glob("*.md")] + [
        p.read_text() for p in FOLDER.rglob("*.yaml")
    ]
    named = {path.rstrip(".") for text in texts for path in re.findall(r"deploy/k8s[\w./-]*", text)}
    assert "deploy/k8s/training/rayjob.yaml" in named
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_the_overlay_of_the_document_changes_image_and_setting(tmp_path):
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not on PATH; any version that has `kubectl kustomize` will do")
    overlay = (ROOT / "docs" / "kubernetes.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    digest = "sha256:" + "0" * 64
    (tmp_path / "mine").mkdir()
    (tmp_path / "glucast").symlink_to(ROOT)
    overlay = overlay.replace("sha256:…", digest)
    (tmp_path / "mine" / "kustomization.yaml").write_text(overlay)
    done = subprocess.run([kubectl, "kustomize", tmp_path / "mine"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"image: registry.example/glucast/inference@{digest}" in done.stdout
    assert "GLUCAST_NAMESPACE: t1d_uom" in done.stdout
