"""The preprocessing command against a serial pretty_midi loop over the same files, in one run.

    python benchmarks/preprocess.py --corpus=DIR [--files=N]

The command is timed as a user runs it: a process of its own, start-up, read-back and manifest included, before the
loop, halfway through it and after it; the median counts, for a machine is seldom idle for a whole minute. The loop only
parses. Times are noisy; the ratio of one run is the figure to keep.
"""

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pretty_midi

REPOSITORY = Path(__file__).resolve().parent.parent


def time_command(corpus: Path) -> float:
    """Returns the seconds that the whole command takes."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "beam_preprocess", f"--input={corpus}", f"--output={output}/dataset"]
        started = time.perf_counter()
        subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


def time_loop(files: list[Path]) -> tuple[float, int]:
    """Returns the seconds that pretty_midi takes to parse the files one after another, and how many notes it found."""
    notes = 0
    started = time.perf_counter()
    for number, path in enumerate(files, start=1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            midi = pretty_midi.PrettyMIDI(str(path))
        notes += sum(len(instrument.notes) for instrument in midi.instruments if not instrument.is_drum)
        if number % 50 == 0:
            print(f"  pretty_midi: {number} of {len(files)} files", file=sys.stderr, flush=True)
    return time.perf_counter() - started, notes


def main() -> None:
    """Times both and prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="a directory of MIDI files")
    parser.add_argument(
        "--files",
        type=int,
        help="let pretty_midi parse only this many, drawn at random, and scale its time up by bytes",
    )
    arguments = parser.parse_args()
    corpus = arguments.corpus.resolve()
    files = sorted(path for path in corpus.rglob("*") if path.suffix.lower() in (".mid", ".midi"))
    if not files:
        parser.error(f"{corpus}: holds no MIDI file")
    sample = files
    if arguments.files and arguments.files < len(files):
        sample = random.Random(0).sample(files, arguments.files)

    half = len(sample) // 2
    commands = [time_command(corpus)]
    first_seconds, first_notes = time_loop(sample[:half])
    commands.append(time_command(corpus))
    second_seconds, second_notes = time_loop(sample[half:])
    commands.append(time_command(corpus))
    command_seconds = statistics.median(commands)
    loop_seconds, notes = first_seconds + second_seconds, first_notes + second_notes
    scale = sum(path.stat().st_size for path in files) / sum(path.stat().st_size for path in sample)
    measured = f"{len(sample)} files, {notes:,} notes"
    if sample is not files:
        measured += f", {loop_seconds:.1f} s, scaled by bytes to {len(files)} files"
    each = ", ".join(f"{seconds:.2f}" for seconds in commands)
    print(f"python -m beam_preprocess, start-up included: {command_seconds:7.2f} s  (median of {each})")
    print(f"pretty_midi, one file after another:          {loop_seconds * scale:7.2f} s  ({measured})")
    print(f"ratio: the command takes 1/{loop_seconds * scale / command_seconds:.1f} of the loop's time")


if __name__ == "__main__":
    main()
