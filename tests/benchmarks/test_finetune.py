"""The curves of benchmarks/finetune.py, without trainings."""

import sys

from tests.processes import REPOSITORY
from trainer.workdir.formats import MetricsRecord

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import finetune as benchmark


def metrics(train_step: int, val_nats: float | None) -> str:
    """Returns a line of metrics.jsonl."""
    scores = {f"val_{name}": val_nats and 1.0 for name in ("pitch_nll", "step_nll", "duration_nll", "pitch_top1")}
    return MetricsRecord(
        train_step=train_step, epoch=1.0, loss=3.0, learning_rate=0.1, notes_per_second=9.0, val_nats=val_nats, **scores
    ).to_line()


def test_the_curves_hold_the_validation_scores_of_every_length(tmp_path, capsys):
    for seed, offset in enumerate((0.0, 0.5)):
        workdir = tmp_path / f"seed-{seed}"
        workdir.mkdir()
        lines = [metrics(step, 4 - step / 100 + offset if step % 10 == 0 else None) for step in range(5, 205, 5)]
        (workdir / "metrics.jsonl").write_text("".join(lines))
    whole = benchmark.read_curve([tmp_path / "seed-0", tmp_path / "seed-1"])
    assert whole[10] == [3.9, 4.4]
    assert list(whole) == list(range(10, 201, 10))
    short = benchmark.read_curve([tmp_path / "seed-0"])
    benchmark.show_curves({"whole": whole, "short": {step: short[step] for step in (10, 20, 30, 40)}}, short=40)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.strip().splitlines()]
    assert rows[0] == ["train_step", "whole", "short"]
    # All scores up to the short length, then every eighth, of which the last is one.
    assert [row[0] for row in rows[2:]] == ["10", "20", "30", "40", "120", "200"]
    assert rows[2][1:] == ["4.150 (3.900 – 4.400)", "3.900"]
    assert rows[-1][1:] == ["2.250 (2.000 – 2.500)", ""]
