"""Readers of MIDI files, with limits on hostile ones; `beam_preprocess.parser` also limits time and memory.

symusic reads a hundred times as fast as pretty_midi, which is the reference: pretty_midi reads the files that the two
could read differently. docs/data-format.md has the rules.
"""

import io
import struct
import threading
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import symusic

from sostenuto.errors import MidiDecodeError
from sostenuto.music._scan import count_events
from sostenuto.text import counted

if TYPE_CHECKING:
    import pretty_midi

# Limits, each checked before memory is allocated. MAESTRO's largest performance has some hundred kilobytes, two tracks,
# one program and fewer than 100,000 notes.
MAX_BYTES = 4 * 2**20
MAX_TRACKS = 256
MAX_NOTES = 250_000
MAX_EVENTS = 1_000_000  # of all kinds, pedal and pitch bend included: pretty_midi creates an object for each
MAX_PROGRAM_CHANGES = 1_024  # each creates an instrument, for which symusic takes some 6 kB
MAX_MIDI_TICK = 10_000_000  # pretty_midi's own limit: it creates a table of this size

DEFAULT_TEMPO_US = 500_000  # 120 quarter notes a minute, until the first tempo event
SUSTAIN_PEDAL = 64  # the controller
PEDAL_DOWN = 64  # its lowest value that means "down"

_MIN_NOTE_BYTES = 3  # delta time, pitch and velocity, with running status
_DRUM_CHANNEL = 9
_SET_TEMPO = b"\xff\x51\x03"
_END_OF_TRACK = b"\xff\x2f\x00"

# Replaces a track's end: much later than any event, a note-off for every key. symusic would silently drop the notes
# that the file never ends; these note-offs make them recognizable.
_LATE = 2**28 - 1
_NOTE_OFFS = b"\x00".join(
    bytes([0x80 | channel]) + b"\x00".join(bytes([pitch, 0]) for pitch in range(128))
    for channel in range(16)
    if channel != _DRUM_CHANNEL
)
# An empty text takes the delta time of the end. Then _LATE is the delta time of the first note-off.
_CLOSE_EVERY_KEY = b"\xff\x01\x00" + b"\xff\xff\xff\x7f" + _NOTE_OFFS + b"\x00" + _END_OF_TRACK

# `warnings.catch_warnings` changes the whole process, so two threads must not run it at once.
_warnings_lock = threading.Lock()


class Track(NamedTuple):
    """Notes and sustain pedal of one channel of one track, times in ticks or in microseconds."""

    pitch: np.ndarray
    onset: np.ndarray
    offset: np.ndarray
    velocity: np.ndarray
    pedal_time: np.ndarray
    pedal_value: np.ndarray


class Tracks(NamedTuple):
    """The content of a file, times in microseconds."""

    tracks: list[Track]  # without drums
    programs: list[int]  # of the tracks
    drums: int  # the number of dropped notes
    tempos: np.ndarray  # int64 `[n, 2]`: start, µs per quarter note; of several at one time the last holds


def read_tracks(data: bytes, name: str, *, with_pedal: bool) -> Tracks:
    """Returns the tracks of a file, whose pedal may be wrong unless `with_pedal`; raises MidiDecodeError."""
    resolution, bodies = _split_chunks(data, name)
    # Counting the events takes longer than symusic's parsing of a normal file.
    program_changes = np.count_nonzero(np.frombuffer(data, np.uint8) & 0xF0 == 0xC0)
    if len(data) > _MIN_NOTE_BYTES * MAX_NOTES or program_changes > MAX_PROGRAM_CHANGES:
        _check_events(bodies, name)
    is_ambiguous = any(_SET_TEMPO in body for body in bodies[1:])
    is_ambiguous |= any(body.find(_END_OF_TRACK) != len(body) - len(_END_OF_TRACK) for body in bodies)
    tracks = None if is_ambiguous else _read_with_symusic(resolution, bodies, with_pedal=with_pedal)
    return tracks if tracks is not None else _read_with_pretty_midi(resolution, bodies, name)


def concatenate(tracks: list[Track]) -> Track:
    """Returns the notes of all tracks; ignore the pedal of the result."""
    empty = Track(*[np.zeros(0, np.int64)] * len(Track._fields))
    return Track(*(np.concatenate(values) for values in zip(empty, *tracks, strict=True)))


def drop_zero_length(tracks: list[Track]) -> list[Track]:
    """Returns the tracks without notes of zero length."""
    return [_select(track, track.offset > track.onset) for track in tracks]


