"""A worker in this process, which gets its trials from a list; most of them are trained for real."""

import errno
import gc
import json
import os
import shutil
import signal
import threading
from types import SimpleNamespace

import pytest

from sostenuto.data.manifest import Manifest
from sostenuto.errors import FileError, GpuError, GpuMemoryError, TemporaryError, UserError
from tests.trainer.runs import metrics
from trainer.engine import loop
from trainer.engine.early_stopping import BestMetric
from trainer.engine.schedule import Event
from trainer.model.next_note import NextNoteModel
from trainer.presets import preset
from trainer.workdir import layout
from trainer.workdir.formats import RunResult, StopReason
from trainer.workdir.load_model import load_model
from tuning.space_file import create_space
from tuning.study import Study
from tuning.trial import Assignment, AttemptResult, Done, StudyConfig, Wait, best_trial
from tuning.worker import Worker

TRAIN_STEPS = 20
START = preset("base").replace(
    units=8, head_units=8, layers=1, seq_length=16, batch_size=8, warmup_steps=2, learning_rate=0.01,
    pitch_embedding=8, time_embedding=8, velocity_embedding=8,
)  # fmt: skip
SPACE = create_space(START, fix=["units=8", "seq_length=16"])
CONFIG = StudyConfig("random", 6, TRAIN_STEPS, worker_timeout=20.0)
VALUES = {"step_weight": 1.0, "duration_weight": 1.0}


def trial(name="0000", *, attempt=1, directory=None, values=VALUES, share=1.0, beat_seconds=5.0) -> Assignment:
    return Assignment(name, attempt, directory or f"trials/{name}", values, share, beat_seconds)


class Trials:
    """A study that assigns these trials and records the calls.

    Attributes:
        reports: `(trial, train_step, score)` each.
        ended: `(trial, result)` each.
    """

    def __init__(self, *assignments, report=None, heartbeat=None) -> None:
        self._assignments = list(assignments)
        self._report, self._heartbeat = report, heartbeat
        self.reports: list[tuple[str, int, float]] = []
        self.ended: list[tuple[str, AttemptResult]] = []

    def next_trial(self, worker):
        assert worker == "tuner0"
        return self._assignments.pop(0) if self._assignments else Done("no more")

    def heartbeat(self, trial, attempt):
        return self._heartbeat is None or self._heartbeat(trial)

    def report_score(self, trial, attempt, *, train_step, share, score):
        assert 0 < share <= 1
        self.reports.append((trial, train_step, score))
        return "go" if self._report is None else self._report(trial, train_step)

    def end_trial(self, trial, attempt, result):
        assert result.reason == " ".join(result.reason.split())
        self.ended.append((trial, result))
        return True

    @property
    def results(self) -> list[AttemptResult]:
        return [result for _, result in self.ended]


def do(source, data, directory, *, space=SPACE, **options) -> int:
    return Worker(
        source, "tuner0", space=space, config=CONFIG, manifest=Manifest.load(data), workdir=str(directory), quiet=True,
        **options,
    ).run()  # fmt: skip


def send(number: signal.Signals) -> str:
    os.kill(os.getpid(), number)
    return "go"


def exit_on(number: signal.Signals):
    """Returns the handler that `cli.run` sets for a signal."""

    def leave(*_):
        raise SystemExit(128 + number)

    return leave


@pytest.fixture
def _as_a_command(monkeypatch):
    before = signal.signal(signal.SIGTERM, exit_on(signal.SIGTERM))
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def trains(monkeypatch):
    """Replaces the trainer: takes exceptions and results, to be raised and returned in turn."""

    def replace(*outcomes):
        left = list(outcomes)

        def train(config, manifest, directory, **_):
            outcome = left.pop(0)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr(loop, "train", train)
        return left

    return replace


def report_score(callbacks, train_step: int, score: float) -> None:
    """Calls the worker's own callback, the last one, as the loop does after a score."""
    callbacks[-1].run = SimpleNamespace(best=BestMetric(score, train_step))
    callbacks[-1].on_step(train_step, Event.EVALUATE, None)


