"""Conversion between MIDI files and notes."""

import dataclasses
import io
import posixpath
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from sostenuto import storage
from sostenuto.errors import MidiDecodeError
from sostenuto.music import _decode
from sostenuto.music._decode import MAX_BYTES as MAX_BYTES
from sostenuto.music.notes import PITCHES, MergedNotes, Notes, merge_overlapping_notes
from sostenuto.music.pedal import NO_PEDAL, extended_offsets, pedal_spans
from sostenuto.storage.paths import StrPath

if TYPE_CHECKING:
    import pretty_midi

# The resolution of a written file is as fine as this permits: pretty_midi reads no file with more MIDI ticks.
_MAX_MIDI_TICK = 10_000_000

Sustain = Literal["ignore", "extend"]

EXTENSIONS = (".mid", ".midi")


@dataclasses.dataclass(frozen=True)
class DecodedMidi:
    """The notes of a MIDI file.

    Attributes:
        notes: every note of every track but drums.
        zero_length: the number of notes dropped because they end where they begin.
        drums: the number of notes dropped because they are on the drum channel.
        unended: the number of notes dropped because they never end.
    """

    notes: Notes
    zero_length: int
    drums: int
    unended: int

    @property
    def left_out(self) -> list[tuple[int, str]]:
        """The numbers of dropped notes, each with a name."""
        return [
            (self.zero_length, "note of zero length"),
            (self.drums, "drum note"),
            (self.unended, "note without a note-off"),
        ]


class Instrument(NamedTuple):
    """An instrument of a file: its program in General MIDI, from 0, or None for drums; and the number of its notes."""

    program: int | None
    notes: int


@dataclasses.dataclass(frozen=True)
class MidiContents:
    """Contents of a MIDI file, for inspection; durations are those of the keys."""

    decoded: DecodedMidi
    first_onset_us: int  # from the file's start; 0 without notes
    instruments: list[Instrument]  # those with notes, by program, drums last
    tempos: np.ndarray  # int64 `[n, 2]`: start in µs from the file's start, the first 0; µs per quarter note
    pedal: np.ndarray  # as `read_pedal` returns it
    pedal_changes: int  # of controller 64, on any channel but the drums'
    ignored_tempos: int  # those of later tracks than the first


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
    return _merge_tracks(_decode.read_tracks(data, name, with_pedal=sustain == "extend"), name, sustain=sustain)


def read_pedal(data: bytes, name: str) -> np.ndarray:
    """Returns when the sustain pedal, on any track and channel, goes down and comes up: int64 `[spans, 2]`, ascending.

    Times are microseconds from the first onset. A pedal that the file never releases comes up at the last note-off.

    Raises:
        MidiDecodeError: as `read_midi`.
    """
    return pedal_spans(_decode.drop_zero_length(_decode.read_tracks(data, name, with_pedal=True).tracks))


def read_contents(data: bytes, name: str) -> MidiContents:
    """Returns notes, pedal, instruments and tempos of a file; raises MidiDecodeError as `read_midi`."""
    content = _decode.read_tracks(data, name, with_pedal=True)
    tracks = _decode.drop_zero_length(content.tracks)
    instruments = [Instrument(program, count) for program, count in sorted(content.instruments.items()) if count]
    if content.drums:
        instruments.append(Instrument(None, content.drums))
    # Tempos that last for some time and differ from the one before.
    tempos = content.tempos[np.append(np.diff(content.tempos[:, 0]) > 0, True)]
    tempos = tempos[np.append(True, np.diff(tempos[:, 1]) != 0)]
    return MidiContents(
        decoded=_merge_tracks(content, name, sustain="ignore"),
        first_onset_us=int(min((track.onset.min() for track in tracks if len(track.onset)), default=0)),
        instruments=instruments,
        tempos=tempos,
        pedal=pedal_spans(tracks),
        pedal_changes=sum(len(track.pedal_time) for track in content.tracks),
        ignored_tempos=content.later_tempos,
    )


