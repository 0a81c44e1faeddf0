"""Import of TensorFlow without its log messages."""

import importlib.util
import logging
import os
import sys
import tempfile

logger = logging.getLogger(__name__)


def require_tensorflow() -> None:
    """Raises a ModuleNotFoundError if TensorFlow is not installed, without importing it."""
    if importlib.util.find_spec("tensorflow") is None:
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")


def import_tensorflow() -> None:
    """Imports TensorFlow; stderr output of its libraries, which reads like warnings, is shown only if that fails."""
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