def completed(best=8.0) -> RunResult:
    return RunResult(TRAIN_STEPS, best, TRAIN_STEPS, "val_nats", StopReason.STEPS)


class AbsentAtTheEnd(Trials):
    """A chief that ended during the trial."""

    def end_trial(self, trial, attempt, result):
        raise TemporaryError("chief: no answer")


def test_a_worker_that_is_terminated_after_its_chief_has_the_status_of_the_signal(dataset, tmp_path, trains):
    trains(RunResult(4, 9.0, 4, "val_nats", StopReason.SIGTERM))
    assert do(AbsentAtTheEnd(trial()), dataset, tmp_path) == 128 + signal.SIGTERM


def test_a_worker_whose_chief_is_absent_ends_with_a_temporary_error(dataset, tmp_path, trains):
    trains(completed())
    with pytest.raises(TemporaryError, match="no answer"):
        do(AbsentAtTheEnd(trial()), dataset, tmp_path)


def test_a_trial_that_fails_is_recorded_and_the_next_one_runs(dataset, tmp_path, trains):
    import tensorflow as tf

    errors = {
        UserError("batch_size=8 is no multiple\n of the 3 replicas"): "batch_size=8 is no multiple of the 3 replicas",
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\ta tensor"): (
            "out of memory: OOM when allocating a tensor"
        ),
        GpuMemoryError("GPU: its memory is full"): "GPU: its memory is full",
        ValueError("Dimensions\n  must be equal"): "ValueError: Dimensions must be equal",
        MemoryError(): "MemoryError:",
        RuntimeError("x" * 100_000): "RuntimeError: xxx",
    }
    names = [f"{index:04d}" for index in range(len(errors) + 1)]
    trains(*errors, completed())
    source = Trials(*map(trial, names))
    assert do(source, dataset, tmp_path) == 0
    assert [name for name, _ in source.ended] == names
    assert [result.outcome for result in source.results] == ["failed"] * len(errors) + ["completed"]
    for result, reason in zip(source.results, errors.values(), strict=False):
        assert result.reason.startswith(reason)
        assert len(result.reason) < 1000
        assert result.score is None


def test_a_config_that_cannot_be_is_a_trial_that_fails(dataset, tmp_path, trains):
    trains(completed())
    nothing = {"pitch_weight": 0.0, "step_weight": 0.0, "duration_weight": 0.0}
    source = Trials(trial(values=nothing), trial("0001"))
    assert do(source, dataset, tmp_path) == 0
    failed, other = source.results
    assert (failed.outcome, other.outcome) == ("failed", "completed")
    assert "pitch_weight, step_weight and duration_weight are all 0" in failed.reason


def test_a_study_outlives_three_failing_trials_in_a_row(dataset, tmp_path, trains):
    left = trains(completed(9.0), *[RuntimeError("out of luck")] * 3, completed(8.0), completed(8.5))
    with Study(tmp_path, SPACE, CONFIG) as study:
        assert do(study, dataset, tmp_path) == 0
        assert study.is_done
        assert [record.status for record in study.trials()] == ["completed", *["failed"] * 3, "completed", "completed"]
        assert {record.reason for record in study.trials()[1:4]} == {"RuntimeError: out of luck"}
        best = best_trial(study.trials())
    assert not left
    assert best is not None
    assert best.id == "0004"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileError("checkpoints: cannot be written (No space left on device)"), "checkpoints: cannot be written"),
        (OSError(errno.ENOSPC, "No space left on device"), "trials/0000: [Errno 28] No space left on device"),
    ],
)
def test_a_file_that_cannot_be_written_is_no_fault_of_the_trial(dataset, tmp_path, trains, error, expected):
    """Or a full disk would make failures of all trials that are left."""
    left = trains(completed(), error, completed())
    source = Trials(trial("0007"), trial(), trial("0001"))
    with pytest.raises(UserError) as caught:
        do(source, dataset, tmp_path)
    assert expected in str(caught.value)
    assert [result.outcome for result in source.results] == ["completed", "queued"]
    assert len(left) == 1


