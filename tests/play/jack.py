"""A JACK server without a sound card: the MIDI ports of a real system."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.processes import wait_until

BACKEND = "mido.backends.rtmidi/UNIX_JACK"
SERVER = "JACK_DEFAULT_SERVER"
"""The variable that names the server of a process's ports."""


def missing() -> str:
    """Returns why there can be no JACK here, or an empty text."""
    absent = [name for name in ("jackd", "jack_lsp") if not shutil.which(name)]
    return f"no {absent[0]} (Debian: apt install jackd2)" if absent else ""


@contextlib.contextmanager
def jack_server(directory: Path) -> Iterator[str]:
    """Runs a server, and yields its name."""
    name = f"sostenuto-{os.getpid()}"
    command = [
        "setpriv",
        "--pdeathsig=KILL",
        "jackd",
        "--no-realtime",
        "--sync",
        "--name",
        name,
        "-d",
        "dummy",
        "--rate",
        "48000",
        "--period",
        "1024",
    ]
    with (
        (directory / "jackd.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as server,
    ):
        try:
            wait_until(lambda: _answers(name) or server.poll() is not None, 30, (directory / "jackd.log").read_text)
            assert server.poll() is None, (directory / "jackd.log").read_text()
            yield name
        finally:
            server.terminate()


def _answers(name: str) -> bool:
    return not subprocess.run(["jack_lsp", "--server", name], capture_output=True, check=False, timeout=60).returncode
