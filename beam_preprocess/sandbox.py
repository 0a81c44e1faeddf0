"""Child processes that live long and may die: what they do is bounded in time and memory, and never hangs the parent.

A child runs one object's calls, one after another. It is a fresh interpreter, not a fork, because the parent has
threads; it imports what that object needs and nothing else, so that it starts in a fraction of a second where a worker
of Beam takes ten. Nobody but its parent knows it: when the parent is gone, it ends.
"""

import os
import pickle
import queue
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection
from typing import Any, Literal, TypeVar

from sostenuto.errors import UserError

Item = TypeVar("Item")

# What a child runs: `work(argument, alive)` returns the result, and may call `alive` as a sign of life.
Work = Callable[[Any, Callable[[], None]], Any]

# How often a call is begun anew because its process was killed.
ATTEMPTS = 3

# The child's own timer ends it in time; this much later, the parent ends a child that is stopped.
_GRACE_SECONDS = 5.0
_STARTUP_SECONDS = 120.0
_OUT_OF_MEMORY = 77

_READY, _ALIVE, _DONE, _RAISED = range(4)


class ProcessDied(Exception):
    """A child process ended within a call.

    Attributes:
        cause: "time" or "memory" where a bound was exceeded, "outside" where somebody else killed it (as the kernel
            does when the machine has no memory left), "crash" otherwise.
        detail: what happened, as the end of a sentence whose subject is the process.
    """

    def __init__(self, cause: Literal["time", "memory", "outside", "crash"], detail: str) -> None:
        super().__init__(detail)
        self.cause, self.detail = cause, detail


