"""Killed, asked to end, or finished: what a run does when it is started again."""

import json
import pathlib
import random
import signal
import subprocess
import time

import numpy as np
import pytest

from notes.errors import UserError
from notes.manifest import Manifest
from tests.trainer.runs import TINY, TRAIN, metrics, train, weights
from trainer import loop
from trainer.config import preset


def test_a_run_that_is_killed_again_and_again_ends_like_one_that_is_not(dataset, tmp_path):
    flags = [
        *TINY["base"], "--steps=250", "--dropout=0.2", "--checkpoint_every=7", "--log_every=5", "--evaluate_every=50",
        "--transpose=3",
    ]  # fmt: skip
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(dataset, whole, *flags).returncode == 0
    choose = random.Random(5)
    kills = 0
    for _ in range(30):
        process = subprocess.Popen(
            [*TRAIN, f"--data={dataset}", f"--workdir={broken}", *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # The moment is random, but within the part of a run that writes.
        start = time.monotonic()
        while process.poll() is None and not _moves(broken, start) and time.monotonic() - start < 60:
            time.sleep(0.01)
        time.sleep(choose.uniform(0, 0.5))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
        if kills == 3:
            break
    assert kills >= 2
    assert train(dataset, broken, *flags).returncode == 0
    after, before = weights(broken), weights(whole)
    assert all(np.array_equal(after[name], before[name]) for name in before)
    assert metrics(broken) == metrics(whole)
    assert json.loads((broken / "result.json").read_text()) == json.loads((whole / "result.json").read_text())


def _moves(workdir: pathlib.Path, since: float) -> bool:
    """Whether a process that began at `since` has written a checkpoint."""
    directory = workdir / "checkpoints"
    if not directory.exists():
        return False
    ages = [time.time() - path.stat().st_mtime for path in directory.iterdir() if path.exists()]
    return bool(ages) and min(ages) < time.monotonic() - since


def test_sigterm_saves_and_the_run_goes_on_where_it_stopped(dataset, tmp_path):
    flags = [*TINY["base"], "--steps=2000", "--checkpoint_every=100000", "--log_every=50", "--evaluate_every=0"]
    process = subprocess.Popen(
        [*TRAIN, f"--data={dataset}", f"--workdir={tmp_path / 'w'}", *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while not (tmp_path / "w" / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    process.communicate()
    # Two seconds on a free machine; most of it is Python's end.
    assert time.monotonic() - begun < 15
    assert process.returncode == 128 + signal.SIGTERM
    (saved,) = (tmp_path / "w" / "checkpoints").iterdir()
    assert 0 < int(saved.name) < 2000
    assert not (tmp_path / "w" / "result.json").exists()


def test_a_run_that_was_killed_as_it_began_begins_anew(dataset, tmp_path):
    """What is there is what a kill before the first whole file leaves: the lock and a file in the making."""
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / ".lock").touch()
    (tmp_path / "w" / "config.json.tmp-0123456789ab").write_text("{")
    config, manifest = preset("base").replace(steps=1, replicas=7), Manifest.load(dataset)
    with pytest.raises(UserError, match="no multiple of the 7 replicas"):
        loop.train(config, manifest, str(tmp_path / "w"), quiet=True)


def test_a_finished_run_is_left_alone_and_a_longer_one_goes_on(dataset, tmp_path):
    flags = [*TINY["base"], "--evaluate_every=0", "--schedule=constant"]
    whole, longer = tmp_path / "whole", tmp_path / "longer"
    assert train(dataset, whole, *flags, "--steps=40").returncode == 0
    assert train(dataset, longer, *flags, "--steps=20").returncode == 0
    again = train(dataset, longer, "--steps=20")
    assert again.returncode == 0
    assert "is finished" in again.stderr
    assert train(dataset, longer, "--steps=40").returncode == 0
    after, before = weights(longer), weights(whole)
    assert all(np.array_equal(after[name], before[name]) for name in before)
