"""The chief and its clients in one process, over loopback, with what goes wrong between them."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent import futures

import grpc
import pytest

from sostenuto.errors import TemporaryError, UserError
from tests.processes import REPOSITORY
from tests.tuning.studies import SPACE
from tuning.rpc import StudyClient, serve
from tuning.study import Study
from tuning.trial import Assignment, AttemptResult, Done, StudyConfig, TrialStatus, Wait

CONFIG = StudyConfig("random", 3, 1000, stop_weak=False)
ENDED = AttemptResult(TrialStatus.COMPLETED, 8.0, "steps", train_step=1000, seconds=1.0)
SCORE = {"train_step": 500, "share": 0.5, "score": 8.5}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


@pytest.fixture
def address():
    return f"localhost:{free_port()}"


@pytest.fixture
def study(tmp_path):
    with Study(tmp_path, SPACE, CONFIG) as study:
        yield study


@contextlib.contextmanager
def client_of(study, address, patience=20.0):
    with StudyClient(address, study.fingerprint, patience=patience) as client:
        yield client


class LosesAnswers(grpc.ServerInterceptor):
    """Has the chief do what it is asked, and then loses the answer of the first call of each kind."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def intercept_service(self, continuation, details):
        handler = continuation(details)
        name = details.method.rpartition("/")[2]

        def answer(request, context):
            self.calls.append(name)
            answered = handler.unary_unary(request, context)
            if self.calls.count(name) == 1:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")
            return answered

        return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)


def test_workers_run_a_study_through_the_service(study, address):
    with serve(study, address) as calls, client_of(study, address) as client:
        assert not calls.active_workers
        taken = []
        while isinstance(answer := client.next_trial("tuner0"), Assignment):
            taken.append(answer.trial)
            assert calls.active_workers == {"tuner0"}
            assert client.heartbeat(answer.trial, answer.attempt)
            assert client.report_score(answer.trial, answer.attempt, **SCORE) == "go"
            assert client.end_trial(answer.trial, answer.attempt, ENDED)
        assert answer == Done("3 trials: 3 completed")
        assert taken == ["0000", "0001", "0002"]
        assert not calls.active_workers
    assert study.trials()[0].values == SPACE.base_values
    assert [len(record.scores) for record in study.trials()] == [1, 1, 1]


def test_a_worker_waits_where_others_have_all_there_is(study, address):
    with serve(study, address), client_of(study, address) as client:
        for index in range(3):
            assert isinstance(client.next_trial(f"tuner{index}"), Assignment)
        answer = client.next_trial("tuner3")
        assert isinstance(answer, Wait)
        assert 0 < answer.seconds <= 5
        assert "0000 of tuner0" in answer.reason


def test_what_was_asked_again_since_the_answer_was_lost_counts_once(study, address, monkeypatch, capsys):
    loses = LosesAnswers()
    plain = grpc.server
    monkeypatch.setattr(grpc, "server", lambda *args, **kwargs: plain(*args, interceptors=[loses], **kwargs))
    with serve(study, address), client_of(study, address) as client:
        first = client.next_trial("tuner0")
        # Not a second attempt, as it would be for a worker that was started again.
        assert (first.trial, first.attempt) == ("0000", 1)
        assert client.report_score(first.trial, first.attempt, **SCORE) == "go"
        assert client.end_trial(first.trial, first.attempt, ENDED)
        assert client.next_trial("tuner0").trial == "0001"
    assert loses.calls == [*["next_trial"] * 2, *["report_score"] * 2, *["end_trial"] * 2, "next_trial"]
    first, second = study.trials()
    assert (first.status, first.score, len(first.scores), first.seconds) == ("completed", 8.0, 1, 1.0)
    assert (second.attempt, second.lost_workers) == (1, 0)
    assert f"waiting for the chief at {address}" in capsys.readouterr().err


def test_a_worker_that_was_started_again_is_no_repeated_call(study, address):
    with serve(study, address):
        attempts = []
        for _ in range(2):
            with client_of(study, address) as client:
                attempts.append(client.next_trial("tuner0"))
    assert [(one.trial, one.attempt) for one in attempts] == [("0000", 1), ("0000", 2)]


