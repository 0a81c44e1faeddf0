"""Samples of a piano for the page, rendered from the soundfont."""

import functools
import io
import threading
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sostenuto.music import audio
from sostenuto.music.notes import Notes

PITCHES: Final = tuple(range(21, 109, 4))
"""A page plays the pitches between them faster or slower."""

VELOCITIES: Final = (60, 110)

_LONGEST_SECONDS: Final = 8.0  # of the lowest note, until it has decayed
_SHORTEST_SECONDS: Final = 1.6
_GAP_SECONDS: Final = 0.5  # after each note, so that none sounds into the next
_FADE_SECONDS: Final = 0.2  # at the end of a sample


_lock = threading.Lock()


def get_samples() -> dict[tuple[int, int], bytes]:
    """Returns a FLAC of one channel for each pitch and velocity; the first call renders them, which takes seconds."""
    with _lock:
        return _render_samples()


@functools.cache
def _render_samples() -> dict[tuple[int, int], bytes]:
    starts, ends, pitches, velocities = zip(*_schedule(), strict=True)
    onset_us, offset_us = (np.rint(np.array(times) * 1e6).astype(np.int64) for times in (starts, ends))
    notes = Notes.from_onsets(pitches, onset_us, offset_us, velocities)
    sound, _ = audio.render(notes)
    mono = sound.mean(axis=1)
    samples = {}
    for start, end, pitch, velocity in zip(starts, ends, pitches, velocities, strict=True):
        first, last = round(start * audio.SAMPLE_RATE), round(end * audio.SAMPLE_RATE)
        samples[pitch, velocity] = _to_flac(mono[first:last])
    return samples


def _schedule() -> Iterator[tuple[float, float, int, int]]:
    """Yields start and end in seconds, pitch and velocity of each note, one after the other."""
    start = 0.0
    for index, pitch in enumerate(PITCHES):
        height = index / (len(PITCHES) - 1)
        seconds = _LONGEST_SECONDS * (_SHORTEST_SECONDS / _LONGEST_SECONDS) ** height
        for velocity in VELOCITIES:
            yield start, start + seconds, pitch, velocity
            start += seconds + _GAP_SECONDS


def _to_flac(samples: NDArray[np.floating]) -> bytes:
    fade = min(round(_FADE_SECONDS * audio.SAMPLE_RATE), len(samples))
    faded = samples.copy()
    faded[len(faded) - fade :] *= np.linspace(1, 0, fade)
    file = io.BytesIO()
    audio.compressor().write(file, np.round(faded).astype(np.int16), audio.SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()
