"""The scheduling policy, without disks and threads; restarts pass through JSON, as those of a chief."""

import math

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.tuning.studies import (
    SPACE,
    TIMEOUT,
    ScheduledStudy,
    complete,
    fail,
    interrupt,
    objective,
    report,
    run,
    study_config,
)
from tuning.trial import TUNERS, Assignment, AttemptResult, Done, TrialStatus, Wait, best_trial


@pytest.mark.parametrize("tuner", TUNERS)
def test_a_study_ends_with_each_config_tried_once(tuner):
    study = ScheduledStudy(study_config(tuner, 5), real=True)
    assert not study.is_done
    assert run(study).startswith("5 trials" if tuner != "hyperband" else "9 trials")
    assert study.is_done
    trials = study.trials
    assert {record.status for record in trials} == {"completed"}
    assert [record.id for record in trials] == [f"{index:04d}" for index in range(len(trials))]
    assert trials[0].values == SPACE.base_values
    configs = [record.values for record in trials if record.parent is None]
    assert len(configs) == 5
    assert not [one for index, one in enumerate(configs) if one in configs[:index]]


@pytest.mark.parametrize("tuner", TUNERS)
def test_one_worker_and_one_seed_give_the_same_study_however_often_it_is_killed(tuner):
    config = study_config(tuner, 6, seed=3)
    untouched = ScheduledStudy(config, real=True)
    run(untouched)
    study = ScheduledStudy(config, real=True)
    while not isinstance(first := study.next_trial("tuner0"), Done):
        report(study, first, 0.05, 9.0)
        study.restart()
        again = study.next_trial("tuner0")
        assert (again.trial, again.attempt, again.values) == (first.trial, first.attempt + 1, first.values)
        assert not complete(study, first)
        assert complete(study, again)
        study.restart()
    as_tried = [(trial.id, trial.values, trial.share, trial.parent, trial.score) for trial in study.trials]
    assert as_tried == [(trial.id, trial.values, trial.share, trial.parent, trial.score) for trial in untouched.trials]
    assert best_trial(study.trials).values == best_trial(untouched.trials).values


@pytest.mark.parametrize("in_a_row", [3, 10])
def test_failing_trials_do_not_stop_a_study(in_a_row):
    study = ScheduledStudy(study_config(max_trials=in_a_row + 3))
    failed = 0

    def finish(study, assignment):
        nonlocal failed
        if 1 <= int(assignment.trial) <= in_a_row:
            failed += 1
            fail(study, assignment)
        else:
            complete(study, assignment)

    assert run(study, finish=finish) == f"{in_a_row + 3} trials: 3 completed, {in_a_row} failed"
    assert failed == in_a_row
    assert study.trials[1].reason == "out of memory"
    assert best_trial(study.trials).score == min(record.score for record in study.trials if record.score)


def test_a_study_of_failures_says_so():
    study = ScheduledStudy(study_config(max_trials=3))
    assert run(study, finish=fail) == "no score from 3 trials, the last one failed with: out of memory"
    assert best_trial(study.trials) is None
    assert study.is_done


@pytest.mark.parametrize("score", [math.nan, math.inf, None])
def test_a_score_that_is_not_finite_is_a_failure(score):
    study = ScheduledStudy(study_config(max_trials=1))
    first = study.next_trial("tuner0")
    assert study.end_trial(first.trial, 1, AttemptResult(TrialStatus.COMPLETED, score, "steps", 10))
    (record,) = study.trials
    assert (record.status, record.score) == ("failed", None)
    assert str(score) in record.reason


def test_a_report_that_is_not_finite_stops_the_trial_and_fails_it():
    study = ScheduledStudy(study_config(max_trials=1))
    first = study.next_trial("tuner0")
    assert report(study, first, 0.1, 9.0) == "go"
    assert report(study, first, 0.2, math.nan) == "stop"
    assert study.end_trial(first.trial, 1, AttemptResult(TrialStatus.STOPPED, 9.0, "stop", 200))
    study.restart()
    assert study.trials[0].status == "failed"
    assert "train_step 200" in study.trials[0].reason