def test_late_words_of_an_attempt_whose_trial_was_given_away_are_refused(tmp_path, address):
    now = [0.0]
    with (
        Study(tmp_path, SPACE, CONFIG, clock=lambda: now[0]) as study,
        serve(study, address),
        client_of(study, address) as client,
    ):
        late = client.next_trial("tuner0")
        now[0] += CONFIG.worker_timeout + 1
        taken = client.next_trial("tuner1")
        assert (taken.trial, taken.attempt, taken.directory) == (late.trial, 2, late.directory)
        assert not client.heartbeat(late.trial, late.attempt)
        assert client.report_score(late.trial, late.attempt, **SCORE) == "lost"
        assert not client.end_trial(late.trial, late.attempt, ENDED)
        assert client.heartbeat(taken.trial, taken.attempt)
        (record,) = study.trials()
        assert (record.status, record.worker, record.scores) == ("running", "tuner1", ())


def test_workers_outlive_their_chief(tmp_path, address):
    with (
        Study(tmp_path, SPACE, CONFIG) as study,
        futures.ThreadPoolExecutor() as threads,
        client_of(study, address) as client,
    ):
        with serve(study, address):
            trial = client.next_trial("tuner0")
        # There is none: what is asked now is answered by the next one.
        said = threads.submit(client.report_score, trial.trial, trial.attempt, **SCORE)
        time.sleep(0.5)
        assert not said.done()
        study.close()
        with Study(tmp_path, SPACE, CONFIG) as restarted, serve(restarted, address):
            assert said.result(timeout=30) == "go"
            assert client.heartbeat(trial.trial, trial.attempt)
            assert client.end_trial(trial.trial, trial.attempt, ENDED)
            (record,) = restarted.trials()
    assert (record.status, record.attempt, record.lost_workers, record.score) == ("completed", 1, 0, 8.0)


def test_a_call_that_the_chief_died_in_the_middle_of_is_repeated(study, address, monkeypatch):
    """Its status is another one than that of a chief that is not there."""
    began = threading.Event()
    report_score = study.report_score

    def slow_report(*args, **kwargs):
        if not began.is_set():
            began.set()
            time.sleep(2.0)  # beyond what a server that ends waits for its calls
        return report_score(*args, **kwargs)

    monkeypatch.setattr(study, "report_score", slow_report)
    with futures.ThreadPoolExecutor() as threads, client_of(study, address) as client:
        with serve(study, address):
            trial = client.next_trial("tuner0")
            said = threads.submit(client.report_score, trial.trial, trial.attempt, **SCORE)
            assert began.wait(10)
        with serve(study, address):
            assert said.result(timeout=30) == "go"


def test_a_chief_whose_disk_is_full_is_asked_again(study, address, monkeypatch, capsys):
    """gRPC logs the chief's error; the worker continues after the disk has room."""
    next_trial, tries = study.next_trial, []

    def full_at_first(*args):
        tries.append(args)
        if len(tries) < 3:
            raise UserError("study.json: cannot be written (No space left on device)")
        return next_trial(*args)

    monkeypatch.setattr(study, "next_trial", full_at_first)
    with serve(study, address), client_of(study, address) as client:
        assert client.next_trial("tuner0").trial == "0000"
        tries.clear()
        with client_of(study, address, patience=0.1) as impatient, pytest.raises(UserError) as error:
            impatient.next_trial("tuner1")
    (line,) = str(error.value).splitlines()
    assert "No space left on device" in line


def test_patience_has_an_end(study, address):
    start = time.monotonic()
    with client_of(study, address, patience=2.0) as client, pytest.raises(UserError) as error:
        client.next_trial("tuner0")
    assert 1.0 < time.monotonic() - start < 15
    (line,) = str(error.value).splitlines()
    assert f"chief at {address}: no answer for 2 s" in line


def test_a_sign_of_life_is_not_worth_waiting_for(study, address):
    """The next one follows anyway, and the end of a trial waits for the one under way."""
    start = time.monotonic()
    with client_of(study, address, patience=60.0) as client, pytest.raises(UserError):
        client.heartbeat("0000", 1)
    assert time.monotonic() - start < 15


