"""Measures the preprocessing command against a plain loop, and its growth with the corpus.

    python benchmarks/preprocess.py --corpus=DIR [--files=N]
    python benchmarks/preprocess.py --grow=1000,10000,100000 [--corpus=DIR] [--archive] [-- arguments of the command]

The first sets the command against a serial pretty_midi loop over the same files. The command is timed as a user runs
it: a process of its own, start-up, read-back and manifest included, before the loop, halfway through it and after it;
the median counts, for a machine is seldom idle for a whole minute. The loop only parses. Times are noisy; the ratio of
one run is the figure to keep.

The second runs the command on corpora of growing size, each of them copies of the corpus given, or of small generated
performances: hard links, which cost nothing, or the members of a zip file. It says what each size took, and whether
time and memory, start-up apart, grew faster than the corpus.
"""

import argparse
import dataclasses
import itertools
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pretty_midi

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from sostenuto.data.manifest import SPLITS, Manifest  # noqa: E402
from sostenuto.music.midi import write_midi  # noqa: E402
from sostenuto.music.notes import Notes  # noqa: E402

# Notes of a generated performance: a tenth of a real one, so that the number of files dominates.
GENERATED_FILES = 100
GENERATED_NOTES = 300

# Files per directory, as in typical corpora.
FILES_A_DIRECTORY = 500

# Noise of time and memory on a machine that is not idle.
NOISE = 1.25


@dataclasses.dataclass(frozen=True)
class Run:
    """Wall-clock and processor seconds of a run, and the peak memory of all its processes."""

    seconds: float
    processor_milliseconds: float
    peak_kilobytes: float


def run_command(corpus: Path, output: str, arguments: list[str]) -> Run:
    """Runs the whole command and measures it."""
    command = [sys.executable, "-m", "beam_preprocess", f"--input={corpus}", f"--output={output}", *arguments]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    peak = Peak(process.pid)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    peak_bytes = peak.stop()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Run(seconds, 1000 * (usage.ru_utime + usage.ru_stime), max(peak_bytes / 1000, usage.ru_maxrss * 1.024))


