"""Runs a pipeline on a job server of Beam's portable runners, whose failures are one line."""

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from beam_preprocess.engines.job_errors import JobFailedError, extract_user_error
from sostenuto.errors import TemporaryError

if TYPE_CHECKING:
    import apache_beam

_READER: Final = "wait_until_finish_read"  # the name that Beam gives to the thread
_READER_SECONDS: Final = 5.0


def run(pipeline: "apache_beam.Pipeline") -> None:
    """Runs a pipeline on the server that its options name, and waits for it; cancels it if it is interrupted.

    Raises:
        UserError: the one that a worker raised.
        JobFailedError: the job failed otherwise, or was cancelled.
        TemporaryError: the server does not answer.
    """
    from apache_beam.options.pipeline_options import PortableOptions

    options = pipeline.options.view_as(PortableOptions)
    endpoint = options.job_endpoint
    server = f"the job server at {endpoint}" if endpoint else "the job server"
    with _translate_errors(server), _quiet_threads():
        if endpoint:
            _wait_until_ready(endpoint, options.job_server_timeout)
        result = pipeline.run()
        try:
            result.wait_until_finish()
        except (KeyboardInterrupt, SystemExit):
            # No later run can find the job.
            result.cancel()
            raise


def _wait_until_ready(endpoint: str, seconds: float) -> None:
    """Waits until a server accepts connections; Beam itself would try six times as long."""
    import grpc

    with grpc.insecure_channel(endpoint) as channel:
        grpc.channel_ready_future(channel).result(timeout=seconds)


@contextlib.contextmanager
def _translate_errors(server: str) -> Iterator[None]:
    """Raises this project's exceptions for those of Beam and gRPC."""
    import grpc

    try:
        yield
    except (grpc.RpcError, grpc.FutureTimeoutError) as error:
        reason = error.details() if isinstance(error, grpc.Call) else "it did not answer in time"
        raise TemporaryError(
            f"{server}: {reason}. Check that it runs (--job_endpoint), and run the same command again"
        ) from error
    except RuntimeError as error:
        text = str(error)
        if user_error := extract_user_error(text):
            raise user_error from error
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        raise JobFailedError(f"{server}: the job failed: {lines[-1] if lines else 'it gave no reason'}") from error


@contextlib.contextmanager
def _quiet_threads() -> Iterator[None]:
    """Hides the traceback of Beam's thread that reads the server's messages: the call itself raises the error.

    The thread may fail later than the call, so its end is waited for.
    """
    import grpc

    former = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not issubclass(arguments.exc_type, grpc.RpcError):
            former(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        for thread in threading.enumerate():
            if thread.name == _READER:
                thread.join(_READER_SECONDS)
        threading.excepthook = former
