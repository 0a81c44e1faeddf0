"""What every test starts from: seeded randomness and a clean place in the environment."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from notes import storage
from tests.gcs_server import GcsServer

# Reproducible, and without a deadline: the machine may be busy with other things.
hypothesis.settings.register_profile("sostenuto", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("sostenuto")


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores SIGINT, and so would every command that a test starts and then interrupts. A
    # process that handles it starts others with the default action.
    signal.signal(signal.SIGINT, lambda *_: None)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The directory of a real corpus, from the environment; the test is skipped where there is none."""
    path = os.environ.get("SOSTENUTO_CORPUS")
    if not path:
        pytest.skip("no real corpus: set SOSTENUTO_CORPUS to the directory of one in MAESTRO's layout")
    return Path(path)


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[GcsServer]:
    """An empty Google Cloud Storage on loopback, with the bucket "bucket", for this process and its children."""
    with GcsServer() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server
        storage.close()
