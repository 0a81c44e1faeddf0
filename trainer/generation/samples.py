"""The samples of a workdir: eight continuations of held-out music, as MIDI and as sound for a page.

They lie in samples/ as `trainer.generate` would write them, and music that it wrote there is taken as well. What sounds
and is shown of a sample is an excerpt: the end of its primer, and what was played after it.
"""

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from sostenuto import storage
from sostenuto.data.manifest import Manifest
from sostenuto.errors import CannotCompressError, UserError
from sostenuto.music.midi import read_midi, read_pedal, write_midi
from sostenuto.music.notes import Notes, merge_overlapping_notes
from sostenuto.music.pedal import NO_PEDAL
from sostenuto.progress import NOTICE, ProgressCounter, silenced
from trainer.workdir.json_record import write_json

if TYPE_CHECKING:
    from trainer.generation.sampler import NoteSampler

logger = logging.getLogger(__name__)

SAMPLES_NAME: Final = "samples"
DOCUMENT_NAME: Final = "samples.json"
UNFINISHED_NAME: Final = "samples.json.unfinished"
DISTRIBUTIONS_NAME: Final = "distributions.png"

NUM_SAMPLES: Final = 8
SECONDS: Final = 64
"""An excerpt is no longer."""
PRIMER_SECONDS: Final = 12
"""So much of it is the primer's, if the primer has that."""

_NUM_NOTES = 640  # after each primer: mostly more than `SECONDS` have room for
_SEED = 0
_NAMES = re.compile(r"sample-\d{3,}\.(mid|png|wav|mp3)|distributions\.png|samples\.json")


class Primer(NamedTuple):
    """What a sample continues: notes, and whose they are in words."""

    notes: Notes
    name: str


class Sample(NamedTuple):
    """An excerpt of a sample.

    Attributes:
        name: of its files, as in sample-000.
        primer: whose music it continues; "" where it started from silence.
        notes: the end of the primer, and the continuation.
        primer_notes: how many of them are the primer's.
        midi: the whole sample's file.
        mp3: the excerpt's sound; None where there is none.
    """

    name: str
    primer: str
    notes: Notes
    primer_notes: int
    midi: bytes
    mp3: bytes | None


class Samples(NamedTuple):
    """What samples/ holds.

    Attributes:
        samples: the first `NUM_SAMPLES`.
        document: what samples.json says.
    """

    samples: list[Sample]
    document: dict[str, Any]