def test_a_lost_worker_s_trial_is_given_to_the_next_and_its_late_words_are_refused():
    study = ScheduledStudy(study_config())
    lost = study.next_trial("tuner0")
    study.now += TIMEOUT / 2
    assert study.heartbeat(lost.trial, lost.attempt)
    study.now += TIMEOUT - 1
    assert study.next_trial("tuner1").trial != lost.trial
    study.now += 2
    taken = study.next_trial("tuner2")
    assert (taken.trial, taken.attempt, taken.directory) == (lost.trial, 2, lost.directory)
    assert not study.heartbeat(lost.trial, lost.attempt)
    assert report(study, lost, 0.5, 1.0) == "lost"
    assert not complete(study, lost, 1.0)
    assert complete(study, taken, 9.0)
    (record,) = (record for record in study.trials if record.id == lost.trial)
    assert (record.status, record.score, record.scores, record.worker) == ("completed", 9.0, (), "tuner2")
    # The silence has no effect before another worker asks.
    slow = study.next_trial("tuner3")
    study.now += 10 * TIMEOUT
    assert study.heartbeat(slow.trial, slow.attempt)


def test_a_worker_that_hangs_loses_its_trial_however_alive_it_seems():
    study = ScheduledStudy(study_config(score_timeout=600))
    first = study.next_trial("tuner0")
    for _ in range(12):
        study.now += 50
        assert study.heartbeat(first.trial, first.attempt)
    assert report(study, first, 0.2, 9.0) == "go"
    for _ in range(12):
        study.now += 50
        assert study.heartbeat(first.trial, first.attempt), "a score restarts the timeout"
    study.now += 1
    assert not study.heartbeat(first.trial, first.attempt)
    assert report(study, first, 0.4, 8.0) == "lost"
    study.restart()
    again = study.next_trial("tuner1")
    assert (again.trial, again.attempt) == (first.trial, 2)
    assert not complete(study, first)
    assert complete(study, again)


def test_signs_of_life_come_several_times_within_what_the_study_waits_for():
    first = ScheduledStudy(study_config(worker_timeout=12.0)).next_trial("tuner0")
    assert first.beat_seconds <= 12.0 / 3


def test_a_worker_waits_for_a_lost_one_no_longer_than_its_timeout():
    study = ScheduledStudy(study_config(max_trials=1))
    lost = study.next_trial("tuner0")
    waited = 0.0
    while isinstance(answer := study.next_trial("tuner1"), Wait):
        assert answer.reason == "waiting for trial 0000 of tuner0"
        assert 0 < answer.seconds <= 5
        study.now += answer.seconds
        waited += answer.seconds
    assert TIMEOUT <= waited <= TIMEOUT + 1
    assert answer.trial == lost.trial
    complete(study, answer)
    assert study.next_trial("tuner1") == Done("1 trial: 1 completed")


def test_a_clock_that_is_set_back_gives_no_more_time():
    study = ScheduledStudy(study_config(max_trials=1))
    study.next_trial("tuner0")
    study.now -= 500
    study.next_trial("tuner1")
    study.now += TIMEOUT + 1
    assert isinstance(study.next_trial("tuner1"), Assignment)


def test_a_restarted_chief_leaves_trials_to_the_workers_that_still_run_them():
    study = ScheduledStudy(study_config())
    running = study.next_trial("tuner0")
    study.now += 100 * TIMEOUT
    study.restart()
    assert study.next_trial("tuner1").trial != running.trial
    study.now += TIMEOUT - 1
    assert study.heartbeat(running.trial, running.attempt)
    study.now += TIMEOUT - 1
    assert complete(study, running)


def test_a_worker_that_was_started_again_gets_its_trial_as_a_new_attempt():
    study = ScheduledStudy(study_config())
    first, other = study.next_trial("tuner0"), study.next_trial("tuner1")
    again = study.next_trial("tuner0")
    assert (again.trial, again.attempt) == (first.trial, 2)
    assert not study.heartbeat(first.trial, 1)
    assert study.heartbeat(other.trial, other.attempt)


def test_a_call_that_is_repeated_counts_once():
    study = ScheduledStudy(study_config())
    first = study.next_trial("tuner0", "request-1")
    assert study.next_trial("tuner0", "request-1") == first
    for _ in range(2):
        assert report(study, first, 0.5, 9.0) == "go"
        assert len(study.trials[0].scores) == 1
    for _ in range(2):
        assert complete(study, first)
        assert study.trials[0].seconds == 10.0
    assert not study.end_trial(first.trial, first.attempt + 1, AttemptResult(TrialStatus.FAILED, None, "", 0))
    second = study.next_trial("tuner0", "request-2")
    assert second.trial != first.trial
    for _ in range(2):
        assert interrupt(study, second, seconds=7.0)
    assert [record.status for record in study.trials] == ["completed", "queued"]
    assert study.trials[1].seconds == 7.0