class Peak:
    """Watches the proportional set size of a process and its descendants."""

    def __init__(self, pid: int) -> None:
        self._peak, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(pid,), daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Returns the highest observed number of bytes."""
        self._ended.set()
        self._thread.join()
        return self._peak

    def _watch(self, pid: int) -> None:
        while not self._ended.wait(0.2):
            self._peak = max(self._peak, sum(map(_proportional_bytes, _family(pid))))


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                yield from _family(int(child))
    except OSError:  # The process has just ended.
        return


def _proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def time_command(corpus: Path) -> float:
    """Returns the seconds that the whole command takes."""
    with tempfile.TemporaryDirectory() as output:
        return run_command(corpus, f"{output}/dataset", []).seconds


def time_loop(files: list[Path]) -> tuple[float, int]:
    """Returns the seconds that pretty_midi takes to parse the files one by one, and the number of notes."""
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


def find_files(corpus: Path) -> list[Path]:
    """Returns the MIDI files below a directory."""
    return sorted(path for path in corpus.rglob("*") if path.suffix.lower() in (".mid", ".midi"))


def compare(corpus: Path, files: list[Path], limit: int | None) -> None:
    """Times the command and the loop, and prints the ratio."""
    sample = files
    if limit and limit < len(files):
        sample = random.Random(0).sample(files, limit)
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


def generate(directory: Path) -> list[Path]:
    """Writes small performances and returns their paths."""
    directory.mkdir()
    rng = np.random.default_rng(0)
    for number in range(GENERATED_FILES):
        onset = np.cumsum(rng.integers(20_000, 400_000, GENERATED_NOTES))
        # Each pitch pauses before it repeats.
        pitch = 21 + (np.arange(GENERATED_NOTES) * 17 + rng.integers(0, 88)) % 88
        duration = rng.integers(20_000, 800_000, GENERATED_NOTES)
        notes = Notes.from_onsets(pitch, onset, onset + duration, rng.integers(1, 128, GENERATED_NOTES))
        write_midi(notes, directory / f"{number}.mid")
    return sorted(directory.iterdir())


def copy_corpus(files: list[Path], directory: Path, count: int, *, archive: bool) -> Path:
    """Creates a corpus of `count` copies, and returns its path."""
    names = (f"{number // FILES_A_DIRECTORY:05d}/{number:07d}.mid" for number in range(count))
    copies = zip(names, itertools.cycle(files), strict=False)
    if archive:
        path = directory / f"{count}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, file in copies:
                zipped.write(file, name)
        return path
    # Most file systems allow at most 65,000 hard links to a file, and none across file systems.
    originals: dict[tuple[Path, int], Path] = {}
    top = directory / str(count)
    for number, (name, file) in enumerate(copies):
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        original = originals.setdefault((file, number // len(files) // 30_000), path)
        if original is path:
            path.write_bytes(file.read_bytes())
        else:
            os.link(original, path)
    return top


def grow(files: list[Path], counts: list[int], *, archive: bool, arguments: list[str]) -> None:
    """Runs the command on corpora of copies; prints their costs, and whether they grow faster than the corpus."""
    print("| performances | notes | seconds | processor seconds | ms a performance | peak MB | dataset MB |")
    print("|---|---|---|---|---|---|---|")
    runs: list[tuple[int, Run]] = []
    for count in counts:
        with tempfile.TemporaryDirectory() as directory:
            corpus = copy_corpus(files, Path(directory), count, archive=archive)
            run = run_command(corpus, f"{directory}/dataset", ["--quiet", *arguments])
            manifest = Manifest.load(f"{directory}/dataset")
            notes = sum(manifest.notes(split) for split in SPLITS)
            size = sum(shard.bytes for split in SPLITS for shard in manifest.splits[split].shards)
        runs.append((count, run))
        print(
            f"| {count:,} | {notes:,} | {run.seconds:.1f} | {run.processor_milliseconds / 1000:.1f} "
            f"| {1000 * run.seconds / count:.2f} | {run.peak_kilobytes / 1e3:,.0f} | {size / 1e6:,.1f} |",
            flush=True,
        )
    (small, first) = runs[0]
    for (fewer, before), (more, after) in itertools.pairwise(runs[1:]):
        for what, unit, attribute in (
            ("processor time", "ms", "processor_milliseconds"),
            ("memory", "kB", "peak_kilobytes"),
        ):
            # The smallest run is start-up, nearly; a performance of a larger corpus may cost no more than one of a
            # smaller corpus.
            base = getattr(first, attribute)
            cost = (getattr(before, attribute) - base) / (fewer - small)
            dearer = (getattr(after, attribute) - base) / (more - small)
            verdict = "no faster than the corpus" if dearer <= NOISE * cost else "FASTER THAN THE CORPUS"
            print(
                f"{fewer:,} to {more:,}: {what} grows {verdict}: {cost:.2f} {unit} a performance beyond the first "
                f"{small:,}, then {dearer:.2f}"
            )


def main() -> None:
    """Runs the selected measurements."""
    arguments, separator, passed_on = sys.argv[1:], "--", []
    if separator in arguments:
        at = arguments.index(separator)
        arguments, passed_on = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="a directory of MIDI files")
    parser.add_argument(
        "--files",
        type=int,
        help="let pretty_midi parse only this many, drawn at random, and scale its time up by bytes",
    )
    parser.add_argument("--grow", help="sizes of growing corpora of copies, such as 1000,10000,100000; at least two")
    parser.add_argument("--archive", action="store_true", help="grow zip files instead of directories")
    options = parser.parse_args(arguments)
    if options.corpus is None and options.grow is None:
        parser.error("expected --corpus=DIR, --grow=SIZES or both")
    files = find_files(options.corpus.resolve()) if options.corpus else []
    if options.corpus and not files:
        parser.error(f"{options.corpus}: holds no MIDI file")
    if options.grow is None:
        compare(options.corpus.resolve(), files, options.files)
        return
    try:
        counts = sorted(set(map(int, options.grow.split(","))))
    except ValueError:
        counts = []
    if len(counts) < 2 or counts[0] < 10:
        parser.error(f"--grow={options.grow}: expected two or more numbers of 10 or more")
    with tempfile.TemporaryDirectory() as directory:
        files = files or generate(Path(directory) / "generated")
        grow(files, counts, archive=options.archive, arguments=passed_on)


if __name__ == "__main__":
    main()
