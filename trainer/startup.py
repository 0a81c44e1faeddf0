"""Loads TensorFlow without its chatter."""

import importlib.util
import logging
import os
import sys
import tempfile

logger = logging.getLogger(__name__)


def import_tensorflow() -> None:
    """Imports TensorFlow; what its libraries write to stderr meanwhile is shown only if the import fails.

    It logs, before any log level is read, which CPU instructions and CUDA libraries it found; to a user who asked for
    nothing of the kind that reads like a warning.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if importlib.util.find_spec("tensorflow"):
        logger.info("loading TensorFlow")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
