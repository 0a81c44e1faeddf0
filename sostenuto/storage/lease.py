"""Who may write below a directory, here or in a bucket: one process at a time.

A directory of this machine is locked, and the lock goes with the process. A bucket knows no locks: there the process
keeps an object that names it, and renews it all the while. Whoever comes later waits until it is renewed, and leaves;
or until it was not renewed for `EXPIRE_SECONDS`, and takes its place. It need not wait for one that is known to be
gone: a process of this machine that is no more, or one in a pod of the same name, which has been started again.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
from typing import Any, BinaryIO

from sostenuto import storage
from sostenuto.errors import FileError, UserError

logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"

RENEW_SECONDS = 15.0
EXPIRE_SECONDS = 60.0

_LOOK_SECONDS = 2.0  # between two looks at a lease that may be renewed
_CLOCKS_SECONDS = 60.0  # by which the clocks of two machines may differ
_JOIN_SECONDS = 5.0  # for which the last renewal may take when the lease is given back


class HeldError(UserError):
    """Another process has the directory; the message says which."""


class LostError(UserError):
    """Another process has taken the directory over."""


class Lock:
    """A directory of this machine that is held while the process lives, or until it is closed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def require(self) -> None:
        """Checks that it is still held, as it is."""

    def close(self) -> None:
        """Lets go of it."""
        self._file.close()


class Lease:
    """A directory of a bucket that is held while this renews it.

    Args:
        directory: in a bucket.

    Raises:
        HeldError: another process has it.
        FileError: the bucket cannot be read or written.
    """

    def __init__(self, directory: str) -> None:
        self._directory, self._path = directory, storage.join(directory, LOCK_NAME)
        self._renewing = threading.Lock()
        self._lost = False
        self._renewed = time.time()
        self._generation = self._take()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def require(self, *, ask: bool = False) -> None:
        """Checks that it is still held.

        Args:
            ask: asks the bucket even if it was asked a moment ago.

        Raises:
            LostError: it is not.
            FileError: the bucket does not say.
        """
        # A machine that slept has missed its renewals.
        if ask or not 0 <= time.time() - self._renewed <= RENEW_SECONDS:
            self._renew()
        if self._lost:
            raise LostError(
                f"{self._directory}: another process has taken it over, since this one was not heard of for a while: "
                "leave it to that one, or end that one and give the same command again"
            )

    def close(self) -> None:
        """Gives it back; where the bucket does not answer, it expires by itself."""
        self._over.set()
        self._thread.join(_JOIN_SECONDS)
        if not self._thread.is_alive() and not self._lost:
            with contextlib.suppress(FileError):
                storage.remove_if_generation(self._path, self._generation)

    def _take(self) -> int:
        """Waits until it is free, or known not to be; returns the generation of the object that says so."""
        watched, since = 0, 0.0
        while True:
            holder, generation = self._holder()
            is_over = watched == generation and time.monotonic() - since > EXPIRE_SECONDS
            if not generation or is_over or _is_gone(holder):
                taken = storage.write_if_generation(self._path, self._content(), generation)
                if taken is not None:
                    return taken
                continue  # Another one was faster.
            if _is_there(holder) or (watched and watched != generation):
                raise HeldError(f"process {holder.get('pid')} on {holder.get('host')}")
            if not watched:
                watched, since = generation, time.monotonic()
                logger.info(
                    f"{self._directory}: waiting up to {EXPIRE_SECONDS:.0f} s to see whether process "
                    f"{holder.get('pid')} on {holder.get('host')}, which has it, is still there"
                )
            time.sleep(_LOOK_SECONDS)

    def _holder(self) -> tuple[dict[str, Any], int]:
        """What the object says of who has it, and its generation; 0 where there is none."""
        try:
            content, generation = storage.read_with_generation(self._path)
        except storage.MissingError:
            return {}, 0
        try:
            holder = json.loads(content)
        except ValueError:
            holder = {}
        return holder if isinstance(holder, dict) else {}, generation

    def _content(self) -> bytes:
        own = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "processes": _processes(),
            "pod": _pod(),
            "renewed": time.time(),
        }
        return json.dumps(own).encode()

    def _keep(self) -> None:
        while not self._over.wait(RENEW_SECONDS):
            # While the bucket is away nobody else can take it either; whoever writes will tell.
            with contextlib.suppress(FileError):
                self._renew()
            if self._lost:
                return

    def _renew(self) -> None:
        with self._renewing:
            begun = time.time()
            renewed = storage.write_if_generation(self._path, self._content(), self._generation)
            if renewed is None:
                self._lost = True
            else:
                self._generation, self._renewed = renewed, begun


def hold(directory: str) -> Lock | Lease:
    """Keeps other processes out of a directory, here or in a bucket, until what is returned is closed.

    Raises:
        HeldError: another process has it.
        FileError: it cannot be written to.
    """
    if storage.is_remote(directory):
        return Lease(directory)
    file = storage.lock(os.path.join(directory, LOCK_NAME))
    if file is None:
        raise HeldError("another process")
    return Lock(file)


def _is_there(holder: dict[str, Any]) -> bool:
    """Whether the holder is known to live: it is a process of this machine."""
    return _is_of_this_machine(holder) and _started(holder.get("pid")) == holder.get("started")


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the holder is known to live no more."""
    if _is_of_this_machine(holder):
        return not _is_there(holder)
    if _pod() and holder.get("pod") == _pod():
        return True
    renewed = holder.get("renewed")
    return isinstance(renewed, float) and time.time() - renewed > EXPIRE_SECONDS + _CLOCKS_SECONDS


def _is_of_this_machine(holder: dict[str, Any]) -> bool:
    return bool(_processes()) and holder.get("processes") == _processes()


def _processes() -> str:
    """What tells the processes of this machine, or of this container, from all others; empty where nothing does."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: Any) -> str:
    """When a process of this machine began, which tells it from a later one of its number; empty if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # After the program's name, which may hold spaces and parentheses.
            state, *fields = file.read().rpartition(")")[2].split()
            return "" if state in "ZX" else fields[18]
    except (OSError, IndexError):
        return ""


def _pod() -> str:
    """The pod's name, as Kubernetes has it for a host; the same when an Indexed Job starts the pod again."""
    return socket.gethostname() if "KUBERNETES_SERVICE_HOST" in os.environ else ""
