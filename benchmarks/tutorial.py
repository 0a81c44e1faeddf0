"""Compares the tutorial's flow with `Model.fit` and the trainer: losses, targets and notes per second.

    python benchmarks/tutorial.py --corpus=DIR [--seeds=3] [--epochs=50] [--part=losses|targets|generation]

losses: the flow and `--preset=tutorial` train on the same five performances, several seeds each; the losses of the
epoch whose weights are kept are printed: range, mean, and whether the ranges meet. targets: one LSTM(128) with the
same three heads, but every position of the same windows a target. generation: the flow's `predict` per note against
`base` as shipped, in one voice and in a batch. Times are noisy; the ratios of one run are the figures to keep.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))
FILES = 5
# The trainer's names of the losses that the flow calls pitch, step and duration.
LOSSES = {"pitch": "pitch_nll", "step": "step_mse", "duration": "duration_mse"}


def run(module: str, *flags: str) -> None:
    """Runs one of the project's commands."""
    subprocess.run([sys.executable, "-m", module, *flags, "--quiet"], cwd=REPOSITORY, check=True)


def prepare(corpus: Path, directory: Path) -> tuple[list[Path], Path]:
    """Copies the first files of a corpus; returns them, and their dataset."""
    found = sorted(path for path in corpus.rglob("*") if path.suffix.lower() in (".mid", ".midi"))
    if len(found) < FILES:
        raise SystemExit(f"{corpus}: holds {len(found)} MIDI files, expected at least {FILES}")
    (directory / "midi").mkdir()
    files = [Path(shutil.copy(path, directory / "midi" / path.name)) for path in found[:FILES]]
    dataset = directory / "dataset"
    run("beam_preprocess", f"--input={directory / 'midi'}", f"--output={dataset}", "--split_fractions=1,0,0")
    return files, dataset


def train(dataset: Path, workdir: Path, *flags: str) -> list[dict]:
    """Trains in a new process; returns the lines of metrics.jsonl."""
    run("trainer", f"--data={dataset}", f"--workdir={workdir}", *flags)
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def speed(reports: list[dict]) -> float:
    """Returns the median of targets per second over all reports but the first, which includes compilation."""
    return statistics.median(report["notes_per_second"] for report in reports[1:])


def compare_losses(files: list[Path], dataset: Path, directory: Path, seeds: int, epochs: int) -> None:
    """Trains both with several seeds and prints the losses of both."""
    import tutorial_flow

    trainer: list[dict[str, float]] = []
    baseline: list[dict[str, float]] = []
    for seed in range(seeds):
        workdir = directory / f"flow-{seed}"
        workdir.mkdir()
        trained = tutorial_flow.train(files, seed=seed, epochs=epochs, workdir=workdir)
        baseline.append(trained["losses"])
        show("Model.fit", seed, trained["epochs"], trained["losses"], trained["targets_per_second"])
        reports = train(
            dataset, directory / f"seed-{seed}", "--preset=tutorial", f"--seed={seed}", f"--epochs={epochs}"
        )
        best = min(reports, key=lambda report: report["loss"])
        trainer.append({"total": best["loss"], **{name: best[loss] for name, loss in LOSSES.items()}})
        show("--preset=tutorial", seed, len(reports), trainer[-1], speed(reports))
    print("\nover the seeds     Model.fit: range, mean          --preset=tutorial: range, mean      the ranges meet")
    for name in ("total", *LOSSES):
        values = [[losses[name] for losses in who] for who in (baseline, trainer)]
        spans = [f"{min(v):.4f} – {max(v):.4f}, {statistics.fmean(v):.4f}" for v in values]
        meet = max(map(min, values)) <= min(map(max, values))
        print(f"  {name:<16} {spans[0]:<30}  {spans[1]:<30}  {'yes' if meet else 'NO'}", flush=True)


def show(who: str, seed: int, epochs: int, losses: dict[str, float], targets_per_second: float) -> None:
    """Prints the result of one training."""
    values = "  ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    print(f"{who:<14} seed {seed}  epochs {epochs:2}  {values}  {targets_per_second:,.0f} targets/s", flush=True)


def compare_targets(files: list[Path], dataset: Path, directory: Path) -> None:
    """Prints targets per second of both."""
    import tutorial_flow

    workdir = directory / "flow-targets"
    workdir.mkdir()
    baseline = tutorial_flow.train(files, seed=0, epochs=4, workdir=workdir)["targets_per_second"]
    reports = train(
        dataset, directory / "every", "--preset=tutorial", "--positions=every", "--steps=1500", "--log_every=150",
        "--checkpoint_every=1500",
    )  # fmt: skip
    trainer = speed(reports)
    print(f"\ntargets/s, LSTM(128), 3 linear heads, seq_length 25, batch 64: Model.fit {baseline:,.0f}")
    print(
        f"  the trainer, every position a target: {trainer:,.0f} = {trainer / baseline:.1f} times",
        flush=True,
    )


def compare_generation(files: list[Path], dataset: Path, directory: Path, batch: int) -> None:
    """Prints generated notes per second of both; the speed does not depend on the weights."""
    import tutorial_flow

    from sostenuto.music.notes import Notes
    from trainer.generation.sampler import NoteSampler
    from trainer.workdir.load_model import load_model

    primer = tutorial_flow.load_notes(files[:1])
    model = tutorial_flow.build_model()
    baseline = statistics.median(tutorial_flow.generate(model, primer, 100) for _ in range(3))
    print(f"\nnotes/s, generating: `predict` per note {baseline:,.1f}")
    workdir = directory / "base"
    train(dataset, workdir, "--preset=base", "--steps=1", "--evaluate_every=0")
    player = NoteSampler(load_model(str(workdir)))
    for voices, notes in ((1, 4096), (batch, 512)):
        trainer = statistics.median(
            player.sample(
                Notes.empty(), num_notes=notes, num_samples=voices, temperature=1.0, seed=seed, end_odds=0.0
            ).notes_per_second
            for seed in range(5)
        )
        print(
            f"  base, {voices} voice{'s' if voices > 1 else ''}: {trainer:,.0f} = {trainer / baseline:,.0f} times",
            flush=True,
        )


def main() -> None:
    """Runs the selected parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="directory of MIDI files, searched recursively")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each (default: 3)")
    parser.add_argument("--epochs", type=int, default=50, help="epochs of each at most (default: 50)")
    parser.add_argument("--batch", type=int, default=512, help="voices generated at once (default: 512)")
    parser.add_argument("--part", choices=("losses", "targets", "generation"), help="only this one")
    flags = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        files, dataset = prepare(flags.corpus, directory)
        if flags.part in (None, "losses"):
            compare_losses(files, dataset, directory, flags.seeds, flags.epochs)
        if flags.part in (None, "targets"):
            compare_targets(files, dataset, directory)
        if flags.part in (None, "generation"):
            compare_generation(files, dataset, directory, flags.batch)


if __name__ == "__main__":
    main()
