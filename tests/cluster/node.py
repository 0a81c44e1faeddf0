"""A stand-in for a kubelet: a node whose pods are processes of this machine.

It runs the containers of the pods that the scheduler assigns to it, sidecars next to the others, and does what Jobs
depend on: volumes, variables, names of services, termination with grace, exit statuses, heartbeats, logs. It has no
images, no limits of memory, no network policies, no GPUs, no exec and no cp, and does not restart sidecars.
"""

import contextlib
import http.client
import http.server
import os
import re
import shutil
import signal
import ssl
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.cluster.api import Api, ApiError, Object
from tests.cluster.container import Container
from tests.cluster.network import Network, Sandbox
from tests.k8s.cluster import expand

_HEARTBEAT = 3.0  # seconds
_CAPACITY = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "500Gi", "pods": "110"}


class Node:
    """A node of the cluster.

    Args:
        name: of the node.
        api: of the cluster.
        network: of the pods.
        directory: for the pods' files and logs.
        store: the directory that every PersistentVolumeClaim leads to.
        certificate: the certificate and the key of the server of logs.
    """

    def __init__(
        self, name: str, api: Api, network: Network, directory: Path, *, store: Path, certificate: tuple[Path, Path]
    ) -> None:
        self.name = name
        self._api = api
        self._network = network
        self._directory = directory
        self._store = store
        self._pods: dict[str, _Pod] = {}
        self._seen: set[str] = set()
        self._stopped = threading.Event()
        self._server = _log_server(directory, certificate)
        self._threads = [
            threading.Thread(target=target, daemon=True)
            for target in (self._server.serve_forever, self._beat, self._follow)
        ]

    def start(self) -> None:
        labels = {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        self._api.post("/api/v1/nodes", {"metadata": {"name": self.name, "labels": labels}})
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends all pods and all reports at once, as a power cut does."""
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join()
        pods = list(self._pods.values())
        for pod in pods:
            pod.kill()
        for pod in pods:
            pod.join()

    def signal(self, pod: str, number: int) -> None:
        """Sends a signal to process 1 of a pod's running container."""
        (running,) = (one for one in self._pods.values() if one.name == pod)
        running.signal(number)

    def runs(self, pod: str) -> bool:
        return any(one.name == pod for one in self._pods.values())

    def _beat(self) -> None:
        """Reports the node as ready every few seconds."""
        while not self._stopped.is_set():
            time_now = _now()
            ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}
            status = {
                "capacity": _CAPACITY,
                "allocatable": _CAPACITY,
                "conditions": [{**ready, "lastHeartbeatTime": time_now, "lastTransitionTime": time_now}],
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": self._server.server_address[1]}},
            }
            with contextlib.suppress(ApiError, OSError):
                self._api.patch(f"/api/v1/nodes/{self.name}/status", {"status": status})
            self._stopped.wait(_HEARTBEAT)

    def _follow(self) -> None:
        """Starts the pods that are assigned to this node, and ends those that are deleted."""
        while not self._stopped.is_set():
            with contextlib.suppress(ApiError, OSError, http.client.HTTPException):
                for kind, pod in self._api.watch("/api/v1/pods", fieldSelector=f"spec.nodeName={self.name}"):
                    if self._stopped.is_set():
                        return
                    if kind in ("ADDED", "MODIFIED"):
                        self._handle(pod)

    def _handle(self, pod: Object) -> None:
        uid, metadata = pod["metadata"]["uid"], pod["metadata"]
        running = self._pods.get(uid)
        if metadata.get("deletionTimestamp"):
            if running:
                running.terminate(metadata["deletionGracePeriodSeconds"])
            else:
                _remove(self._api, metadata)
        elif uid not in self._seen and pod["status"]["phase"] == "Pending":
            self._seen.add(uid)
            self._pods[uid] = _Pod(pod, self._api, self._network, self._directory, self._store, self._forget)
            self._pods[uid].start()

    def _forget(self, uid: str) -> None:
        self._pods.pop(uid, None)


