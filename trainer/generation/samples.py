"""The samples of a workdir: continuations of held-out music as MIDI files and MP3 excerpts.

`samples/` has the layout that trainer.generate writes, so a workdir's page also shows music that trainer.generate wrote
there. An excerpt is the end of a sample's primer and the start of its continuation.
"""

import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from sostenuto import storage
from sostenuto.data.json_record import JsonRecord
from sostenuto.data.manifest import Manifest
from sostenuto.errors import CannotCompressError, FileError, UserError
from sostenuto.music.midi import as_written, read_midi, read_pedal, write_midi, written_primer
from sostenuto.music.notes import Notes
from sostenuto.music.pedal import NO_PEDAL, continued_pedal
from sostenuto.progress import NOTICE, ProgressCounter, silenced
from trainer.generation.composers import keep_known
from trainer.generation.sampling_flags import DEFAULT_RETURNS, DEFAULT_TEMPERATURE
from trainer.workdir.outputs import WAIT_SECONDS, hold_output
from trainer.workdir.samples_index import SampleEntry, SamplesIndex

if TYPE_CHECKING:
    from sostenuto.storage.lease import Lease, Lock
    from trainer.generation.sampler import NoteSampler

logger = logging.getLogger(__name__)

SAMPLES_NAME: Final = "samples"
INDEX_NAME: Final = "samples.json"
UNFINISHED_NAME: Final = "samples.json.unfinished"
DISTRIBUTIONS_NAME: Final = "distributions.png"

NUM_SAMPLES: Final = 8
SECONDS: Final = 64  # Maximum length of an excerpt.
PRIMER_SECONDS: Final = 12  # Maximum length of the primer in an excerpt.

# 640 notes mostly last longer than an excerpt.
_SAMPLING: Final[dict[str, Any]] = {
    "num_notes": 640,
    "temperature": DEFAULT_TEMPERATURE,
    "top_p": 1.0,
    "returns": DEFAULT_RETURNS,
    "end_odds": 0.0,
    "seed": 0,
}
_NAMES: Final = re.compile(r"sample-\d{3,}\.(mid|png|wav|mp3)|distributions\.png|samples\.json")


class Primer(NamedTuple):
    """Notes to continue, the name of their piece, and its composer, "" if unknown."""

    notes: Notes
    name: str
    composer: str = ""


class Sample(NamedTuple):
    """An excerpt of a sample."""

    name: str  # of its files, such as sample-000
    primer: str  # the name of the primer's piece; "" for a sample that starts from silence
    notes: Notes  # the end of the primer, then the continuation
    is_primer: np.ndarray  # bool `[n]`: which notes are the primer's; of one onset, generated ones may come earlier
    midi: bytes  # the file of the whole sample
    mp3: bytes | None

    @property
    def primer_notes(self) -> int:
        """The number of the primer's notes."""
        return int(self.is_primer.sum())

    @property
    def seam_seconds(self) -> float:
        """When the continuation begins; 0.0 without a primer, or without a continuation."""
        return seam_us(self.notes, self.is_primer) / 1e6


@dataclasses.dataclass(frozen=True)
class Samples:
    """The first `NUM_SAMPLES` samples of a workdir, and its samples.json."""

    samples: list[Sample]
    index: SamplesIndex


@dataclasses.dataclass(frozen=True)
class _Listing(JsonRecord):
    """Content of samples.json.unfinished, and the part of samples.json that says which files belong to it."""

    files: Sequence[str]


