"""Reader of MIDI files, with limits on hostile ones; `beam_preprocess.parser` also limits time and memory.

symusic reads nearly all files, a hundred times as fast as Python code. It skips silently what it does not understand,
so it gets only tracks that are checked, and only the events that we use. Where it could read a file otherwise than
pretty_midi, which is the reference, we read the events ourselves. docs/data-format.md has the rules.
"""

import struct
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import symusic

from sostenuto.errors import MidiDecodeError
from sostenuto.music._events import (
    CONTROL_CHANGE,
    NOTE_OFF,
    NOTE_ON,
    PROGRAM_CHANGE,
    SET_TEMPO,
    bound_midi_ticks,
    read_events,
    write_number,
)
from sostenuto.text import counted

# Limits, each checked before memory is allocated. MAESTRO's largest performance has some hundred kilobytes, two tracks
# and fewer than 100,000 notes.
MAX_BYTES = 4 * 2**20
MAX_TRACKS = 256
MAX_NOTES = 250_000
MAX_EVENTS = 1_000_000  # of all kinds, pedal and pitch bend included
MAX_HOURS = 24  # of music: a bound in MIDI ticks would depend on their resolution

DEFAULT_TEMPO_US = 500_000  # 120 quarter notes a minute, until the first tempo event
SUSTAIN_PEDAL = 64  # the controller
PEDAL_DOWN = 64  # its lowest value that means "down"

_MIN_NOTE_BYTES = 3  # delta time, pitch and velocity, with running status
_DRUM_CHANNEL = 9
_TEMPO_BYTES = 3
_HEAD_BYTES = 1024  # of a track, which may hold tempo, names, programs and resets of the synthesizer
_END_OF_TRACK = b"\xff\x2f\x00"

# Replaces a track's end: later than any event that symusic gets, a note-off for every key. symusic would silently drop
# the notes that the file never ends; these note-offs make some of them appear.
_LATE = 2**27
_NOTE_OFFS = b"\x00".join(
    bytes([NOTE_OFF | channel]) + b"\x00".join(bytes([pitch, 0]) for pitch in range(128))
    for channel in range(16)
    if channel != _DRUM_CHANNEL
)
# An empty text takes the delta time of the end. Then _LATE is the delta time of the first note-off.
_CLOSE_EVERY_KEY = b"\xff\x01\x00" + write_number(_LATE) + _NOTE_OFFS + b"\x00" + _END_OF_TRACK


class Track(NamedTuple):
    """Notes and sustain pedal of one channel of one track, times in MIDI ticks or in microseconds."""

    pitch: np.ndarray
    onset: np.ndarray
    offset: np.ndarray
    velocity: np.ndarray
    pedal_time: np.ndarray
    pedal_value: np.ndarray


class Tracks(NamedTuple):
    """The content of a file, times in MIDI ticks or in microseconds."""

    tracks: list[Track]  # without drums
    instruments: Counter[int]  # the number of notes by program, without those of zero length
    tempos: np.ndarray  # int64 `[n, 2]`: start, µs per quarter note; of several at one time the last holds
    drums: int  # the number of dropped notes
    unended: int  # the number of dropped notes
    later_tempos: int = 0  # the number of ignored tempos, those of later tracks


