import contextlib
import socket
import threading

import pytest

from sostenuto.errors import TemporaryError, UserError
from tests.processes import run_python
from trainer.distribution.cluster import Cluster
from trainer.distribution.rendezvous import wait_for_workers


@pytest.fixture
def workers():
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    return (f"localhost:{port}", "localhost:1", "localhost:2")


def arrive(workers, index, arrived, seconds=None):
    def come():
        with contextlib.suppress(TemporaryError):
            wait_for_workers(Cluster(workers, index), seconds=seconds)
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
    connect(b"worker 2 of 3").close()
    with connect(b"GET / HTTP/1.1\r\n"), connect(b"worker 1 of 3"), connect(b"worker 1 of 3"):
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


def test_a_chief_whose_workers_do_not_come_names_them(workers):
    arrive(workers, 1, [], seconds=1)
    with pytest.raises(TemporaryError) as caught:
        wait_for_workers(Cluster(workers, 0), seconds=0.6)
    assert str(caught.value).startswith(
        "worker 0 of 3: no connection from worker 2 (localhost:2) within 0:00:01. Check"
    )


def test_a_worker_of_a_larger_run_is_not_counted(workers):
    """Its TF_CONFIG is stale: with it, TensorFlow would wait for the third worker."""
    arrive(workers, 1, [], seconds=1)
    with pytest.raises(TemporaryError, match=r"no connection from worker 1 \(localhost:1\) within"):
        wait_for_workers(Cluster(workers[:2], 0), seconds=0.6)


def test_a_worker_whose_chief_is_not_there_names_it(workers):
    with pytest.raises(TemporaryError) as caught:
        wait_for_workers(Cluster(workers, 1), seconds=0.3)
    assert f"worker 1 of 3: the chief at {workers[0]} did not start the run (Connection refused)" in str(caught.value)


def test_a_worker_does_not_wait_for_ever_for_another_service_on_the_port(workers):
    with socket.create_server(("localhost", int(workers[0].split(":")[1]))), pytest.raises(TemporaryError) as caught:
        wait_for_workers(Cluster(workers, 1), seconds=0.3)
    assert "did not start the run (it answers nothing, or other workers are missing)" in str(caught.value)


@pytest.mark.parametrize("index", [0, 1])
def test_a_command_that_waits_in_vain_ends_with_75_and_one_line(workers, index):
    """On Kubernetes 2 would end the Job for good."""
    process = run_python(
        "-c",
        "from sostenuto import cli\nfrom trainer.distribution import cluster, rendezvous\n"
        f"cli.run(lambda: rendezvous.wait_for_workers(cluster.Cluster({workers}, {index}), seconds=0.2), usage='')",
    )
    missing = ("worker 1 (localhost:1), worker 2 (localhost:2)", f"the chief at {workers[0]}")[index]
    assert process.returncode == 75, process.stderr
    (line,) = process.stderr.splitlines()
    assert missing in line
