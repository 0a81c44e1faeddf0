"""The study over gRPC: the chief serves it, workers call it; every wait has a bound.

A call carries a JSON object and the study's fingerprint. Calls are safe to repeat: a worker that did not hear the
answer asks again.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc

from sostenuto.errors import UserError
from tuning.study import Assignment, Done, Outcome, Study, Wait

logger = logging.getLogger(__name__)

_SERVICE = "sostenuto.Study"
_CALL_SECONDS, _SHORTEST_CALL_SECONDS = 10.0, 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # seconds between two tries of a call
_THREADS = 64  # most of which wait
_ANSWERS: dict[str, type] = {"assignment": Assignment, "wait": Wait, "done": Done}

# What a chief that is away answers with, sooner or later; with others, it is there but could not answer.
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class WorkerRegistry:
    """What a chief has heard of its workers.

    Args:
        workers: that had trials before this chief was started; they may still be there.
    """

    def __init__(self, workers: Iterable[str]) -> None:
        self._heard = time.monotonic()
        self._workers = set(workers)
        self._told: set[str] = set()

    @property
    def silent_seconds(self) -> float:
        """Since any worker called, or since the chief began to listen."""
        return time.monotonic() - self._heard

    @property
    def untold_workers(self) -> set[str]:
        """Those that had or asked for trials and were not told yet that the study is done."""
        return self._workers - self._told

    def note(self) -> None:
        """Takes in that a worker called."""
        self._heard = time.monotonic()

    def note_answer(self, worker: str, answer: Assignment | Wait | Done) -> None:
        """Takes in what a worker was told to do."""
        self._workers.add(worker)
        if isinstance(answer, Done):
            self._told.add(worker)


@contextlib.contextmanager
def serve(study: Study, address: str) -> Iterator[WorkerRegistry]:
    """Serves a study while the context lasts; what it gives tells who has called.

    Args:
        study: what answers.
        address: HOST:PORT to listen on.

    Raises:
        UserError: nobody can listen there.
    """
    calls = WorkerRegistry(study.workers)
    # A bucket that is away must not keep all threads from hearing signs of life; who was not answered asks again.
    study.patience = _CALL_SECONDS

    def next_trial(worker: str, request: str) -> dict[str, Any]:
        answer = study.next_trial(worker, request)
        calls.note_answer(worker, answer)
        return _packed(answer)

    handlers: dict[str, Callable[..., Any]] = {
        "next_trial": next_trial,
        "beat": study.beat,
        "report": study.report,
        "end": study.end,
    }

    def method(function: Callable[..., Any]) -> grpc.RpcMethodHandler:
        def answer(request: dict[str, Any], context: grpc.ServicerContext) -> Any:
            if request["study"] != study.fingerprint:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this chief leads another study")
            calls.note()
            return function(**request["arguments"])

        return grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=json.loads, response_serializer=_serialized
        )

    # Without reuse of the port: two chiefs on one address would share the calls between them.
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(_THREADS), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(_SERVICE, {name: method(each) for name, each in handlers.items()})]
    )
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise UserError(
            f"the chief cannot listen on {address}: is the port taken, or the address not this machine's?"
        ) from error
    server.start()
    try:
        yield calls
    finally:
        server.stop(grace=1.0).wait()


class StudyClient:
    """A study somewhere else, with the methods that a worker calls.

    Args:
        address: HOST:PORT of the chief.
        fingerprint: of the study that the worker belongs to.
        patience: seconds for which a call is tried again while the chief is away.
    """

    def __init__(self, address: str, fingerprint: str, *, patience: float) -> None:
        self._address, self._fingerprint, self._patience = address, fingerprint, patience
        # A channel that lost its peer would wait longer and longer before it looks again.
        self._channel = grpc.insecure_channel(address, options=[("grpc.max_reconnect_backoff_ms", 2000)])

    def __enter__(self) -> "StudyClient":
        """Returns the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the connection."""
        self._channel.close()

    def next_trial(self, worker: str) -> Assignment | Wait | Done:
        """As `Study.next_trial`."""
        # The same name at each try of this call, by which the study tells it from a worker that was started again.
        return _unpacked(self._call("next_trial", worker=worker, request=uuid.uuid4().hex))

    def beat(self, trial: str, attempt: int) -> bool:
        """As `Study.beat`, but tried only once: the next one follows anyway."""
        return self._call("beat", patience=0, trial=trial, attempt=attempt)

    def report(self, trial: str, attempt: int, train_step: int, share: float, score: float) -> str:
        """As `Study.report`."""
        return self._call("report", trial=trial, attempt=attempt, train_step=train_step, share=share, score=score)

    def end(
        self,
        trial: str,
        attempt: int,
        outcome: Outcome,
        score: float | None,
        reason: str,
        seconds: float,
        train_step: int,
    ) -> bool:
        """As `Study.end`."""
        return self._call(
            "end", trial=trial, attempt=attempt, outcome=outcome, score=score, reason=reason, seconds=seconds,
            train_step=train_step,
        )  # fmt: skip

    def _call(self, method: str, *, patience: float | None = None, **arguments: Any) -> Any:
        call = self._channel.unary_unary(
            f"/{_SERVICE}/{method}", request_serializer=_serialized, response_deserializer=json.loads
        )
        request = {"study": self._fingerprint, "arguments": arguments}
        patience = self._patience if patience is None else patience
        given_up = time.monotonic() + patience
        pause = _FIRST_PAUSE
        told = False
        while True:
            try:
                left = given_up - time.monotonic()
                return call(request, timeout=min(max(left, _SHORTEST_CALL_SECONDS), _CALL_SECONDS))
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.FAILED_PRECONDITION:
                    raise UserError(
                        f"the chief at {self._address} leads another study: expected one with the same --data, "
                        "--workdir, search space and budget"
                    ) from error
                if time.monotonic() + pause > given_up:
                    could = "did not" if error.code() in _AWAY else f"could not ({error.details()})"
                    raise UserError(
                        f"the chief at {self._address} {could} answer for {patience:.0f} s: start it, or give its "
                        "--chief_address"
                    ) from error
            if not told:
                logger.info(f"waiting for the chief at {self._address}", extra={"figures": {"chief": self._address}})
                told = True
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _serialized(value: Any) -> bytes:
    return json.dumps(value).encode()


def _packed(answer: Assignment | Wait | Done) -> dict[str, Any]:
    (name,) = (name for name, kind in _ANSWERS.items() if isinstance(answer, kind))
    return {name: dataclasses.asdict(answer)}


def _unpacked(answer: dict[str, Any]) -> Assignment | Wait | Done:
    ((name, values),) = answer.items()
    return _ANSWERS[name](**values)
