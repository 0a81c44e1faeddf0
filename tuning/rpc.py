"""Study server and client over gRPC; every wait has a limit.

A call carries a JSON object and the study's fingerprint. A worker repeats a call without a reply, which is safe.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from sostenuto.errors import TemporaryError, UserError
from tuning.study import Study
from tuning.trial import Assignment, AttemptResult, Done, TrialStatus, Verdict, Wait

logger = logging.getLogger(__name__)

_SERVICE = "sostenuto.Study"
_CALL_SECONDS, _MIN_CALL_SECONDS = 10.0, 1.0
_MIN_PAUSE, _MAX_PAUSE = 0.2, 5.0  # seconds between two tries of a call
_SIGNAL_PATIENCE = 5.0  # seconds for the chief's answer after a signal
_THREADS = 64  # most of them wait
_ANSWERS: dict[str, type] = {kind.__name__.lower(): kind for kind in (Assignment, Wait, Done)}

# Status codes of an absent chief. With others, a chief is present but could not answer.
_ABSENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@dataclasses.dataclass
class WorkerRegistry:
    """Workers that a chief knows: those that called, and those that had trials before it started."""

    workers: set[str]
    finished: set[str] = dataclasses.field(default_factory=set)
    last_call: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last call of any worker, or since the start."""
        return time.monotonic() - self.last_call

    @property
    def active_workers(self) -> set[str]:
        """Workers that do not know yet that the study is done."""
        return self.workers - self.finished

    def record_answer(self, worker: str, answer: Assignment | Wait | Done) -> None:
        """Records the reply to a worker's request for a trial."""
        self.workers.add(worker)
        if isinstance(answer, Done):
            self.finished.add(worker)


@contextlib.contextmanager
def serve(study: Study, address: str) -> Iterator[WorkerRegistry]:
    """Serves a study on HOST:PORT until the context ends; raises a UserError if the address is not available."""
    registry = WorkerRegistry({trial.worker for trial in study.trials() if trial.worker})
    # An absent bucket must not block all threads, which also serve heartbeats; workers repeat the call.
    study.write_timeout = _CALL_SECONDS

    def next_trial(worker: str, request: str) -> dict[str, Any]:
        answer = study.next_trial(worker, request)
        registry.record_answer(worker, answer)
        return {type(answer).__name__.lower(): dataclasses.asdict(answer)}

    def end_trial(trial: str, attempt: int, result: dict[str, Any]) -> bool:
        return study.end_trial(trial, attempt, AttemptResult(**{**result, "outcome": TrialStatus(result["outcome"])}))

    def handler(method: Callable[..., Any]) -> grpc.RpcMethodHandler:
        def answer(request: dict[str, Any], context: grpc.ServicerContext) -> Any:
            if request["study"] != study.fingerprint:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this chief leads another study")
            registry.last_call = time.monotonic()
            return method(**request["arguments"])

        return grpc.unary_unary_rpc_method_handler(answer, request_deserializer=json.loads, response_serializer=_dump)

    # Two chiefs that reuse one port would share the calls.
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(_THREADS), options=[("grpc.so_reuseport", 0)])
    handlers = {
        "next_trial": handler(next_trial),
        "heartbeat": handler(study.heartbeat),
        "report_score": handler(study.report_score),
        "end_trial": handler(end_trial),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_SERVICE, handlers)])
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise UserError(
            f"chief at {address}: it cannot listen there. Pass a free port and an address of this machine"
        ) from error
    server.start()
    try:
        yield registry
    finally:
        server.stop(grace=1.0).wait()


class StudyClient(contextlib.AbstractContextManager["StudyClient"]):
    """Connection to a chief's study, with `Study`'s methods that a worker calls.

    A call is repeated for `patience` seconds while the chief at HOST:PORT is absent.
    """

    def __init__(self, address: str, fingerprint: str, *, patience: float) -> None:
        self._address, self._fingerprint, self._patience = address, fingerprint, patience
        # gRPC's default would increase the interval between reconnections up to two minutes.
        self._channel = grpc.insecure_channel(address, options=[("grpc.max_reconnect_backoff_ms", 2000)])

    def __exit__(self, *_: object) -> None:
        """Closes the connection."""
        self._channel.close()

    def next_trial(self, worker: str) -> Assignment | Wait | Done:
        """Returns the next task."""
        # Repeated calls share the id, which distinguishes them from calls of a restarted worker.
        ((name, values),) = self._call("next_trial", worker=worker, request=uuid.uuid4().hex).items()
        return _ANSWERS[name](**values)

    def heartbeat(self, trial: str, attempt: int) -> bool:
        """Records a heartbeat; tries only once, since the next one follows soon."""
        return self._call("heartbeat", patience=0, trial=trial, attempt=attempt)

    def report_score(self, trial: str, attempt: int, *, train_step: int, share: float, score: float) -> Verdict:
        """Records an intermediate score."""
        return Verdict(
            self._call("report_score", trial=trial, attempt=attempt, train_step=train_step, share=share, score=score)
        )

    def end_trial(self, trial: str, attempt: int, result: AttemptResult) -> bool:
        """Records the end of an attempt; after a signal, an absent chief may have got it too and is not waited for."""
        patience = min(self._patience, _SIGNAL_PATIENCE) if result.signal_number else None
        return self._call(
            "end_trial", patience=patience, trial=trial, attempt=attempt, result=dataclasses.asdict(result)
        )

    def _call(self, method: str, *, patience: float | None = None, **arguments: Any) -> Any:
        call = self._channel.unary_unary(
            f"/{_SERVICE}/{method}", request_serializer=_dump, response_deserializer=json.loads
        )
        request = {"study": self._fingerprint, "arguments": arguments}
        patience = self._patience if patience is None else patience
        deadline, pause = time.monotonic() + patience, _MIN_PAUSE
        while True:
            try:
                seconds = deadline - time.monotonic()
                return call(request, timeout=min(max(seconds, _MIN_CALL_SECONDS), _CALL_SECONDS))
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.FAILED_PRECONDITION:
                    raise UserError(
                        f"chief at {self._address}: it leads another study. Pass the same --data, --workdir, search "
                        "space and budget as the chief's"
                    ) from error
                if time.monotonic() + pause > deadline:
                    details = "" if error.code() in _ABSENT else f" ({error.details()})"
                    raise TemporaryError(
                        f"chief at {self._address}: no answer for {patience:.0f} s{details}. Start it, or pass its "
                        "--chief_address"
                    ) from error
            if pause == _MIN_PAUSE:
                logger.info(f"waiting for the chief at {self._address}", extra={"figures": {"chief": self._address}})
            time.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE)


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()
