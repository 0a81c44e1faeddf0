"""A search whose chief and workers are killed ends with the same trials as one that never was touched."""

import contextlib
import json
import signal
import subprocess
import time

import pytest

from tests.processes import on_busy_machine
from tests.tuning.runs import Search, free_address, wait_until
from trainer.presets import read_config

CHIEF, *WORKERS = NAMES = ("chief", "tuner0", "tuner1")
WORKER_TIMEOUT = 10  # seconds
LONGEST = 180  # seconds until a study of a minute must have ended

# Three replicas do not divide a batch of eight: a trial of such a config fails, and at once.
SPACE = """
replicas: [1, 3, 5, 7]
step_weight: [0.5, 1.0, 2.0]
duration_weight: [{duration_weights}]
seq_length: 16
units: 8
"""


class Cluster:
    """A chief and two workers of one search, on this machine; on leaving, none of them is there.

    Attributes:
        processes: by name.
    """

    def __init__(self, search: Search) -> None:
        self.search = search
        self.processes: dict[str, subprocess.Popen] = {}
        self._address = free_address()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, *names: str, flags: tuple[str, ...] = ()) -> None:
        for name in names:
            role = ["--role=chief"] if name == CHIEF else ["--role=worker", f"--worker_id={name}"]
            common = [f"--chief_address={self._address}", f"--worker_timeout={WORKER_TIMEOUT}", "--chief_patience=90"]
            process = self._stack.enter_context(self.search.started(*role, *common, *flags, name=name))
            self.processes[name] = process

    def kill(self, *names: str) -> list[str]:
        """Kills processes; returns the names of those that it hit."""
        for name in names:
            self.processes[name].kill()
        return [name for name in names if self.processes[name].wait(on_busy_machine(30)) == -signal.SIGKILL]

    def running(self, trial: str) -> str | None:
        """Which worker has a trial that has come as far as a checkpoint."""
        for record in self.search.study["trials"]:
            if record["id"] == trial and record["state"] == "running" and self.search.has_checkpoint(trial):
                return record["worker"]
        return None

    def end(self, *names: str) -> None:
        """Waits for the end of the study."""
        until = time.monotonic() + on_busy_machine(LONGEST)
        for name in names:
            status = self.processes[name].wait(max(until - time.monotonic(), 1))
            assert status == 0, (name, status, self.search.said(name))


def assert_whole(search: Search, states: list[str]) -> None:
    """Checks that each trial was counted once and none is lost, and which one is the best."""
    trials = search.trials
    assert [trial["trial"] for trial in trials] == [f"{index:04d}" for index in range(len(states))]
    assert [trial["state"] for trial in trials] == states
    assert len({trial["directory"] for trial in trials}) == len(states)
    for trial in trials:
        if trial["state"] == "failed":
            assert "is no multiple of the" in trial["reason"], trial
            continue
        result = json.loads((search.workdir / trial["directory"] / "result.json").read_text())
        assert result["train_step"] == trial["train_step"] == trial["scores"][-1]["train_step"]
        assert result["best"] == trial["score"] == min(score["score"] for score in trial["scores"])
        assert len(trial["scores"]) == 6
    best = min((trial for trial in trials if trial["score"] is not None), key=lambda trial: trial["score"])
    config = read_config(search.workdir / "best_config.json")
    assert {name: getattr(config, name) for name in best["values"]} == best["values"]
    for name in NAMES:
        with contextlib.suppress(FileNotFoundError):
            assert "Traceback" not in "\n".join(search.said(name)), search.said(name)


def summary(search: Search) -> list[tuple]:
    """What must be the same in two searches."""
    return [(trial["trial"], trial["state"], trial["values"], trial["score"]) for trial in search.trials]


def progress(search: Search) -> int:
    """A number that grows with each trial, each attempt and each score."""
    return sum(1 + record["attempt"] + len(record["scores"]) for record in search.study["trials"])


def await_progress(search: Search) -> None:
    """Waits until the study has got on."""
    before = progress(search)
    wait_until(lambda: progress(search) > before or search.is_over, "any progress")


# The short form.


