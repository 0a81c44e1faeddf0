"""What the tests of a search share with those of the trainer: its tiny dataset, and a cache of their own."""

from tests.trainer.conftest import _own_cache, dataset  # noqa: F401
