"""Killed as it began, or finished: what a run does when it is started again. tests/faults has what lies between."""

import numpy as np
import pytest

from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from tests.factories import TINY
from tests.trainer.runs import train, weights
from trainer.engine import loop
from trainer.presets import preset


def test_a_run_that_was_killed_at_its_start_starts_again(dataset, tmp_path):
    """A kill before the first complete file leaves the lock and an unfinished file."""
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / ".lock").touch()
    (tmp_path / "w" / "config.json.tmp-0123456789ab").write_text("{")
    config, manifest = preset("base").replace(steps=1, replicas=7), Manifest.load(dataset)
    with pytest.raises(UserError, match="no multiple of the 7 replicas"):
        loop.train(config, manifest, str(tmp_path / "w"))


def test_a_finished_run_is_left_alone_and_a_longer_one_continues(dataset, tmp_path):
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
