"""The pods' network: a network namespace of its own for each pod, on a bridge that this machine does not see.

Everything is inside namespaces that processes hold, and that end with these: nothing is left on the machine, and two
networks on one machine have nothing in common.
"""

import contextlib
import dataclasses
import itertools
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

_BRIDGE = "10.88.0.1"


@dataclasses.dataclass(frozen=True)
class Sandbox:
    """A pod's network namespace.

    Attributes:
        address: of the pod.
        holder: the process that keeps the namespace.
    """

    address: str
    holder: int

    @property
    def namespace(self) -> str:
        return f"/proc/{self.holder}/ns/net"


class Network:
    """A bridge between pods, and their names.

    Args:
        hosts: the file that takes the place of the pods' /etc/hosts.
        holder: the process in whose namespace the bridge is.
    """

    def __init__(self, hosts: Path, holder: int) -> None:
        self.hosts = hosts
        self._holder = holder
        self._count = itertools.count(2)
        self._names: dict[str, list[str]] = {}
        self._services: dict[str, str] = {}
        self._lock = threading.Lock()
        self._ip("link", "add", "pods", "type", "bridge")
        self._ip("address", "add", f"{_BRIDGE}/16", "dev", "pods")
        self._ip("link", "set", "pods", "up")
        self._write()

    @contextlib.contextmanager
    def sandbox(self, names: list[str], services: Mapping[str, str] = {}) -> Iterator[Sandbox]:
        """Gives a pod an address on the bridge, and the address its names, while the context lasts.

        Args:
            names: of the pod.
            services: addresses by name, for Services without a pod: their names stay, as in a cluster's DNS.
        """
        with self._lock:
            number = next(self._count)
            self._services.update(services)
        with _namespace() as holder:
            sandbox = Sandbox(f"10.88.{number // 250}.{number % 250 + 1}", holder)
            link = f"pod{number}"
            self._ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(holder))
            self._ip("link", "set", link, "master", "pods", "up")
            _ip(holder, "address", "add", f"{sandbox.address}/16", "dev", "eth0")
            _ip(holder, "link", "set", "eth0", "up")
            # It leads nowhere, but programs find their own address by it.
            _ip(holder, "route", "add", "default", "via", _BRIDGE)
            self._rename(sandbox.address, names)
            try:
                yield sandbox
            finally:
                self._rename(sandbox.address, [])

    def _ip(self, *arguments: str) -> None:
        _ip(self._holder, *arguments)

    def _rename(self, address: str, names: list[str]) -> None:
        with self._lock:
            self._names[address] = names
            self._write()

    def _write(self) -> None:
        # Pods have this file bound over their own: it must stay the same file, and never be seen empty.
        lines = [f"{address} {' '.join(names)}\n" for address, names in self._names.items() if names]
        led = {name for names in self._names.values() for name in names}
        lines += [f"{address} {name}\n" for name, address in self._services.items() if name not in led]
        data = "".join(["127.0.0.1 localhost\n", *lines]).encode()
        descriptor = os.open(self.hosts, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(descriptor, data, 0)
            os.ftruncate(descriptor, len(data))
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def running(hosts: Path) -> Iterator[Network]:
    """A network without pods."""
    with _namespace() as holder:
        yield Network(hosts, holder)


@contextlib.contextmanager
def _namespace() -> Iterator[int]:
    """Gives the id of a process in a new network namespace; it ends with the context, or with this process."""
    process = subprocess.Popen(["setpriv", "--pdeathsig=KILL", "unshare", "--net", "sleep", "infinity"])
    try:
        own = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{process.pid}/ns/net") == own:
            time.sleep(0.01)
        _ip(process.pid, "link", "set", "lo", "up")
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _ip(process: int, *arguments: str) -> None:
    command = ["nsenter", f"--net=/proc/{process}/ns/net", "ip", *arguments]
    subprocess.run(command, check=True, capture_output=True)
