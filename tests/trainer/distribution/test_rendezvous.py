import contextlib
import socket
import sys
import threading

import pytest

from sostenuto.errors import TemporaryError, UserError
from tests.processes import run_python
from tests.trainer.runs import run_all
from trainer.distribution.cluster import Cluster
from trainer.distribution.rendezvous import wait_for_workers


@pytest.fixture
def workers():
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    return (f"localhost:{port}", "localhost:1", "localhost:2")


CPU = ["CPU:0"]


def arrive(workers, index, arrived, seconds=None, devices=CPU):
    def come():
        with contextlib.suppress(TemporaryError):
            wait_for_workers(Cluster(workers, index), devices, seconds=seconds)
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
    connect(b"worker 2 of 3: 1 CPU").close()
    one = b"worker 1 of 3: 1 CPU"
    with connect(b"GET / HTTP/1.1\r\n"), connect(b"worker 7 of 3: 1 CPU"), connect(one), connect(one):
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
        wait_for_workers(Cluster(workers, 0), CPU)


def test_a_chief_whose_workers_do_not_come_names_them(workers):
    arrive(workers, 1, [], seconds=1)
    with pytest.raises(TemporaryError) as caught:
        wait_for_workers(Cluster(workers, 0), CPU, seconds=0.6)
    assert str(caught.value).startswith(
        "worker 0 of 3: no connection from worker 2 (localhost:2) within 0:00:01. Check"
    )


def test_a_worker_of_a_larger_run_is_not_counted(workers):
    """Its TF_CONFIG is stale: with it, TensorFlow would wait for the third worker."""
    arrive(workers, 1, [], seconds=1)
    with pytest.raises(TemporaryError, match=r"no connection from worker 1 \(localhost:1\) within"):
        wait_for_workers(Cluster(workers[:2], 0), CPU, seconds=0.6)


def test_a_worker_whose_chief_is_not_there_names_it(workers):
    with pytest.raises(TemporaryError) as caught:
        wait_for_workers(Cluster(workers, 1), CPU, seconds=0.3)
    assert f"worker 1 of 3: the chief at {workers[0]} did not start the run (Connection refused)" in str(caught.value)


def test_a_worker_does_not_wait_for_ever_for_another_service_on_the_port(workers):
    with socket.create_server(("localhost", int(workers[0].split(":")[1]))), pytest.raises(TemporaryError) as caught:
        wait_for_workers(Cluster(workers, 1), CPU, seconds=0.3)
    assert "did not start the run (it answers nothing, or other workers are missing)" in str(caught.value)


@pytest.mark.parametrize("index", [0, 1])
def test_a_command_that_waits_in_vain_ends_with_75_and_one_line(workers, index):
    """On Kubernetes 2 would end the Job for good."""
    process = run_python(
        "-c",
        "from sostenuto import cli\nfrom trainer.distribution import cluster, rendezvous\n"
        f"own = cluster.Cluster({workers}, {index})\n"
        f"cli.run(lambda: rendezvous.wait_for_workers(own, {CPU}, seconds=0.2), usage='')",
    )
    missing = ("worker 1 (localhost:1), worker 2 (localhost:2)", f"the chief at {workers[0]}")[index]
    assert process.returncode == 75, process.stderr
    (line,) = process.stderr.splitlines()
    assert missing in line


ARRIVES = """
import sys
from sostenuto import cli
from trainer.distribution.cluster import Cluster
from trainer.distribution.rendezvous import wait_for_workers

index, devices, *workers = sys.argv[1:]
kind, count = devices.split("x")
names = [f"{kind}:{number}" for number in range(int(count))]
cli.run(lambda: wait_for_workers(Cluster(tuple(workers), int(index)), names), usage="", argv=["x"])
"""


def meet(workers, *devices: str):
    """Ends of processes that meet with these devices, such as GPUx8."""
    commands = [
        [sys.executable, "-c", ARRIVES, str(index), own, *workers[: len(devices)]] for index, own in enumerate(devices)
    ]
    return run_all(commands)


def test_workers_with_unequal_numbers_of_gpus_are_refused_by_name(workers):
    """Their collective would wait for ever for the devices that one of them lacks."""
    for index, process in enumerate(meet(workers, "GPUx8", "GPUx4", "GPUx8")):
        assert process.returncode == 2, process.stderr
        (line,) = process.stderr.splitlines()
        assert f"worker {index} of 3: the workers have different devices: got " in line
        assert f"8 GPUs on worker 0 ({workers[0]}), worker 2 (localhost:2); 4 GPUs on worker 1 (localhost:1)" in line
        assert line.endswith("Pass --replicas=4 to all workers, or use equal hosts")


def test_a_worker_without_the_gpus_of_the_others_is_refused_by_name(workers):
    """It has as many replicas, but on its CPU."""
    for process in meet(workers, "CPUx1", "GPUx1"):
        assert process.returncode == 2, process.stderr
        (line,) = process.stderr.splitlines()
        assert f"got 1 CPU on worker 0 ({workers[0]}); 1 GPU on worker 1 (localhost:1), expected" in line
        assert "nvidia-smi" in line


def test_workers_with_equal_gpus_start(workers):
    assert [process.returncode for process in meet(workers, "GPUx2", "GPUx2")] == [0, 0]
