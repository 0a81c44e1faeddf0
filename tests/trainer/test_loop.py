"""One replica or two, many calls or few: the same weights. And when a run ends."""

import json
import subprocess
import sys

from tests.trainer.runs import TINY, metrics, train


def test_replicas_and_calls_do_not_change_the_weights(dataset):
    """With dropout and augmentation on; Adam makes an element-wise comparison in float32 meaningless."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.trainer.replica_runs", str(dataset)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    distances = json.loads(run.stdout)
    for preset in ("base", "seed"):
        assert distances[f"{preset} float64 two replicas"] < 1e-9
        assert distances[f"{preset} float32 two replicas"] < 1e-4
    assert distances["many calls"] == 0
    for precision in ("mixed_bfloat16", "mixed_float16"):
        # The same run in coarser arithmetic: near, and not the same.
        assert 0 < distances[precision] < 0.1


def test_a_run_without_progress_ends_and_keeps_its_best_weights(dataset, tmp_path):
    """With so high a learning rate the first report stays the best."""
    flags = [*TINY["seed"], "--learning_rate=3", "--patience=3", "--epochs=40"]
    assert train(dataset, tmp_path / "w", *flags).returncode == 0
    result = json.loads((tmp_path / "w" / "result.json").read_text())
    losses = {line["train_step"]: line["loss"] for line in metrics(tmp_path / "w")}
    assert result["reason"] == "patience"
    assert result["best"] == min(losses.values())
    assert len(losses) == list(losses).index(result["best_train_step"]) + 1 + 3 < 40
    (best,) = (tmp_path / "w" / "best").iterdir()
    assert int(best.name) == result["best_train_step"]
