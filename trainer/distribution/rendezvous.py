"""Rendezvous of the workers before TensorFlow connects them."""

import contextlib
import selectors
import socket
import time

from sostenuto.errors import UserError
from trainer.distribution.cluster import Cluster

_RETRY_SECONDS = 0.2
_CONNECT_SECONDS = 5.0
_ALL_PRESENT = b"!"
_NAME = b"worker "


def wait_for_workers(cluster: Cluster) -> None:
    """Waits until every worker has connected to the chief's port; raises UserError if that port is taken.

    TensorFlow's own wait would block Python's signal handlers, so it is called only when all workers are present.
    """
    host, _, port = cluster.workers[0].rpartition(":")
    if cluster.is_chief:
        _gather(int(port), cluster.size - 1)
        return
    while not _ask_chief(host.strip("[]"), int(port), cluster.index):
        time.sleep(_RETRY_SECONDS)


def _gather(port: int, others: int) -> None:
    """Waits on the chief until all other workers are connected, and answers them."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(socket.create_server(("", port)))
        except OSError as error:
            raise UserError(
                f"port {port}: cannot be opened ({error.strerror}). Choose another port for this worker"
            ) from error
        selector = stack.enter_context(selectors.DefaultSelector())
        selector.register(server, selectors.EVENT_READ)
        present: dict[bytes, socket.socket] = {}
        while len(present) < others:
            for key, _ in selector.select():
                if key.fileobj is server:
                    selector.register(stack.enter_context(server.accept()[0]), selectors.EVENT_READ)
                    continue
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                name = _receive_name(connection)
                if name:
                    present[name] = connection  # A restarted worker replaces itself.
                else:
                    selector.unregister(connection)
                    present = {name: other for name, other in present.items() if other is not connection}
        for connection in present.values():
            connection.sendall(_ALL_PRESENT)


def _receive_name(connection: socket.socket) -> bytes:
    """Returns a worker's name; empty if it disconnected or is no worker, such as a probe of the port."""
    with contextlib.suppress(OSError):
        name = connection.recv(64)
        return name if name.startswith(_NAME) else b""
    return b""


def _ask_chief(host: str, port: int, index: int) -> bool:
    """Waits for the chief's answer; returns False if the chief must be asked again."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=_CONNECT_SECONDS) as chief:
        chief.sendall(_NAME + b"%d" % index)
        chief.settimeout(None)
        return chief.recv(1) == _ALL_PRESENT
    return False