def test_a_worker_that_is_terminated_hardly_waits_for_an_absent_chief(study, address):
    """Which may have been terminated with it."""
    interrupted = AttemptResult(TrialStatus.QUEUED, 9.5, "SIGTERM", train_step=3)
    start = time.monotonic()
    with client_of(study, address, patience=60.0) as client, pytest.raises(TemporaryError):
        client.end_trial("0000", 1, interrupted)
    assert time.monotonic() - start < 30


def test_a_hanging_chief_blocks_no_worker_for_ever(address):
    """Its kernel still takes connections."""
    script = "import sys; from tests.tuning.test_rpc import hang; hang(sys.argv[1])"
    with subprocess.Popen(
        [sys.executable, "-c", script, address],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    ) as chief:
        try:
            fingerprint = json.loads(chief.stdout.readline())
            with StudyClient(address, fingerprint, patience=3.0) as client:
                assert client.heartbeat("0000", 1)
                chief.send_signal(signal.SIGSTOP)
                start = time.monotonic()
                with pytest.raises(UserError, match="no answer for 3 s"):
                    client.report_score("0000", 1, **SCORE)
                assert 2.0 < time.monotonic() - start < 15
                chief.send_signal(signal.SIGCONT)
                assert client.heartbeat("0000", 1)
        finally:
            chief.kill()


def hang(address: str) -> None:
    """A chief that says yes to all, until it is stopped."""

    class Yes:
        fingerprint = "yes"
        next_trial = report_score = end_trial = None

        def trials(self):
            return []

        def heartbeat(self, trial, attempt):
            return True

    with serve(Yes(), address):
        print(json.dumps(Yes.fingerprint), flush=True)
        time.sleep(120)


def test_the_chief_of_another_study_is_refused_at_once(study, address):
    with serve(study, address) as calls, StudyClient(address, "another", patience=60.0) as client:
        start = time.monotonic()
        with pytest.raises(UserError) as error:
            client.next_trial("tuner0")
        assert time.monotonic() - start < 15
        assert not calls.active_workers
    (line,) = str(error.value).splitlines()
    assert f"chief at {address}: it leads another study" in line
    assert not study.trials()


def test_two_chiefs_do_not_share_an_address(study, address):
    with serve(study, address), pytest.raises(UserError) as error, serve(study, address):
        pytest.fail("both listen")
    (line,) = str(error.value).splitlines()
    assert f"chief at {address}: it cannot listen" in line


def test_an_address_of_another_machine_is_no_place_to_listen(study):
    with pytest.raises(UserError, match="cannot listen"), serve(study, f"192.0.2.1:{free_port()}"):
        pytest.fail("it listens")


def test_the_chief_knows_the_seconds_since_the_last_call(study, address):
    with serve(study, address) as calls, client_of(study, address) as client:
        trial = client.next_trial("tuner0")
        time.sleep(0.3)
        silent = calls.idle_seconds
        assert silent > 0.25
        client.heartbeat(trial.trial, trial.attempt)
        assert calls.idle_seconds < silent


def test_a_restarted_chief_knows_which_workers_await_the_end(tmp_path, address):
    one_trial = StudyConfig("random", 1, 1000)
    with Study(tmp_path, SPACE, one_trial) as study:
        trial = study.next_trial("tuner3")
    with (
        Study(tmp_path, SPACE, one_trial) as study,
        serve(study, address) as calls,
        client_of(study, address) as client,
    ):
        assert calls.active_workers == {"tuner3"}
        assert client.end_trial(trial.trial, trial.attempt, ENDED)
        assert isinstance(client.next_trial("tuner3"), Done)
        assert not calls.active_workers


def test_many_workers_at_once_get_a_trial_each(tmp_path, address):
    """More than the server has threads."""
    with Study(tmp_path, SPACE, StudyConfig("random", 40, 1000, stop_weak=False)) as study:

        def take(index: int) -> str:
            with client_of(study, address, patience=60.0) as client:
                answer = client.next_trial(f"tuner{index}")
                assert client.end_trial(answer.trial, answer.attempt, ENDED)
            return answer.trial

        with serve(study, address), futures.ThreadPoolExecutor(40) as threads:
            taken = list(threads.map(take, range(40)))
        assert sorted(taken) == [f"{index:04d}" for index in range(40)]
        assert study.is_done
