"""Loading of TensorFlow without its log messages and with one workspace of cuBLAS, for every import of it."""

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from types import FrameType, ModuleType

logger = logging.getLogger(__name__)

_LIBRARIES = {"tensorflow", "keras"}  # Each imports the other.


def require_tensorflow() -> None:
    """Raises a ModuleNotFoundError if TensorFlow is not installed, without importing it."""
    if importlib.util.find_spec("tensorflow") is None:
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")


class QuietTensorFlow(importlib.abc.MetaPathFinder):
    """Finder of TensorFlow and Keras, which are loaded without their messages."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Returns the module's spec with a quiet loader, and None for any other module."""
        spec = importlib.machinery.PathFinder.find_spec(name) if name in _LIBRARIES else None
        if spec is not None and spec.origin is not None:
            spec.loader = _QuietLoader(name, spec.origin)
        return spec


class _QuietLoader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        """Loads the module."""
        # cuBLAS would otherwise choose among workspaces of two sizes, and with them kernels, as streams happen to run.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        if not sys.modules.keys() >= _LIBRARIES:
            logger.info("loading TensorFlow")
        with _hide_messages(), _raise_signals():
            super().exec_module(module)


@contextlib.contextmanager
def _hide_messages() -> Iterator[None]:
    """Shows stderr output only if the import fails, or if the user asks for all messages of TensorFlow.

    Before it reads any log level, TensorFlow logs the CPU instructions and CUDA libraries that it found, which read
    like warnings.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "0" or sys.stderr is None:
        yield
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except Exception:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


@contextlib.contextmanager
def _raise_signals() -> Iterator[None]:
    """Raises a signal's exception, such as KeyboardInterrupt, which the imported modules may catch or replace."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {
        number: handler for number in (signal.SIGINT, signal.SIGTERM) if callable(handler := signal.getsignal(number))
    }
    raised: list[BaseException] = []

    def handle(number: int, frame: FrameType | None) -> None:
        try:
            handlers[signal.Signals(number)](number, frame)
        except BaseException as error:
            raised.append(error)
            raise

    for number in handlers:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if raised:
            raise raised[0] from None
