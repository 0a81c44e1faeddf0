import contextlib
import socket
import threading

import pytest

from sostenuto.errors import UserError
from trainer.distribution.cluster import Cluster
from trainer.distribution.rendezvous import wait_for_workers


@pytest.fixture
def workers():
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    return (f"localhost:{port}", "localhost:1", "localhost:2")


def arrive(workers, index, arrived):
    def come():
        wait_for_workers(Cluster(workers, index))
        arrived.append(index)

    thread = threading.Thread(target=come, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_no_worker_continues_before_all_have_arrived(workers, order):
    arrived = []
    *early, last = order
    threads = [arrive(workers, index, arrived) for index in early]
    for thread in threads:
        thread.join(0.4)
    assert arrived == []
    threads.append(arrive(workers, last, arrived))
    for thread in threads:
        thread.join(10)
    assert sorted(arrived) == [0, 1, 2]


def test_only_workers_that_are_still_there_count(workers):
    arrived = []
    host, port = workers[0].split(":")
    chief = arrive(workers, 0, arrived)

    def connect(said):
        while True:
            with contextlib.suppress(OSError):
                connection = socket.create_connection((host, int(port)))
                connection.sendall(said)
                return connection

    # A worker that leaves again, a probe of the port, and a worker that comes a second time.
    connect(b"worker 2").close()
    with connect(b"GET / HTTP/1.1\r\n"), connect(b"worker 1"), connect(b"worker 1"):
        chief.join(0.5)
        assert arrived == []
        other = arrive(workers, 2, arrived)
        chief.join(10)
        other.join(10)
        assert sorted(arrived) == [0, 2]


def test_a_port_that_is_taken_is_named(workers):
    with (
        socket.create_server(("", int(workers[0].split(":")[1]))),
        pytest.raises(UserError, match=r"^port \d+: cannot"),
    ):
        wait_for_workers(Cluster(workers, 0))
