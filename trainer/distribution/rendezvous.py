"""Rendezvous of the workers before TensorFlow connects them."""

import contextlib
import logging
import selectors
import socket
import time

from sostenuto.errors import TemporaryError, UserError
from sostenuto.text import duration
from trainer.distribution.cluster import Cluster

logger = logging.getLogger(__name__)

WAIT_SECONDS = 900.0
"""Longest wait for other workers. A cluster may first start a machine for each and load a large image there."""

_REPORT_SECONDS = 60.0
_RETRY_SECONDS = 0.2
_CONNECT_SECONDS = 5.0
_ALL_PRESENT = b"!"


def wait_for_workers(cluster: Cluster, *, seconds: float | None = None) -> None:
    """Waits until every worker has connected to the chief's port, for at most `seconds`, by default WAIT_SECONDS.

    TensorFlow's own wait would block Python's signal handlers, so it is called only when all workers are present.
    Raises TemporaryError, which names the missing workers, after that time; UserError if the port is taken.
    """
    seconds = WAIT_SECONDS if seconds is None else seconds
    deadline = time.monotonic() + seconds
    if cluster.is_chief:
        missing = _gather(cluster, deadline)
        problem = f"no connection from {_names(cluster, missing)}" if missing else ""
        remedy = "Check why they ended, and that all workers are given the same addresses. Start all again"
    else:
        problem = _meet_chief(cluster, deadline)
        remedy = "Check that it runs, that all workers are given the same addresses, and that they all started"
    if problem:
        raise TemporaryError(
            f"worker {cluster.index} of {cluster.size}: {problem} within {duration(seconds)}. {remedy}"
        )


def _gather(cluster: Cluster, deadline: float) -> list[int]:
    """Waits on the chief until all other workers are connected, and answers them; returns those that are missing."""
    port = int(cluster.workers[0].rpartition(":")[2])
    expected = {_name(cluster, index): index for index in range(1, cluster.size)}
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(socket.create_server(("", port)))
        except OSError as error:
            raise UserError(
                f"port {port}: cannot be opened ({error.strerror}). Choose another port for this worker"
            ) from error
        selector = stack.enter_context(selectors.DefaultSelector())
        selector.register(server, selectors.EVENT_READ)
        present: dict[int, socket.socket] = {}
        report = time.monotonic() + _REPORT_SECONDS
        while missing := [index for index in expected.values() if index not in present]:
            now = time.monotonic()
            if now >= deadline:
                return missing
            if now >= report:
                report = now + _REPORT_SECONDS
                logger.info(f"worker 0 of {cluster.size}: still waiting for {_names(cluster, missing)}")
            for key, _ in selector.select(max(min(deadline, report) - now, 0)):
                if key.fileobj is server:
                    selector.register(stack.enter_context(server.accept()[0]), selectors.EVENT_READ)
                    continue
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                index = expected.get(_receive(connection))
                if index is not None:
                    present[index] = connection  # A restarted worker replaces itself.
                else:  # It disconnected or is no worker of this run, such as a probe of the port.
                    selector.unregister(connection)
                    connection.close()
                    present = {index: other for index, other in present.items() if other is not connection}
        for connection in present.values():
            with contextlib.suppress(OSError):  # TensorFlow would find that this worker has ended.
                connection.sendall(_ALL_PRESENT)
    return []


def _receive(connection: socket.socket) -> bytes:
    with contextlib.suppress(OSError):
        return connection.recv(64)
    return b""


def _meet_chief(cluster: Cluster, deadline: float) -> str:
    """Waits for the chief's answer that all are present; returns "", or the problem once the time is over."""
    address = cluster.workers[0]
    host, _, port = address.rpartition(":")
    problem = "not asked"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=min(left, _CONNECT_SECONDS)) as chief:
                problem = "it answers nothing, or other workers are missing"
                chief.sendall(_name(cluster, cluster.index))
                chief.settimeout(max(deadline - time.monotonic(), 0.001))
                if chief.recv(1) == _ALL_PRESENT:
                    return ""
        except TimeoutError:
            continue  # in the connection, or because the time is over
        except OSError as error:
            problem = error.strerror or str(error)
        time.sleep(_RETRY_SECONDS)
    return f"the chief at {address} did not start the run ({problem})"


def _name(cluster: Cluster, index: int) -> bytes:
    """Returns what a worker sends to the chief."""
    return b"worker %d of %d" % (index, cluster.size)


def _names(cluster: Cluster, indices: list[int]) -> str:
    return ", ".join(f"worker {index} ({cluster.workers[index]})" for index in indices)
