"""The tiny dataset of the trainer's tests, and how much is asked for."""

import os
import random

import pytest

from tests.trainer.conftest import _own_cache, dataset  # noqa: F401


@pytest.fixture(scope="session")
def kills() -> int:
    """How many processes the long tests are to kill; without a number they are skipped."""
    if not os.environ.get("SOSTENUTO_KILLS"):
        pytest.skip("takes long: make faults")
    return int(os.environ["SOSTENUTO_KILLS"])


@pytest.fixture
def choose() -> random.Random:
    """What chooses moments; `make faults SEED=N` has it choose others."""
    return random.Random(int(os.environ.get("SOSTENUTO_SEED", "0")))