def test_a_full_disk_is_no_lack_of_memory(dataset, tmp_path, trains):
    """TensorFlow raises the same error for both."""
    import tensorflow as tf

    with pytest.raises(tf.errors.ResourceExhaustedError) as full:
        tf.io.write_file("/dev/full", "x" * 100_000)
    trains(full.value, completed())
    source = Trials(trial(), trial("0001"))
    with pytest.raises(FileError, match=r"trials/0000: cannot be written \(No space left on device\)\."):
        do(source, dataset, tmp_path)
    assert [result.outcome for result in source.results] == ["queued"]


def test_a_failed_gpu_ends_the_worker_and_no_trial(dataset, tmp_path, trains):
    """All later trials of the process would fail on it. The study counts a lost worker, as after a crash."""
    left = trains(completed(9.0), GpuError("GPU: it failed"), completed(8.0))
    with Study(tmp_path, SPACE, CONFIG) as study:
        with pytest.raises(GpuError):
            do(study, dataset, tmp_path)
        assert [record.status for record in study.trials()] == ["completed", "running"]
        assert len(left) == 1
        again = study.next_trial("tuner0")
        assert (again.trial, again.attempt) == ("0001", 2)
        assert study.trials()[1].lost_workers == 1


def test_told_to_wait_it_asks_again(dataset, tmp_path, trains):
    trains(completed())
    source = Trials(Wait(0.01, "waiting for trial 0007 of tuner1"), trial())
    assert do(source, dataset, tmp_path) == 0
    assert [name for name, _ in source.ended] == ["0000"]


def test_signs_of_life_go_on_while_the_chief_is_away(dataset, tmp_path, monkeypatch):
    beaten = threading.Event()
    beats = []

    def heartbeat(name):
        beats.append(name)
        if len(beats) < 3:
            raise UserError("the chief is away")
        beaten.set()
        return True

    def train(config, manifest, directory, *, stop, **_):
        assert beaten.wait(20)
        assert not stop.is_set()
        return completed()

    monkeypatch.setattr(loop, "train", train)
    source = Trials(trial(beat_seconds=0.01), heartbeat=heartbeat)
    assert do(source, dataset, tmp_path) == 0
    assert source.results[0].outcome == "completed"


@pytest.mark.parametrize(
    ("verdict", "outcome", "reason"),
    [
        ("go", "completed", "steps"),
        ("stop", "stopped", "worse than the median of the others"),
        ("lost", "queued", "given to another worker"),
    ],
)
def test_a_trial_ends_as_the_study_says(dataset, tmp_path, monkeypatch, verdict, outcome, reason):
    def train(config, manifest, directory, *, callbacks, stop, **_):
        report_score(callbacks, 4, 9.0)
        return RunResult(4, 9.0, 4, "val_nats", StopReason.CALLER) if stop.is_set() else completed()

    monkeypatch.setattr(loop, "train", train)
    source = Trials(trial(), trial("0001"), report=lambda *_: verdict)
    assert do(source, dataset, tmp_path) == 0
    assert [(result.outcome, result.reason) for result in source.results] == [(outcome, reason)] * 2


def test_a_chief_that_is_away_too_long_is_no_fault_of_the_trial(dataset, tmp_path, monkeypatch):
    """The trainer saves what it has, the worker ends, and the trial is gone on with when it is started again."""

    def train(config, manifest, directory, *, callbacks, stop, **_):
        report_score(callbacks, 4, 9.0)
        assert stop.is_set()
        return RunResult(4, 9.0, 4, "val_nats", StopReason.CALLER)

    def no_answer(*_):
        raise UserError("the chief did not answer for 300 s")

    monkeypatch.setattr(loop, "train", train)
    source = Trials(trial(), report=no_answer)
    with pytest.raises(UserError, match="did not answer for 300 s"):
        do(source, dataset, tmp_path)
    assert not source.ended


