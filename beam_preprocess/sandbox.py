"""Long-lived child processes with time and memory limits.

A child calls one function, again and again. It is a new interpreter, because forking a process with threads is unsafe,
and imports only what the function needs, so that it starts in a fraction of a second. It ends with its parent.
"""

import collections
import contextlib
import os
import pickle
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
from typing import Any, Literal

from sostenuto.errors import UserError

Heartbeat = Callable[[], None]

# A child calls `work(argument, heartbeat)`; each heartbeat restarts the time limit.
Work = Callable[[Any, Heartbeat], Any]

ATTEMPTS = 3
STARTUP_SECONDS = 120.0

_OUT_OF_MEMORY = 77  # exit status
_ALIVE, _DONE, _RAISED = range(3)


class ProcessDied(Exception):
    """A child process ended within a call; `detail` is the end of a sentence whose subject is the process."""

    def __init__(self, cause: Literal["time", "memory", "outside", "crash"], detail: str) -> None:
        super().__init__(detail)
        self.cause, self.detail = cause, detail


class Process:
    """Calls a function in a child process, which starts at the first call and is replaced after it died.

    A child's own timer ends it `seconds` after the last heartbeat of a call. The parent kills one that is stopped,
    `grace_seconds` later. `memory_bytes` limits the address space.
    """

    def __init__(
        self, work: Work, *, seconds: float, memory_bytes: int | None = None, grace_seconds: float = 5.0
    ) -> None:
        self._work, self._seconds, self._memory_bytes = work, seconds, memory_bytes
        self._grace_seconds = grace_seconds
        self._child: subprocess.Popen | None = None
        self._connection: Connection | None = None
        self._closed = False
        self._lock = threading.Lock()  # One thread may kill the process while another one calls it.

    def call(self, argument: Any, on_heartbeat: Heartbeat = lambda: None) -> Any:
        """Returns `work(argument)`, or raises its exception or ProcessDied; argument and result are pickled."""
        return self._exchange(self._connection or self._start(), argument, on_heartbeat)

    def kill(self) -> None:
        """Kills the process for good; a call in another thread fails."""
        with self._lock:
            self._closed = True
            if self._child is not None:
                self._child.kill()

    def close(self) -> None:
        """Kills the process and frees its resources, between calls."""
        self.kill()
        if self._child is not None:
            self._child.wait()
        self._disconnect()

    def _start(self) -> Connection:
        """Starts a child and sends the function to it."""
        parent_socket, child_socket = socket.socketpair()
        with child_socket:
            environment = os.environ | {
                "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
                # Threads of NumPy would take address space, and cores from the other children.
                "OPENBLAS_NUM_THREADS": "1",
                "OMP_NUM_THREADS": "1",
            }
            with self._lock:
                if self._closed:
                    parent_socket.close()
                    raise ProcessDied("outside", "was closed")
                self._child = subprocess.Popen(
                    [sys.executable, "-P", "-c", f"from {__name__} import _serve; _serve({child_socket.fileno()})"],
                    env=environment,
                    pass_fds=[child_socket.fileno()],
                    stdin=subprocess.DEVNULL,
                )
        self._connection = connection = Connection(parent_socket.detach())
        _set_timeout(connection, STARTUP_SECONDS)
        try:
            self._exchange(connection, (self._work, self._seconds, self._memory_bytes), lambda: None)
        except ProcessDied as died:
            if died.cause == "outside":
                raise
            raise RuntimeError(f"a child process {died.detail} while it started") from died
        except Exception:
            self._reap(hung=True)
            raise
        _set_timeout(connection, self._seconds + self._grace_seconds)
        return connection

    def _exchange(self, connection: Connection, message: Any, on_heartbeat: Heartbeat) -> Any:
        """Sends a message and returns or raises the answer."""
        try:
            connection.send(message)
            while (answer := connection.recv())[0] == _ALIVE:
                on_heartbeat()
        except (EOFError, OSError) as error:
            raise self._reap(hung=isinstance(error, BlockingIOError)) from error
        kind, value = answer
        if kind == _RAISED:
            raise value
        return value

    def _reap(self, *, hung: bool) -> ProcessDied:
        """Ends the process if it hangs, and returns the cause of its end."""
        child = self._child
        assert child is not None
        if not hung:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=self._grace_seconds)
        if hung := child.poll() is None:
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
        return ProcessDied(
            "crash", f"crashed ({signal.Signals(-status).name})" if status < 0 else f"ended with status {status}"
        )

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def map_in_processes(
    work: Work, items: Iterable[Any], *, processes: int, seconds: float, on_heartbeat: Heartbeat = lambda: None
) -> Iterator[Any]:
    """Yields `work(item)` for each item as it is done; an item whose process died is tried up to `ATTEMPTS` times."""
    children = [Process(work, seconds=seconds) for _ in range(processes)]
    idle = collections.deque(children)  # one child per thread
    lock = threading.Lock()

    def locked_heartbeat() -> None:
        with lock:
            on_heartbeat()

    def run(item: Any) -> Any:
        child = idle.pop()
        try:
            for _ in range(ATTEMPTS - 1):
                with contextlib.suppress(ProcessDied):
                    return child.call(item, locked_heartbeat)
            return child.call(item, locked_heartbeat)
        except ProcessDied as died:
            raise UserError(
                f"a worker process {died.detail}, in each of {ATTEMPTS} attempts. Use fewer workers if memory is "
                "short, or --isolate_parsing, which rejects a file that cannot be parsed"
            ) from died
        finally:
            idle.append(child)

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


def _set_timeout(connection: Connection, seconds: float) -> None:
    """Makes reads and writes raise BlockingIOError after a time, as when the child is stopped."""
    value = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    with socket.socket(fileno=os.dup(connection.fileno())) as endpoint:
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


def _serve(descriptor: int) -> None:
    """Runs a child process: answers the parent's calls until the parent disconnects."""
    # Ctrl-C reaches the whole process group; the parent decides when its children end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The default action ends the process even while it runs no Python code.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = Connection(descriptor)
    try:
        work, seconds, memory_bytes = connection.recv()
        if memory_bytes is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    except Exception as error:
        connection.send((_RAISED, _make_picklable(error)))
        return

    def heartbeat() -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        connection.send((_ALIVE, None))

    try:
        connection.send((_DONE, None))
        while True:
            argument = connection.recv()
            signal.setitimer(signal.ITIMER_REAL, seconds)
            try:
                answer = (_DONE, work(argument, heartbeat))
            except MemoryError:
                # The address space may be fragmented, so another process takes over.
                os._exit(_OUT_OF_MEMORY)
            except Exception as error:
                answer = (_RAISED, _make_picklable(error))
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send(answer)
    except (EOFError, ConnectionError):
        return


def _make_picklable(error: Exception) -> Exception:
    """Returns an exception that can be pickled, with its traceback as a note."""
    if isinstance(error, UserError):
        return error
    error.add_note(f"in a child process:\n{traceback.format_exc()}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(traceback.format_exc())
    return error
