"""What every test starts from: seeded randomness and a clean place in the environment."""

import os
import random
from pathlib import Path

import hypothesis
import numpy as np
import pytest

# Reproducible, and without a deadline: the machine may be busy with other things.
hypothesis.settings.register_profile("sostenuto", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("sostenuto")


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