def test_a_worker_waits_until_the_one_before_has_left_the_trial(dataset, tmp_path, monkeypatch):
    config = SPACE.trial_config(VALUES, TRAIN_STEPS)
    held = layout.claim_workdir(config, Manifest.load(dataset), str(tmp_path / "trials" / "0000"), {})
    refused = []

    def train(config, manifest, directory, **_):
        try:
            layout.claim_workdir(config, manifest, directory, {}).close()
        except layout.WorkdirLockedError:
            refused.append(True)
            held.close()
            raise
        return completed()

    monkeypatch.setattr(loop, "train", train)
    source = Trials(trial(attempt=2))
    assert do(source, dataset, tmp_path) == 0
    assert refused == [True]
    assert source.results[0].outcome == "completed"


def test_a_trial_that_another_process_never_leaves_fails(dataset, tmp_path, trains):
    """Each wait has an end."""
    left = trains(*[layout.WorkdirLockedError("trials/0000: another process is training in it")] * 100)
    source = Trials(trial(attempt=2))
    assert do(source, dataset, tmp_path, lock_timeout=0.5) == 0
    assert source.results[0].outcome == "failed"
    assert "another process is training in it" in source.results[0].reason
    assert len(left) == 98


# From here on the trainer trains.


@pytest.fixture(scope="module")
def untouched(dataset, tmp_path_factory):
    """The workdir of a trial that was left in peace."""
    directory = tmp_path_factory.mktemp("untouched")
    source = Trials(trial())
    assert do(source, dataset, directory) == 0
    assert [train_step for _, train_step, _ in source.reports] == [4, 8, 12, 16, 20]
    assert source.results[0].score == min(score for _, _, score in source.reports)
    return directory / "trials" / "0000"


@pytest.mark.usefixtures("_as_a_command")
def test_an_interrupted_trial_resumes_and_ends_like_an_uninterrupted_one(dataset, tmp_path, untouched):
    directory = tmp_path / "trials" / "0000"

    def newest_checkpoint() -> int:
        return max(int(path.name) for path in (directory / "checkpoints").iterdir())

    # A rung is the same run, which only stops early.
    rung = Trials(trial(share=1 / 3))
    assert do(rung, dataset, tmp_path) == 0
    assert [train_step for _, train_step, _ in rung.reports] == [4, 7]
    assert newest_checkpoint() == 7
    # A worker that is terminated leaves its trial to the next one.
    told = Trials(trial("0001", directory="trials/0000"), trial("0002"), report=lambda *_: send(signal.SIGTERM))
    assert do(told, dataset, tmp_path) == 128 + signal.SIGTERM
    assert [train_step for _, train_step, _ in told.reports] == [8]
    assert [(name, result.outcome, result.train_step) for name, result in told.ended] == [("0001", "queued", 8)]
    assert newest_checkpoint() == 8
    last = Trials(trial("0001", attempt=2, directory="trials/0000"))
    assert do(last, dataset, tmp_path) == 0
    assert [train_step for _, train_step, _ in last.reports] == [12, 16, 20]
    # One that had ended before its worker could say so.
    again = Trials(trial("0001", attempt=3, directory="trials/0000"))
    assert do(again, dataset, tmp_path) == 0
    assert not again.reports
    assert [source.results[0].outcome for source in (rung, last, again)] == ["completed"] * 3
    assert last.results[0].score == again.results[0].score
    # Only that it was also scored where the rung ended.
    ours, expected = (
        [report for report in metrics(each) if report["train_step"] != 7] for each in (directory, untouched)
    )
    assert ours == expected


def test_a_promoted_trial_continues_whatever_characters_the_path_has(dataset, tmp_path):
    """TensorFlow's readers take a path as a pattern."""
    directory, data = tmp_path / "Étude [1] \\ *?", tmp_path / "data [1]\\"
    shutil.copytree(dataset, data)
    source = Trials(trial(share=1 / 3), trial("0001", directory="trials/0000"))
    assert do(source, data, directory) == 0
    assert [result.outcome for result in source.results] == ["completed"] * 2
    assert [train_step for _, train_step, _ in source.reports] == [4, 7, 8, 12, 16, 20]
    assert load_model(str(directory / "trials" / "0000")).train_step in {4, 7, 8, 12, 16, 20}


