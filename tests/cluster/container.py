"""A container as a process: namespaces of its own, a root that it cannot write, its pod's volumes, user and network."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.processes import REPOSITORY

# Directories of this machine that take the place of the image's, with those of Python and of this project.
_SYSTEM = ("bin", "dev", "etc", "lib", "lib64", "opt", "sbin", "sys", "usr")
# unshare's last words when the container was killed by SIGKILL; it then exits with status 1.
_KILLED = b"unshare: sigprocmask unblock failed: Invalid argument\n"


class Container:
    """A started container.

    Args:
        arguments: of `python`.
        environment: variables by name, the only ones that the container has.
        mounts: directories of this machine by the container's paths.
        hosts: the file at /etc/hosts.
        network: the pod's network namespace.
        user: the number of user and group.
        directory: an empty one, for the root.
        log: the file for stdout and stderr.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: dict[str, str],
        mounts: Mapping[str, Path],
        hosts: Path,
        network: str,
        user: int,
        directory: Path,
        log: Path,
    ) -> None:
        self._log = log
        script = "\n".join(["set -e", *_root(directory, mounts, hosts), 'exec "$@"'])
        variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
        with open(log, "wb") as output:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig=KILL", "nsenter", f"--net={network}"),
                    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh"),
                    *("chroot", f"--userspec={user}:{user}", f"--groups={user}", str(directory)),
                    *("setpriv", "--no-new-privs", sys.executable, *arguments),
                ],
                env=variables | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def signal(self, number: int) -> None:
        """Sends a signal to the container's process 1, if it still runs."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(children.read_text().split()[0]) if children.exists() else self._process.pid, number)

    def wait(self) -> int:
        """Waits for the end; returns the exit status as a kubelet reports it."""
        status = self._process.wait()
        if status == 1 and self._log.read_bytes().endswith(_KILLED):
            return 128 + signal.SIGKILL
        return status if status >= 0 else 128 - status


def _root(directory: Path, mounts: Mapping[str, Path], hosts: Path) -> list[str]:
    """The commands that make a root directory for the container, in its mount namespace."""
    root = str(directory)
    lines = [_command("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", root)]
    for name in _SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            lines.append(_command("ln", "-s", os.readlink(path), f"{root}{path}"))
        elif path.exists():
            lines += _bind(path, f"{root}{path}", "--rbind", "-o", "ro")
    lines += [_command("mkdir", f"{root}/proc"), _command("mount", "-t", "proc", "proc", f"{root}/proc")]
    for path, source in sorted(mounts.items()):
        lines += _bind(source, f"{root}{path}", "--bind")
    for path in dict.fromkeys([sys.base_prefix, sys.prefix, str(REPOSITORY)]):
        if not path.startswith("/usr"):
            lines += _bind(Path(path), f"{root}{path}", "--bind", "-o", "ro")
    lines.append(_command("mount", "--bind", str(hosts), f"{root}/etc/hosts"))
    return [*lines, _command("mount", "-o", "remount,ro", root)]


def _bind(source: Path, target: str, *options: str) -> list[str]:
    return [_command("mkdir", "-p", target), _command("mount", *options, str(source), target)]


def _command(*words: str) -> str:
    return shlex.join(words)
