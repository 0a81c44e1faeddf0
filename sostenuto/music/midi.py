"""MIDI files to notes and back.

symusic reads: it is some hundred times faster than pretty_midi. pretty_midi is the reference: where a file can be
understood in two ways, it is read by pretty_midi itself, so that its reading is ours. docs/data-format.md has the
rules.
"""

import dataclasses
import io
import os
import posixpath
import struct
import threading
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import symusic

from sostenuto import storage
from sostenuto.errors import MidiDecodeError
from sostenuto.music._scan import count_events
from sostenuto.music.notes import Notes, merge_overlapping_notes

if TYPE_CHECKING:
    import pretty_midi

Sustain = Literal["ignore", "extend"]

EXTENSIONS = (".mid", ".midi")

# Bounds on hostile files, each checked before whatever it bounds is made. MAESTRO's largest performance holds some
# hundred kilobytes, two tracks, one program and fewer than 100,000 notes.
MAX_BYTES = 4 * 2**20
MAX_TRACKS = 256
MAX_NOTES = 250_000
# Of all kinds, pedal and pitch bend included: pretty_midi makes an object of each.
MAX_EVENTS = 1_000_000
# Each makes an instrument, for which symusic takes some 6 kB, however little it plays.
MAX_PROGRAM_CHANGES = 1_024
# pretty_midi's own bound: it makes a table of them.
MAX_MIDI_TICK = 10_000_000

# With running status and no time in between: the delta time, the pitch, the velocity.
_LEAST_BYTES_A_NOTE = 3

_DEFAULT_TEMPO_US = 500_000  # 120 quarter notes a minute, until a file says otherwise.
_SUSTAIN_PEDAL = 64
_PEDAL_DOWN = 64
_DRUM_CHANNEL = 9
_SET_TEMPO = b"\xff\x51\x03"
_END_OF_TRACK = b"\xff\x2f\x00"

NO_PEDAL = np.zeros([0, 2], np.int64)
"""A sustain pedal that is never down."""

_NEVER = np.iinfo(np.int64).max

# Put in place of a track's end: far behind anything else, a note-off for every key. A note that the file never ends
# comes out endless, where symusic alone would drop it without a word.
_LATE = 2**28 - 1
_CLOSE_EVERY_KEY = b"".join(
    [
        b"\xff\x01\x00",  # An empty text takes the delta time that the end had.
        b"\xff\xff\xff\x7f",  # _LATE as the delta time of the first note-off.
        b"\x00".join(
            bytes([0x80 | channel]) + b"\x00".join(bytes([pitch, 0]) for pitch in range(128))
            for channel in range(16)
            if channel != _DRUM_CHANNEL
        ),
        b"\x00" + _END_OF_TRACK,
    ]
)

# `warnings.catch_warnings` changes the whole process; two threads must not do so at once.
_warnings_lock = threading.Lock()


@dataclasses.dataclass(frozen=True)
class DecodedMidi:
    """What a MIDI file holds.

    Attributes:
        notes: every note of every track but drums.
        zero_length: notes left out because they end where they begin. Notes that pretty_midi had to read are not
            counted: it drops them unseen.
        drums: notes left out because they are on the drum channel.
    """

    notes: Notes
    zero_length: int
    drums: int


class Instrument(NamedTuple):
    """What plays some of a file's notes.

    Attributes:
        program: its number in General MIDI, from 0; None for drums, whatever their kit.
        notes: how many.
    """

    program: int | None
    notes: int


@dataclasses.dataclass(frozen=True)
class MidiContents:
    """What a MIDI file holds, for who wants to look at it.

    Attributes:
        decoded: the notes, each as long as its key is held, and what is left out of them.
        first_onset_us: microseconds from the file's start to the first note; 0 without notes.
        instruments: those that play, by program, drums last; their notes are those of `decoded`, and its drums.
        tempos: int64 `[n, 2]`, microseconds from the file's start, the first 0, and microseconds a quarter note from
            then on.
        pedal: int64 `[spans, 2]`, as `read_pedal` returns it.
        pedal_changes: how often controller 64 is set, on any channel but the drums'.
    """

    decoded: DecodedMidi
    first_onset_us: int
    instruments: list[Instrument]
    tempos: np.ndarray
    pedal: np.ndarray
    pedal_changes: int


