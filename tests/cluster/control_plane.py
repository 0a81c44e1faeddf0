"""A Kubernetes control plane on loopback: etcd, API server, controllers and scheduler, without any node."""

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.processes import on_busy_machine

_PATIENCE = 120  # seconds for what takes ten on a free machine
# The seconds after which the node's controller takes a silent node for lost; 50 by default.
NODE_GRACE = 12


class ControlPlane:
    """The running programs.

    Args:
        programs: the directory of what build.py built.
        directory: for data, certificates and logs.
        stack: ends the programs.

    Attributes:
        kubeconfig: for kubectl, with all rights.
    """

    def __init__(self, programs: Path, directory: Path, stack: contextlib.ExitStack) -> None:
        self.programs = programs
        self.directory = directory
        self.kubeconfig = directory / "kubeconfig"
        self._stack = stack

    def start(self) -> None:
        etcd, peers, port = free_ports(3)
        _write_credentials(self.directory, self.kubeconfig, port)
        self.run(
            "etcd",
            f"--data-dir={self.directory / 'etcd'}",
            *(f"--{kind}-client-urls=http://127.0.0.1:{etcd}" for kind in ("listen", "advertise")),
            *(f"--{kind}-peer-urls=http://127.0.0.1:{peers}" for kind in ("listen", "initial-advertise")),
            f"--initial-cluster=default=http://127.0.0.1:{peers}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )
        self.run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            f"--secure-port={port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--cert-dir={self.directory / 'certificates'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.directory / 'accounts.pub'}",
            f"--service-account-signing-key-file={self.directory / 'accounts.key'}",
            "--authorization-mode=RBAC",
            f"--token-auth-file={self.directory / 'tokens.csv'}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--endpoint-reconciler-type=none",
        )
        wait_until("the API server answers", lambda: self.kubectl("get", "--raw=/readyz", check=False) == "ok")
        self.run(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--service-account-private-key-file={self.directory / 'accounts.key'}",
            f"--cert-dir={self.directory / 'certificates'}",
            f"--secure-port={free_ports(1)[0]}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            f"--node-monitor-grace-period={NODE_GRACE}s",
            "--node-monitor-period=2s",
        )
        self.run(
            "kube-scheduler",
            f"--kubeconfig={self.kubeconfig}",
            f"--cert-dir={self.directory / 'certificates'}",
            f"--secure-port={free_ports(1)[0]}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
        )
        # The controllers make it; without it no pod is admitted.
        wait_until("service accounts", lambda: "default" in self.kubectl("get", "serviceaccounts", check=False))

    def run(self, program: str, *arguments: str, prefix: tuple[str, ...] = ()) -> None:
        """Starts a program, which ends with this process at the latest; its log is DIRECTORY/PROGRAM.log."""
        with open(self.directory / f"{program}.log", "w") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", *prefix, str(self.programs / program), *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
                start_new_session=True,
            )
        self._stack.callback(_end, process)

    def kubectl(self, *arguments: str, check: bool = True) -> str:
        process = subprocess.run(
            [str(self.programs / "kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0 or not check, process.stderr
        return process.stdout


@contextlib.contextmanager
def running(programs: Path, directory: Path) -> Iterator[ControlPlane]:
    """Starts a control plane and ends it on leaving."""
    with contextlib.ExitStack() as stack:
        plane = ControlPlane(programs, directory, stack)
        plane.start()
        yield plane


def wait_until(what: str, is_true: Callable[[], object], seconds: float = _PATIENCE, every: float = 0.5) -> None:
    """Waits for a condition; fails with its name and its last value if it does not come."""
    until = time.monotonic() + on_busy_machine(seconds)
    while not (value := is_true()):
        assert time.monotonic() < until, f"{what}: did not happen within {seconds} s: {value}"
        time.sleep(every)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _write_credentials(directory: Path, kubeconfig: Path, port: int) -> None:
    """Writes the key of service accounts, the token of the administrator, and a certificate for servers on loopback."""
    key, public = directory / "accounts.key", directory / "accounts.pub"
    _openssl("genrsa", "-out", str(key), "2048")
    _openssl("rsa", "-in", str(key), "-pubout", "-out", str(public))
    _openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "7", "-subj", "/CN=127.0.0.1"),
        *("-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", str(directory / "server.key"), "-out", str(directory / "server.crt")),
    )
    (directory / "tokens.csv").write_text('administrator,administrator,1,"system:masters"\n')
    server = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": server}],
        "users": [{"name": "administrator", "user": {"token": "administrator"}}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "administrator"}}],
        "current-context": "local",
    }
    kubeconfig.write_text(json.dumps(config))


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
