"""Exclusive write access to a local or remote directory.

A local directory is locked until its process ends. In a bucket the process writes an object that names it, and renews
it. Another process waits: if the object is renewed, it gives up; if it is not renewed for `EXPIRE_SECONDS`, it takes
over. It takes over at once if the holder is known to have ended: a former process of this machine, or one in a pod of
the same name, which has been restarted.
"""

import collections
import contextlib
import io
import json
import logging
import os
import socket
import threading
import time
import uuid
from typing import Any

from sostenuto import storage
from sostenuto.errors import ChangedError, FileError, HeldError, LostError, MissingError, UserError
from sostenuto.json_text import parse_json

logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"

RENEW_SECONDS = 15.0
EXPIRE_SECONDS = 60.0
POLL_SECONDS = 2.0

_TYPES = {"id": str, "host": str, "pid": int, "started": str, "processes": str, "pod": str, "renewed": float}
_CLOCK_SKEW_SECONDS = 60.0  # maximum difference between the clocks of two machines
_JOIN_SECONDS = 5.0  # for the last renewal when the lease is closed


class Lock:
    """A local directory, held until the lock is closed or the process ends."""

    def __init__(self, directory: str, name: str = LOCK_NAME) -> None:
        self._directory, self._path = directory, os.path.join(directory, name)
        file = storage.lock(self._path)
        if file is None:
            raise HeldError(_describe(_load_holder(self._path)) or "another process")
        self._file, self._id = file, uuid.uuid4().hex
        try:
            file.truncate(0)
            file.write(_describe_this_process(self._id))
            file.flush()
        except OSError as error:
            file.close()
            raise FileError(f"{self._path}: cannot be written ({error.strerror})") from error

    def __reduce__(self) -> tuple[type["Proxy"], tuple[str, str]]:
        return Proxy, (self._directory, self._id)

    def check_held(self, *, now: bool = False) -> None:
        """Does nothing: only the holder's end releases a local directory."""

    def close(self) -> None:
        """Releases the directory."""
        with contextlib.suppress(OSError):
            os.remove(self._path)
        self._file.close()

    def read_bytes(self, path: str) -> bytes | None:
        """Returns the content of a file of the directory, or None if there is none."""
        return storage.read_bytes(path) if storage.exists(path) else None

    def write_bytes(self, path: str, data: bytes) -> None:
        """Writes a file of the directory as a whole or not at all."""
        storage.make_directories(os.path.dirname(path))
        storage.write_bytes_atomic(path, data)

    def remove(self, path: str) -> None:
        """Deletes a file or directory of the directory, if there is one."""
        (storage.remove_directory if storage.is_directory(path) else storage.remove)(path)


class Proxy:
    """A lock or lease in a process that it was sent to by pickling."""

    def __init__(self, directory: str, holder_id: str) -> None:
        self._directory, self._id = directory, holder_id

    def check_held(self, *, now: bool = False) -> None:
        """Raises LostError if the process that sent it does not hold the directory any more."""
        holder = _load_holder(storage.join(self._directory, LOCK_NAME))
        if not holder:
            raise LostError(
                f"{self._directory}: its {LOCK_NAME} is gone, so it was removed, unmounted or released while this "
                "command wrote to it. Check that it is there, and give the same command again"
            )
        if holder.get("id") != self._id:
            raise _lost(self._directory, _describe(holder) or "another process")


