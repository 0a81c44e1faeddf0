"""Export of Bach's chorales as MIDI files, from the scores in the package music21: `python -m demo.chorales`.

The scores have no tempo and no loudness: all chorales get one tempo, whose rhythm a model learns within minutes, and
the outer voices are a little louder. All voices share one keyboard. Repeats are omitted.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from sostenuto import cli, storage
from sostenuto.errors import UserError
from sostenuto.music import notes
from sostenuto.progress import track
from sostenuto.text import counted

# music21 and pretty_midi take seconds to import, for which `--help` need not wait.
if TYPE_CHECKING:
    import pretty_midi

TEMPO = 75  # quarter notes a minute; a quarter is 0.8 s
OUTER_VELOCITY, INNER_VELOCITY = 80, 64


@dataclass(frozen=True, order=True)
class Key:
    """A key held on the keyboard; `start` and `end` in quarter notes."""

    start: float
    pitch: int
    end: float
    velocity: int


@dataclass(frozen=True)
class Exported:
    """Names of the files and of repeated chorales, and the reason for each failed one."""

    written: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def list_chorales() -> list[str]:
    """Returns the names of music21's chorales ("bach/bwv269"), each once: Riemenschneider prints some of them twice."""
    from music21 import corpus

    return sorted(set(corpus.chorales.Iterator(returnType="filename")))


def export(directory: str | os.PathLike[str], chorales: Sequence[str], *, quiet: bool = False) -> Exported:
    """Writes chorales to a new directory as MIDI files; it appears when it is complete."""
    from music21 import exceptions21

    target, exported = Path(directory), Exported()
    if target.exists():
        raise UserError(f"{target}: exists already; remove it to export the chorales again")
    seen: set[tuple[Key, ...]] = set()
    with storage.atomic_directory(target) as unfinished:
        for name in track(chorales, total=len(chorales), unit="chorale", description="Exporting chorales", quiet=quiet):
            try:
                keys = read(name)
            except (exceptions21.Music21Exception, ValueError) as error:
                exported.failed[name] = " ".join(str(error).split())
                continue
            if tuple(keys) in seen:  # the same music under another number would be in two splits
                exported.repeated.append(name)
                continue
            seen.add(tuple(keys))
            exported.written.append(f"{name.rpartition('/')[2]}.mid")
            _to_midi(keys).write(os.path.join(unfinished, exported.written[-1]))
        if not exported.written:
            raise UserError(f"none of {counted(len(chorales), 'chorale')} could be exported: {exported.failed}")
    return exported


def read(name: str) -> list[Key]:
    """Returns the keys of a chorale from music21's corpus, for one player; raises ValueError if there are none."""
    from music21 import corpus

    score = corpus.parse(name, forceSource=True)  # not from a cache in the user's home
    parts = list(score.parts)
    keys = [
        Key(start=float(note.offset), pitch=pitch.midi, end=float(note.offset + note.quarterLength), velocity=velocity)
        for number, part in enumerate(parts)
        for velocity in [OUTER_VELOCITY if number in (0, len(parts) - 1) else INNER_VELOCITY]
        for note in part.stripTies().flatten().notes
        for pitch in note.pitches
        if note.quarterLength > 0  # a grace note has no length in the score
    ]
    if not keys:
        raise ValueError("a score without notes")
    return merge_overlapping_notes(keys)


def merge_overlapping_notes(keys: Sequence[Key]) -> list[Key]:
    """Merges voices that meet on one key, by `sostenuto.music.notes.merge_overlapping_notes`."""
    columns = zip(*((key.pitch, key.start, key.end, key.velocity) for key in keys), strict=True)
    merged = notes.merge_overlapping_notes(*columns)
    rows = zip(*(values.tolist() for values in merged), strict=True)
    return [Key(start, pitch, end, velocity) for pitch, start, end, velocity in rows]


def _to_midi(keys: Iterable[Key]) -> "pretty_midi.PrettyMIDI":
    import pretty_midi

    midi = pretty_midi.PrettyMIDI(initial_tempo=TEMPO, resolution=480)
    seconds = 60.0 / TEMPO
    played = [pretty_midi.Note(key.velocity, key.pitch, key.start * seconds, key.end * seconds) for key in keys]
    midi.instruments.append(pretty_midi.Instrument(program=0))
    midi.instruments[0].notes = played
    return midi


def main() -> None:
    """Exports all chorales."""
    output = cli.require_flag(_OUTPUT)
    exported = export(output, list_chorales(), quiet=cli.QUIET.value)
    counts = {"repeated": len(exported.repeated), "unreadable": len(exported.failed)}
    left_out = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
    cli.print_result(
        counted(len(exported.written), "chorale") + f" in {output}" + (left_out and f"; left out: {left_out}")
    )
    for name, reason in exported.failed.items():
        cli.print_result(f"  {name}: {reason}")


if __name__ == "__main__":
    cli.start_group("output")
    _OUTPUT = flags.DEFINE(
        cli.Path("DIR", False), "output", None, "Directory to write the MIDI files to. It must not exist."
    )
    cli.run(
        main,
        usage="--output=DIR\n\nWrites Bach's chorales as MIDI files, from the scores in music21.",
        required=(_OUTPUT,),
        examples=("--output=corpora/bach-chorales",),
    )
