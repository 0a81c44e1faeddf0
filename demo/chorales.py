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
from typing import TYPE_CHECKING

from absl import flags

from sostenuto import cli
from sostenuto.errors import UserError
from sostenuto.music import notes
from sostenuto.progress import track

if TYPE_CHECKING:
    # Both take seconds to import, which `--help` need not wait for.
    import pretty_midi
    from music21 import stream

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
    from music21 import corpus

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
    from music21 import exceptions21

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
    from music21 import corpus

    score = corpus.parse(name, forceSource=True)  # not from a cache in the user's home
    parts = list(score.parts)
    keys: list[Key] = []
    for number, part in enumerate(parts):
        velocity = OUTER_VELOCITY if number in (0, len(parts) - 1) else INNER_VELOCITY
        keys.extend(_keys_of_part(part, velocity))
    if not keys:
        raise ValueError("a score without notes")
    return merge_overlapping_notes(keys)


def _keys_of_part(part: "stream.Part", velocity: int) -> Iterable[Key]:
    for note in part.stripTies().flatten().notes:
        for pitch in note.pitches:
            start, end = float(note.offset), float(note.offset + note.quarterLength)
            if end > start:  # a grace note has no length in the score
                yield Key(start=start, pitch=pitch.midi, end=end, velocity=velocity)


def merge_overlapping_notes(keys: Sequence[Key]) -> list[Key]:
    """Joins voices that meet on one key, as `sostenuto.music.notes.merge_overlapping_notes` says."""
    joined = notes.merge_overlapping_notes(
        [key.pitch for key in keys],
        [key.start for key in keys],
        [key.end for key in keys],
        [key.velocity for key in keys],
    )
    rows = zip(*(values.tolist() for values in joined), strict=True)
    return [Key(start, pitch, end, velocity) for pitch, start, end, velocity in rows]


def play(keys: Iterable[Key]) -> "pretty_midi.PrettyMIDI":
    """Plays the keys on a piano."""
    import pretty_midi

    midi = pretty_midi.PrettyMIDI(initial_tempo=TEMPO, resolution=480)
    piano = pretty_midi.Instrument(program=0)
    seconds = 60.0 / TEMPO
    for key in keys:
        piano.notes.append(pretty_midi.Note(key.velocity, key.pitch, key.start * seconds, key.end * seconds))
    midi.instruments.append(piano)
    return midi


def main(output: str, *, quiet: bool) -> None:
    """Exports all chorales and says how many."""
    exported = export(output, names(), quiet=quiet)
    if quiet:
        return
    left_out = f"{len(exported.repeated)} repeated and {len(exported.failed)} unreadable ones left out"
    print(f"{len(exported.written)} chorales in {output} ({left_out})")
    for name, reason in exported.failed.items():
        print(f"  {name}: {reason}")


if __name__ == "__main__":
    cli.start_group("output")
    _OUTPUT = flags.DEFINE(
        cli.Path("DIR", False), "output", None, "Directory to write the MIDI files to. It must not exist."
    )
    cli.run(
        lambda: main(cli.require_flag(_OUTPUT), quiet=cli.QUIET.value),
        usage="--output=DIR\n\nWrites Bach's chorales as MIDI files, from the scores in music21.",
        required=(_OUTPUT,),
        examples=("--output=corpora/bach-chorales",),
    )