def test_an_interrupted_trial_is_first_in_the_queue_and_no_failure():
    of = study_config(max_attempts=2)
    study = ScheduledStudy(of)
    first, other = study.next_trial("tuner0"), study.next_trial("tuner1")
    for attempt in range(1, 8):
        assert first.attempt == attempt
        assert interrupt(study, first, train_step=100 * attempt)
        assert not study.heartbeat(first.trial, attempt)
        study.restart()
        first = study.next_trial(f"tuner{attempt + 1}")
        assert first.trial != other.trial
    assert complete(study, first)
    (record, _) = study.trials
    assert (record.status, record.seconds, record.train_step) == ("completed", 17.0, 1000)


def test_a_trial_that_no_worker_survives_fails_unless_it_gets_on():
    study = ScheduledStudy(study_config(max_attempts=3))
    first = study.next_trial("tuner0")
    assert study.next_trial("tuner0").attempt == 2
    latest = study.next_trial("tuner0")
    assert report(study, latest, 0.2, 9.0) == "go"
    assert study.next_trial("tuner0").attempt == 4
    latest = study.next_trial("tuner0")
    assert latest.trial == first.trial
    assert study.next_trial("tuner0").trial != first.trial
    record = study.trials[0]
    assert (record.status, record.reason) == (
        "failed", "lost 3 workers in a row without a new score, the last was tuner0"
    )  # fmt: skip
    assert not complete(study, latest)


def weak(of):
    """A study in which four trials have scored 8, 9, 10 and 11 at each sixth, and a fifth one is under way."""
    study = ScheduledStudy(of)
    for score in (8, 9, 10, 11):
        assignment = study.next_trial("tuner0")
        for sixth in range(1, 7):
            assert report(study, assignment, sixth / 6, score + 1 - sixth / 6) == "go"
        complete(study, assignment, score)
    return study, study.next_trial("tuner0")


def test_the_median_rule_stops_the_weak():
    study, fifth = weak(study_config(stop_weak=True))
    assert report(study, fifth, 1 / 6, 20.0) == "go"  # too early to tell
    assert report(study, fifth, 2 / 6, 10.1) == "go"  # better than the median of what the others had by then
    assert report(study, fifth, 3 / 6, 10.4) == "stop"  # 10.1 is worse than the median of 8.5, 9.5, 10.5, 11.5
    assert study.end_trial(fifth.trial, fifth.attempt, AttemptResult(TrialStatus.STOPPED, 10.1, "weak", 500))
    record = study.trials[-1]
    assert (record.status, record.score) == ("stopped", 10.1)
    assert best_trial(study.trials).score == 8


def test_the_median_rule_compares_like_shares():
    """A trial of other windows scores at other train_steps, so that its third is a little before another's third."""
    study, fifth = weak(study_config(stop_weak=True))
    assert report(study, fifth, 0.3325, 10.25) == "stop"  # the median is 10.17, that at a sixth was 10.33
    assert report(study, fifth, 0.3345, 10.1) == "go"


def test_the_last_score_of_a_trial_does_not_stop_it():
    study, fifth = weak(study_config(stop_weak=True))
    assert report(study, fifth, 1.0, 20.0) == "go"


@pytest.mark.parametrize("of", [study_config(), study_config("hyperband", 9, stop_weak=True)], ids=["off", "hyperband"])
def test_no_trial_is_stopped_where_it_was_not_asked_for(of):
    study, fifth = weak(of)
    assert report(study, fifth, 0.05, 20.0) == "go"
    assert report(study, fifth, 0.5, 20.0) == "go"


def test_the_first_trial_is_never_stopped_and_three_others_are_too_few():
    study = ScheduledStudy(study_config(stop_weak=True))
    assignments = [study.next_trial(f"tuner{index}") for index in range(6)]
    first, second, *others = assignments
    for assignment in others[:3]:
        report(study, assignment, 0.5, 8.0)
    assert report(study, second, 0.5, 20.0) == "go"
    report(study, others[3], 0.5, 8.0)
    assert report(study, second, 0.6, 20.0) == "go"  # the others have got no further than a half
    for assignment in others:
        report(study, assignment, 0.6, 8.0)
    assert report(study, second, 0.6, 20.0) == "stop"
    assert report(study, first, 0.6, 20.0) == "go"