def test_corrupt_best_weights_of_a_trial_give_way_to_others_with_a_line_and_their_score(dataset, tmp_path, capsys):
    """The score of a trial is that of the weights that its workdir has."""
    directory = tmp_path / "trials" / "0000"
    assert do(Trials(trial(share=1 / 3)), dataset, tmp_path) == 0
    (best,) = (directory / "best").iterdir()
    data = best / "variables.data-00000-of-00001"
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    promoted = Trials(trial("0001", directory="trials/0000"))
    assert do(promoted, dataset, tmp_path) == 0
    assert (
        f"{directory / 'best'}: the best weights, of train_step {int(best.name)}, are corrupt"
        in capsys.readouterr().err
    )
    result = RunResult.load(str(directory / "result.json"))
    assert promoted.results[0].score == result.best
    assert load_model(str(directory)).train_step == result.best_train_step


def live_models() -> int:
    return sum(isinstance(one, NextNoteModel) for one in gc.get_objects())


def test_trials_that_are_stopped_leave_nothing_behind(dataset, tmp_path, request):
    """And the dataset is read once a worker, so that it may be gone by the second trial."""
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    manifest = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(
        json.dumps({**manifest, "source": {**manifest["source"], "copy": "another checksum"}})
    )
    # Nothing but the worker itself tidies up.
    gc.collect()
    gc.disable()
    request.addfinalizer(gc.enable)
    before = live_models()

    def report(name, train_step):
        for shard in data.glob("*.tfrecord"):
            shard.unlink()
        return "stop"

    trials = [trial(name, beat_seconds=0.05) for name in ("weak", "lost")]
    source = Trials(*trials, report=report, heartbeat=lambda name: name != "lost")
    assert do(source, data, tmp_path) == 0
    weak, lost = source.results
    assert (weak.outcome, weak.train_step) == ("stopped", 4)
    assert source.reports == [("weak", 4, weak.score)]
    # A sign of life that was refused tells it before any score would.
    assert lost.outcome == "queued"
    assert lost.train_step < 4
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("heartbeat-")]
    assert live_models() == before


def weighted_loss(report, values) -> float:
    """The loss that is trained, on validation: what `val_loss` would be."""
    return sum(
        values.get(f"{field}_weight", 1.0) * report[f"val_{field}_nll"] for field in ("pitch", "step", "duration")
    )


def test_small_loss_weights_win_nothing(dataset, tmp_path, untouched):
    """By the weighted loss, an untrained model of small weights beats a trained one."""
    values = {
        "small": {"step_weight": 0.25, "duration_weight": 0.25, "learning_rate": 1e-9},
        # Nor does it matter how long the windows are.
        "large": {"step_weight": 4.0, "duration_weight": 4.0, "learning_rate": 1e-9, "seq_length": 8},
    }
    space = create_space(START, tune=["learning_rate"], fix=["units=8"])
    source = Trials(*(trial(name, values=each) for name, each in values.items()), report=lambda *_: "go")
    assert do(source, dataset, tmp_path, space=space) == 0
    directories = {"trained": untouched, **{name: tmp_path / "trials" / name for name in values}}
    scored = {
        name: min((line for line in metrics(each) if "val_nats" in line), key=lambda line: line["val_nats"])
        for name, each in directories.items()
    }
    losses = {name: weighted_loss(each, values.get(name, VALUES)) for name, each in scored.items()}
    assert min(losses, key=losses.__getitem__) == "small"
    assert losses["large"] > 3 * losses["small"]
    scores = {name: each["val_nats"] for name, each in scored.items()}
    assert [result.score for result in source.results] == [scores["small"], scores["large"]]
    assert scores["trained"] < scores["small"] - 0.5
    assert scores["large"] == pytest.approx(scores["small"], rel=1e-5)
    for name, score in scores.items():
        assert score == pytest.approx(weighted_loss(scored[name], {}))
