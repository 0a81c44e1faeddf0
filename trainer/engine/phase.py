"""Display of activities besides training."""

import contextlib
import logging
from collections.abc import Iterator

from sostenuto import progress

logger = logging.getLogger(__name__)

_logged: set[str] = set()


@contextlib.contextmanager
def phase(activity: str) -> Iterator[None]:
    """Shows an activity by a bar while it lasts; without a terminal, logs it the first time."""
    # Below the bar of training, the bar is removed at the end.
    bar = progress.bar(total=None, unit="second", description=activity, leave=None, bar_format="{desc} [{elapsed}]")
    if bar is None and activity not in _logged:
        logger.info(activity)
    _logged.add(activity)
    with contextlib.nullcontext() if bar is None else bar:
        yield