def test_hyperband_continues_in_one_directory_and_the_best_is_one_trained_longest():
    study = ScheduledStudy(study_config("hyperband", 9), real=True)
    run(study)
    trials = {record.id: record for record in study.trials}
    chains = {}
    for record in trials.values():
        chains.setdefault(record.directory, []).append(record)
        if record.parent:
            assert record.values == trials[record.parent].values
    assert len(chains) == 9
    for directory, chain in chains.items():
        assert directory == f"trials/{chain[0].id}"
        shares = [record.share for record in chain]
        assert shares == [1 / 9, 1 / 3, 1.0][: len(chain)]
    assert best_trial(study.trials).share == 1.0
    assert best_trial(study.trials).values == min((record.values for record in trials.values()), key=objective)


def test_a_better_score_of_a_shorter_trial_is_no_better_config():
    study = ScheduledStudy(study_config("hyperband", 9), real=True)

    def finish(study, assignment):
        complete(study, assignment, objective(assignment.values) + 5 * assignment.stop_at_share)

    run(study, finish=finish)
    assert best_trial(study.trials).share == 1.0
    assert best_trial(study.trials).score > max(record.score for record in study.trials if record.id == "0000")


def test_several_hyperband_workers_wait_for_each_other_only_at_the_end():
    study = ScheduledStudy(study_config("hyperband", 9), real=True)
    running = {}
    waits = 0
    for turn in range(200):
        worker = f"tuner{turn % 3}"
        if worker in running:
            complete(study, running.pop(worker))
        answer = study.next_trial(worker)
        if isinstance(answer, Done):
            break
        if isinstance(answer, Wait):
            waits += 1
        else:
            running[worker] = answer
    assert study.is_done
    assert len(study.trials) == 13
    assert waits < 12