def test_a_study_survives_its_chief_and_a_worker_and_the_loss_of_another(dataset, tmp_path):
    flags = ["--max_trials=8", "--train_steps=300", "--seed=27", "--nostop_weak"]
    search = Search(dataset, tmp_path / "search", *flags, space=SPACE.format(duration_weights="1.0"))
    with Cluster(search) as cluster:
        cluster.start(*WORKERS)
        cluster.start(CHIEF)
        wait_until(lambda: len(search.study["trials"]) == 2, "the second trial", cluster.processes.values())
        assert cluster.kill(CHIEF)
        cluster.start(CHIEF)
        second = wait_until(lambda: cluster.running("0001"), "the second trial", cluster.processes.values())
        assert len(cluster.kill(second, CHIEF)) == 2
        attempts = [record["attempt"] for record in search.study["trials"][:2]]
        assert attempts == [1, 1], "a restarted chief leaves trials to the workers that still run them"
        before = search.reports("0001")
        # Only the chief restarts.
        cluster.start(second, flags=("--overwrite",))
        cluster.start(CHIEF)
        lost = wait_until(lambda: cluster.running("0002"), "the third trial", cluster.processes.values())
        assert cluster.kill(lost)
        (left,) = set(WORKERS) - {lost}
        cluster.end(left, CHIEF)
    # Five trials in a row fail.
    assert_whole(search, ["completed"] * 3 + ["failed"] * 5)
    first, second, third, *_ = search.trials
    assert first["attempts"] == 1
    assert second["attempts"] == 2
    # The first process's reports up to its checkpoint still exist: the second one did not start from the beginning.
    assert search.reports("0001")[0] == before[0]
    assert "notes_per_second" in before[0]
    assert (third["attempts"], third["worker"]) == (2, left)


# The long form.


@pytest.fixture(scope="module")
def untouched(kills, dataset, tmp_path_factory):
    """A search by one process that was left in peace."""
    search = Search(dataset, tmp_path_factory.mktemp("untouched"), *LONG, space=LONG_SPACE)
    assert search.ends() == 0, search.said()
    return search


LONG = ["--max_trials=16", "--train_steps=300", "--seed=3", "--nostop_weak"]
LONG_SPACE = SPACE.format(duration_weights="0.5, 1.0, 2.0")


def test_chief_and_workers_killed_at_random_moments(kills, dataset, tmp_path, choose, untouched):
    hits, studies = 0, 0
    while hits < kills:
        search = Search(dataset, tmp_path / str(studies), *LONG, space=LONG_SPACE)
        studies += 1
        with Cluster(search) as cluster:
            cluster.start(*choose.sample(NAMES, 3))
            start = time.monotonic()
            while hits < kills:
                if choose.random() < 0.8:
                    # Otherwise a busy machine would be struck while everything is still starting, and nowhere else.
                    await_progress(search)
                time.sleep(choose.uniform(0, 5))
                if search.is_over:
                    break
                targets = choose.choice([[name] for name in NAMES] + [[CHIEF, name] for name in WORKERS] + [[*NAMES]])
                # A trial whose workers vanish again and again without getting on fails, as it should.
                worn = [record["worker"] for record in search.study["trials"] if record["vanished"] >= 3]
                struck = cluster.kill(*(name for name in targets if name not in worn))
                hits += len(struck)
                print(f"{time.monotonic() - start:.0f} s: killed {struck}, {len(search.study['trials'])} trials")
                time.sleep(choose.uniform(0, 4))
                cluster.start(*choose.sample(struck, len(struck)))
            cluster.end(*NAMES)
            print(f"study {studies - 1}: ended after {time.monotonic() - start:.0f} s")
        assert summary(search) == summary(untouched)
        assert_whole(search, [trial["state"] for trial in untouched.trials])
        ours, expected = ((one.workdir / "best_config.json").read_bytes() for one in (search, untouched))
        assert ours == expected


def test_a_worker_that_only_seemed_lost_leaves_its_trial_to_the_other(kills, dataset, tmp_path, untouched):
    search = Search(dataset, tmp_path / "search", *LONG, space=LONG_SPACE)
    with Cluster(search) as cluster:
        cluster.start(*NAMES)
        asleep = wait_until(lambda: cluster.running("0000"), "the first trial", cluster.processes.values())
        cluster.processes[asleep].send_signal(signal.SIGSTOP)
        (other,) = set(WORKERS) - {asleep}
        wait_until(lambda: search.study["trials"][0]["worker"] == other, "another worker", cluster.processes.values())
        cluster.processes[asleep].send_signal(signal.SIGCONT)
        cluster.end(*NAMES)
    assert search.trials[0]["attempts"] == 2
    assert summary(search) == summary(untouched)