def to_pretty_midi(notes: Notes, pedal: np.ndarray = NO_PEDAL) -> "pretty_midi.PrettyMIDI":
    """Returns the notes and their pedal, controller 64, as one acoustic grand piano: `as_written`, in seconds."""
    import pretty_midi  # Takes half a second, and only writers need it.

    midi_tick_us, written = _as_written(notes, pedal)
    midi = pretty_midi.PrettyMIDI(resolution=_decode.DEFAULT_TEMPO_US // midi_tick_us)
    piano = pretty_midi.Instrument(program=0, name="Acoustic Grand Piano")
    seconds = midi_tick_us / 1e6
    for pitch, start, end, velocity in zip(*(values.tolist() for values in written), strict=True):
        piano.notes.append(pretty_midi.Note(velocity, pitch, start * seconds, end * seconds))
    # Of changes at one MIDI tick pretty_midi writes the lower value first: up, then down again.
    for down, up in ((pedal + midi_tick_us // 2) // midi_tick_us).tolist():
        piano.control_changes.append(pretty_midi.ControlChange(_decode.SUSTAIN_PEDAL, 127, down * seconds))
        piano.control_changes.append(pretty_midi.ControlChange(_decode.SUSTAIN_PEDAL, 0, max(up, down + 1) * seconds))
    midi.instruments.append(piano)
    return midi


def as_written(notes: Notes, pedal: np.ndarray = NO_PEDAL) -> Notes:
    """Returns the notes that `write_midi` writes."""
    midi_tick_us, (pitch, onset, offset, velocity) = _as_written(notes, pedal)
    return Notes.from_onsets(pitch, onset * midi_tick_us, offset * midi_tick_us, velocity)


def written_primer(notes: Notes, primer_notes: int, pedal: np.ndarray = NO_PEDAL) -> np.ndarray:
    """Returns which notes of `as_written` are among the first `primer_notes`, or joined with one of them: bool `[n]`.

    Notes of one onset are sorted by pitch there, so a note after the primer may come before the primer's last one.
    """
    midi_tick_us, written = _as_written(notes, pedal)
    primer_onset = (notes.onset_us[:primer_notes] + midi_tick_us // 2) // midi_tick_us
    return np.isin(written.onset * PITCHES + written.pitch, primer_onset * PITCHES + notes.pitch[:primer_notes])


def write_midi(notes: Notes, path: StrPath, pedal: np.ndarray = NO_PEDAL) -> None:
    """Writes notes and pedal, int64 `[spans, 2]`, atomically to a MIDI file, as `midi_bytes` returns it.

    Raises:
        FileError: the file cannot be written.
    """
    storage.write_bytes_atomic(path, midi_bytes(notes, pedal))


def midi_bytes(notes: Notes, pedal: np.ndarray = NO_PEDAL) -> bytes:
    """Returns notes and pedal, int64 `[spans, 2]` as of `read_pedal`, as a MIDI file.

    Times are rounded to MIDI ticks: 20 microseconds for music up to 200 seconds, 100 up to 1,000 seconds, 500 up to
    5,000 seconds and 2,500 beyond. A note ends, at the latest, at the next one of its pitch; notes of one pitch and
    onset are joined.
    """
    buffer = io.BytesIO()
    to_pretty_midi(notes, pedal).write(buffer)
    return buffer.getvalue()


def _as_written(notes: Notes, pedal: np.ndarray) -> tuple[int, MergedNotes]:
    """Returns the microseconds of a MIDI tick, and the notes in ticks."""
    end_us = max(notes.seconds * 1e6, pedal.max(initial=0))
    midi_tick_us = next((us for us in (20, 100, 500) if end_us / us < _MAX_MIDI_TICK), 2500)
    onset = (notes.onset_us + midi_tick_us // 2) // midi_tick_us
    offset = np.maximum((notes.offset_us + midi_tick_us // 2) // midi_tick_us, onset + 1)
    # After rounding, which may have moved two onsets of a pitch together.
    return midi_tick_us, merge_overlapping_notes(notes.pitch, onset, offset, notes.velocity)


def _merge_tracks(content: _decode.Tracks, name: str, *, sustain: Sustain) -> DecodedMidi:
    """Merges the tracks of a file, without notes of zero length."""
    tracks = _decode.drop_zero_length(content.tracks)
    notes = _decode.concatenate(tracks)
    zero_length = sum(len(track.onset) for track in content.tracks) - len(notes.onset)
    offset = extended_offsets(notes, tracks) if sustain == "extend" else notes.offset
    try:
        merged = Notes.from_onsets(notes.pitch, notes.onset, offset, notes.velocity)
    except ValueError as error:
        raise MidiDecodeError(name, "damaged", f"has an invalid note: {error}") from error
    return DecodedMidi(merged, zero_length, content.drums, content.unended)
