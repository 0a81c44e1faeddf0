"""What the tests on engines share: a cache of their own, and one tiny dataset."""

from tests.trainer.conftest import _own_cache, dataset  # noqa: F401