def read_tracks(data: bytes, name: str, *, with_pedal: bool) -> Tracks:
    """Returns the tracks of a file, without their pedal unless `with_pedal`; raises MidiDecodeError."""
    resolution, bodies = _split_chunks(data, name)
    tracks = None
    try:
        # A larger one might exceed a limit, which only `_read_bodies` checks.
        if len(data) <= _MIN_NOTE_BYTES * MAX_NOTES:
            tracks = _read_with_symusic(bodies, with_pedal=with_pedal)
        return _in_microseconds(tracks or _read_bodies(bodies, name, with_pedal=with_pedal), resolution)
    except ValueError as error:
        raise MidiDecodeError(name, "damaged", str(error)) from error


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
    header_length, midi_format, declared, division = struct.unpack(">IHHH", data[4:14].ljust(10, b"\0"))
    header_end = 8 + max(header_length, 6)
    for is_wrong, reason, detail in (
        (data[:4] != b"MThd", "not_midi", f"is not a standard MIDI file: it {start}, expected b'MThd'"),
        (len(data) > MAX_BYTES, "too_large", f"has more than the {MAX_BYTES:,} bytes allowed"),
        (
            len(data) < header_end,
            "truncated",
            f"ends at byte {len(data)}, within the MIDI header of {header_end} bytes",
        ),
        (header_length < 6, "damaged", f"has a MIDI header of {header_length} bytes (byte 8), expected 6"),
        (division & 0x8000, "smpte", "counts time in SMPTE frames, expected ticks per quarter note (byte 12)"),
        (division == 0, "damaged", "has 0 ticks per quarter note (byte 12), expected at least 1"),
        (declared > MAX_TRACKS, "too_large", f"declares {declared:,} tracks (byte 10), at most {MAX_TRACKS} allowed"),
    ):
        if is_wrong:
            raise MidiDecodeError(name, reason, detail)
    bodies: list[bytes] = []
    end = header_end
    # A header may declare fewer tracks than the file has; behind them may be anything.
    while len(bodies) < declared or _has_chunk(data, end):
        kind, body = data[end : end + 4], end + 8
        end = body + int.from_bytes(data[body - 4 : body], "big")
        if len(data) < end:
            problem = f"within a chunk that should reach byte {end}"
            if len(data) < body:
                problem = f"after {len(bodies)} of {counted(declared, 'track')}"
            raise MidiDecodeError(name, "truncated", f"ends at byte {len(data)}, {problem}")
        if kind == b"MTrk":  # The standard requires readers to skip chunks of an unknown kind.
            bodies.append(data[body:end])
    if len(bodies) > MAX_TRACKS:
        raise MidiDecodeError(name, "too_large", f"has {len(bodies):,} tracks, at most {MAX_TRACKS} allowed")
    if midi_format == 2 and len(bodies) > 1:
        detail = f"holds {len(bodies)} independent sequences (format 2, byte 8), expected the tracks of one performance"
        raise MidiDecodeError(name, "format_2", detail)
    return division, bodies


def _has_chunk(data: bytes, start: int) -> bool:
    """Returns whether a track, even a truncated one, or a whole chunk of another kind starts at a position."""
    length = int.from_bytes(data[start + 4 : start + 8], "big")
    return data[start : start + 4] == b"MTrk" or start + 8 + length <= len(data)


def _join_chunks(bodies: Iterable[bytes]) -> bytes:
    """Returns the bytes of a file with these tracks."""
    tracks = [b"MTrk" + len(body).to_bytes(4, "big") + body for body in bodies]
    return b"MThd" + struct.pack(">IHHH", 6, 1, len(tracks), 1) + b"".join(tracks)


def _read_with_symusic(bodies: list[bytes], *, with_pedal: bool) -> Tracks | None:
    """Returns the tracks in MIDI ticks, or None if `_read_bodies` could read the file differently or rejects it."""
    cleaned: list[bytes] = []
    for body in bodies:
        used = _clean(body, has_tempos=not cleaned)
        if used is None:
            return None
        cleaned.append(used + _CLOSE_EVERY_KEY)
    score: Any = symusic.Score.from_midi(_join_chunks(cleaned))
    tempos = score.tempos.numpy()
    tempo_time, tempo_us = tempos["time"].astype(np.int64), tempos["mspq"].astype(np.int64)
    played = [track for track in score.tracks if not track.is_drum]
    tracks = [_symusic_track(track, with_pedal=with_pedal) for track in played]
    if any(track.offset.max(initial=0) >= _LATE for track in tracks) or _has_ambiguous_overlap(tracks):
        return None
    # symusic sorts the events of one tick, so that the file's last need not come last.
    changes = [(tempo_time, tempo_us)]
    if with_pedal:
        changes += [(track.pedal_time, track.pedal_value >= PEDAL_DOWN) for track in tracks]
    if any(((time[1:] == time[:-1]) & (value[1:] != value[:-1])).any() for time, value in changes):
        return None
    instruments: Counter[int] = Counter()
    for program, track in zip([track.program for track in played], tracks, strict=True):
        instruments[program] += int(np.count_nonzero(track.offset > track.onset))
    return Tracks(
        tracks,
        instruments,
        np.stack([tempo_time, tempo_us], axis=1),
        drums=sum(len(track.notes) for track in score.tracks if track.is_drum),
        unended=0,
    )