class Lease:
    """A directory of a bucket, held while a thread renews it; see `hold`.

    Files are written and deleted only in place of the generations that this process knows. So a process that lost the
    directory unawares changes nothing that its successor wrote.
    """

    def __init__(self, directory: str, name: str = LOCK_NAME) -> None:
        self._directory, self._path = directory, storage.join(directory, name)
        self._gcs = storage.load_gcs()
        self._written: dict[str, int] = {}  # generation of each file that this process has read or written
        self._renewing = threading.Lock()
        self._lost, self._successor = False, "another process"
        self._renewed, self._id = time.time(), uuid.uuid4().hex
        self._generation = self._acquire()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_closed, name="lease", daemon=True)
        self._thread.start()

    def __reduce__(self) -> tuple[type[Proxy], tuple[str, str]]:
        return Proxy, (self._directory, self._id)

    def check_held(self, *, now: bool = False) -> None:
        """Checks that this process still holds the directory; `now` asks the bucket even if it was just asked.

        Raises:
            LostError: another process holds it.
            FileError: the bucket cannot be read or written.
        """
        # A suspended machine has missed its renewals.
        if now or not 0 <= time.time() - self._renewed <= RENEW_SECONDS:
            self._renew()
        if self._lost:
            with contextlib.suppress(FileError):
                self._successor = _describe(self._read_holder()[0]) or self._successor
            raise _lost(self._directory, self._successor)

    def close(self) -> None:
        """Releases the directory; if the bucket does not answer, the lease expires."""
        self._closed.set()
        self._thread.join(_JOIN_SECONDS)
        if not self._thread.is_alive() and not self._lost:
            with contextlib.suppress(FileError):
                self._gcs.remove(self._path, generation=self._generation)

    def read_bytes(self, path: str) -> bytes | None:
        """Returns the content of a file of the directory, or None; `write_bytes` replaces only this generation."""
        content, self._written[path] = io.BytesIO(), 0
        with contextlib.suppress(MissingError):
            self._written[path] = self._gcs.read(path, content)
        return content.getvalue() if self._written[path] else None

    def write_bytes(self, path: str, data: bytes) -> None:
        """Writes a file of the directory; raises LostError or ChangedError if another process has taken it over."""
        if path not in self._written:
            # Before the check: what another process writes after it has another generation.
            self._written[path] = self._gcs.generation(path)
            self.check_held(now=True)
        self.check_held()
        try:
            self._written[path] = self._gcs.replace(path, io.BytesIO(data), self._written[path])
        except ChangedError:
            del self._written[path]
            self.check_held(now=True)
            raise

    def remove(self, path: str) -> None:
        """Deletes a file or directory below the directory; raises LostError if another process has taken it over."""
        generations = {storage.join(path, name): number for name, number in self._gcs.generations(path).items()}
        generations |= {path: number} if (number := self._gcs.generation(path)) else {}
        self.check_held(now=True)

        def remove(name: str) -> None:
            self.check_held()
            self._gcs.remove(name, generation=generations[name])
            self._written.pop(name, None)

        collections.deque(storage.concurrently(remove, generations), maxlen=0)

    def _acquire(self) -> int:
        """Waits until the directory is free or another process renews its lease; returns the lease's generation."""
        watched, since = 0, 0.0
        while True:
            holder, generation = self._read_holder()
            is_expired = watched == generation and time.monotonic() - since > EXPIRE_SECONDS
            if not generation or is_expired or _has_ended(holder):
                acquired = self._write(generation)
                if acquired is not None:
                    return acquired
                continue  # Another process was faster.
            name = _describe(holder) or "another process"
            if _is_running(holder) or (watched and watched != generation):
                raise HeldError(name)
            if not watched:
                watched, since = generation, time.monotonic()
                logger.info(
                    f"{self._directory}: held by {name}. Waiting up to {EXPIRE_SECONDS:.0f} s for its lease to expire"
                )
            time.sleep(POLL_SECONDS)

    def _read_holder(self) -> tuple[dict[str, Any], int]:
        """Returns the description of the process that holds the directory, and its generation; 0 if there is none."""
        content = io.BytesIO()
        try:
            generation = self._gcs.read(self._path, content)
        except MissingError:
            return {}, 0
        return _parse_holder(content.getvalue()), generation

    def _write(self, generation: int) -> int | None:
        """Writes a description of this process in place of a generation; returns the new one, or None if it changed."""
        return self._gcs.write(self._path, io.BytesIO(_describe_this_process(self._id)), generation=generation)

    def _renew_until_closed(self) -> None:
        while not self._closed.wait(RENEW_SECONDS):
            # While the bucket does not answer, no other process can take over either.
            with contextlib.suppress(FileError):
                self._renew()
            if self._lost:
                return

    def _renew(self) -> None:
        with self._renewing:
            started = time.time()
            renewed = self._write(self._generation)
            if renewed is None:
                self._lost = True
            else:
                self._generation, self._renewed = renewed, started


def hold(directory: str, name: str = LOCK_NAME) -> Lock | Lease:
    """Acquires a directory until the returned object is closed; raises HeldError if another process has it.

    `name` is that of the lock: one of another name holds only the files that its processes write.
    """
    return Lease(directory, name) if storage.is_remote(directory) else Lock(directory, name)


def _lost(directory: str, successor: str) -> LostError:
    return LostError(
        f"{directory}: {successor} has taken it over, because this one did not renew its lease. "
        "Leave it to that process, or end that process and give the same command again"
    )


def _describe_this_process(holder_id: str) -> bytes:
    """Returns the content of a lock."""
    holder = {
        "id": holder_id,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _start_time(os.getpid()),
        "processes": _process_namespace(),
        "pod": _pod(),
        "renewed": time.time(),
    }
    return json.dumps(holder).encode()


def _describe(holder: dict[str, Any]) -> str:
    """Returns a name of the holder; empty if it is unknown."""
    return f"process {holder['pid']} on {holder['host']}" if {"pid", "host"} <= holder.keys() else ""


def _load_holder(path: str) -> dict[str, Any]:
    """Returns the content of a lock; empty if there is none."""
    return _parse_holder(storage.read_bytes(path)) if storage.exists(path) else {}


def _parse_holder(data: bytes) -> dict[str, Any]:
    """Returns the entries of a lock that have the right type; another version may have written it."""
    try:
        holder = parse_json(data, LOCK_NAME)
    except UserError:
        return {}
    entries = holder.items() if isinstance(holder, dict) else ()
    return {name: value for name, value in entries if type(value) is _TYPES.get(name)}


def _is_running(holder: dict[str, Any]) -> bool:
    """Returns whether the holder is a running process of this machine."""
    return _is_of_this_machine(holder) and _start_time(holder.get("pid")) == holder.get("started")


def _has_ended(holder: dict[str, Any]) -> bool:
    """Returns whether the holder is known to have ended."""
    if _is_of_this_machine(holder):
        return not _is_running(holder)
    if _pod() and holder.get("pod") == _pod():
        return True
    renewed = holder.get("renewed")
    return isinstance(renewed, float) and time.time() - renewed > EXPIRE_SECONDS + _CLOCK_SKEW_SECONDS


def _is_of_this_machine(holder: dict[str, Any]) -> bool:
    return bool(_process_namespace()) and holder.get("processes") == _process_namespace()


def _process_namespace() -> str:
    """Returns a name of this machine's or container's processes; empty if it has none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_time(pid: Any) -> str:
    """Returns when a process started, which tells it from a later one of its number; empty if it does not run."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # After the program's name, which may contain spaces and parentheses.
            state, *fields = file.read().rpartition(")")[2].split()
            return "" if state in "ZX" else fields[18]
    except (OSError, IndexError):
        return ""


def _pod() -> str:
    """Returns the pod's name, which stays when an Indexed Job restarts the pod; empty outside Kubernetes."""
    return socket.gethostname() if "KUBERNETES_SERVICE_HOST" in os.environ else ""