class Process:
    """Calls `work` in a child process, which starts at the first call and is replaced after it has died.

    Args:
        work: what to call; it and all that passes are pickled.
        seconds: a call is ended after so long without a sign of life.
        memory_bytes: bound on the child's address space; None for no bound.
    """

    def __init__(self, work: Work, *, seconds: float, memory_bytes: int | None = None) -> None:
        self._work, self._seconds, self._memory_bytes = work, seconds, memory_bytes
        self._child: subprocess.Popen | None = None
        self._connection: Connection | None = None
        self._closed = False
        # One thread may kill what another one calls.
        self._lock = threading.Lock()

    def call(self, argument: Any, alive: Callable[[], None] = lambda: None) -> Any:
        """Returns `work(argument)`, or raises what it raised.

        Args:
            argument: what to call it with.
            alive: called at each sign of life.

        Raises:
            ProcessDied: the process ended before it answered; the next call starts another.
        """
        connection = self._connection or self._start()
        try:
            connection.send(argument)
            while (answer := connection.recv())[0] == _ALIVE:
                alive()
        except (EOFError, OSError) as error:
            raise self._died(hung=isinstance(error, BlockingIOError)) from error
        kind, value = answer
        if kind == _RAISED:
            raise value
        return value

    def kill(self) -> None:
        """Kills the process; a call that another thread has under way fails, and no other process is started."""
        with self._lock:
            self._closed = True
            if self._child is not None:
                self._child.kill()

    def close(self) -> None:
        """Kills the process and frees what it held; no call may be under way."""
        self.kill()
        if self._child is not None:
            self._child.wait()
        self._disconnect()

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        with theirs:
            program = f"from beam_preprocess.sandbox import _serve; _serve({theirs.fileno()})"
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
                # Threads of numpy's own would take address space, and processors from the other children.
                "OPENBLAS_NUM_THREADS": "1",
                "OMP_NUM_THREADS": "1",
            }
            with self._lock:
                if self._closed:
                    ours.close()
                    raise ProcessDied("outside", "was closed")
                self._child = subprocess.Popen(
                    [sys.executable, "-P", "-c", program],
                    env=environment,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                )
        _set_timeout(ours, _STARTUP_SECONDS)
        self._connection = Connection(ours.detach())
        try:
            self._connection.send((self._work, self._seconds, self._memory_bytes))
            kind, value = self._connection.recv()
        except (EOFError, OSError) as error:
            died = self._died(hung=isinstance(error, BlockingIOError))
            if died.cause == "outside":
                raise died from error
            raise RuntimeError(f"a child process {died.detail} while it started") from error
        if kind == _RAISED:
            self._died(hung=True)
            raise value
        with socket.socket(fileno=os.dup(self._connection.fileno())) as same:
            _set_timeout(same, self._seconds + _GRACE_SECONDS)
        return self._connection

    def _died(self, *, hung: bool) -> ProcessDied:
        """Clears away the process and says how it ended; one that `hung` is ended here."""
        child = self._child
        assert child is not None
        if not hung:
            try:
                child.wait(timeout=_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                hung = True
        if hung:
            child.kill()
        status = child.wait()
        self._disconnect()
        self._child = None
        if hung or status == -signal.SIGALRM:
            return ProcessDied("time", f"took longer than {self._seconds:g} s")
        if status == _OUT_OF_MEMORY:
            return ProcessDied("memory", f"needed more than {(self._memory_bytes or 0) // 2**20:,} MiB of memory")
        if status in (-signal.SIGKILL, -signal.SIGTERM):
            return ProcessDied("outside", f"was killed ({signal.Signals(-status).name})")
        how = f"crashed ({signal.Signals(-status).name})" if status < 0 else f"ended with status {status}"
        return ProcessDied("crash", how)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def map_in_processes(
    work: Work, items: Iterable[Item], *, processes: int, seconds: float, alive: Callable[[], None] = lambda: None
) -> Iterator[Any]:
    """Yields `work(item)` for each item, in the order in which they are done, computed in child processes.

    An item whose process dies is begun anew in another.

    Args:
        work: what to call; see `Work`.
        items: what to call it with.
        processes: how many children work at a time.
        seconds: a call is ended after so long without a sign of life.
        alive: called at each sign of life, by any thread, by one at a time.

    Raises:
        UserError: an item's processes died `ATTEMPTS` times.
        Exception: whatever `work` raised.
    """
    children = [Process(work, seconds=seconds) for _ in range(processes)]
    idle: queue.SimpleQueue[Process] = queue.SimpleQueue()
    for child in children:
        idle.put(child)
    one_at_a_time = threading.Lock()

    def locked_alive() -> None:
        with one_at_a_time:
            alive()

    def run(item: Item) -> Any:
        child = idle.get()
        try:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    return child.call(item, locked_alive)
                except ProcessDied as died:
                    if attempt == ATTEMPTS:
                        raise UserError(
                            f"a worker process {died.detail}, and so did those that took its place ({ATTEMPTS} "
                            "attempts): take fewer workers if memory is short, or --isolate_parsing, which rejects a "
                            "file that cannot be parsed"
                        ) from died
        finally:
            idle.put(child)

    with ThreadPoolExecutor(processes) as threads:
        try:
            for future in as_completed([threads.submit(run, item) for item in items]):
                yield future.result()
        finally:
            for child in children:
                child.kill()
            threads.shutdown(cancel_futures=True)
            for child in children:
                child.close()


def _set_timeout(endpoint: socket.socket, seconds: float) -> None:
    """Makes reads and writes fail with BlockingIOError that wait for so long: the child is stopped, or worse."""
    value = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
    endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


def _serve(descriptor: int) -> None:
    """Answers the calls of the parent until it is gone: all that a child does."""
    # Ctrl-C reaches the whole group of processes; the parent decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # By default it kills, also where no Python code runs any more.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = Connection(descriptor)
    try:
        work, seconds, memory_bytes = connection.recv()
        if memory_bytes is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    except Exception as error:
        connection.send((_RAISED, _portable(error)))
        return

    def restart_timer() -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def alive() -> None:
        restart_timer()
        connection.send((_ALIVE, None))

    try:
        connection.send((_READY, None))
        while True:
            argument = connection.recv()
            restart_timer()
            try:
                answer = (_DONE, work(argument, alive))
            except MemoryError:
                # What is left of the memory is in pieces: another process is better.
                os._exit(_OUT_OF_MEMORY)
            except Exception as error:
                answer = (_RAISED, _portable(error))
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send(answer)
    except (EOFError, ConnectionError):
        return


def _portable(error: Exception) -> Exception:
    """Returns an exception that can be pickled, with the traceback, which cannot, as a note."""
    if isinstance(error, UserError):
        return error
    error.add_note(f"in a child process:\n{traceback.format_exc()}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(traceback.format_exc())
    return error