class _Track(NamedTuple):
    """Notes and sustain pedal of one channel of one track, in ticks or in microseconds."""

    pitch: np.ndarray
    onset: np.ndarray
    offset: np.ndarray
    velocity: np.ndarray
    pedal_time: np.ndarray
    pedal_value: np.ndarray


class _Tracks(NamedTuple):
    """What a file holds, times in microseconds.

    Attributes:
        tracks: all but drums.
        programs: of each track.
        drums: how many notes are left out as drums.
        tempos: int64 `[n, 2]`, when each begins, and microseconds a quarter note from then on; of several at one time
            the last holds.
    """

    tracks: list[_Track]
    programs: list[int]
    drums: int
    tempos: np.ndarray


class _Chunks(NamedTuple):
    """The parts of a file: ticks a quarter note, and the tracks' bodies."""

    resolution: int
    tracks: list[bytes]


def is_midi_name(path: str) -> bool:
    """Returns whether a path, with forward slashes, is named as a MIDI file is."""
    base = posixpath.basename(path)
    # macOS puts "._NAME" beside NAME into archives; it is no MIDI file.
    return base.lower().endswith(EXTENSIONS) and not base.startswith(".")


def read_midi(data: bytes, name: str, *, sustain: Sustain = "ignore") -> DecodedMidi:
    """Returns the notes of a standard MIDI file, all tracks merged, drums left out.

    Args:
        data: the file's bytes.
        name: what to call the file in an error.
        sustain: "ignore" ends a note when its key is released; "extend" keeps it until the sustain pedal is released
            or the same pitch is struck again.

    Returns:
        The notes and counts of those left out. A file without notes gives empty notes.

    Raises:
        MidiDecodeError: the bytes are no MIDI file, or a damaged one, or one beyond the bounds of this module.
    """
    return _decoded(_read_tracks(data, name, sustain=sustain), name, sustain=sustain)


def read_pedal(data: bytes, name: str) -> np.ndarray:
    """Returns when the sustain pedal is down in a file that `read_midi` reads.

    Of several tracks or channels with a pedal each, it is down where any of them is.

    Returns:
        int64 `[spans, 2]`, microseconds from the first onset, ascending: when it goes down, and when it comes up, which
        is the last note-off where the file never lets it up.

    Raises:
        MidiDecodeError: as `read_midi`.
    """
    return _united_pedal(_read_tracks(data, name, sustain="extend").tracks)


def read_contents(data: bytes, name: str) -> MidiContents:
    """Returns all that a file holds which `read_midi` and `read_pedal` read, and instruments and tempos.

    Raises:
        MidiDecodeError: as `read_midi`.
    """
    read = _read_tracks(data, name, sustain="extend")
    tracks = [_sounding(track) for track in read.tracks]
    counts: Counter[int] = Counter()
    for program, track in zip(read.programs, tracks, strict=True):
        counts[program] += len(track.onset)
    instruments = [Instrument(program, count) for program, count in sorted(counts.items()) if count]
    return MidiContents(
        decoded=_decoded(read, name, sustain="ignore"),
        first_onset_us=int(min((track.onset.min() for track in tracks if len(track.onset)), default=0)),
        instruments=[*instruments, *([Instrument(None, read.drums)] if read.drums else [])],
        tempos=_tempo_changes(read.tempos),
        pedal=_united_pedal(read.tracks),
        pedal_changes=sum(len(track.pedal_time) for track in read.tracks),
    )


def _tempo_changes(tempos: np.ndarray) -> np.ndarray:
    """Returns those tempos that hold for a time and are not the one before: int64 `[n, 2]`."""
    tempos = tempos[np.append(np.diff(tempos[:, 0]) > 0, True)]
    return tempos[np.append(True, np.diff(tempos[:, 1]) != 0)]


