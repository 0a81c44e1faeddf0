"""Conversion between MIDI files and notes."""

import dataclasses
import io
import posixpath
from collections import Counter
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from sostenuto import storage
from sostenuto.errors import MidiDecodeError
from sostenuto.music._decode import (
    DEFAULT_TEMPO_US,
    MAX_MIDI_TICK,
    SUSTAIN_PEDAL,
    Tracks,
    concatenate,
    drop_zero_length,
    read_tracks,
)
from sostenuto.music._decode import MAX_BYTES as MAX_BYTES
from sostenuto.music.notes import MergedNotes, Notes, merge_overlapping_notes
from sostenuto.music.pedal import NO_PEDAL, extended_offsets, pedal_spans
from sostenuto.storage.paths import StrPath

if TYPE_CHECKING:
    import pretty_midi

Sustain = Literal["ignore", "extend"]

EXTENSIONS = (".mid", ".midi")


@dataclasses.dataclass(frozen=True)
class DecodedMidi:
    """The notes of a MIDI file.

    Attributes:
        notes: every note of every track but drums.
        zero_length: the number of notes dropped because they end where they begin, without those of files that
            pretty_midi had to read.
        drums: the number of notes dropped because they are on the drum channel.
    """

    notes: Notes
    zero_length: int
    drums: int


class Instrument(NamedTuple):
    """An instrument of a file.

    Attributes:
        program: its number in General MIDI, from 0; None for drums of any kit.
        notes: the number of its notes.
    """

    program: int | None
    notes: int


@dataclasses.dataclass(frozen=True)
class MidiContents:
    """Contents of a MIDI file, for inspection.

    Attributes:
        decoded: the notes, each with the duration of its key, and counts of dropped notes.
        first_onset_us: microseconds from the file's start to the first note; 0 without notes.
        instruments: those with notes, by program, drums last.
        tempos: int64 `[n, 2]`: the start of each tempo, in microseconds from the file's start, the first 0; and its
            microseconds per quarter note.
        pedal: int64 `[spans, 2]`, as `read_pedal` returns it.
        pedal_changes: the number of changes of controller 64, on any channel but the drums'.
    """

    decoded: DecodedMidi
    first_onset_us: int
    instruments: list[Instrument]
    tempos: np.ndarray
    pedal: np.ndarray
    pedal_changes: int


def is_midi_name(path: str) -> bool:
    """Returns whether a path, with forward slashes, has a MIDI file's name."""
    base = posixpath.basename(path)
    # macOS adds "._NAME" next to NAME to archives; it is no MIDI file.
    return base.lower().endswith(EXTENSIONS) and not base.startswith(".")


def read_midi(data: bytes, name: str, *, sustain: Sustain = "ignore") -> DecodedMidi:
    """Returns the notes of a standard MIDI file, all tracks merged, without drums.

    Args:
        data: the file's bytes.
        name: the file's name in an error.
        sustain: "ignore" ends a note when its key is released; "extend" keeps it until the sustain pedal is released
            or the same pitch is struck again.

    Raises:
        MidiDecodeError: the bytes are no MIDI file, or are corrupt or exceed a limit.
    """
    return _decode(read_tracks(data, name, with_pedal=sustain == "extend"), name, sustain=sustain)


def read_pedal(data: bytes, name: str) -> np.ndarray:
    """Returns when the sustain pedal is down, on any track and channel, in a file that `read_midi` reads.

    Returns:
        int64 `[spans, 2]`, microseconds from the first onset, ascending: when the pedal goes down, and when it comes
        up. A pedal that the file never releases comes up at the last note-off.

    Raises:
        MidiDecodeError: as `read_midi`.
    """
    return pedal_spans(drop_zero_length(read_tracks(data, name, with_pedal=True).tracks))


def read_contents(data: bytes, name: str) -> MidiContents:
    """Returns notes, pedal, instruments and tempos of a file.

    Raises:
        MidiDecodeError: as `read_midi`.
    """
    content = read_tracks(data, name, with_pedal=True)
    tracks = drop_zero_length(content.tracks)
    counts: Counter[int] = Counter()
    for program, track in zip(content.programs, tracks, strict=True):
        counts[program] += len(track.onset)
    instruments = [Instrument(program, count) for program, count in sorted(counts.items()) if count]
    return MidiContents(
        decoded=_decode(content, name, sustain="ignore"),
        first_onset_us=int(min((track.onset.min() for track in tracks if len(track.onset)), default=0)),
        instruments=[*instruments, *([Instrument(None, content.drums)] if content.drums else [])],
        tempos=_tempo_changes(content.tempos),
        pedal=pedal_spans(tracks),
        pedal_changes=sum(len(track.pedal_time) for track in content.tracks),
    )


