"""How workers wait until all of them are there."""

import contextlib
import selectors
import socket
import time

from sostenuto.errors import UserError
from trainer.distribution.cluster import Cluster

_TRY_SECONDS = 0.2
_ALL_ARE_THERE = b"!"


def meet(cluster: Cluster) -> None:
    """Waits until every worker is there: the others come to the chief's port, and it tells them when none is missing.

    TensorFlow would wait too, but it keeps Python from hearing signals meanwhile and takes SIGTERM without heeding it:
    so it is called only when it finds all others at once.

    Raises:
        UserError: the chief's port is taken.
    """
    host, _, port = cluster.workers[0].rpartition(":")
    if cluster.is_chief:
        _gather(int(port), cluster.size - 1)
        return
    while not _was_told(host.strip("[]"), int(port), cluster.index):
        time.sleep(_TRY_SECONDS)


def _gather(port: int, others: int) -> None:
    with contextlib.ExitStack() as stack:
        try:
            door = stack.enter_context(socket.create_server(("", port)))
        except OSError as error:
            raise UserError(
                f"port {port}: cannot be listened at ({error.strerror}): give this worker another one"
            ) from error
        selector = stack.enter_context(selectors.DefaultSelector())
        selector.register(door, selectors.EVENT_READ)
        there: dict[bytes, socket.socket] = {}
        while len(there) < others:
            for key, _ in selector.select():
                if key.fileobj is door:
                    selector.register(stack.enter_context(door.accept()[0]), selectors.EVENT_READ)
                    continue
                guest = key.fileobj
                assert isinstance(guest, socket.socket)
                name = _name_of(guest)
                if name:
                    there[name] = guest  # One that was started again comes in place of itself.
                else:
                    selector.unregister(guest)
                    there = {name: other for name, other in there.items() if other is not guest}
        for guest in there.values():
            guest.sendall(_ALL_ARE_THERE)


def _name_of(guest: socket.socket) -> bytes:
    """Who a guest says it is; nobody if it has left, or is no worker, such as a probe of the port."""
    with contextlib.suppress(OSError):
        name = guest.recv(64)
        return name if name.startswith(b"worker ") else b""
    return b""


def _was_told(host: str, port: int, index: int) -> bool:
    """Whether the chief was there and said that all are; else it is to be asked again."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5) as chief:
        chief.sendall(b"worker %d" % index)
        chief.settimeout(None)
        return chief.recv(1) == _ALL_ARE_THERE
    return False