def _united_pedal(tracks: list[_Track]) -> np.ndarray:
    """When the pedal of any track is down, as `read_pedal` returns it."""
    tracks = [_sounding(track) for track in tracks]
    notes = _concatenate(tracks)
    end = int(notes.offset.max(initial=0))
    spans = np.concatenate([np.zeros([0, 2], np.int64), *[_pedal_spans(track, end) for track in tracks]])
    spans = np.maximum(spans - notes.onset.min(initial=end), 0)
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    up = np.maximum.accumulate(spans[:, 1])
    anew = np.append(True, spans[1:, 0] > up[:-1])[: len(spans)]
    united = np.stack([spans[anew, 0], up[np.append(anew[1:], True)[: len(spans)]]], axis=1)
    return united[united[:, 1] > united[:, 0]]


def _pedal_spans(track: _Track, end: int) -> np.ndarray:
    """When one track's pedal is down: int64 `[spans, 2]`."""
    down = np.concatenate([[False], track.pedal_value >= _PEDAL_DOWN, [False]])
    changes = np.append(track.pedal_time, end)[down[1:] != down[:-1]]
    changes[1::2] = np.maximum(changes[1::2], changes[::2])  # A pedal may go down when all is over.
    return changes.reshape(-1, 2)


def sustained(notes: Notes, pedal: np.ndarray) -> Notes:
    """Returns the notes as long as they sound under a pedal: what `read_midi` with "extend" returns for the two.

    Args:
        notes: with the durations of their keys.
        pedal: int64 `[spans, 2]`, as `read_pedal` returns it.
    """
    track = _Track(
        notes.pitch, notes.onset_us, notes.offset_us, notes.velocity, pedal.ravel(), np.tile([127, 0], len(pedal))
    )
    return dataclasses.replace(notes, duration_us=_extended_offsets(track, [track]) - notes.onset_us)