class _Pod:
    """A pod that runs on the node: sidecars, and the other containers one after another until one fails."""

    def __init__(self, pod: Object, api: Api, network: Network, directory: Path, store: Path, on_end: Any) -> None:
        self.name = pod["metadata"]["name"]
        self._pod = pod
        self._path = _path(pod["metadata"])
        self._api = api
        self._network = network
        self._directory = directory / pod["metadata"]["namespace"] / self.name
        self._store = store
        self._on_end = on_end
        self._lock = threading.Lock()
        self._container: Container | None = None
        self._terminating = False
        self._is_cut_off = False
        self._started = _now()
        containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
        assert len(pod["spec"]["containers"]) == 1, "this node runs one container a pod"
        waiting = {"waiting": {"reason": "PodInitializing"}}
        self._states: dict[str, Object] = {one["name"]: waiting for one in containers}
        self._thread = threading.Thread(target=self._run_containers, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def signal(self, number: int) -> None:
        with self._lock:
            if self._container:
                self._container.signal(number)

    def terminate(self, grace: int) -> None:
        """Sends SIGTERM, and SIGKILL after the grace period."""
        with self._lock:
            if self._terminating:
                return
            self._terminating = True
        self.signal(signal.SIGTERM)
        timer = threading.Timer(grace, self.signal, [signal.SIGKILL])
        timer.daemon = True
        timer.start()

    def kill(self) -> None:
        """Ends the pod without a report."""
        self._is_cut_off = True
        self._terminating = True
        self.signal(signal.SIGKILL)

    def _run_containers(self) -> None:
        spec = self._pod["spec"]
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)
        services = [one for one in self._services() if one["spec"].get("clusterIP") != "None"]
        addresses = {one["metadata"]["name"]: one["spec"]["clusterIP"] for one in services}
        with (
            self._network.sandbox(_names(self._pod, services), addresses) as sandbox,
            contextlib.ExitStack() as sidecars,
        ):
            status = 0
            for container in [*spec.get("initContainers", []), *spec["containers"]]:
                if not status:
                    started = self._start(container, sandbox)
                    if container.get("restartPolicy") == "Always":
                        sidecars.callback(_end, started)
                    else:
                        status = self._wait(container, started)
            sidecars.close()
            self._report("Failed" if status else "Succeeded", sandbox.address)
        if self._terminating and not self._is_cut_off:
            _remove(self._api, self._pod["metadata"])
        self._on_end(self._pod["metadata"]["uid"])

    def _start(self, container: Object, sandbox: Sandbox) -> Container | None:
        """Starts a container, unless the pod is to end."""
        name, user = container["name"], self._pod["spec"]["securityContext"]["runAsUser"]
        environment = self._environment(container, sandbox.address)
        root = self._directory / f"{name}-root"
        root.mkdir()
        with self._lock:
            if self._terminating:
                return None
            started = Container(
                [expand(argument, environment) for argument in container["args"]],
                environment=environment,
                mounts={mount["mountPath"]: self._volume(mount["name"], user) for mount in container["volumeMounts"]},
                hosts=self._network.hosts,
                network=sandbox.namespace,
                user=user,
                directory=root,
                log=self._directory / f"{name}.log",
            )
            if container.get("restartPolicy") != "Always":
                self._container = started
        self._states[name] = {"running": {"startedAt": _now()}}
        is_main = container in self._pod["spec"]["containers"]
        self._report("Running" if is_main else "Pending", sandbox.address)
        return started

    def _wait(self, container: Object, started: Container | None) -> int:
        """Waits for the end of a container; returns its exit status."""
        if started is None:
            return 128 + signal.SIGTERM
        status = started.wait()
        with self._lock:
            self._container = None
        running = self._states[container["name"]]["running"]
        reason = "Error" if status else "Completed"
        ended = {**running, "finishedAt": _now(), "exitCode": status, "reason": reason}
        self._states[container["name"]] = {"terminated": ended}
        return status

    def _volume(self, name: str, user: int) -> Path:
        (volume,) = (one for one in self._pod["spec"]["volumes"] if one["name"] == name)
        if "persistentVolumeClaim" in volume:
            path = self._store
        else:
            assert "emptyDir" in volume, volume
            path = self._directory / "volumes" / name
            path.mkdir(parents=True, exist_ok=True)
        os.chown(path, user, user)  # as fsGroup does
        return path

    def _environment(self, container: Object, address: str) -> dict[str, str]:
        metadata = self._pod["metadata"]
        variables = {"HOSTNAME": self.name}
        for source in container.get("envFrom", []):
            name = source["configMapRef"]["name"]
            variables |= self._api.get(f"/api/v1/namespaces/{metadata['namespace']}/configmaps/{name}")["data"]
        for variable in container.get("env", []):
            field = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            if field is None:
                variables[variable["name"]] = expand(variable.get("value", ""), variables)
            elif field == "status.podIP":
                variables[variable["name"]] = address
            else:
                variables[variable["name"]] = _field(metadata, field)
        return variables

    def _services(self) -> list[Object]:
        return self._api.items(f"/api/v1/namespaces/{self._pod['metadata']['namespace']}/services")

    def _report(self, phase: str, address: str) -> None:
        def statuses(containers: list[Object]) -> list[Object]:
            return [
                {
                    "name": one["name"],
                    "image": one["image"],
                    "imageID": "",
                    "restartCount": 0,
                    "ready": "running" in self._states[one["name"]],
                    "state": self._states[one["name"]],
                }
                for one in containers
            ]

        is_ready = "True" if phase == "Running" else "False"
        conditions = [
            {"type": kind, "status": is_ready, "lastTransitionTime": _now()}
            for kind in ("Initialized", "Ready", "ContainersReady")
        ]
        spec = self._pod["spec"]
        status = {
            "phase": phase,
            "podIP": address,
            "podIPs": [{"ip": address}],
            "hostIP": "127.0.0.1",
            "startTime": self._started,
            "conditions": conditions,
            "initContainerStatuses": statuses(spec.get("initContainers", [])),
            "containerStatuses": statuses(spec["containers"]),
        }
        if not self._is_cut_off:
            with contextlib.suppress(ApiError):  # the pod's object may be gone
                self._api.patch(f"{self._path}/status", {"status": status})