def _split_chunks(data: bytes, name: str) -> tuple[int, list[bytes]]:
    """Checks header, size and length of a file; returns its ticks per quarter note and the bodies of its tracks."""
    start = f"starts with {data[:4]!r}" if data else "is empty"
    header_length, _, declared, division = struct.unpack(">IHHH", data[4:14].ljust(10, b"\0"))
    for is_wrong, reason, detail in (
        (data[:4] != b"MThd", "not_midi", f"is not a standard MIDI file: it {start}, expected b'MThd'"),
        (len(data) > MAX_BYTES, "too_large", f"has more than the {MAX_BYTES:,} bytes allowed"),
        (len(data) < 14, "truncated", f"ends at byte {len(data)}, within the MIDI header of 14 bytes"),
        (header_length < 6, "damaged", f"has a MIDI header of {header_length} bytes (byte 8), expected 6"),
        (division & 0x8000, "smpte", "counts time in SMPTE frames, expected ticks per quarter note (byte 12)"),
        (division == 0, "damaged", "has 0 ticks per quarter note (byte 12), expected at least 1"),
        (declared > MAX_TRACKS, "too_large", f"declares {declared:,} tracks (byte 10), at most {MAX_TRACKS} allowed"),
    ):
        if is_wrong:
            raise MidiDecodeError(name, reason, detail)
    bodies: list[bytes] = []
    end = 8 + header_length
    while len(bodies) < declared:
        kind, body = data[end : end + 4], end + 8
        end = body + int.from_bytes(data[body - 4 : body], "big")
        if len(data) < end:
            problem = f"within a chunk that should reach byte {end}"
            if len(data) < body:
                problem = f"after {len(bodies)} of {counted(declared, 'track')}"
            raise MidiDecodeError(name, "truncated", f"ends at byte {len(data)}, {problem}")
        if kind == b"MTrk":  # The standard requires readers to skip chunks of an unknown kind.
            bodies.append(data[body:end])
    return division, bodies


def _check_events(bodies: list[bytes], name: str) -> None:
    """Rejects tracks that would take too much memory or time to parse."""
    try:
        counts = [count_events(body) for body in bodies]
    except ValueError as error:
        raise MidiDecodeError(name, "damaged", str(error)) from error
    for kind, count, allowed in (
        ("notes", sum(count.notes for count in counts), MAX_NOTES),
        ("events", sum(count.events for count in counts), MAX_EVENTS),
        ("program changes", sum(count.program_changes for count in counts), MAX_PROGRAM_CHANGES),
    ):
        if count > allowed:
            raise MidiDecodeError(name, "too_large", f"has {count:,} {kind}, at most {allowed:,} allowed")
    last = max((count.last_midi_tick for count in counts), default=0)
    if last >= MAX_MIDI_TICK:
        raise MidiDecodeError(name, "damaged", f"has a largest tick of {last:,}, expected less than {MAX_MIDI_TICK:,}")


def _join_chunks(resolution: int, bodies: Iterable[bytes]) -> bytes:
    """Returns the bytes of a file with these tracks."""
    tracks = [b"MTrk" + len(body).to_bytes(4, "big") + body for body in bodies]
    return b"MThd" + struct.pack(">IHHH", 6, 1, len(tracks), resolution) + b"".join(tracks)


def _read_with_symusic(resolution: int, bodies: list[bytes], *, with_pedal: bool) -> Tracks | None:
    """Returns the tracks, or None if pretty_midi could read the file differently."""
    closed = [body[: -len(_END_OF_TRACK)] + _CLOSE_EVERY_KEY for body in bodies]
    try:
        score: Any = symusic.Score.from_midi(_join_chunks(resolution, closed))
    except RuntimeError:
        return None
    tempos = score.tempos.numpy()
    tempo_time, tempo_us = tempos["time"].astype(np.int64), tempos["mspq"].astype(np.int64)
    played = [track for track in score.tracks if not track.is_drum]
    tracks = [_symusic_track(track) for track in played]
    notes = concatenate(tracks)
    if not _is_in_range(notes, tempo_time, tempo_us) or _has_ambiguous_overlap(notes):
        return None
    # symusic sorts the events of one tick, so that the file's last need not come last.
    changes = [(tempo_time, tempo_us)]
    if with_pedal:
        changes += [(track.pedal_time, track.pedal_value >= PEDAL_DOWN) for track in tracks]
    if any(np.any((time[1:] == time[:-1]) & (value[1:] != value[:-1])) for time, value in changes):
        return None
    tracks = [_select(track, track.offset < _LATE) for track in tracks]
    tempo_time, tempo_us = np.append(0, tempo_time), np.append(DEFAULT_TEMPO_US, tempo_us)

    def microseconds(ticks: np.ndarray) -> np.ndarray:
        return _ticks_to_microseconds(ticks, tempo_time, tempo_us, resolution)

    times = ("onset", "offset", "pedal_time")
    return Tracks(
        [track._replace(**{time: microseconds(getattr(track, time)) for time in times}) for track in tracks],
        [track.program for track in played],
        sum(len(track.notes) for track in score.tracks if track.is_drum),
        np.stack([microseconds(tempo_time), tempo_us], axis=1),
    )


