import os
import signal
import threading
import time

import pytest

from beam_preprocess.sandbox import Process, ProcessDied, map_in_processes
from sostenuto.errors import MidiDecodeError, UserError
from tests.beam_preprocess.hostile_work import CannotStart, work


@pytest.fixture
def process():
    process = Process(work, seconds=1, memory_bytes=2**29, grace_seconds=0.5)
    yield process
    process.close()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_calls_are_answered_by_one_process_that_ends_with_its_owner(process):
    pid = process.call(("pid",))
    assert pid != os.getpid()
    assert [process.call(("double", number)) for number in range(5)] == [0, 2, 4, 6, 8]
    assert process.call(("pid",)) == pid
    process.close()
    assert gone(pid)


@pytest.mark.parametrize(
    ("order", "cause", "detail"),
    [
        (("segfault",), "crash", r"crashed \(SIGSEGV\)"),
        (("abort",), "crash", r"crashed \(SIGABRT\)"),
        (("exit",), "crash", "ended with status 3"),
        (("allocate",), "memory", "needed more than 512 MiB"),
        (("hang",), "time", "took longer than 1 s"),
        (("hang in C",), "time", "took longer than 1 s"),
        (("stop",), "time", "took longer than 1 s"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_process_that_dies_is_reported_and_replaced(process, order, cause, detail):
    before = process.call(("pid",))
    started = time.monotonic()
    with pytest.raises(ProcessDied, match=detail) as caught:
        process.call(order)
    assert caught.value.cause == cause
    assert time.monotonic() - started < 10
    assert gone(before)
    assert process.call(("double", 21)) == 42


def test_a_stopped_process_that_does_not_receive_an_argument_times_out(process):
    os.kill(process.call(("pid",)), signal.SIGSTOP)
    with pytest.raises(ProcessDied, match="took longer than"):
        process.call(("double", bytes(2**24)))
    assert process.call(("double", 1)) == 2


def test_a_process_killed_by_another_is_replaced(process):
    os.kill(process.call(("pid",)), signal.SIGKILL)
    with pytest.raises(ProcessDied, match="was killed") as caught:
        process.call(("double", 1))
    assert caught.value.cause == "outside"
    assert process.call(("double", 1)) == 2


def test_exceptions_are_passed_on(process):
    with pytest.raises(MidiDecodeError) as caught:
        process.call(("raise", MidiDecodeError("a.mid", "smpte", "counts frames")))
    assert (caught.value.name, caught.value.reason, caught.value.detail) == ("a.mid", "smpte", "counts frames")
    with pytest.raises(ZeroDivisionError) as fault:
        process.call(("raise", ZeroDivisionError("by zero")))
    assert "hostile_work.py" in fault.value.__notes__[0]
    with pytest.raises(RuntimeError, match=r"hostile_work\.py"):
        process.call(("raise what cannot be pickled",))
    assert process.call(("double", 1)) == 2


def test_heartbeats_restart_the_time_limit(process):
    heartbeats = []
    assert process.call(("slow but alive", 1.5), lambda: heartbeats.append(1)) == "done"
    assert len(heartbeats) == 30


def test_a_process_that_cannot_start_is_a_fault_and_not_the_arguments():
    process = Process(CannotStart(), seconds=1)
    with pytest.raises(ImportError, match="numpy"):
        process.call(("double", 1))
    process.close()


def test_all_items_are_worked_on_at_a_time_and_a_killed_process_costs_nothing(tmp_path):
    orders = [("die once", str(tmp_path / str(number)), number) for number in range(4)]
    done = list(map_in_processes(work, [*orders, ("double", 50)], processes=2, seconds=5))
    assert sorted(done) == [0, 1, 2, 3, 100]


def test_an_item_that_kills_every_process_stops_the_map_and_leaves_no_process(monkeypatch):
    threads, before = set(threading.enumerate()), children()
    with pytest.raises(UserError, match=r"crashed \(SIGSEGV\), in each of 3 attempts.*--isolate_parsing"):
        list(map_in_processes(work, [("segfault",), ("hang",), ("hang",)], processes=2, seconds=60))
    assert set(threading.enumerate()) == threads
    assert children() <= before


def test_a_map_that_is_left_early_leaves_no_process():
    before = children()
    results = map_in_processes(work, [("pid",), ("hang",), ("hang",)], processes=2, seconds=60)
    pid = next(results)
    results.close()
    assert gone(pid)
    assert children() <= before


def children() -> set[str]:
    """The processes that the main thread has started; `multiprocessing` keeps one once another test has used it."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return set(file.read().split())