def _names(pod: Object, services: list[Object]) -> list[str]:
    """The names that a cluster's DNS has for a pod, and those of the Services that lead to it alone."""
    spec, labels = pod["spec"], pod["metadata"].get("labels", {})
    names = [pod["metadata"]["name"]]
    if spec.get("subdomain"):
        names.append(f"{spec.get('hostname', names[0])}.{spec['subdomain']}")
    for service in services:
        selector = service["spec"].get("selector") or {}
        if selector and selector.items() <= labels.items():
            names.append(service["metadata"]["name"])
    return names


def _end(sidecar: Container | None) -> None:
    if sidecar:
        sidecar.signal(signal.SIGKILL)
        sidecar.wait()


def _field(metadata: Object, path: str) -> str:
    match = re.fullmatch(r"metadata\.(annotations|labels)\['(.+)'\]", path)
    return metadata[match[1]][match[2]] if match else metadata[path.removeprefix("metadata.")]


def _path(metadata: Object) -> str:
    return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"


def _remove(api: Api, metadata: Object) -> None:
    """Deletes the object of a pod whose processes have ended."""
    with contextlib.suppress(ApiError):
        api.delete(_path(metadata), gracePeriodSeconds=0)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _log_server(directory: Path, certificate: tuple[Path, Path]) -> http.server.ThreadingHTTPServer:
    """A server of what the API server asks a kubelet for on `kubectl logs`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _, kind, namespace, pod, container = self.path.partition("?")[0].split("/")
            path = directory / namespace / pod / f"{container}.log"
            data = path.read_bytes() if kind == "containerLogs" and path.exists() else b""
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server
