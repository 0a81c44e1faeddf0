"""Rendezvous of the workers before TensorFlow connects them: all are present, and have equal devices."""

import contextlib
import logging
import re
import selectors
import socket
import time
from collections.abc import Mapping, Sequence

from sostenuto.errors import TemporaryError, UserError
from sostenuto.text import counted, duration
from trainer.distribution.cluster import Cluster

logger = logging.getLogger(__name__)

WAIT_SECONDS = 900.0
"""Longest wait for other workers. A cluster may first start a machine for each and load a large image there."""

_REPORT_SECONDS = 60.0
_RETRY_SECONDS = 0.2
_CONNECT_SECONDS = 5.0
_ALL_PRESENT = b"!"
_REFUSED = b"?"  # before the reason


def wait_for_workers(cluster: Cluster, devices: Sequence[str], *, seconds: float | None = None) -> None:
    """Waits until every worker has connected to the chief's port, for at most `seconds`, by default WAIT_SECONDS.

    TensorFlow's own wait would block Python's signal handlers, so it is called only when all workers are present. It
    would also train on, or wait for, devices that other workers lack; each worker has its own ones in `devices`.

    Raises TemporaryError, which names the missing workers, after that time. Raises UserError if the port is taken, or
    on every worker if their devices differ.
    """
    seconds = WAIT_SECONDS if seconds is None else seconds
    deadline = time.monotonic() + seconds
    own = counted(len(devices), devices[0][:3])
    if cluster.is_chief:
        missing, problem = _gather(cluster, own, deadline)
        late = f"no connection from {_names(cluster, missing)}" if missing else ""
        remedy = "Check why they ended, and that all workers are given the same addresses. Start all again"
    else:
        late, problem = _meet_chief(cluster, own, deadline)
        remedy = "Check that it runs, that all workers are given the same addresses, and that they all started"
    subject = f"worker {cluster.index} of {cluster.size}"
    if late:
        raise TemporaryError(f"{subject}: {late} within {duration(seconds)}. {remedy}")
    if problem:
        raise UserError(f"{subject}: {problem}")


def _gather(cluster: Cluster, own: str, deadline: float) -> tuple[list[int], str]:
    """Waits on the chief until all other workers are connected, and answers them.

    Returns those that are missing, and the problem if the devices of all differ.
    """
    port = int(cluster.workers[0].rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(socket.create_server(("", port)))
        except OSError as error:
            raise UserError(
                f"port {port}: cannot be opened ({error.strerror}). Choose another port for this worker"
            ) from error
        selector = stack.enter_context(selectors.DefaultSelector())
        selector.register(server, selectors.EVENT_READ)
        connections: dict[int, socket.socket] = {}
        devices = {0: own}
        report = time.monotonic() + _REPORT_SECONDS
        while missing := [index for index in range(1, cluster.size) if index not in connections]:
            now = time.monotonic()
            if now >= deadline:
                return missing, ""
            if now >= report:
                report = now + _REPORT_SECONDS
                logger.info(f"worker 0 of {cluster.size}: still waiting for {_names(cluster, missing)}")
            for key, _ in selector.select(max(min(deadline, report) - now, 0)):
                if key.fileobj is server:
                    selector.register(stack.enter_context(server.accept()[0]), selectors.EVENT_READ)
                    continue
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if sender := _parse(cluster, _receive(connection)):
                    index, devices[index] = sender
                    connections[index] = connection  # A restarted worker replaces itself.
                else:  # It disconnected or is no worker of this run, such as a probe of the port.
                    selector.unregister(connection)
                    connection.close()
                    connections = {index: other for index, other in connections.items() if other is not connection}
        problem = _compare(cluster, devices)
        for connection in connections.values():
            with contextlib.suppress(OSError):  # TensorFlow would find that this worker has ended.
                connection.sendall(_REFUSED + problem.encode() if problem else _ALL_PRESENT)
    return [], problem


def _receive(connection: socket.socket) -> bytes:
    with contextlib.suppress(OSError):
        return connection.recv(64)
    return b""


def _parse(cluster: Cluster, message: bytes) -> tuple[int, str] | None:
    """Returns the index and the devices of the worker that sent a message; None if no worker of this run did."""
    match = re.fullmatch(rb"worker (\d+) of (\d+): (\d+ [CG]PUs?)", message)
    if not match or int(match[2]) != cluster.size or not 0 < int(match[1]) < cluster.size:
        return None
    return int(match[1]), match[3].decode()


def _compare(cluster: Cluster, devices: Mapping[int, str]) -> str:
    """Returns "" if all workers have equal devices, else the workers with each number of them, and a remedy."""
    workers: dict[str, list[int]] = {}
    for index, own in sorted(devices.items()):
        workers.setdefault(own, []).append(index)
    if len(workers) == 1:
        return ""
    got = "; ".join(f"{own} on {_names(cluster, indices)}" for own, indices in workers.items())
    remedy = "Check with nvidia-smi that each worker has its GPUs"
    if not any("CPU" in own for own in workers):
        least = min(int(own.split()[0]) for own in workers)
        remedy = f"Pass --replicas={least} to all workers, or use equal hosts"
    return f"the workers have different devices: got {got}, expected equal numbers. {remedy}"


def _meet_chief(cluster: Cluster, own: str, deadline: float) -> tuple[str, str]:
    """Waits for the chief's answer that all are present; returns why there is none, and why the chief refuses."""
    address = cluster.workers[0]
    host, _, port = address.rpartition(":")
    problem = "not asked"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=min(left, _CONNECT_SECONDS)) as chief:
                problem = "it answers nothing, or other workers are missing"
                chief.sendall(b"worker %d of %d: %s" % (cluster.index, cluster.size, own.encode()))
                chief.settimeout(max(deadline - time.monotonic(), 0.001))
                answer = b"".join(iter(lambda: chief.recv(4096), b""))
                if answer == _ALL_PRESENT:
                    return "", ""
                if answer.startswith(_REFUSED):
                    return "", answer.removeprefix(_REFUSED).decode()
        except TimeoutError:
            continue  # in the connection, or because the time is over
        except OSError as error:
            problem = error.strerror or str(error)
        time.sleep(_RETRY_SECONDS)
    return f"the chief at {address} did not start the run ({problem})", ""


def _names(cluster: Cluster, indices: Sequence[int]) -> str:
    return ", ".join(f"worker {index} ({cluster.workers[index]})" for index in indices)
