import shutil

import numpy as np
import pytest

from sostenuto.errors import UserError
from tests.factories import tiny_model, write_trained
from trainer.checkpoints.manager import CheckpointManager, check_config, model_variables
from trainer.workdir import load_model
from trainer.workdir.layout import BEST_NAME


def test_best_weights_that_a_run_replaces_while_they_are_read_are_found_again(tmp_path, monkeypatch):
    workdir, better = write_trained(tmp_path / "w", tiny_model("density")), tiny_model("density", seed=5)

    def check_then_replace(saved, config) -> None:
        check_config(saved, config)
        if saved.train_step == 7:
            CheckpointManager(str(workdir / BEST_NAME), max_to_keep=1).save(9, model_variables(better), saved.extra)

    monkeypatch.setattr(load_model, "check_config", check_then_replace)
    loaded = load_model.load_model(str(workdir))
    assert loaded.train_step == 9
    for one, other in zip(loaded.model.weights, better.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_best_weights_that_vanish_while_they_are_read_are_a_line(tmp_path, monkeypatch):
    workdir = write_trained(tmp_path / "w", tiny_model("density"))

    def check_then_empty(saved, config) -> None:
        check_config(saved, config)
        for file in (workdir / BEST_NAME / saved.path.rpartition("/")[2]).iterdir():
            if file.name != "checkpoint.json":
                shutil.rmtree(file) if file.is_dir() else file.write_bytes(b"")

    monkeypatch.setattr(load_model, "check_config", check_then_empty)
    with pytest.raises(UserError, match="the best weights are corrupt"):
        load_model.load_model(str(workdir))
