"""Standard MIDI files built byte by byte, without a library that would correct them."""

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from sostenuto.music.notes import Notes

END_OF_TRACK = (0, b"\xff\x2f\x00")

# (ticks since the previous event, the event's bytes)
Event = tuple[int, bytes]


def on(delta: int, pitch: int, velocity: int = 64, channel: int = 0) -> Event:
    return delta, bytes([0x90 | channel, pitch, velocity])


def off(delta: int, pitch: int, channel: int = 0) -> Event:
    return delta, bytes([0x80 | channel, pitch, 0])


def pedal(delta: int, value: int, channel: int = 0) -> Event:
    return delta, bytes([0xB0 | channel, 64, value])


def program(delta: int, number: int, channel: int = 0) -> Event:
    return delta, bytes([0xC0 | channel, number])


def tempo(delta: int, microseconds_a_quarter: int) -> Event:
    return delta, b"\xff\x51\x03" + microseconds_a_quarter.to_bytes(3, "big")


def track(events: Iterable[Event], *, end: bool = True) -> bytes:
    """Returns an MTrk chunk; `end` adds the end-of-track event."""
    body = b"".join(_variable_length(delta) + data for delta, data in [*events, *([END_OF_TRACK] if end else [])])
    return b"MTrk" + struct.pack(">I", len(body)) + body


def midi_bytes(
    *tracks: Iterable[Event] | bytes, resolution: int = 500, midi_format: int = 1, declared_tracks: int | None = None
) -> bytes:
    """Returns a MIDI file of the given tracks (lists of events, or chunks).

    With the default resolution and MIDI's default tempo, a tick is a millisecond.
    """
    chunks = [item if isinstance(item, bytes) else track(item) for item in tracks]
    declared = len(chunks) if declared_tracks is None else declared_tracks
    return b"MThd" + struct.pack(">IHHH", 6, midi_format, declared, resolution) + b"".join(chunks)


def melody(pitches: Sequence[int], *, step: int = 250, duration: int = 200, velocity: int = 64) -> bytes:
    """Returns a MIDI file that plays the pitches one after another; times in milliseconds."""
    times = sorted(
        (time, kind, pitch)
        for index, pitch in enumerate(pitches)
        for time, kind, pitch in ((index * step, "on", pitch), (index * step + duration, "off", pitch))
    )
    events, now = [], 0
    for time, kind, pitch in times:
        events.append(on(time - now, pitch, velocity) if kind == "on" else off(time - now, pitch))
        now = time
    return midi_bytes(events)


def random_notes(seed: int, count: int = 200) -> Notes:
    """Returns random chords and rests with all velocities; no pitch overlaps itself."""
    rng = np.random.default_rng(seed)
    onset_us = np.cumsum(rng.choice([0, 120_000, 250_000, 1_500_000], count, p=[0.3, 0.4, 0.25, 0.05]))
    onset_us += rng.integers(0, 10_000, count)
    onset_us.sort()
    pitch = 21 + rng.permutation(np.resize(np.arange(88), count))
    duration_us = rng.integers(20_000, 900_000, count)
    # A note ends, at the latest, at the next onset of its pitch.
    for index in range(count):
        again = np.flatnonzero((pitch == pitch[index]) & (onset_us > onset_us[index]))
        if again.size:
            duration_us[index] = min(duration_us[index], onset_us[again[0]] - onset_us[index])
    first = np.unique(np.stack([onset_us, pitch]), axis=1, return_index=True)[1]
    return Notes.from_onsets(
        pitch[first], onset_us[first], (onset_us + duration_us)[first], rng.integers(1, 128, count)[first]
    )


def write_corpus(directory: Path, files: dict[str, bytes]) -> Path:
    """Writes files below a directory and returns it."""
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory


def _variable_length(number: int) -> bytes:
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(number & 0x7F | 0x80)
    return bytes(reversed(digits))
