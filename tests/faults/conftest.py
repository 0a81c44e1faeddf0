"""The tiny dataset of the trainer's tests, how much is asked for, and the summary of all strikes."""

import os
import random

import pytest

from tests.faults.commands import outcomes
from tests.trainer.conftest import _own_cache, dataset  # noqa: F401

SEED = int(os.environ.get("SOSTENUTO_SEED", "0"))


@pytest.fixture(scope="session")
def kills() -> int:
    """How many processes the long tests are to kill; without a number they are skipped."""
    if not os.environ.get("SOSTENUTO_KILLS"):
        pytest.skip("takes long: make faults")
    return int(os.environ["SOSTENUTO_KILLS"])


@pytest.fixture(scope="session")
def seed() -> int:
    """What all moments follow from; `make faults SEED=N` has others chosen."""
    return SEED


@pytest.fixture
def choose(seed) -> random.Random:
    """What chooses moments."""
    return random.Random(seed)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints how many strikes of each kind were made, and how each ended."""
    for kind in dict.fromkeys(kind for kind, _, _ in outcomes):
        ends: dict[str, int] = {}
        for (other, _, end), count in outcomes.items():
            if other == kind:
                ends[end] = ends.get(end, 0) + count
        parts = ", ".join(f"{count} {end}" for end, count in ends.items())
        terminalreporter.write_line(f"faults, SEED={SEED}: {kind}: {sum(ends.values())} strikes: {parts}")
