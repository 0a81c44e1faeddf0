"""Bach's chorales as MIDI files, out of the scores that the package music21 carries: `python -m demo.chorales`.

A corpus that needs only the package index. The scores give no tempo and no loudness, so the export decides how they are
played: all at one tempo, whose rhythm a model learns within minutes, the outer voices a little louder than the inner
ones, and all voices on one keyboard. Repeats are left out: a second copy of the same bars would only teach a model to
remember.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pretty_midi
from absl import flags
from music21 import corpus, exceptions21, stream

from notes import cli
from notes.errors import UserError
from notes.progress import track

TEMPO = 75  # quarter notes a minute; a quarter is 0.8 s
OUTER_VELOCITY, INNER_VELOCITY = 80, 64


@dataclass(frozen=True, order=True)
class Key:
    """One key held on the keyboard; `start` and `end` in quarter notes from the beginning of the chorale."""

    start: float
    pitch: int
    end: float
    velocity: int


@dataclass(frozen=True)
class Exported:
    """What an export wrote and what it left out; `failed` names each chorale with the reason."""

    written: list[str]
    repeated: list[str]
    failed: dict[str, str]


def names() -> list[str]:
    """Names music21's chorales ("bach/bwv269"), each once: Riemenschneider's numbering prints some of them twice."""
    return sorted(set(corpus.chorales.Iterator(returnType="filename")))


def export(directory: str | os.PathLike[str], chorales: Sequence[str], *, quiet: bool = False) -> Exported:
    """Writes each chorale to `directory` as a MIDI file; the directory appears when all of them are in it.

    Args:
        directory: where to write; it must not exist.
        chorales: what `names` returns, or some of it.
        quiet: whether to show no progress.

    Raises:
        UserError: if the directory exists, or no chorale could be exported.
    """
    target = Path(directory)
    if target.exists():
        raise UserError(f"{target}: exists already; remove it to export the chorales again")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        exported = _export_into(unfinished, chorales, quiet=quiet)
        if not exported.written:
            raise UserError(f"none of {len(chorales)} chorales could be exported: {exported.failed}")
        unfinished.chmod(0o755)
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return exported


def _export_into(directory: Path, chorales: Sequence[str], *, quiet: bool) -> Exported:
    exported = Exported(written=[], repeated=[], failed={})
    seen: set[tuple[Key, ...]] = set()
    for name in track(chorales, total=len(chorales), unit="chorale", description="Exporting chorales", quiet=quiet):
        try:
            keys = read(name)
        except (exceptions21.Music21Exception, ValueError) as error:
            exported.failed[name] = " ".join(str(error).split())
            continue
        if tuple(keys) in seen:  # the same music under a second number would sit on both sides of a split
            exported.repeated.append(name)
            continue
        seen.add(tuple(keys))
        file_name = f"{name.rpartition('/')[2]}.mid"
        play(keys).write(str(directory / file_name))
        exported.written.append(file_name)
    return exported


def read(name: str) -> list[Key]:
    """Reads one chorale from music21's corpus as it falls under the hands of one player.

    Raises:
        ValueError: if the score holds no notes.
    """
    score = corpus.parse(name, forceSource=True)  # not from a cache in the user's home
    parts = list(score.parts)
    keys: list[Key] = []
    for number, part in enumerate(parts):
        velocity = OUTER_VELOCITY if number in (0, len(parts) - 1) else INNER_VELOCITY
        keys.extend(_keys_of_part(part, velocity))
    if not keys:
        raise ValueError("a score without notes")
    return on_one_keyboard(keys)


def _keys_of_part(part: stream.Part, velocity: int) -> Iterable[Key]:
    for note in part.stripTies().flatten().notes:
        for pitch in note.pitches:
            start, end = float(note.offset), float(note.offset + note.quarterLength)
            if end > start:  # a grace note has no length in the score
                yield Key(start=start, pitch=pitch.midi, end=end, velocity=velocity)


def on_one_keyboard(keys: Iterable[Key]) -> list[Key]:
    """Joins voices that meet on one key: struck together they are one key, struck anew the former one ends.

    A MIDI channel cannot hold one pitch twice: the first note-off would end both.
    """
    sounding: dict[int, Key] = {}
    done = []
    for key in sorted(keys):
        before = sounding.get(key.pitch)
        if before is not None and before.start == key.start:
            key = Key(key.start, key.pitch, max(before.end, key.end), max(before.velocity, key.velocity))
        elif before is not None:
            done.append(Key(before.start, before.pitch, min(before.end, key.start), before.velocity))
        sounding[key.pitch] = key
    return sorted([*done, *sounding.values()])


def play(keys: Iterable[Key]) -> pretty_midi.PrettyMIDI:
    """Plays the keys on a piano."""
    midi = pretty_midi.PrettyMIDI(initial_tempo=TEMPO, resolution=480)
    piano = pretty_midi.Instrument(program=0)
    seconds = 60.0 / TEMPO
    for key in keys:
        piano.notes.append(pretty_midi.Note(key.velocity, key.pitch, key.start * seconds, key.end * seconds))
    midi.instruments.append(piano)
    return midi


def main() -> None:
    """Exports all chorales and says how many."""
    if not flags.FLAGS.output:
        raise UserError("--output is missing: name the directory to write the chorales to")
    exported = export(flags.FLAGS.output, names(), quiet=flags.FLAGS.quiet)
    left_out = f"{len(exported.repeated)} repeated and {len(exported.failed)} unreadable ones left out"
    print(f"{len(exported.written)} chorales in {flags.FLAGS.output} ({left_out})")
    for name, reason in exported.failed.items():
        print(f"  {name}: {reason}")


if __name__ == "__main__":
    flags.DEFINE_string("output", None, "directory to write the MIDI files to; it must not exist")
    flags.DEFINE_bool("quiet", False, "show no progress")
    cli.run(main, usage="--output=DIR\n\nWrites Bach's chorales as MIDI files, from the scores in music21.")