class AnyOrderOfEvents(RuleBasedStateMachine):
    """Workers and a chief that start and end in any order, and the invariants of their study."""

    WORKERS = ("tuner0", "tuner1", "tuner2")
    workers = st.sampled_from(WORKERS)

    @initialize(
        tuner=st.sampled_from(["random", "hyperband"]),
        max_trials=st.integers(1, 7),
        max_attempts=st.integers(1, 4),
        stop_weak=st.booleans(),
        seed=st.integers(0, 3),
    )
    def begin(self, tuner, max_trials, max_attempts, stop_weak, seed):
        self.config = study_config(tuner, max_trials, max_attempts=max_attempts, stop_weak=stop_weak, seed=seed)
        self.study = ScheduledStudy(self.config, real=True)
        self.has = {}  # what each worker that lives believes to be training
        self.given = []  # every assignment that there ever was
        self.ended = {}  # what the study accepted as the end of a trial
        self.reported = {}  # shares that a trial has got to

    def teardown(self):
        if hasattr(self, "study"):
            self.finish()

    def latest(self, trial):
        return max(given.attempt for given in self.given if given.trial == trial)

    def is_current(self, assignment):
        """Whether the study is to listen to an attempt, as far as its workers can tell."""
        return assignment.attempt == self.latest(assignment.trial) and assignment.trial not in self.ended

    def take(self, worker):
        answer = self.study.next_trial(worker)
        if isinstance(answer, Assignment):
            assert answer.trial not in self.ended
            assert answer.attempt == 1 + max(
                (given.attempt for given in self.given if given.trial == answer.trial), default=0
            )
            self.given.append(answer)
            self.has[worker] = answer
        else:
            self.has.pop(worker, None)
        return answer

    @rule(worker=workers)
    def ask(self, worker):
        """A new worker, one that has ended its trial, or one that was killed and started again."""
        self.take(worker)

    @rule(worker=workers)
    @precondition(lambda self: self.has)
    def beat(self, worker):
        if worker in self.has:
            self.listens(self.has[worker], self.study.heartbeat(self.has[worker].trial, self.has[worker].attempt))

    def listens(self, assignment, accepted):
        if accepted:
            assert self.is_current(assignment)
        elif self.is_current(assignment):
            # Only a trial that lost too many workers ends without one that says so.
            (record,) = (record for record in self.study.trials if record.id == assignment.trial)
            assert record.status in ("failed", "queued")
            if record.status == "failed":
                assert "lost" in record.reason
                self.ended[record.id] = record

    @rule(worker=workers, score=st.sampled_from([7.0, 8.0, 9.0, 10.0, math.nan]))
    @precondition(lambda self: self.has)
    def report(self, worker, score):
        if worker in self.has:
            assignment = self.has[worker]
            share = self.reported.get(assignment.trial, 0.0) + 1 / 6 * assignment.stop_at_share
            answer = report(self.study, assignment, min(share, assignment.stop_at_share), score)
            self.listens(assignment, answer != "lost")
            if answer != "lost":
                self.reported[assignment.trial] = share
                assert answer == "stop" or not math.isnan(score)
                if assignment.trial == "0000":
                    assert answer == "go" or math.isnan(score)

    @rule(worker=workers, outcome=st.sampled_from(["completed", "completed", "failed", "queued", "stopped"]))
    @precondition(lambda self: self.has)
    def end(self, worker, outcome):
        if worker in self.has:
            assignment = self.has.pop(worker)
            was_current = self.is_current(assignment)
            result = AttemptResult(TrialStatus(outcome), objective(assignment.values), outcome, 100, 1.0)
            accepted = self.study.end_trial(assignment.trial, assignment.attempt, result)
            self.listens(assignment, accepted)
            if accepted and outcome != "queued":
                assert was_current
                (record,) = (record for record in self.study.trials if record.id == assignment.trial)
                assert record.status in (outcome, "failed")
                self.ended[assignment.trial] = record

    @rule(data=st.data())
    @precondition(lambda self: self.given)
    def a_late_attempt_speaks(self, data):
        assignment = data.draw(st.sampled_from(self.given))
        if not self.is_current(assignment) and assignment.attempt < self.latest(assignment.trial):
            assert not self.study.heartbeat(assignment.trial, assignment.attempt)
            assert report(self.study, assignment, 1.0, 0.0) == "lost"
            assert not complete(self.study, assignment, 0.0)

    @rule(worker=workers)
    def lose(self, worker):
        """A worker is lost for good, or until it asks again."""
        self.has.pop(worker, None)

    @rule(seconds=st.sampled_from([1.0, 30.0, TIMEOUT + 1, 100 * TIMEOUT, -45.0]))
    def pass_time(self, seconds):
        self.study.now += seconds

    @rule()
    def kill_the_chief(self):
        before = self.study.trials
        self.study.restart()
        assert self.study.trials == before

    @invariant()
    def every_trial_is_there_once(self):
        if not hasattr(self, "study"):
            return
        records = {record.id: record for record in self.study.trials}
        assert len(records) == len(self.study.trials)
        assert set(records) == {given.trial for given in self.given}
        assert sum(record.parent is None for record in records.values()) <= self.config.max_trials
        for trial, record in self.ended.items():
            assert records[trial] == record
        for record in records.values():
            if not record.is_open and record.id not in self.ended:
                assert "lost" in record.reason
        # No two trials share a directory at the same time.
        running = [record.directory for record in records.values() if record.status == "running"]
        assert len(running) == len(set(running))

    def finish(self):
        """In every state the remaining workers end the study, each wait has a bound, and nothing is lost."""
        for _ in range(100):
            answer = self.take("tuner0")
            if isinstance(answer, Done):
                break
            if isinstance(answer, Wait):
                assert 0 < answer.seconds <= 5
                self.study.now += answer.seconds
            else:
                complete(self.study, answer)
                (record,) = (record for record in self.study.trials if record.id == answer.trial)
                self.ended[answer.trial] = record
        assert isinstance(answer, Done)
        assert self.study.is_done
        self.every_trial_is_there_once()
        records = self.study.trials
        assert not any(record.is_open for record in records)
        assert sum(record.parent is None for record in records) == self.config.max_trials
        completed = [record for record in records if record.status == "completed"]
        best = best_trial(self.study.trials)
        if best is None:
            failed = [record.share for record in records if record.status == "failed"]
            assert not completed or max(failed) > max(record.share for record in completed)
        else:
            longest = [record.score for record in completed if record.share == best.share]
            assert best.score == min(longest)
            assert best.share == max(record.share for record in completed)


TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase
TestAnyOrderOfEvents.settings = hypothesis.settings(max_examples=40, stateful_step_count=40)