def primers(manifest: Manifest, count: int = NUM_SAMPLES) -> list[Primer]:
    """Returns the beginnings of so many performances of the validation split, of as many pieces as there are.

    Fewer performances are taken several times; none, if the split is empty.
    """
    if not manifest.performances("validation"):
        return []
    by_piece: dict[str, list[Primer]] = {}
    for performance in manifest.read_performances("validation"):
        if len(performance.notes):
            beginning = performance.notes[: int(np.searchsorted(performance.notes.onset_us, PRIMER_SECONDS * 1e6))]
            name = ": ".join(filter(None, (performance.composer, performance.title))) or performance.path
            by_piece.setdefault(performance.piece, []).append(Primer(beginning, name))
    pieces = [by_piece[piece] for piece in sorted(by_piece)]
    if len(pieces) > count:
        pieces = [pieces[index * len(pieces) // count] for index in range(count)]
    if not pieces:
        return []
    # Another performance of a piece only once each piece has had its turn.
    return [pieces[turn % len(pieces)][turn // len(pieces) % len(pieces[turn % len(pieces)])] for turn in range(count)]


def make(
    player: "NoteSampler",
    continued: Sequence[Primer],
    directory: str,
    *,
    train_step: int,
    sustain: str,
    count: int = NUM_SAMPLES,
    quiet: bool = True,
) -> None:
    """Plays the samples and writes them, samples.json last, in place of those that an earlier call wrote.

    Args:
        player: of the model.
        continued: what to continue, or nothing, to start from silence.
        directory: the workdir, here or in a bucket.
        train_step: train_steps that the weights have seen.
        sustain: how the durations are meant that the model was trained on.
        count: how many to play where nothing is continued.
        quiet: shows no progress.

    Raises:
        UserError: the model cannot start from silence, or a file cannot be written, or one of another origin is in the
            way.
    """
    from sostenuto.music import audio
    from sostenuto.music.pedal import continued_pedal

    continued = continued or [Primer(Notes.empty(), "")] * count
    played = player.sample(
        [primer.notes for primer in continued], num_notes=_NUM_NOTES, temperature=1.0, seed=_SEED, quiet=quiet
    )
    target = storage.join(directory, SAMPLES_NAME)
    has_pedal = sustain == "ignore"
    planned = names(len(continued), "mid", "mp3")
    with rewritten(target, planned) as here:
        entries = []
        for index, (primer, notes) in enumerate(zip(continued, played.notes, strict=True)):
            notes, _ = audio.truncate(notes, NO_PEDAL, SECONDS)
            pedal = continued_pedal(NO_PEDAL, notes, min(len(primer.notes), len(notes) - 1), by_rule=has_pedal)
            name = f"sample-{index:03d}.mid"
            write_midi(notes, os.path.join(here, name), pedal)
            entries.append(
                {
                    "midi": name,
                    "primer": primer.name or None,
                    "primer_notes": _keys(primer.notes),
                    "seconds": notes.seconds,
                }
            )
        document = {
            "train_step": train_step,
            "num_notes": _NUM_NOTES,
            "num_samples": len(entries),
            "temperature": 1.0,
            "top_p": 1.0,
            "seed": _SEED,
            "sustain": sustain,
            "pedal": has_pedal,
            "notes_per_second": played.notes_per_second,
            "files": planned,
            "samples": entries,
        }
        _add_sounds(here, document, quiet=quiet)
        write_json(os.path.join(here, DOCUMENT_NAME), document)


def names(count: int, *kinds: str) -> list[str]:
    """Returns the names of the files of some samples, of each of the kinds, such as mid."""
    return [f"sample-{index:03d}.{kind}" for index in range(count) for kind in kinds]


def require_free(directory: str, planned: Sequence[str]) -> set[str]:
    """Checks that samples can be written into a directory without replacing a file of another origin.

    Args:
        directory: where; it need not exist.
        planned: the names of the files that are to be written, samples.json left out.

    Returns:
        The names of the files that earlier calls wrote there, as their samples.json lists them.

    Raises:
        UserError: a planned name is taken by a file that no earlier call wrote.
    """
    if not storage.is_directory(directory):
        return set()
    former = _listed(directory, DOCUMENT_NAME) | _listed(directory, UNFINISHED_NAME)
    taken = sorted({*planned, DOCUMENT_NAME}.intersection(storage.list_names(directory)) - former)
    if taken:
        more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
        raise UserError(
            f"{storage.join(directory, taken[0])}{more}: exists, and no {DOCUMENT_NAME} lists it, so that it is not "
            "replaced. Move it, or choose another directory"
        )
    return former


@contextlib.contextmanager
def rewritten(directory: str, planned: Sequence[str]) -> Iterator[str]:
    """Yields a directory of this machine to write samples into, in place of those of earlier calls.

    Files of any other origin stay as they are. Until all is written, samples.json.unfinished lists the files, so that
    after a kill the next call knows them for its own. After an exception none of them is left.

    Args:
        directory: where they go, here or in a bucket.
        planned: the names of the files, samples.json left out.

    Raises:
        UserError: as `require_free`, or a file cannot be written.
    """
    former = require_free(directory, planned)
    storage.make_directories(directory)
    own = sorted({*former, *planned, DOCUMENT_NAME})
    write_json(storage.join(directory, UNFINISHED_NAME), {"files": own})
    # samples.json goes first, and never lists samples of two calls.
    own.remove(DOCUMENT_NAME)
    own.insert(0, DOCUMENT_NAME)
    _remove(directory, own)
    try:
        from trainer.workdir.transfer import upload_on_exit

        with upload_on_exit(directory, last=[DOCUMENT_NAME]) as copy:
            yield copy
    except BaseException:
        with contextlib.suppress(UserError):
            _remove(directory, [*own, UNFINISHED_NAME])
        raise
    storage.remove(storage.join(directory, UNFINISHED_NAME))


def _listed(directory: str, document_name: str) -> set[str]:
    """Returns the files that a samples.json lists, itself included; none where it is not one of ours."""
    path = storage.join(directory, document_name)
    try:
        listed = json.loads(storage.read_bytes(path))["files"] if storage.exists(path) else []
        return {*(name for name in listed if _NAMES.fullmatch(name)), DOCUMENT_NAME} if listed else set()
    except (ValueError, KeyError, TypeError):
        return set()


def _remove(directory: str, removed: Sequence[str]) -> None:
    """Removes files in the order of their names; those that are not there are no error."""
    present = storage.list_names(directory)
    for name in removed:
        if name in present:
            storage.remove(storage.join(directory, name))


def add_sounds(directory: str, *, quiet: bool) -> None:
    """Writes the sound of those excerpts of a workdir that have none yet.

    Where the library that compresses it is not there, they stay without; a line on stderr says so.

    Raises:
        UserError: a file cannot be read or written.
    """
    target = storage.join(directory, SAMPLES_NAME)
    path = storage.join(target, DOCUMENT_NAME)
    if storage.exists(path):
        _add_sounds(target, json.loads(storage.read_bytes(path)), quiet=quiet)


def _add_sounds(directory: str, document: dict[str, Any], *, quiet: bool) -> None:
    from sostenuto.music import audio

    missing = [
        (entry["midi"].removesuffix(".mid"), {**document, **entry})
        for entry in document["samples"][:NUM_SAMPLES]
        if not storage.exists(storage.join(directory, entry["midi"].removesuffix(".mid") + ".mp3"))
    ]

    def write(name: str, entry: dict[str, Any]) -> None:
        data = storage.read_bytes(storage.join(directory, f"{name}.mid"))
        notes, _, pedal = _excerpt(data, name, entry["primer_notes"])
        samples, _ = audio.render(notes, pedal)
        storage.write_bytes_atomic(storage.join(directory, f"{name}.mp3"), audio.to_mp3(samples))

    try:
        if missing:
            audio.compressor()
    except CannotCompressError as error:
        with silenced(quiet):
            logger.log(NOTICE, f"the samples have no sound: {error}")
        return
    if not missing:
        return
    unlisted = {f"{name}.mp3" for name, _ in missing}.difference(document["files"])
    if unlisted:
        document["files"] = sorted({*document["files"], *unlisted})
        write_json(storage.join(directory, DOCUMENT_NAME), document)
    # The libraries that play and compress let other threads go on.
    with (
        ProgressCounter(total=len(missing), unit="sample", description="sounding", quiet=quiet) as meter,
        ThreadPoolExecutor(min(os.cpu_count() or 1, NUM_SAMPLES)) as pool,
    ):
        for _ in pool.map(lambda one: write(*one), missing):
            meter.advance()


def read(directory: str) -> Samples | None:
    """What the samples/ of a workdir holds, or None where it holds none.

    Raises:
        UserError: a file that samples.json names is missing or damaged.
    """
    target = storage.join(directory, SAMPLES_NAME)
    path = storage.join(target, DOCUMENT_NAME)
    if not storage.exists(path):
        return None
    document = json.loads(storage.read_bytes(path))
    samples = []
    for entry in document["samples"][:NUM_SAMPLES]:
        entry = {**document, **entry}
        name = entry["midi"].removesuffix(".mid")
        data = storage.read_bytes(storage.join(target, entry["midi"]))
        notes, primer_notes, _ = _excerpt(data, name, entry["primer_notes"])
        mp3 = storage.join(target, f"{name}.mp3")
        sound = storage.read_bytes(mp3) if storage.exists(mp3) else None
        samples.append(Sample(name, entry["primer"] or "", notes, primer_notes, data, sound))
    return Samples(samples, document)


def _keys(notes: Notes) -> int:
    """How many notes a MIDI file has of these: those struck together are one key."""
    return len(merge_overlapping_notes(notes.pitch, notes.onset_us, notes.offset_us, notes.velocity).pitch)


def _excerpt(midi: bytes, name: str, primer_notes: int) -> tuple[Notes, int, np.ndarray]:
    """What is shown of a sample, how many of its notes are the primer's, and its pedal."""
    from sostenuto.music import audio

    notes = read_midi(midi, name).notes
    if not len(notes):
        raise UserError(f"{name}.mid: holds no notes")
    onset_us = notes.onset_us
    first = 0
    if 0 < primer_notes < len(notes):
        first = int(np.searchsorted(onset_us, onset_us[primer_notes] - PRIMER_SECONDS * 1_000_000))
    pedal = np.maximum(read_pedal(midi, name) - onset_us[first], 0)
    shown, pedal = audio.truncate(notes[first:], pedal, SECONDS)
    return shown, min(max(primer_notes - first, 0), len(shown)), pedal
