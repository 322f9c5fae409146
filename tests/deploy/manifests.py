"""The Kubernetes manifests of deploy/k8s, read once, and what Kubernetes and KubeRay know."""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import reduce
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "k8s"
ADAPTER = "inference/prometheus-adapter-values.yaml"  # what Helm is told: no manifest
KUBERNETES = "1.34"  # not the newest: what it knows, newer ones know too
ANY_KEY = {  # maps whose keys are not fields
    "rayStartParams",
    "clusterSelector",
    "matchLabels",
    "labels",
    "annotations",
    "requests",
    "limits",
}
Manifest = dict[str, Any]


# ---------------------------------------------------------------- schemas


def _kubernetes_schema() -> dict[str, Any]:
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{KUBERNETES}.0-local-strict"
    return json.loads((folder / "_definitions.json").read_text())


def _kinds(schema: dict[str, Any]) -> dict[tuple[str, str], str]:
    """(apiVersion, kind) → where its schema is, as Kubernetes marks it."""
    return {
        (f"{kind['group']}/{kind['version']}".lstrip("/"), kind["kind"]): f"{schema['$id']}#/$defs/{name}"
        for name, definition in schema["$defs"].items()
        for kind in definition.get("x-kubernetes-group-version-kind", [])
    }


CORE = _kubernetes_schema()
KUBERAY = json.loads(Path(__file__).with_name("kuberay_schema.json").read_text())
REGISTRY: Registry = [Resource.from_contents(CORE), Resource.from_contents(KUBERAY)] @ Registry()
SCHEMAS = _kinds(CORE) | {("ray.io/v1", kind): f"{KUBERAY['$id']}#/$defs/{kind}" for kind in ("RayCluster", "RayJob")}


def problems(manifest: Manifest) -> list[str]:
    """What Kubernetes or KubeRay would refuse, and where; empty for a valid manifest."""
    kind = (manifest.get("apiVersion"), manifest.get("kind"))
    if kind not in SCHEMAS:
        return [f"neither Kubernetes {KUBERNETES} nor KubeRay knows {kind}"]
    validator = Draft202012Validator({"$ref": SCHEMAS[kind]}, registry=REGISTRY)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]


# ---------------------------------------------------------------- manifests


def documents(text: str) -> list[Manifest]:
    """The manifests of a file, written out: parts that an anchor shares become parts of their own."""
    return json.loads(json.dumps([document for document in yaml.safe_load_all(text) if document]))


def generated(kustomization: Manifest) -> list[Manifest]:
    """The ConfigMaps that a kustomization makes of pairs, without the hash that kustomize adds to their names."""
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": generator["name"]},
            "data": dict(pair.split("=", 1) for pair in generator["literals"]),
        }
        for generator in kustomization.get("configMapGenerator", [])
    ]


def name_of(manifest: Manifest) -> str:
    """What a manifest is called here: Kind/name."""
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


FILES = {path.relative_to(FOLDER).as_posix(): documents(path.read_text()) for path in sorted(FOLDER.rglob("*.yaml"))}
KUSTOMIZATIONS = {path: parts[0] for path, parts in FILES.items() if path.endswith("kustomization.yaml")}
COMPONENTS = {path: KUSTOMIZATIONS.pop(path) for path, (k, *_) in FILES.items() if k.get("kind") == "Component"}
MANIFESTS_OF = {  # by file; what a kustomization itself makes counts as its own
    path: generated(KUSTOMIZATIONS[path]) if path in KUSTOMIZATIONS else parts
    for path, parts in FILES.items()
    if path != ADAPTER and path not in COMPONENTS
}
MANIFESTS = {name_of(manifest): manifest for parts in MANIFESTS_OF.values() for manifest in parts}


def applied(kustomization: str = "kustomization.yaml") -> list[str]:
    """The files whose manifests a kustomization applies: its own, those it lists, those of the folders it lists."""
    folder = PurePosixPath(kustomization).parent
    paths = [kustomization]
    for resource in KUSTOMIZATIONS[kustomization]["resources"]:
        part = folder / resource
        paths += [part.as_posix()] if part.suffix else applied((part / "kustomization.yaml").as_posix())
    return paths


def at(manifest: Any, path: str) -> Any:
    """The part at a path like `spec containers 0 image`: blanks, since labels have dots and slashes."""
    return reduce(lambda part, key: part[int(key) if isinstance(part, list) else key], path.split(), manifest)


def changed(name: str, path: str, value: Any) -> Manifest:
    """A copy of a manifest with another value at one place."""
    manifest = deepcopy(MANIFESTS[name])
    parent, _, key = path.rpartition(" ")
    at(manifest, parent)[key] = value
    return manifest


def misspelt(name: str, path: str, typo: str) -> Manifest:
    """A copy of a manifest with another name for one field."""
    manifest = deepcopy(MANIFESTS[name])
    parent, _, key = path.rpartition(" ")
    holder = at(manifest, parent)
    holder[typo] = holder.pop(key)
    return manifest


def fields(manifest: Manifest) -> list[str]:
    """The path of every field whose name is not ours to choose."""
    names_are_ours = ANY_KEY | {"Service": {"selector"}, "ConfigMap": {"data"}}.get(manifest["kind"], set())

    def walk(part: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
        for key, value in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
            if isinstance(part, dict) and not names_are_ours & set(path[-1:]):
                yield " ".join((*path, key))
            yield from walk(value, (*path, str(key)))

    return list(walk(manifest))


# ---------------------------------------------------------------- pods


@dataclass(frozen=True)
class Pod:
    """One kind of pod that the manifests ask for. labels: also those that KubeRay adds."""

    name: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        """All of them, also those that run before the others."""
        return self.spec.get("initContainers", []) + self.spec["containers"]

    @property
    def ports(self) -> dict[str, int]:
        """The ports of its containers, by name."""
        return {port["name"]: port["containerPort"] for c in self.containers for port in c.get("ports", [])}


def pods_of(manifest: Manifest) -> Iterator[Pod]:
    """The pods that a manifest asks for."""
    spec, name = manifest.get("spec", {}), manifest["metadata"]["name"]
    if manifest["kind"] == "Deployment":
        yield Pod(name, spec["template"]["metadata"]["labels"], spec["template"]["spec"])
    if manifest["kind"] == "RayCluster":
        groups = {"head": spec["headGroupSpec"]} | {group["groupName"]: group for group in spec["workerGroupSpecs"]}
        for group, parts in groups.items():
            yield Pod(group, {"ray.io/cluster": name}, parts["template"]["spec"])
    if manifest["kind"] == "RayJob":
        yield Pod("submitter", {}, spec["submitterPodTemplate"]["spec"])


PODS = {pod.name: pod for manifest in MANIFESTS.values() for pod in pods_of(manifest)}


def variables(container: dict[str, Any]) -> dict[str, str]:
    """The environment of a container, with what ConfigMaps give."""
    maps = [source["configMapRef"]["name"] for source in container.get("envFrom", [])]
    given = {key: value for name in maps for key, value in MANIFESTS[f"ConfigMap/{name}"]["data"].items()}
    return given | {variable["name"]: variable["value"] for variable in container.get("env", [])}


def selected(selector: dict[str, Any]) -> set[str]:
    """The pods that a label selector means; all for an empty one."""
    wanted = selector.get("matchLabels", {}).items()
    return {name for name, pod in PODS.items() if wanted <= pod.labels.items()}


def gibibytes(quantity: str) -> int:
    """A quantity of whole Gi, in bytes."""
    assert quantity.endswith("Gi"), quantity
    return int(quantity.removesuffix("Gi")) * 2**30