def _clean(body: bytes, *, has_tempos: bool) -> bytes | None:
    """Returns what we use of a track, and the delta time of its end; None if symusic cannot be trusted with it.

    Events are walked one by one up to the first note or pedal change after those bytes near the start that may begin an
    event of another form. The rest of most tracks is notes and controllers.
    """
    start = np.frombuffer(body[: -len(_END_OF_TRACK)][:_HEAD_BYTES], np.uint8)
    head_end = np.flatnonzero(start >= PROGRAM_CHANGE).max(initial=0)
    used = bytearray()
    used_tick = midi_tick = end = 0
    is_playing = False
    for midi_tick, kind, channel, data, end in read_events(body):
        if kind == SET_TEMPO and (not has_tempos or len(data) != _TEMPO_BYTES or not any(data)):
            return None
        if kind == PROGRAM_CHANGE and is_playing:  # symusic separates a channel's notes and pedal by program.
            return None
        plays = kind in (NOTE_OFF, NOTE_ON) or (kind == CONTROL_CHANGE and data[0] == SUSTAIN_PEDAL)
        if plays or kind in (PROGRAM_CHANGE, SET_TEMPO):
            status = b"\xff\x51\x03" if kind == SET_TEMPO else bytes([kind | channel])
            used += write_number(midi_tick - used_tick) + status + data
            used_tick = midi_tick
        is_playing |= plays
        if plays and end > head_end:  # Its status holds for the next message.
            break
    if end == len(body):
        rest, last_tick = write_number(midi_tick - used_tick), midi_tick
    else:
        rest = body[end : -len(_END_OF_TRACK)]
        bound = bound_midi_ticks(rest) if body.endswith(_END_OF_TRACK) else None
        last_tick = _LATE if bound is None else used_tick + bound
    return bytes(used) + rest if last_tick < _LATE else None


def _symusic_track(track: Any, *, with_pedal: bool) -> Track:
    """Returns symusic's track as ours, in MIDI ticks."""
    notes = track.notes.numpy()
    onset = notes["time"].astype(np.int64)
    pedal_time = pedal_value = np.zeros(0, np.int64)
    if with_pedal:
        controls = track.controls.numpy()
        pedal = controls["number"] == SUSTAIN_PEDAL
        pedal_time, pedal_value = controls["time"][pedal].astype(np.int64), controls["value"][pedal]
    return Track(notes["pitch"], onset, onset + notes["duration"], notes["velocity"], pedal_time, pedal_value)


def _has_ambiguous_overlap(tracks: list[Track]) -> bool:
    """Returns whether two notes of one pitch overlap and end at different times, or a third is struck as both end.

    Within a channel a note-off ends the oldest note in symusic, and all but those of its tick in pretty_midi. symusic
    does not report the channel of a note, so all notes of the file are compared.
    """
    # One number per note sorts fast: onsets are below 2^27, offsets below 2^28.
    numbers = [track.pitch.astype(np.int64) << 55 | track.onset << 28 | track.offset for track in tracks]
    packed = np.sort(np.concatenate([np.zeros(0, np.int64), *numbers]))
    pitch, onset, offset = packed >> 55, packed >> 28 & 2**27 - 1, packed & 2**28 - 1
    overlapping = (pitch[1:] == pitch[:-1]) & ((onset[1:] < offset[:-1]) | (onset[1:] == onset[:-1]))
    is_shared = offset[1:] == offset[:-1]
    shared_ends = (pitch << 28 | offset)[1:][overlapping & is_shared]
    return bool(np.any(overlapping & ~is_shared) or np.isin(shared_ends, pitch << 28 | onset).any())


