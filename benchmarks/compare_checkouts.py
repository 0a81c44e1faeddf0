"""Comparison of two checkouts: the same dataset, weights, scores and generated notes, to the bit.

    python benchmarks/compare_checkouts.py OLD NEW --corpus=DIR --work=DIR [--train_steps=200] [--presets=base,tutorial]

Each checkout preprocesses the corpus, trains each preset, scores the validation split and generates two samples, with
the Python that runs this script. Presets that OLD calls by another name are given as `new=old`. Results stay in
--work/old and --work/new; delete one of them to make it again. The exit status is 1 if anything differs.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np


def main() -> int:
    """Runs both checkouts and prints a line for each comparison; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--corpus", required=True, type=Path)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--train_steps", type=int, default=200)
    parser.add_argument("--presets", default="base,tutorial")
    arguments = parser.parse_args()
    presets = dict(name.split("=") if "=" in name else (name, name) for name in arguments.presets.split(","))
    old, new = arguments.work.resolve() / "old", arguments.work.resolve() / "new"
    for checkout, output, names in ((arguments.old, old, presets.values()), (arguments.new, new, presets)):
        if not output.exists():
            produce(checkout.resolve(), output, arguments.corpus.resolve(), arguments.train_steps, list(names))
    results = [("dataset", compare_files(old / "dataset", new / "dataset", "*"))]
    for name, old_name in presets.items():
        left, right = old / old_name, new / name
        results.append((f"{name}: weights after {arguments.train_steps} train_steps", compare_weights(left, right)))
        results.append((f"{name}: evaluation", compare_files(left, right, "evaluation-*.json", _sort_keys)))
        results.append((f"{name}: generated notes", compare_files(left / "music", right / "music", "*.mid")))
    for subject, (same, detail) in results:
        print(f"{'same     ' if same else 'DIFFERENT'}  {subject}: {detail}")
    return 0 if all(same for _, (same, _) in results) else 1


def produce(checkout: Path, output: Path, corpus: Path, train_steps: int, presets: list[str]) -> None:
    """Runs the commands of a checkout, whose results go below `output`."""

    def run(module: str, *flags: str) -> None:
        print(f"{checkout}: {module} {' '.join(flags)}", flush=True)
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        subprocess.run([sys.executable, "-m", module, *flags, "--quiet"], cwd=checkout, env=environment, check=True)

    output.mkdir(parents=True)
    dataset = f"--data={output / 'dataset'}"
    run("beam_preprocess", f"--input={corpus}", f"--output={output / 'dataset'}")
    for preset in presets:
        workdir = f"--workdir={output / preset}"
        run("trainer", dataset, workdir, f"--preset={preset}", f"--steps={train_steps}", "--samples=0")
        run("trainer.evaluate", dataset, workdir, "--split=validation")
        primer = next(corpus.rglob("*.mid*"))
        flags = ("--num_notes=200", "--num_samples=2", "--seed=7", f"--primer={primer}")
        run("trainer.generate", workdir, f"--output={output / preset / 'music'}", *flags)


def _sort_keys(text: bytes) -> bytes:
    """Returns a JSON text with its keys in order: the values count, to the last bit."""
    return json.dumps(json.loads(text), sort_keys=True).encode()


def compare_files(old: Path, new: Path, pattern: str, normalize: Callable[[bytes], bytes] = bytes) -> tuple[bool, str]:
    """Compares the normalized bytes of all files that match a pattern; the detail gives their number and a hash."""
    hashes = [
        {
            path.name: hashlib.sha256(normalize(path.read_bytes())).hexdigest()
            for path in sorted(directory.glob(pattern))
        }
        for directory in (old, new)
    ]
    digest = hashlib.sha256(json.dumps(hashes[1]).encode()).hexdigest()[:16]
    return bool(hashes[0]) and hashes[0] == hashes[1], f"{len(hashes[1])} files, sha256 {digest}"


def compare_weights(old: Path, new: Path) -> tuple[bool, str]:
    """Compares every variable of the newest checkpoint, optimizer included."""
    import tensorflow as tf

    readers = [
        tf.train.load_checkpoint(str(max((directory / "checkpoints").iterdir()) / "variables"))
        for directory in (old, new)
    ]
    names = [sorted(reader.get_variable_to_shape_map()) for reader in readers]
    if names[0] != names[1]:
        return False, f"variables: got {names[1]}, expected {names[0]}"
    differing = [
        name for name in names[0] if not np.array_equal(readers[0].get_tensor(name), readers[1].get_tensor(name))
    ]
    return not differing, f"{len(names[0])} variables, {len(differing)} differ"


if __name__ == "__main__":
    sys.exit(main())
