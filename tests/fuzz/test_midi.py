"""Mutated MIDI files: read as a plain reader and pretty_midi read them, or rejected with a reason.

SOSTENUTO_FUZZ=40000 tries that many, with SOSTENUTO_SEED as the seed. A failure names the seed and the file.
"""

import io
import os
import random
import struct
import warnings
from collections import Counter

import numpy as np
import pretty_midi
import pytest

from sostenuto.errors import MidiDecodeError
from sostenuto.music import _decode
from sostenuto.music._events import read_events
from sostenuto.music.midi import read_midi
from tests.factories import Event, melody, midi_bytes, off, on, pedal, program, tempo, track
from tests.fuzz.plain_midi import Bytes, Plain, RefusedError, read_chunks, read_plain

COUNT = int(os.environ.get("SOSTENUTO_FUZZ") or 1000)
SEED = int(os.environ.get("SOSTENUTO_SEED") or 0)

# Events that mutations insert: kinds of messages and metas, sound and malformed.
EVENTS = [
    *(b"\xff\x51\x03\x06\x1a\x80", b"\xff\x51\x03\0\0\0", b"\xff\x51\0", b"\xff\x51\x01\x07", b"\xff\x51\x02\x07\xa1"),
    *(b"\xff\x51\x05\x06\x1a\x80\0\xff", b"\xff\x2f\0", b"\xff\x2f\x02\0\0", b"\xff\x59\x02\x08\0", b"\xff\x59\0"),
    *(b"\xff\x58\x01\x04", b"\xff\x58\x04\0\x02\x18\x08", b"\xff\x54\x02\0\0", b"\xff\0\x01\x07", b"\xff\x20\x01\x03"),
    *(b"\xff\x21\x01\x01", b"\xff\x05\x02la", b"\xff\x7f\x03\xff\x51\x03", b"\xff\x01\x81\0" + b"x" * 128),
    *(
        b"\xf0\x05\x7e\x7f\x09\x01\xf7",
        b"\xf0\x02\xff\xf7",
        b"\xf0\0",
        b"\xf7\x05\x7e\x7f\x09\x01\xf7",
        b"\xf7\x01\x90",
    ),
    *(b"\xf1\x01", b"\xf2\x01\x02", b"\xf3\x01", b"\xf4", b"\xf6", b"\xf8", b"\xfe", b"\x3c\x40", b"\x3c\0", b"\x05"),
    *(b"\xc0\x05", b"\xd0\x40", b"\xe0\0\x40", b"\xa0\x3c\x40", b"\xb0\x40\x7f", b"\xb0\x40\0", b"\xb0\x7b\0"),
    *(b"\x90\x3c\x40", b"\x90\x3c\0", b"\x80\x3c\x40", b"\x99\x24\x40", b"\x91\x3c\x80", b"\xbf\xff\x2f\0"),
]
DELTAS = [b"\0", b"\0", b"\x05", b"\x81\0", b"\xf0\0", b"\xff\x7f", b"\x81\x80\0", b"\x81\x80\x80\0"]
DELTAS.append(b"\x81\x80\x80\x80\0")  # longer than the standard permits


def running(pitches: range) -> list[Event]:
    first, *others = [(delta, bytes([pitch, velocity])) for pitch in pitches for delta, velocity in ((9, 64), (90, 0))]
    return [(first[0], b"\x90" + first[1]), *others]