def to_pretty_midi(notes: Notes, pedal: np.ndarray = NO_PEDAL) -> "pretty_midi.PrettyMIDI":
    """Returns the notes as one acoustic grand piano, times in seconds, the first onset at 0.

    The resolution is as fine as a reader's limit of ten million MIDI ticks permits: a tick is 20 microseconds for music
    up to 200 seconds, 100 up to 1,000 seconds, 500 up to 5,000 seconds and 2,500 beyond. Times are rounded to MIDI
    ticks, and a note lasts at least one. `merge_overlapping_notes` then joins notes of one pitch that overlap.

    Args:
        notes: the notes.
        pedal: int64 `[spans, 2]`, as `read_pedal` returns it: when the sustain pedal, controller 64, is down.
    """
    import pretty_midi  # Takes half a second, and only writers and a few ambiguous files need it.

    midi_tick_us, written = _as_written(notes, pedal)
    midi = pretty_midi.PrettyMIDI(resolution=DEFAULT_TEMPO_US // midi_tick_us, initial_tempo=6e7 / DEFAULT_TEMPO_US)
    piano = pretty_midi.Instrument(program=0, name="Acoustic Grand Piano")
    seconds = midi_tick_us / 1e6
    for pitch, start, end, velocity in zip(*(values.tolist() for values in written), strict=True):
        piano.notes.append(pretty_midi.Note(velocity, pitch, start * seconds, end * seconds))
    # Of changes at one MIDI tick pretty_midi writes the lower value first: up, then down again.
    for down, up in ((pedal + midi_tick_us // 2) // midi_tick_us).tolist():
        piano.control_changes.append(pretty_midi.ControlChange(SUSTAIN_PEDAL, 127, down * seconds))
        piano.control_changes.append(pretty_midi.ControlChange(SUSTAIN_PEDAL, 0, max(up, down + 1) * seconds))
    midi.instruments.append(piano)
    return midi


def as_written(notes: Notes, pedal: np.ndarray = NO_PEDAL) -> Notes:
    """Returns the notes that `write_midi` writes: on MIDI ticks, and overlapping ones of one pitch joined."""
    midi_tick_us, (pitch, onset, offset, velocity) = _as_written(notes, pedal)
    return Notes.from_onsets(pitch, onset * midi_tick_us, offset * midi_tick_us, velocity)


def write_midi(notes: Notes, path: StrPath, pedal: np.ndarray = NO_PEDAL) -> None:
    """Writes notes and pedal atomically to a MIDI file, local or in a bucket, rounded as by `to_pretty_midi`.

    Args:
        notes: the notes.
        path: the file.
        pedal: int64 `[spans, 2]`, as `read_pedal` returns it.

    Raises:
        FileError: the file cannot be written.
    """
    buffer = io.BytesIO()
    to_pretty_midi(notes, pedal).write(buffer)
    storage.write_bytes_atomic(path, buffer.getvalue())


def _as_written(notes: Notes, pedal: np.ndarray) -> tuple[int, MergedNotes]:
    """Returns the microseconds of a MIDI tick, and the notes as `to_pretty_midi` writes them, in MIDI ticks."""
    end_us = max(notes.seconds * 1e6, pedal.max(initial=0))
    midi_tick_us = next((us for us in (20, 100, 500) if end_us / us < MAX_MIDI_TICK), 2500)
    onset = (notes.onset_us + midi_tick_us // 2) // midi_tick_us
    offset = np.maximum((notes.offset_us + midi_tick_us // 2) // midi_tick_us, onset + 1)
    # After rounding, which may have moved two onsets of a pitch together.
    return midi_tick_us, merge_overlapping_notes(notes.pitch, onset, offset, notes.velocity)


def _decode(content: Tracks, name: str, *, sustain: Sustain) -> DecodedMidi:
    """Merges the tracks of a file, without notes of zero length."""
    tracks = drop_zero_length(content.tracks)
    notes = concatenate(tracks)
    zero_length = sum(len(track.onset) for track in content.tracks) - len(notes.onset)
    offset = extended_offsets(notes, tracks) if sustain == "extend" else notes.offset
    try:
        merged = Notes.from_onsets(notes.pitch, notes.onset, offset, notes.velocity)
    except ValueError as error:
        raise MidiDecodeError(name, "damaged", f"has an invalid note: {error}") from error
    return DecodedMidi(merged, zero_length, content.drums)


def _tempo_changes(tempos: np.ndarray) -> np.ndarray:
    """Returns the tempos that last for some time and differ from the one before: int64 `[n, 2]`."""
    tempos = tempos[np.append(np.diff(tempos[:, 0]) > 0, True)]
    return tempos[np.append(True, np.diff(tempos[:, 1]) != 0)]