def _symusic_track(track: Any) -> Track:
    """Returns symusic's track as ours, in ticks."""
    notes, controls = track.notes.numpy(), track.controls.numpy()
    pedal = controls["number"] == SUSTAIN_PEDAL
    onset = notes["time"].astype(np.int64)
    pedal_time = controls["time"][pedal].astype(np.int64)
    return Track(
        notes["pitch"], onset, onset + notes["duration"], notes["velocity"], pedal_time, controls["value"][pedal]
    )


def _is_in_range(notes: Track, tempo_time: np.ndarray, tempo_us: np.ndarray) -> bool:
    """Returns whether all tempos, ticks and data bytes are within the bounds of a valid file."""
    return not (
        np.any(tempo_us <= 0)
        or np.any((tempo_time < 0) | (tempo_time > MAX_MIDI_TICK))
        or np.any((notes.onset < 0) | (notes.onset > MAX_MIDI_TICK))
        or np.any((notes.offset > MAX_MIDI_TICK) & (notes.offset < _LATE))
        or np.any(notes.offset > _LATE + MAX_MIDI_TICK)
        or np.any(notes.offset < notes.onset)
        or np.any(notes.pitch < 0)
        or np.any(notes.velocity < 1)
    )


def _has_ambiguous_overlap(notes: Track) -> bool:
    """Returns whether two notes of one pitch overlap and end at different times, anywhere in the file.

    Within a channel a note-off ends the oldest note in symusic, and all but those of its tick in pretty_midi. symusic
    does not report the channel of a note, so all notes are compared.
    """
    # One number per note sorts fast: ticks in range are below 2^24, endless offsets below 2^29.
    packed = np.sort(notes.pitch.astype(np.int64) << 56 | notes.onset << 30 | notes.offset)
    pitch, onset, offset = packed >> 56, packed >> 30 & 2**26 - 1, packed & 2**30 - 1
    overlapping = (pitch[1:] == pitch[:-1]) & ((onset[1:] < offset[:-1]) | (onset[1:] == onset[:-1]))
    return bool(np.any(overlapping & (offset[1:] != offset[:-1])))


def _ticks_to_microseconds(
    ticks: np.ndarray, tempo_time: np.ndarray, tempo_us: np.ndarray, resolution: int
) -> np.ndarray:
    """Returns ticks as microseconds, exact but for one rounding (half up); `tempo_time`, in ticks, starts with 0."""
    # In units of 1 / resolution microseconds these are integers far from overflow: 10^7 ticks · 2^24 µs.
    elapsed = np.append(0, np.cumsum(np.diff(tempo_time) * tempo_us[:-1]))
    tempo = np.searchsorted(tempo_time, ticks, side="right") - 1
    total = elapsed[tempo] + (ticks - tempo_time[tempo]) * tempo_us[tempo]
    return (total + resolution // 2) // resolution


def _read_with_pretty_midi(resolution: int, bodies: list[bytes], name: str) -> Tracks:
    """Returns the tracks as pretty_midi reads them."""
    import pretty_midi

    _check_events(bodies, name)
    try:
        with _warnings_lock, warnings.catch_warnings():
            # It warns about tempo changes after the first track, which it ignores, as documented.
            warnings.simplefilter("ignore")
            midi = pretty_midi.PrettyMIDI(io.BytesIO(_join_chunks(resolution, bodies)))
    except Exception as error:  # mido and pretty_midi raise many kinds for a corrupt file.
        description = " ".join(f"{type(error).__name__} {error}".split())
        raise MidiDecodeError(name, "damaged", f"is a corrupt MIDI file: {description}") from error
    played = [instrument for instrument in midi.instruments if not instrument.is_drum]
    tempo_time, quarters_per_minute = midi.get_tempo_changes()
    return Tracks(
        [_pretty_midi_track(instrument) for instrument in played],
        [instrument.program for instrument in played],
        sum(len(instrument.notes) for instrument in midi.instruments if instrument.is_drum),
        np.stack([np.round(tempo_time * 1e6), np.round(6e7 / quarters_per_minute)], axis=1).astype(np.int64),
    )


def _pretty_midi_track(instrument: "pretty_midi.Instrument") -> Track:
    """Returns pretty_midi's instrument as a track, in microseconds."""
    notes = [(note.pitch, note.start * 1e6, note.end * 1e6, note.velocity) for note in instrument.notes]
    pedal = [(each.time * 1e6, each.value) for each in instrument.control_changes if each.number == SUSTAIN_PEDAL]
    columns = (*np.array(notes, np.float64).reshape(-1, 4).T, *np.array(pedal, np.float64).reshape(-1, 2).T)
    return Track(*(np.round(column).astype(np.int64) for column in columns))


def _select(track: Track, keep: np.ndarray) -> Track:
    """Returns the track with some of its notes, and its pedal."""
    return track._replace(**{name: getattr(track, name)[keep] for name in ("pitch", "onset", "offset", "velocity")})