def select_primers(manifest: Manifest, count: int = NUM_SAMPLES) -> list[Primer]:
    """Returns the first seconds of `count` performances of the validation split, each of another piece if possible.

    With fewer performances some are repeated. An empty split gives none.
    """
    if not manifest.performances("validation"):
        return []
    by_piece: dict[str, list[Primer]] = {}
    for performance in manifest.read_performances("validation"):
        if len(performance.notes):
            end = int(np.searchsorted(performance.notes.onset_us, PRIMER_SECONDS * 1e6))
            name = ": ".join(filter(None, (performance.composer, performance.title))) or performance.path
            by_piece.setdefault(performance.piece, []).append(
                Primer(performance.notes[:end], name, performance.composer)
            )
    pieces = [by_piece[piece] for piece in sorted(by_piece)]
    if len(pieces) > count:
        pieces = [pieces[index * len(pieces) // count] for index in range(count)]
    # All pieces take a turn before one gets a second performance.
    turns = [(pieces[turn % len(pieces)], turn // len(pieces)) for turn in range(count if pieces else 0)]
    return [piece[number % len(piece)] for piece, number in turns]


def write_samples(
    sampler: "NoteSampler",
    primers: Sequence[Primer],
    workdir: str,
    *,
    train_step: int,
    sustain: str,
    count: int = NUM_SAMPLES,
    quiet: bool = True,
) -> None:
    """Generates the samples of a workdir, `count` without primers, and replaces those of earlier calls."""
    from sostenuto.music import audio

    primers = primers or [Primer(Notes.empty(), "")] * count
    composers = keep_known((primer.composer for primer in primers), sampler.composers)
    played = sampler.sample([primer.notes for primer in primers], **_SAMPLING, composers=composers, quiet=quiet)
    has_pedal = sustain == "ignore"
    files = list_names(len(primers), "mid", "mp3")
    with replace_samples(storage.join(workdir, SAMPLES_NAME), files) as directory:
        entries = []
        for number, (primer, whole) in enumerate(zip(primers, played.notes, strict=True)):
            notes, _ = audio.truncate(whole, NO_PEDAL, SECONDS)
            pedal = continued_pedal(NO_PEDAL, notes, min(len(primer.notes), len(notes) - 1), by_rule=has_pedal)
            name = f"sample-{number:03d}.mid"
            write_midi(notes, os.path.join(directory, name), pedal)
            written = as_written(notes, pedal)
            is_primer = written_primer(notes, len(primer.notes), pedal)
            entries.append(SampleEntry(
                midi=name, primer=primer.name or None, primer_notes=int(is_primer.sum()),
                generated_before=generated_before(is_primer), notes=len(written), seconds=written.seconds,
            ))  # fmt: skip
        index = SamplesIndex(
            train_step=train_step, num_samples=len(entries), **_SAMPLING, sustain=sustain, pedal=has_pedal,
            notes_per_second=played.notes_per_second, files=files, samples=entries,
        )  # fmt: skip
        _render_missing(directory, index, quiet=quiet)
        index.save(os.path.join(directory, INDEX_NAME))


def generated_before(is_primer: np.ndarray) -> list[int] | None:
    """Returns the positions of generated notes before the primer's last one; None if there are none."""
    return np.flatnonzero(~is_primer[: np.flatnonzero(is_primer).max(initial=-1) + 1]).tolist() or None


def seam_us(notes: Notes, is_primer: np.ndarray) -> int:
    """Returns the onset of the first generated note after a primer; 0 without a primer, or without a continuation."""
    has_both = is_primer.any() and not is_primer.all()
    return int(notes.onset_us[~is_primer][0]) if has_both else 0


def list_names(count: int, *kinds: str) -> list[str]:
    """Returns the file names of `count` samples, for each kind such as mid."""
    return [f"sample-{index:03d}.{kind}" for index in range(count) for kind in kinds]


def require_free(directory: str, files: Sequence[str]) -> set[str]:
    """Returns the files that earlier calls wrote to a directory, according to their samples.json.

    Raises `UserError` if a file of another origin has a name to write: one of `files`, or samples.json.
    """
    if not storage.is_directory(directory):
        return set()
    earlier = _listed(directory, INDEX_NAME) | _listed(directory, UNFINISHED_NAME)
    taken = sorted({*files, INDEX_NAME}.intersection(storage.list_names(directory)) - earlier)
    if taken:
        more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
        raise UserError(
            f"{storage.join(directory, taken[0])}{more}: exists, and no {INDEX_NAME} lists it. Move it, or choose "
            "another directory"
        )
    return earlier


@contextlib.contextmanager
def replace_samples(directory: str, files: Sequence[str]) -> Iterator[str]:
    """Yields a local directory for new samples, which replace those of earlier calls; raises as `require_free`.

    Until all are written, samples.json.unfinished lists the files, so the next call after a kill can delete them. After
    an exception none of them remains.
    """
    from trainer.workdir.transfer import upload_on_exit

    with hold_output(directory) as held:
        own = {*require_free(directory, files), *files, INDEX_NAME}
        _Listing(sorted(own)).save(storage.join(directory, UNFINISHED_NAME))
        # samples.json is deleted first, so it never lists the samples of two calls.
        names = [INDEX_NAME, *sorted(own - {INDEX_NAME})]
        _remove(directory, names, held)
        try:
            with upload_on_exit(directory, held, last=[INDEX_NAME]) as copy:
                yield copy
        except BaseException:
            with contextlib.suppress(UserError):
                _remove(directory, [*names, UNFINISHED_NAME], held)
            raise
        _remove(directory, [UNFINISHED_NAME], held)


def _listed(directory: str, index_name: str) -> set[str]:
    """Returns the files that a samples.json lists, and its own name; none if it has another format."""
    path = storage.join(directory, index_name)
    try:
        files = _Listing.load(path).files if storage.exists(path) else []
        return {*(name for name in files if _NAMES.fullmatch(name)), INDEX_NAME} if files else set()
    except FileError:
        raise
    except UserError:
        return set()


def _remove(directory: str, names: Sequence[str], held: "Lock | Lease") -> None:
    """Removes the files that exist, in this order."""
    is_remote = storage.is_remote(directory)
    generations = storage.generations(directory) if is_remote else dict.fromkeys(storage.list_names(directory), 0)
    for name in names:
        if name in generations:
            held.check_held()
            path = storage.join(directory, name)
            storage.remove_generation(path, generations[name]) if is_remote else storage.remove(path)


def load_samples(workdir: str) -> Samples | None:
    """Reads the samples of a workdir, or None; raises `UserError` if one of its files is missing or corrupt."""
    directory = storage.join(workdir, SAMPLES_NAME)
    index = SamplesIndex.load_if_exists(storage.join(directory, INDEX_NAME))
    if index is None:
        return None
    samples = []
    for entry in index.samples[:NUM_SAMPLES]:
        path = storage.join(directory, entry.midi)
        midi = storage.read_bytes(path)
        notes, is_primer, _ = _excerpt(midi, path, index, entry)
        mp3 = storage.join(directory, _mp3_name(entry))
        sound = storage.read_bytes(mp3) if storage.exists(mp3) else None
        samples.append(
            Sample(entry.midi.removesuffix(".mid"), index.primer_of(entry)[0] or "", notes, is_primer, midi, sound)
        )
    return Samples(samples, index)


def add_sounds(workdir: str, *, quiet: bool) -> None:
    """Renders the excerpts of a workdir that have no MP3 file yet, if the library that compresses them is there."""
    directory = storage.join(workdir, SAMPLES_NAME)
    index = SamplesIndex.load_if_exists(storage.join(directory, INDEX_NAME))
    if index is not None:
        with hold_output(directory, wait=WAIT_SECONDS):
            _render_missing(directory, index, quiet=quiet)


def _render_missing(directory: str, index: SamplesIndex, *, quiet: bool) -> None:
    """Renders the excerpts without an MP3 file, after samples.json lists them."""
    from sostenuto.music import audio

    missing = [
        entry for entry in index.samples[:NUM_SAMPLES] if not storage.exists(storage.join(directory, _mp3_name(entry)))
    ]
    if not missing:
        return
    try:
        audio.compressor()
    except CannotCompressError as error:
        with silenced(quiet):
            logger.log(NOTICE, f"the samples have no sound: {error}")
        return
    if unlisted := set(map(_mp3_name, missing)).difference(index.files):
        index = dataclasses.replace(index, files=sorted({*index.files, *unlisted}))
        index.save(storage.join(directory, INDEX_NAME))

    def render(entry: SampleEntry) -> bytes:
        path = storage.join(directory, entry.midi)
        notes, _, pedal = _excerpt(storage.read_bytes(path), path, index, entry)
        return audio.to_mp3(audio.render(notes, pedal)[0])

    # The libraries that render and compress release the interpreter lock.
    with (
        ProgressCounter(total=len(missing), unit="sample", description="rendering sound", quiet=quiet) as counter,
        ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), NUM_SAMPLES)) as pool,
    ):
        # This thread writes the files, so that none appears after an interruption has removed them.
        for entry, mp3 in zip(missing, pool.map(render, missing), strict=True):
            storage.write_bytes_atomic(storage.join(directory, _mp3_name(entry)), mp3)
            counter.advance()


def _mp3_name(entry: SampleEntry) -> str:
    return entry.midi.removesuffix(".mid") + ".mp3"


def _excerpt(midi: bytes, path: str, index: SamplesIndex, entry: SampleEntry) -> tuple[Notes, np.ndarray, np.ndarray]:
    """Returns the notes of a sample's excerpt, which ones belong to the primer, and its pedal."""
    from sostenuto.music import audio

    notes = read_midi(midi, path).notes
    if not len(notes):
        raise UserError(f"{path}: has no notes. Remove the directory of the samples and generate them again")
    onset_us = notes.onset_us
    before, positions = entry.generated_before or (), np.arange(len(notes))
    is_primer = (positions < index.primer_of(entry)[1] + len(before)) & ~np.isin(positions, before)
    first = int(np.searchsorted(onset_us, seam_us(notes, is_primer) - PRIMER_SECONDS * 1_000_000))
    pedal = np.maximum(read_pedal(midi, path) - onset_us[first], 0)
    excerpt, pedal = audio.truncate(notes[first:], pedal, SECONDS)
    return excerpt, is_primer[first : first + len(excerpt)], pedal
