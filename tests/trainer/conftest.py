"""What the trainer's tests share: a cache of their own, and one tiny dataset."""

import os

import pytest

from tests.factories import write_dataset


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Keeps note tables out of the user's cache, in this process and in those it starts."""
    with pytest.MonkeyPatch.context() as patch:
        # Building matplotlib's list of fonts costs every test process seconds.
        patch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR", os.path.expanduser("~/.cache/matplotlib")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """A dataset of a few short performances in each split."""
    return write_dataset(
        tmp_path_factory.mktemp("dataset") / "data",
        {"train": [70, 33, 120, 5], "validation": [40, 20], "test": [30, 41]},
        straddling_pieces=["test-0"],
    )
