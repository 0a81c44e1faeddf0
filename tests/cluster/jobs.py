"""Actions of a user on a cluster: apply manifests, wait, disturb pods, read results."""

import copy
import itertools
import json
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from tests.cluster.api import ApiError, Object
from tests.cluster.clusters import Cluster
from tests.cluster.control_plane import wait_until
from tests.k8s.checks import NAMESPACE
from tests.k8s.cluster import by_name, edited, render

TINY = Path(__file__).parent / "tiny"
_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
_JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
_JOBSETS = f"/apis/jobset.x-k8s.io/v1alpha2/namespaces/{NAMESPACE}/jobsets"
_PATIENCE = 300  # seconds for a job that takes some twenty on a free machine
_CHECKSUMS = """
import hashlib, pathlib, sys
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    print(path.name, hashlib.sha256(path.read_bytes()).hexdigest())
"""
_TRAIN_STEP = re.compile(r"train_step +([0-9,]+):")


class Jobs:
    """The jobs of the namespace.

    Args:
        cluster: with the namespace's jobs.
        directory: for copies of the manifests.
    """

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self._directory = directory
        self._count = itertools.count()

    def overlay(self, *, jobs: Mapping[str, str] = {}, components: Sequence[str] = (), **settings: object) -> str:
        """Writes a copy of the manifests with an overlay of `overlays/local` and the component `tiny`.

        Args:
            jobs: as `edited` takes them.
            components: more components, by the names of their directories.
            settings: values in settings.env.

        Returns:
            The overlay's directory.
        """
        directory = self._directory / str(next(self._count))
        local = Path(edited(directory, "local", jobs=jobs, **settings))
        shutil.copytree(TINY, local.parent.parent / "components" / "tiny")
        name, _, tag = self.cluster.image.rpartition(":")
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": NAMESPACE,
            "resources": ["../local"],
            "components": [f"../../components/{component}" for component in ["tiny", *components]],
            "images": [{"name": "sostenuto", "newName": name, "newTag": tag}],
        }
        overlay = local.with_name("test")
        overlay.mkdir()
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return str(overlay)

    def apply(self, overlay: str, *parts: str) -> str:
        """Applies the parts of an overlay with these values of app.kubernetes.io/component; all if none is given."""
        selector = f"app.kubernetes.io/component in (platform,{','.join(parts)})"
        return self.cluster.kubectl("apply", "-k", overlay, *(["-l", selector] if parts else []))

    def delete_all(self) -> None:
        """Deletes all Jobs and JobSets with their pods, and waits until they are gone."""
        for kind, path in (("jobsets", _JOBSETS), ("jobs", _JOBS)):
            if self._items(path):
                self.cluster.kubectl("delete", kind, "--all", f"--namespace={NAMESPACE}", "--timeout=120s")
        wait_until("pods end", lambda: not [pod for pod in self._items(_PODS) if "ownerReferences" in pod["metadata"]])

    # ---- State ----

    def job(self, name: str) -> Object:
        return self.cluster.api.get(f"{_JOBS}/{name}")

    def ends(self, *names: str) -> list[str]:
        """Waits until Jobs have ended; returns Complete, or the reason of the failure, of each."""
        return [self._end(f"{_JOBS}/{name}") for name in names]

    def jobset_ends(self, name: str) -> str:
        """Waits until a JobSet has ended; returns Completed or the reason of the failure."""
        return self._end(f"{_JOBSETS}/{name}")

    def _end(self, path: str) -> str:
        def ended() -> list[str]:
            conditions = self.cluster.api.get(path)["status"].get("conditions", [])
            return [
                one["type"] if one["type"].startswith("Complete") else one["reason"]
                for one in conditions
                if one["type"] in ("Complete", "Completed", "Failed") and one["status"] == "True"
            ]

        wait_until(f"{path} ends", ended, _PATIENCE, every=1)
        return ended()[0]

    def pods(self, prefix: str) -> list[Object]:
        """The pods whose names begin so, the newest last."""
        pods = [pod for pod in self._items(_PODS) if pod["metadata"]["name"].startswith(prefix)]
        return sorted(pods, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def newest(self, prefix: str) -> str:
        pods = self.pods(prefix)
        return pods[-1]["metadata"]["name"] if pods else ""

    def log(self, pod: str, container: str = "") -> str:
        """The log of a pod's container so far, by default of its main one; empty before it starts."""
        try:
            return self.cluster.api.text(f"{_PODS}/{pod}/log", **({"container": container} if container else {}))
        except ApiError:
            return ""

    def workloads(self) -> list[Object]:
        """Kueue's objects for the jobs."""
        return self._items(f"/apis/kueue.x-k8s.io/v1beta2/namespaces/{NAMESPACE}/workloads")

    def require(self, definition: str) -> None:
        """Skips the test if the cluster lacks a kind of objects."""
        try:
            self.cluster.api.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{definition}")
        except ApiError:
            pytest.skip(f"needs {definition} in the cluster")

    def wait_for_another(self, prefix: str, pods: Collection[str]) -> None:
        """Waits until the newest pod is none of these."""
        wait_until(f"another {prefix}", lambda: self.newest(prefix) not in {"", *pods}, _PATIENCE)

    def wait_for_start(self, prefix: str) -> str:
        """Waits until the newest pod's main container runs; returns the pod's name."""

        def running() -> str:
            pods = [pod for pod in self.pods(prefix)[-1:] if pod["status"]["phase"] == "Running"]
            return pods[0]["metadata"]["name"] if pods else ""

        wait_until(f"{prefix} starts", running, _PATIENCE)
        return running()

    def wait_for_log(self, pod: str, text: str, container: str = "") -> str:
        """Waits until the log of a pod's container has the text; returns the log."""
        wait_until(f"{pod} logs {text!r}", lambda: text in self.log(pod, container), _PATIENCE)
        return self.log(pod, container)

    def wait_for_training(self, prefix: str, train_step: int = 40, *, by: str = "") -> str:
        """Waits until the newest pod has trained that far; returns its name.

        Args:
            prefix: of the pod's name.
            train_step: the one to wait for.
            by: the prefix of the pod that logs the training, if it is another one.
        """

        def trained() -> str:
            pod = self.newest(by or prefix)
            done = [int(match.replace(",", "")) for match in _TRAIN_STEP.findall(self.log(pod))] if pod else []
            return pod if max(done, default=0) >= train_step else ""

        wait_until(f"{prefix} trains", trained, _PATIENCE, every=0.25)
        return self.newest(prefix)

    # ---- Disturbances ----

    def evict(self, pod: str) -> None:
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE}}
        self.cluster.api.post(f"{_PODS}/{pod}/eviction", eviction)

    def delete_pod(self, pod: str) -> None:
        self.cluster.api.delete(f"{_PODS}/{pod}")

    def signal(self, pod: str, number: int) -> None:
        """Sends a signal to process 1 of a pod. Only the stand-in can."""
        (node,) = (node for node in self.cluster.nodes.values() if node.runs(pod))
        node.signal(pod, number)

    # ---- Files ----

    def write_corpus(self, directory: str, *, files: int, notes: int) -> None:
        """Writes that many files of so many notes to DIRECTORY/midi, in a pod."""
        self.run_python((TINY / "write_corpus.py").read_text(), directory, str(files), str(notes))

    def checksums(self, directory: str) -> str:
        """The checksums of a directory's files."""
        return self.run_python(_CHECKSUMS, directory)

    def run_python(self, script: str, *arguments: str) -> str:
        """Runs `python -c SCRIPT ARGUMENTS` in a pod with the volume; returns its output."""
        pod = copy.deepcopy(by_name(render(self.overlay()), "Pod", "files"))
        name = f"python-{next(self._count)}"
        pod["metadata"]["name"] = name
        pod["spec"]["containers"][0]["args"] = ["-c", script.replace("$", "$$"), *arguments]
        self.cluster.api.post(_PODS, pod)
        wait_until(f"pod {name} ends", lambda: self._phase(name) in ("Succeeded", "Failed"), _PATIENCE)
        log, phase = self.log(name), self._phase(name)
        self.delete_pod(name)
        assert phase == "Succeeded", log
        return log

    def losses(self, run: str, store: str = "/store") -> dict[int, float]:
        """The training losses of a run by train_step."""
        lines = self._read(f"{store}/runs/{run}/metrics.jsonl").splitlines()
        return {line["train_step"]: line["loss"] for line in map(json.loads, lines)}

    def scores(self, study: str, store: str = "/store") -> dict[str, float]:
        """The scores of a study's trials, by the hyperparameters that differ."""
        trials = json.loads(self._read(f"{store}/studies/{study}/trials.json"))["trials"]
        return {json.dumps(trial["values"], sort_keys=True): trial["score"] for trial in trials}

    def _read(self, path: str) -> str:
        return self.run_python("import pathlib, sys; sys.stdout.write(pathlib.Path(sys.argv[1]).read_text())", path)

    def _phase(self, pod: str) -> str:
        return self.cluster.api.get(f"{_PODS}/{pod}")["status"].get("phase", "")

    def _items(self, path: str) -> list[Object]:
        try:
            return self.cluster.api.items(path)
        except ApiError:  # no such kind in this cluster
            return []