SOUND = [
    melody(range(40, 60)),
    midi_bytes(running(range(50, 80)), resolution=96),
    midi_bytes(
        [tempo(0, 600_000), (0, b"\xff\x58\x04\x04\x02\x18\x08"), tempo(300, 400_000), tempo(300, 350_000)],
        [program(0, 3), pedal(0, 127), *running(range(60, 70)), pedal(90, 0), pedal(1, 90), *running(range(60, 66))],
        [(0, b"\xff\x03\x04left"), *running(range(30, 45)), on(1000, 33), on(50, 33), off(50, 33), off(50, 33)],
    ),
    midi_bytes(
        [
            *(program(0, 0), program(0, 40, 1), on(0, 60), on(5, 60, 90, 1), on(0, 36, 99, 9), off(20, 60)),
            *(off(5, 60, 1), off(0, 36, 9), pedal(0, 64, 1), on(0, 64, 70, 1), off(20, 64, 1), pedal(20, 63, 1)),
        ],
        midi_format=0,
    ),
    midi_bytes(
        [(0, b"\xf0\x05\x7e\x7f\x09\x01\xf7"), *running(range(60, 75)), (0, b"\xf7\x01\0"), on(0, 80), off(30_000, 80)],
        track(running(range(40, 50)), end=False),
        resolution=32767,
    ),
]  # fmt: skip


def split(data: bytes) -> list[list[bytes]]:
    """Returns the bytes of each event of each track."""
    tracks = []
    for body in read_chunks(Bytes(data))[1]:
        ends = [end for *_, end in read_events(body)]
        tracks.append([body[start:end] for start, end in zip([0, *ends], ends, strict=False)])
    return tracks


def mutate(rng: random.Random) -> bytes:
    """Returns a file of SOUND with a few mutations: of its events, of its bytes, or of both."""
    data = rng.choice(SOUND)
    if rng.random() < 0.7:
        tracks = split(data)
        for _ in range(rng.choice([1, 2, 4])):
            mutate_events(rng.choice(tracks), rng)
        if rng.random() < 0.1:
            tracks.insert(rng.randrange(len(tracks) + 1), rng.choice([[], tracks[0]]))
        chunks = [b"MTrk" + struct.pack(">I", len(body)) + body for body in map(b"".join, tracks)]
        declared = len(tracks) if rng.random() < 0.9 else rng.randrange(4)
        data = data[:10] + struct.pack(">H", declared) + data[12:14] + b"".join(chunks)
    if rng.random() < 0.5:
        data = mutate_bytes(bytearray(data), rng)
    return data[: rng.randrange(len(data))] if data and rng.random() < 0.02 else data


def mutate_events(events: list[bytes], rng: random.Random) -> None:
    position, length = rng.randrange(len(events) + 1), rng.choice([1, 1, 2, 8])
    match rng.randrange(7):
        case 0:
            del events[position : position + length]
        case 1:
            events[position:position] = events[position : position + length]
        case 2:
            events[position:position] = [rng.choice(DELTAS) + event[1:] for event in events[position : position + 1]]
        case 3:
            other = rng.choice(split(rng.choice(SOUND)))
            start = rng.randrange(len(other))
            events[position:position] = other[start : start + length]
        case _:
            events[position:position] = [rng.choice(DELTAS) + rng.choice(EVENTS) for _ in range(rng.choice([1, 1, 2]))]


def mutate_bytes(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice([1, 1, 1, 2, 6])):
        position, length = rng.randrange(len(data) + 1), rng.choice([1, 1, 2, 3, 4, 9, 40])
        before = len(data)
        match rng.randrange(5):
            case 0:
                data[position : position + 1] = rng.randbytes(1)
            case 1:
                data[position : position + 1] = bytes(byte ^ 1 << rng.randrange(8) for byte in data[position:][:1])
            case 2:
                del data[position : position + length]
            case 3:
                data[position:position] = data[position : position + length]
            case 4:
                data[position : position + length] = rng.randbytes(length)
        start = data.rfind(b"MTrk", 0, position)
        if start >= 0 and rng.random() < 0.9:  # The track's length is kept right, or it would hide all other faults.
            size = int.from_bytes(data[start + 4 : start + 8], "big") + len(data) - before
            data[start + 4 : start + 8] = max(size, 0).to_bytes(4, "big")
    return bytes(data)


