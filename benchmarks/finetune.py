"""Compares training from nothing with training from another run's weights, in a fifth of the train_steps.

    python benchmarks/finetune.py --data=DATASET --init_from=WORKDIR|EXPORT [--source_data=DATASET] [--steps=1500]

Models of the source's shape train on --data: from nothing for all train_steps, from nothing for --share of them, and
from the source's weights for --share of them, with each learning rate. All have the source's preset and are scored
equally often per train_step. Printed are the nats per note of their best weights on the validation split of --data and,
to show what was forgotten, of --source_data. With several seeds, scores are means, with their range in brackets.
A second table has the curves: the validation scores of --data during the trainings.
--train_fraction takes fewer training performances; the validation splits stay whole.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from model_processes import show

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))
SCORES = 8  # within the shorter length


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Datasets and settings that all trainings share."""

    data: Path
    source: str
    source_data: Path | None
    directory: Path
    seeds: int
    train_flags: tuple[str, ...]

    def train(self, name: str, steps: int, *flags: str) -> list[Path]:
        """Trains with each seed; returns the workdirs."""
        workdirs = [self.directory / f"{name}-{seed}" for seed in range(self.seeds)]
        for seed, workdir in enumerate(workdirs):
            run(
                "trainer", f"--data={self.data}", f"--workdir={workdir}", f"--steps={steps}", f"--seed={seed}",
                "--samples=0", *self.train_flags, *flags,
            )  # fmt: skip
        return workdirs

    def show(self, name: str, steps: int, workdirs: list[Path]) -> list[float]:
        """Prints a row of the table; returns the scores on the own validation split."""
        own = [self._score(workdir, self.data) for workdir in workdirs]
        cells = [format_scores(own)]
        if self.source_data:
            cells.append(format_scores([self._score(workdir, self.source_data) for workdir in workdirs]))
        show((name, f"{steps:,}", *cells))
        return own

    def _score(self, workdir: Path, data: Path) -> float:
        output = self.directory / "scores.json"
        run("trainer.evaluate", f"--workdir={workdir}", f"--data={data}", "--split=validation", f"--output={output}")
        return json.loads(output.read_text())["nats_per_note"]["total"]


def read_curve(workdirs: list[Path]) -> dict[int, list[float]]:
    """Returns the validation scores of trainings by train_step."""
    from trainer.workdir.formats import MetricsRecord

    curve: dict[int, list[float]] = {}
    for workdir in workdirs:
        for record in MetricsRecord.load_all(str(workdir / "metrics.jsonl")):
            if record.val_nats is not None:
                curve.setdefault(record.train_step, []).append(record.val_nats)
    return curve


def show_curves(curves: dict[str, dict[int, list[float]]], short: int) -> None:
    """Prints the curves: all scores up to the short length, then every eighth, counted from the last."""
    print()
    show(("train_step", *curves))
    show(("---",) * (len(curves) + 1))
    steps = sorted(set().union(*curves.values()))
    later = [step for step in steps if step > short]
    for step in [*(step for step in steps if step <= short), *later[::-SCORES][::-1]]:
        show((f"{step:,}", *(format_scores(curve[step]) if step in curve else "" for curve in curves.values())))


def run(module: str, *flags: str) -> None:
    """Runs one of the project's commands."""
    subprocess.run([sys.executable, "-m", module, *flags, "--quiet"], cwd=REPOSITORY, check=True, stdout=sys.stderr)


def format_scores(scores: list[float]) -> str:
    """Returns the mean of some scores, with their range if there are several."""
    span = f" ({min(scores):.3f} – {max(scores):.3f})" if len(scores) > 1 else ""
    return f"{statistics.fmean(scores):.3f}{span}"


def write_config(source: str, path: Path) -> None:
    """Writes the config of the source's preset and shape, for training from nothing."""
    from trainer.presets import preset
    from trainer.workdir.layout import load_config

    config = load_config(source)
    path.write_text(preset(config.preset).with_model_of(config).to_json())


def compare(comparison: Comparison, steps: int, share: float, learning_rates: list[str]) -> None:
    """Trains everything and prints the table, then whether the claim holds."""
    short, config = max(round(steps * share), 1), comparison.directory / "new.json"
    write_config(comparison.source, config)
    print(f"{steps:,} train_steps, or {short:,}; trainings of each: {comparison.seeds}; validation, nats per note\n")
    columns = ("weights", "train_steps", str(comparison.data), *filter(None, [str(comparison.source_data or "")]))
    show(columns)
    show(("---",) * len(columns))
    comparison.show("the source as it is", 0, [Path(comparison.source)])
    nothing = comparison.train("nothing", steps, f"--config={config}")
    whole = comparison.show("from nothing", steps, nothing)
    nothing_short = comparison.train("nothing-short", short, f"--config={config}")
    comparison.show("from nothing", short, nothing_short)
    curves = {
        f"from nothing, {steps:,}": read_curve(nothing),
        f"from nothing, {short:,}": read_curve(nothing_short),
    }
    tuned = {}
    for rate in learning_rates:
        flags = (f"--init_from={comparison.source}", f"--learning_rate={rate}")
        workdirs = comparison.train(f"tuned-{rate}", short, *flags)
        tuned[rate] = comparison.show(f"from the source, learning_rate {rate}", short, workdirs)
        curves[f"from the source, {rate}"] = read_curve(workdirs)
    show_curves(curves, short)
    for rate, scores in tuned.items():
        gain = statistics.fmean(whole) - statistics.fmean(scores)
        verdict = "reached" if gain >= 0 else "not reached"
        print(f"\nlearning_rate {rate}: the score of all train_steps from nothing is {verdict} ({gain:+.3f} nats)")


def main() -> None:
    """Reads the flags and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="dataset to train on")
    parser.add_argument("--init_from", required=True, help="workdir or export of the source")
    parser.add_argument("--source_data", type=Path, help="the source's dataset (default: scores only on --data)")
    parser.add_argument("--steps", type=int, default=1500, help="train_steps from nothing (default: 1500)")
    parser.add_argument("--share", type=float, default=0.2, help="share of them from the source (default: 0.2)")
    parser.add_argument("--learning_rates", default="2e-3,5e-4", help="from the source (default: 2e-3,5e-4)")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each (default: 1)")
    parser.add_argument("--train_fraction", type=float, default=1.0, help="of the train split (default: 1)")
    flags = parser.parse_args()
    interval = max(round(flags.steps * flags.share) // SCORES, 1)
    shared = (f"--train_fraction={flags.train_fraction}", f"--evaluate_every={interval}", "--checkpoint_every=100000")
    source = flags.init_from if flags.init_from.startswith("gs://") else str(Path(flags.init_from).resolve())
    source_data = flags.source_data and flags.source_data.resolve()
    with tempfile.TemporaryDirectory() as name:
        comparison = Comparison(flags.data.resolve(), source, source_data, Path(name), flags.seeds, shared)
        compare(comparison, flags.steps, flags.share, flags.learning_rates.split(","))


if __name__ == "__main__":
    main()
