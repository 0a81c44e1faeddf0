"""The cluster that the tests run on: the stand-in of this directory, or one that kubectl knows."""

import contextlib
import dataclasses
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.cluster import build, control_plane, controllers, network
from tests.cluster.api import Api
from tests.cluster.node import Node
from tests.k8s.cluster import kubectl as kubectl_program

_VOLUME = """
apiVersion: v1
kind: PersistentVolume
metadata: {name: store}
spec:
  capacity: {storage: 10Gi}
  accessModes: [ReadWriteOnce]
  hostPath: {path: /store}
"""


@dataclasses.dataclass
class Cluster:
    """A cluster to apply manifests to.

    Attributes:
        kubectl_command: kubectl, with the flags that select the cluster.
        api: its API.
        image: for all pods.
        nodes: the stand-in's nodes by name; empty for any other cluster.
        add_node: adds one to these.
    """

    kubectl_command: list[str]
    api: Api
    image: str
    nodes: dict[str, Node] = dataclasses.field(default_factory=dict)
    add_node: Callable[[str], None] | None = None

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Runs kubectl; returns its output, warnings included."""
        process = subprocess.run(
            [*self.kubectl_command, *arguments], input=stdin, capture_output=True, text=True, check=False
        )
        assert process.returncode == 0, process.stderr
        return process.stdout + process.stderr


@contextlib.contextmanager
def stand_in(directory: Path) -> Iterator[Cluster]:
    """A control plane of this machine, with JobSet's and Kueue's controllers and two nodes."""
    programs = build.programs()
    store = directory / "store"
    store.mkdir()
    with contextlib.ExitStack() as stack:
        plane = stack.enter_context(control_plane.running(programs, directory))
        command = [str(programs / "kubectl"), f"--kubeconfig={plane.kubeconfig}"]
        cluster = Cluster(command, stack.enter_context(_proxied(command)), "sostenuto:stand-in")
        pods = stack.enter_context(network.running(directory / "hosts"))
        certificate = (directory / "server.crt", directory / "server.key")

        def add_node(name: str) -> None:
            node = Node(name, cluster.api, pods, directory / "pods", store=store, certificate=certificate)
            node.start()
            stack.callback(node.stop)
            cluster.nodes[name] = node

        cluster.add_node = add_node
        for name in ("node-0", "node-1"):
            add_node(name)
        controllers.start(plane)
        cluster.kubectl("apply", "-f", "-", stdin=_VOLUME)
        yield cluster


@contextlib.contextmanager
def existing(context: str, image: str) -> Iterator[Cluster]:
    """A cluster that kubectl knows by a context of its configuration."""
    command = [kubectl_program(), f"--context={context}"]
    with _proxied(command) as api:
        yield Cluster(command, api, image)


@contextlib.contextmanager
def _proxied(command: list[str]) -> Iterator[Api]:
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig=KILL", *command, "proxy", "--port=0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        line = process.stdout.readline()  # Starting to serve on 127.0.0.1:PORT
        yield Api(f"http://{line.split()[-1]}")
    finally:
        process.terminate()
        process.communicate()