def to_pretty_midi(notes: Notes, pedal: np.ndarray = NO_PEDAL) -> "pretty_midi.PrettyMIDI":
    """Returns the notes as one acoustic grand piano, times in seconds, the first onset at 0.

    The resolution is as fine as a reader's limit of ten million MIDI ticks permits: one is 20 microseconds for music
    up to 200 seconds, 100 up to 1,000 seconds, 500 up to 5,000 seconds and 2,500 beyond. Times are rounded to MIDI
    ticks, and a note lasts at least one. `merge_overlapping_notes` then joins notes of one pitch that overlap.
    All else a file keeps: every time is off by at most half a MIDI tick.

    Args:
        notes: what is played.
        pedal: int64 `[spans, 2]`, as `read_pedal` returns it: when the sustain pedal, controller 64, is down.
    """
    import pretty_midi  # Costs half a second, and only writers and the rare doubtful file need it.

    end_us = max(notes.seconds * 1e6, pedal.max(initial=0))
    midi_tick_us = next((us for us in (20, 100, 500) if end_us / us < MAX_MIDI_TICK), 2500)
    midi = pretty_midi.PrettyMIDI(resolution=_DEFAULT_TEMPO_US // midi_tick_us, initial_tempo=6e7 / _DEFAULT_TEMPO_US)
    piano = pretty_midi.Instrument(program=0, name="Acoustic Grand Piano")
    onset = (notes.onset_us + midi_tick_us // 2) // midi_tick_us
    offset = np.maximum((notes.offset_us + midi_tick_us // 2) // midi_tick_us, onset + 1)
    # Only now: rounding may have brought two onsets of a pitch together.
    keys = merge_overlapping_notes(notes.pitch, onset, offset, notes.velocity)
    seconds = midi_tick_us / 1e6
    for pitch, start, end, velocity in zip(*(values.tolist() for values in keys), strict=True):
        piano.notes.append(pretty_midi.Note(velocity, pitch, start * seconds, end * seconds))
    # Of changes at one MIDI tick pretty_midi writes the lower value first: up, then down again.
    for down, up in ((pedal + midi_tick_us // 2) // midi_tick_us).tolist():
        piano.control_changes.append(pretty_midi.ControlChange(_SUSTAIN_PEDAL, 127, down * seconds))
        piano.control_changes.append(pretty_midi.ControlChange(_SUSTAIN_PEDAL, 0, max(up, down + 1) * seconds))
    midi.instruments.append(piano)
    return midi


def write_midi(notes: Notes, path: str | os.PathLike, pedal: np.ndarray = NO_PEDAL) -> None:
    """Writes the notes and the pedal to a MIDI file, as near to their times as `to_pretty_midi` says.

    Args:
        notes: what is written.
        path: the file, here or in a bucket, written whole or not at all.
        pedal: int64 `[spans, 2]`, as `read_pedal` returns it.

    Raises:
        UserError: the file cannot be written.
    """
    buffer = io.BytesIO()
    to_pretty_midi(notes, pedal).write(buffer)
    storage.write_bytes_atomic(path, buffer.getvalue())


def _split_chunks(data: bytes, name: str) -> _Chunks:
    """Checks the frame of a file: size, header, and that every promised track is there."""

    def reject(reason: str, detail: str) -> MidiDecodeError:
        return MidiDecodeError(name, reason, detail)

    if len(data) > MAX_BYTES:
        raise reject("too_large", f"holds more than the {MAX_BYTES:,} bytes that a MIDI file may have")
    if data[:4] != b"MThd":
        found = f"begins with {data[:4]!r}" if data else "is empty"
        raise reject("not_midi", f"is no standard MIDI file: {found}, expected b'MThd'")
    if len(data) < 14:
        raise reject("truncated", f"ends at byte {len(data)}, within the MIDI header of 14 bytes")
    header_length, _, declared, division = struct.unpack(">IHHH", data[4:14])
    if header_length < 6:
        raise reject("damaged", f"has a MIDI header of {header_length} bytes at byte 8, expected 6")
    if division & 0x8000:
        raise reject("smpte", "counts time in SMPTE frames, expected ticks a quarter note (byte 12)")
    if division == 0:
        raise reject("damaged", "has 0 ticks a quarter note (byte 12), expected at least 1")
    if declared > MAX_TRACKS:
        raise reject("too_large", f"declares {declared:,} tracks (byte 10), more than the {MAX_TRACKS} allowed")

    bodies: list[bytes] = []
    start = 8 + header_length
    while len(bodies) < declared:
        if len(data) < start + 8:
            raise reject("truncated", f"ends at byte {len(data)}, with {len(bodies)} of its {declared} tracks read")
        length = int.from_bytes(data[start + 4 : start + 8], "big")
        body = data[start + 8 : start + 8 + length]
        if len(body) < length:
            raise reject(
                "truncated", f"ends at byte {len(data)}, within a chunk that should reach byte {start + 8 + length}"
            )
        # The standard wants chunks of an unknown kind skipped.
        if data[start : start + 4] == b"MTrk":
            bodies.append(body)
        start += 8 + length
    return _Chunks(division, bodies)


def _may_hold_too_much(data: bytes) -> bool:
    """Returns whether the events must be counted, which takes longer than symusic's parsing of a sound file."""
    program_changes = int(np.count_nonzero(np.frombuffer(data, np.uint8) & 0xF0 == 0xC0))
    return len(data) > _LEAST_BYTES_A_NOTE * MAX_NOTES or program_changes > MAX_PROGRAM_CHANGES


def _check_events(chunks: _Chunks, name: str) -> None:
    """Rejects what would take too much memory or time to parse."""
    try:
        counts = [count_events(body) for body in chunks.tracks]
    except ValueError as error:
        raise MidiDecodeError(name, "damaged", str(error)) from error
    for what, count, allowed in (
        ("notes", sum(count.notes for count in counts), MAX_NOTES),
        ("events", sum(count.events for count in counts), MAX_EVENTS),
        ("program changes", sum(count.program_changes for count in counts), MAX_PROGRAM_CHANGES),
    ):
        if count > allowed:
            raise MidiDecodeError(name, "too_large", f"holds {count:,} {what}, more than the {allowed:,} allowed")
    last = max((count.last_midi_tick for count in counts), default=0)
    if last >= MAX_MIDI_TICK:
        raise MidiDecodeError(name, "damaged", f"has a largest tick of {last:,}, expected less than {MAX_MIDI_TICK:,}")


def _join_chunks(resolution: int, bodies: Iterable[bytes]) -> bytes:
    tracks = [b"MTrk" + len(body).to_bytes(4, "big") + body for body in bodies]
    return b"MThd" + struct.pack(">IHHH", 6, 1, len(tracks), resolution) + b"".join(tracks)


def _read_tracks(data: bytes, name: str, *, sustain: Sustain) -> _Tracks:
    chunks = _split_chunks(data, name)
    if _may_hold_too_much(data):
        _check_events(chunks, name)
    in_doubt = any(_SET_TEMPO in body for body in chunks.tracks[1:])
    in_doubt |= any(body.find(_END_OF_TRACK) != len(body) - len(_END_OF_TRACK) for body in chunks.tracks)
    read = None if in_doubt else _read_with_symusic(chunks, sustain=sustain)
    return read if read is not None else _read_with_pretty_midi(chunks, name)


def _read_with_symusic(chunks: _Chunks, *, sustain: Sustain) -> _Tracks | None:
    """Returns what the file holds, or None where pretty_midi could understand it in another way."""
    closed = [body[: -len(_END_OF_TRACK)] + _CLOSE_EVERY_KEY for body in chunks.tracks]
    try:
        score: Any = symusic.Score.from_midi(_join_chunks(chunks.resolution, closed))
    except RuntimeError:
        return None
    tempos = score.tempos.numpy()
    tempo_time, tempo_us = tempos["time"].astype(np.int64), tempos["mspq"].astype(np.int64)
    tracks = [_symusic_track(track) for track in score.tracks if not track.is_drum]
    notes = _concatenate(tracks)
    if not _in_range(notes, tempo_time, tempo_us) or _ambiguous(notes):
        return None
    # symusic sorts what happens at one tick, so that the last of the file need not come last.
    changes = [(tempo_time, tempo_us)]
    if sustain == "extend":
        changes += [(track.pedal_time, track.pedal_value >= _PEDAL_DOWN) for track in tracks]
    if any(np.any((time[1:] == time[:-1]) & (value[1:] != value[:-1])) for time, value in changes):
        return None
    tracks = [_select(track, ~_endless(track)) for track in tracks]

    tempo_time, tempo_us = np.append(0, tempo_time), np.append(_DEFAULT_TEMPO_US, tempo_us)

    def microseconds(ticks: np.ndarray) -> np.ndarray:
        return _ticks_to_microseconds(ticks, tempo_time, tempo_us, chunks.resolution)

    timed = [
        track._replace(
            onset=microseconds(track.onset),
            offset=microseconds(track.offset),
            pedal_time=microseconds(track.pedal_time),
        )
        for track in tracks
    ]
    programs = [track.program for track in score.tracks if not track.is_drum]
    drums = sum(len(track.notes) for track in score.tracks if track.is_drum)
    return _Tracks(timed, programs, drums, np.stack([microseconds(tempo_time), tempo_us], axis=1))


def _symusic_track(track: Any) -> _Track:
    notes, controls = track.notes.numpy(), track.controls.numpy()
    pedal = controls["number"] == _SUSTAIN_PEDAL
    onset = notes["time"].astype(np.int64)
    return _Track(
        pitch=notes["pitch"],
        onset=onset,
        offset=onset + notes["duration"],
        velocity=notes["velocity"],
        pedal_time=controls["time"][pedal].astype(np.int64),
        pedal_value=controls["value"][pedal],
    )


def _in_range(notes: _Track, tempo_time: np.ndarray, tempo_us: np.ndarray) -> bool:
    """Returns whether all values are such as a sound file has: no tempo, tick or data byte out of bounds."""
    if np.any(tempo_us <= 0) or np.any((tempo_time < 0) | (tempo_time > MAX_MIDI_TICK)):
        return False
    return not (
        np.any((notes.onset < 0) | (notes.onset > MAX_MIDI_TICK))
        or np.any((notes.offset > MAX_MIDI_TICK) & ~_endless(notes))
        or np.any(notes.offset > _LATE + MAX_MIDI_TICK)
        or np.any(notes.offset < notes.onset)
        or np.any(notes.pitch < 0)
        or np.any(notes.velocity < 1)
    )


def _endless(notes: _Track) -> np.ndarray:
    """Returns which notes only `_CLOSE_EVERY_KEY` has ended: bool `[n]`."""
    return notes.offset >= _LATE


def _ambiguous(notes: _Track) -> bool:
    """Returns whether a pitch is struck again while it sounds, and the two do not end together, anywhere in the file.

    Within one channel, symusic lets a note-off end the oldest such note, pretty_midi lets it end them all but those of
    the same tick. symusic does not say which channel a note is on, so the question is put to all notes together.
    """
    # One number a note, to sort fast: ticks in range are below 2^24, endless offsets below 2^29.
    packed = np.sort(notes.pitch.astype(np.int64) << 56 | notes.onset << 30 | notes.offset)
    pitch, onset, offset = packed >> 56, packed >> 30 & 2**26 - 1, packed & 2**30 - 1
    overlapping = (pitch[1:] == pitch[:-1]) & ((onset[1:] < offset[:-1]) | (onset[1:] == onset[:-1]))
    return bool(np.any(overlapping & (offset[1:] != offset[:-1])))


def _ticks_to_microseconds(
    ticks: np.ndarray, tempo_time: np.ndarray, tempo_us: np.ndarray, resolution: int
) -> np.ndarray:
    """Returns ticks as microseconds from the file's start, exact but for one rounding (half up).

    Args:
        ticks: int64 `[n]`.
        tempo_time: int64 `[m]`, ticks, ascending, the first 0.
        tempo_us: int64 `[m]`, microseconds a quarter note from that tick on; of several at one tick the last holds.
        resolution: ticks a quarter note.
    """
    # In units of 1 / resolution microseconds all of this is integers, and far from overflow: 10^7 ticks · 2^24 µs.
    elapsed = np.append(0, np.cumsum(np.diff(tempo_time) * tempo_us[:-1]))
    tempo = np.searchsorted(tempo_time, ticks, side="right") - 1
    total = elapsed[tempo] + (ticks - tempo_time[tempo]) * tempo_us[tempo]
    return (total + resolution // 2) // resolution


def _read_with_pretty_midi(chunks: _Chunks, name: str) -> _Tracks:
    import pretty_midi

    _check_events(chunks, name)
    data = _join_chunks(chunks.resolution, chunks.tracks)
    try:
        with _warnings_lock, warnings.catch_warnings():
            # It warns of tempo changes beyond the first track, which it leaves out, as documented.
            warnings.simplefilter("ignore")
            midi = pretty_midi.PrettyMIDI(io.BytesIO(data))
    except Exception as error:  # mido and pretty_midi raise whatever a damaged byte leads to.
        described = " ".join(f"{type(error).__name__} {error}".split())
        raise MidiDecodeError(name, "damaged", f"is a damaged MIDI file: {described}") from error
    played = [instrument for instrument in midi.instruments if not instrument.is_drum]
    tracks = [_pretty_midi_track(instrument) for instrument in played]
    drums = sum(len(instrument.notes) for instrument in midi.instruments if instrument.is_drum)
    tempo_time, quarters_a_minute = midi.get_tempo_changes()
    tempos = np.stack([np.round(tempo_time * 1e6), np.round(6e7 / quarters_a_minute)], axis=1).astype(np.int64)
    return _Tracks(tracks, [instrument.program for instrument in played], drums, tempos)


def _pretty_midi_track(instrument: "pretty_midi.Instrument") -> _Track:
    def microseconds(seconds: list[float]) -> np.ndarray:
        return np.round(np.array(seconds, np.float64) * 1e6).astype(np.int64)

    pedal = [change for change in instrument.control_changes if change.number == _SUSTAIN_PEDAL]
    return _Track(
        pitch=np.array([note.pitch for note in instrument.notes], np.int64),
        onset=microseconds([note.start for note in instrument.notes]),
        offset=microseconds([note.end for note in instrument.notes]),
        velocity=np.array([note.velocity for note in instrument.notes], np.int64),
        pedal_time=microseconds([change.time for change in pedal]),
        pedal_value=np.array([change.value for change in pedal], np.int64),
    )


def _decoded(read: _Tracks, name: str, *, sustain: Sustain) -> DecodedMidi:
    """Returns the notes of a file, those of zero length left out."""
    tracks = [_sounding(track) for track in read.tracks]
    notes = _concatenate(tracks)
    zero_length = sum(len(track.onset) for track in read.tracks) - len(notes.onset)
    if sustain == "extend":
        notes = notes._replace(offset=_extended_offsets(notes, tracks))
    try:
        return DecodedMidi(
            Notes.from_onsets(notes.pitch, notes.onset, notes.offset, notes.velocity), zero_length, read.drums
        )
    except ValueError as error:
        raise MidiDecodeError(name, "damaged", f"holds a note that cannot be: {error}") from error


def _sounding(track: _Track) -> _Track:
    """Returns the track without notes of zero length."""
    return _select(track, track.offset > track.onset)


def _select(track: _Track, keep: np.ndarray) -> _Track:
    """Returns the track with only the notes to keep, and its pedal."""
    return track._replace(
        pitch=track.pitch[keep],
        onset=track.onset[keep],
        offset=track.offset[keep],
        velocity=track.velocity[keep],
    )


def _concatenate(tracks: list[_Track]) -> _Track:
    """Returns the notes of all tracks; also their pedals, which mean nothing together."""
    empty = _Track(*[np.zeros(0, np.int64)] * len(_Track._fields))
    return _Track(*(np.concatenate(values) for values in zip(empty, *tracks, strict=True)))


def _extended_offsets(notes: _Track, tracks: list[_Track]) -> np.ndarray:
    """Returns the offsets of all notes under the sustain pedal: int64 `[n]`, microseconds, none earlier than before.

    A key released while its channel's pedal is down sounds on until the pedal is released or the pitch is struck again;
    a pedal that is never released is released at the last note-off.
    """
    end = int(notes.offset.max(initial=0))
    released = np.concatenate([notes.offset[:0], *[_pedal_release(track, end) for track in tracks]])
    order = np.lexsort((notes.onset, notes.pitch))
    pitch, onset = notes.pitch[order], notes.onset[order]
    # The next onset of the same pitch that is later than this one; notes struck together share it.
    key = pitch.astype(np.int64) * (2**48) + onset
    following = np.searchsorted(key, key, side="right")
    has_next = following < len(key)
    next_index = np.minimum(following, len(key) - 1)
    has_next &= pitch[next_index] == pitch
    restruck = np.full(len(key), _NEVER)
    restruck[has_next] = onset[next_index[has_next]]
    extended = np.empty_like(notes.offset)
    extended[order] = np.maximum(notes.offset[order], np.minimum(released[order], restruck))
    return extended


def _pedal_release(track: _Track, end: int) -> np.ndarray:
    """Returns when each note's sound may end for the pedal's sake: its offset, or the release of a pedal then down."""
    if not len(track.pedal_time):
        return track.offset
    down = track.pedal_value >= _PEDAL_DOWN
    # For each change of the pedal, the first release at it or after it.
    release = np.where(down, _NEVER, track.pedal_time)
    release = np.minimum.accumulate(release[::-1])[::-1]
    release[release == _NEVER] = end
    last = np.searchsorted(track.pedal_time, track.offset, side="right") - 1
    held = (last >= 0) & down[np.maximum(last, 0)]
    return np.where(held, release[np.maximum(last, 0)], track.offset)