def read_with_pretty_midi(data: bytes) -> list[tuple[int, float, float, int]] | None:
    """Returns its notes but drums, in microseconds from the first onset; None if it refuses the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            instruments = pretty_midi.PrettyMIDI(io.BytesIO(data)).instruments
    except Exception:  # It raises many kinds.
        return None
    notes = [note for instrument in instruments if not instrument.is_drum for note in instrument.notes]
    first = min((note.start for note in notes), default=0)
    return sorted((note.pitch, (note.start - first) * 1e6, (note.end - first) * 1e6, note.velocity) for note in notes)


def check(data: bytes) -> str:
    """Fails where a file is read wrongly; returns the outcome, for the count."""
    try:
        plain: Plain | None = read_plain(data)
    except RefusedError:
        plain = None
    theirs = read_with_pretty_midi(data)
    try:
        ours = read_midi(data, "x.mid")
        tracks = _decode.read_tracks(data, "x.mid", with_pedal=True).tracks
    except MidiDecodeError as error:
        assert "\n" not in str(error)
        is_bound = error.reason == "too_large" or "24 allowed" in error.detail or "_us: got" in error.detail
        assert plain is None or is_bound, f"rejected a file that is sound: {error}"
        return "rejected by us, read by pretty_midi" if theirs else "rejected by both"
    assert plain is not None, "accepted what is no sequence of events"
    first = min((onset for onset, *_ in plain.notes), default=0)
    expected = [(onset - first, pitch, offset - first, velocity) for onset, pitch, offset, velocity in plain.notes]
    notes = ours.notes
    columns = (notes.onset_us, notes.pitch, notes.offset_us, notes.velocity)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected
    assert (ours.zero_length, ours.unended) == (plain.zero_length, plain.unended)
    assert pedals_of(tracks) == sorted(
        [(time, value >= 64) for time, value in pedal] for pedal in plain.pedals if pedal
    )
    if theirs is None:
        return "read by us only"
    if plain.traits:
        return "read otherwise by pretty_midi: " + ", ".join(sorted(plain.traits))
    by_pitch = sorted((pitch, onset, offset, velocity) for onset, pitch, offset, velocity in expected)
    assert [(note[0], note[3]) for note in by_pitch] == [(note[0], note[3]) for note in theirs]
    if by_pitch:
        assert np.abs(np.array(by_pitch) - np.array(theirs))[:, 1:3].max() <= 2, "other times than pretty_midi"
    return "read by both"


def pedals_of(tracks: list[_decode.Track]) -> list[list[tuple[int, bool]]]:
    pedals = (zip(track.pedal_time.tolist(), (track.pedal_value >= 64).tolist(), strict=True) for track in tracks)
    return sorted(filter(None, map(list, pedals)))


def spied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns a list that grows with each call of our own reader."""
    calls: list[str] = []
    read_bodies = _decode._read_bodies

    def spy(bodies, name, **options):
        calls.append(name)
        return read_bodies(bodies, name, **options)

    monkeypatch.setattr(_decode, "_read_bodies", spy)
    return calls


@pytest.mark.parametrize("data", SOUND)
def test_sound_files_are_read_by_both(data):
    assert check(data) == "read by both"


def test_mutated_files_are_read_rightly_or_rejected(monkeypatch):
    monkeypatch.setattr(pretty_midi.pretty_midi, "MAX_TICK", 1_000_000)  # It takes 8 bytes for each MIDI tick.
    outcomes: Counter[str] = Counter()
    slow = spied(monkeypatch)
    for number in range(COUNT):
        rng = random.Random(f"{SEED}:{number}")
        data = mutate(rng)
        # Real tracks are longer than these and what is walked of each.
        monkeypatch.setattr(_decode, "_HEAD_BYTES", rng.choice([0, 0, 40, 1024]))
        try:
            outcomes[check(data)] += 1
        except Exception as error:
            raise AssertionError(f"SOSTENUTO_SEED={SEED}, file {number}: {data.hex()}") from error
    print(f"\nMIDI: {COUNT:,} mutated files of seed {SEED}")
    print(f"{len(slow) // 2:8,}  walked by our own reader")
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:8,}  {outcome}")
    assert outcomes["read by both"] > COUNT / 10
    assert outcomes["rejected by both"] > COUNT / 10