def _read_bodies(bodies: list[bytes], name: str, *, with_pedal: bool) -> Tracks:
    """Returns the tracks in MIDI ticks; raises ValueError if they are damaged, MidiDecodeError beyond a limit."""
    counts: Counter[str] = Counter()

    def count(what: str, allowed: int) -> None:
        counts[what] += 1
        if counts[what] > allowed:
            raise MidiDecodeError(name, "too_large", f"has more than the {allowed:,} {what} allowed")

    tempos = []
    instruments: Counter[int] = Counter()
    # By track and channel, and the last also by pitch.
    programs: Counter[tuple[int, int]] = Counter()  # 0 until the first change
    notes: defaultdict[tuple[int, int], list[tuple[int, ...]]] = defaultdict(list)  # pitch, onset, offset, velocity
    pedals: defaultdict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)  # time, value
    sounding: dict[tuple[int, int, int], list[tuple[int, int]]] = {}  # onset, velocity
    for number, body in enumerate(bodies):
        for midi_tick, kind, channel, data, _ in read_events(body):
            count("events", MAX_EVENTS)
            if kind == SET_TEMPO and number:
                counts["later tempos"] += 1
            elif kind == SET_TEMPO:
                tempos.append((midi_tick, _parse_tempo(data)))
            elif kind == PROGRAM_CHANGE:
                programs[number, channel] = data[0]
            elif kind == CONTROL_CHANGE and data[0] == SUSTAIN_PEDAL and with_pedal:
                pedals[number, channel].append((midi_tick, data[1]))
            elif kind == NOTE_ON and data[1]:
                count("notes", MAX_NOTES)
                sounding.setdefault((number, channel, data[0]), []).append((midi_tick, data[1]))
            elif kind in (NOTE_ON, NOTE_OFF):
                struck = sounding.pop((number, channel, data[0]), [])
                # A note-off spares the notes of its own tick if it ends others.
                ended = [note for note in struck if note[0] < midi_tick]
                instruments[programs[number, channel]] += len(ended) if channel != _DRUM_CHANNEL else 0
                sounding[number, channel, data[0]] = struck[len(ended) :] if ended else []
                notes[number, channel] += [(data[0], onset, midi_tick, velocity) for onset, velocity in ended or struck]
    played = [key for key, rows in notes.items() if rows and key[1] != _DRUM_CHANNEL]
    return Tracks(
        [Track(*_columns(notes[key], 4), *_columns(pedals[key], 2)) for key in played],
        instruments,
        _columns(tempos, 2).T,
        drums=sum(len(rows) for (_, channel), rows in notes.items() if channel == _DRUM_CHANNEL),
        unended=sum(len(struck) for (_, channel, _), struck in sounding.items() if channel != _DRUM_CHANNEL),
        later_tempos=counts["later tempos"],
    )


def _parse_tempo(data: bytes) -> int:
    """Returns a tempo in µs per quarter note; raises ValueError."""
    tempo_us = int.from_bytes(data[:_TEMPO_BYTES], "big")
    if len(data) < _TEMPO_BYTES or not tempo_us:
        problem = f"{len(data)} bytes, expected {_TEMPO_BYTES}" if len(data) < _TEMPO_BYTES else "0 µs a quarter note"
        raise ValueError(f"has a tempo of {problem}")
    return tempo_us


def _columns(rows: list, width: int) -> np.ndarray:
    """Returns rows of numbers as columns: int64 `[width, n]`."""
    return np.array(rows, np.int64).reshape(-1, width).T


def _in_microseconds(content: Tracks, resolution: int) -> Tracks:
    """Returns the content, whose times are MIDI ticks, with its times in microseconds; raises ValueError."""
    start, tempo_us = np.concatenate([[[0, DEFAULT_TEMPO_US]], content.tempos]).T
    times = [start, *(time for track in content.tracks for time in (track.offset, track.pedal_time))]
    last = max(int(time.max(initial=0)) for time in times)
    lasts = np.append(start[1:], last) - start
    hours = np.dot(lasts.astype(np.float64), tempo_us) / resolution / 3.6e9  # Integers might overflow here.
    if hours > MAX_HOURS:
        raise ValueError(f"has a note, pedal or tempo {hours:,.1f} hours after its start, at most {MAX_HOURS} allowed")
    # In units of 1 / resolution microseconds these are integers far from overflow: 24 hours · 2^15.
    elapsed = np.cumsum(lasts * tempo_us) - lasts * tempo_us

    def microseconds(midi_ticks: np.ndarray) -> np.ndarray:
        """Returns MIDI ticks as microseconds, exact but for one rounding (half up)."""
        tempo = start.searchsorted(midi_ticks, side="right") - 1
        total = elapsed[tempo] + (midi_ticks - start[tempo]) * tempo_us[tempo]
        return (total + resolution // 2) // resolution

    tracks = [
        track._replace(
            onset=microseconds(track.onset),
            offset=microseconds(track.offset),
            pedal_time=microseconds(track.pedal_time),
        )
        for track in content.tracks
    ]
    return content._replace(tracks=tracks, tempos=np.stack([microseconds(start), tempo_us], axis=1))


def _select(track: Track, keep: np.ndarray) -> Track:
    """Returns the track with some of its notes, and its pedal."""
    if keep.all():
        return track
    return track._replace(**{name: getattr(track, name)[keep] for name in ("pitch", "onset", "offset", "velocity")})
