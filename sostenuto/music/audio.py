"""Notes as sound, wav or mp3: played by a sampled piano, with no system library.

`midirenderer` (a wheel without dependencies) plays the General MIDI soundfont that ships inside pretty_midi. Where
either is missing, pretty_midi adds up decaying tones: plain, but a sound all the same. The caller tells the user which
of the two it was.
"""

import dataclasses
import importlib.resources
import io
import math
import os
import wave
from types import ModuleType
from typing import Final

import numpy as np
import pretty_midi
from numpy.typing import NDArray

from sostenuto import extras
from sostenuto.errors import CannotCompressError, UserError
from sostenuto.music.midi import NO_PEDAL, sustained, to_pretty_midi
from sostenuto.music.notes import Notes
from sostenuto.storage import atomic_write

SAMPLE_RATE: Final = 48_000
"""Samples a second; the rate at which midirenderer plays, whatever one would like."""

MAX_SECONDS: Final = 20 * 60
"""A longer performance is cut here: a wav takes 11.5 MB a minute, and its format ends at 4 GB."""

TAIL_SECONDS: Final = 2.0
"""What follows the last note-off, for the release and the room to die away."""

_PEAK: Final = 0.9  # of full scale
_MP3_COMPRESSION: Final = 0.75  # of a variable bit rate, 0 to 1
_FULL_SCALE: Final = 32767
# Tried from loud to soft until nothing clips; a controller's amplitude goes with the square of its value.
_CHANNEL_VOLUMES: Final = (127, 64, 32, 16)
_VOLUME, _SUSTAIN = 7, 64  # MIDI controllers
_SOUNDFONT: Final = "TimGM6mb.sf2"


def render_wav(notes: Notes, path: str | os.PathLike, pedal: np.ndarray = NO_PEDAL) -> str:
    """Plays notes into a 16-bit wav file of `SAMPLE_RATE`, written whole or not at all.

    The loudest sample is at 90 % of full scale. The file is `TAIL_SECONDS` longer than what sounds; of what is longer
    than `MAX_SECONDS` only the beginning is played.

    Args:
        notes: what is played.
        path: the file.
        pedal: int64 `[spans, 2]`, as `sostenuto.music.midi.read_pedal` returns it: when the sustain pedal is down.

    Returns:
        A phrase that names what played, and says so where the notes were cut, for the user.

    Raises:
        UserError: there are no notes.
    """
    if not len(notes):
        raise UserError(f"{os.fspath(path)}: no notes to play, expected at least one")
    shown, pedal = beginning(notes, pedal, MAX_SECONDS)
    samples, player = render(shown, pedal)
    _write_wav(samples, path)
    return player if shown is notes else f"{player}, first {MAX_SECONDS // 60} minutes only"


def render(notes: Notes, pedal: np.ndarray = NO_PEDAL) -> tuple[NDArray[np.int16], str]:
    """Plays notes: int16 `[frames, channels]` at `SAMPLE_RATE`, the loudest at 90 % of full scale, and who played.

    Args:
        notes: what is played, at least one.
        pedal: int64 `[spans, 2]`: when the sustain pedal is down.
    """
    seconds = sustained(notes, pedal).seconds
    try:
        samples = _play_soundfont(notes, pedal, seconds)
        player = f"{_SOUNDFONT} through midirenderer"
    except (ImportError, OSError, RuntimeError) as error:
        samples = _play_tones(sustained(notes, pedal))
        player = f"plain tones of pretty_midi, for want of a piano ({error})"
    return _fit(samples, seconds + TAIL_SECONDS), player


def to_mp3(samples: NDArray[np.int16]) -> bytes:
    """Compresses sound to about 6 kB a second, in the one format that every browser plays.

    Args:
        samples: `[frames, channels]` at `SAMPLE_RATE`.

    Raises:
        CannotCompressError: the library for that is not there.
    """
    file = io.BytesIO()
    compressor().write(
        file, halved(samples), SAMPLE_RATE // 2, format="MP3", subtype="MPEG_LAYER_III",
        bitrate_mode="VARIABLE", compression_level=_MP3_COMPRESSION,
    )  # fmt: skip
    return file.getvalue()


def compressor() -> ModuleType:
    """The library that makes mp3.

    Raises:
        CannotCompressError: it is not there.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: a system without the library that its wheels bring.
        raise CannotCompressError(f"soundfile cannot be loaded ({error}). {extras.remedy('train')}") from error
    return soundfile


def halved(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """Sound at half of `SAMPLE_RATE`, which still holds all but the highest overtones of a piano.

    Args:
        samples: `[samples, 2]` at `SAMPLE_RATE`.

    Returns:
        `[samples / 2, 2]`, -1 to 1.
    """
    from scipy import signal

    return signal.resample_poly(samples.astype(np.float32) / _FULL_SCALE, 1, 2, axis=0).clip(-1, 1)


def beginning(notes: Notes, pedal: np.ndarray, seconds: float) -> tuple[Notes, np.ndarray]:
    """What starts before a time, ended there; the very same notes where none is cut.

    Args:
        notes: a performance.
        pedal: when it is down, microseconds `[times, 2]`.
        seconds: the time, from the start on.

    Returns:
        The notes, and the pedal `[times, 2]`.
    """
    end_us = round(seconds * 1e6)
    pedal = np.minimum(pedal, end_us)
    if notes.seconds <= seconds:
        return notes, pedal[pedal[:, 1] > pedal[:, 0]]
    started = notes[: int(np.searchsorted(notes.onset_us, end_us))]
    cut = dataclasses.replace(started, duration_us=np.minimum(started.duration_us, end_us - started.onset_us))
    return cut, pedal[pedal[:, 1] > pedal[:, 0]]


def _play_soundfont(notes: Notes, pedal: np.ndarray, seconds: float) -> NDArray[np.float32]:
    """Plays the soundfont's piano: float32 `[samples, 2]`, any scale.

    Raises:
        ImportError: midirenderer is not installed.
        OSError: pretty_midi carries no soundfont.
        RuntimeError: midirenderer refuses the soundfont or the MIDI.
    """
    from midirenderer import render_wave_from

    soundfont = importlib.resources.files(pretty_midi).joinpath(_SOUNDFONT).read_bytes()
    midi = to_pretty_midi(notes, pedal)
    (piano,) = midi.instruments
    # The player stops at the last event: a pedal that is up anyway holds it for the tail.
    held = [*piano.control_changes, pretty_midi.ControlChange(_SUSTAIN, 0, seconds + TAIL_SECONDS)]
    for volume in _CHANNEL_VOLUMES:
        piano.control_changes = [pretty_midi.ControlChange(_VOLUME, volume, 0.0), *held]
        data = io.BytesIO()
        midi.write(data)
        samples = _read_wav(render_wave_from(soundfont, data.getvalue()))
        if np.abs(samples).max() < _FULL_SCALE:
            break
    return samples


def _play_tones(notes: Notes) -> NDArray[np.float32]:
    """Adds up decaying tones with a few overtones: float32 `[samples, 1]`, any scale."""
    return to_pretty_midi(notes).synthesize(fs=SAMPLE_RATE, wave=_tone).astype(np.float32)[:, np.newaxis]


def _tone(phase: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sin(phase) + 0.4 * np.sin(2 * phase) + 0.15 * np.sin(3 * phase)


def _fit(samples: NDArray[np.float32], seconds: float) -> NDArray[np.int16]:
    """Cuts or fills to a length and scales to the peak: int16 `[samples, channels]`."""
    length = math.ceil(seconds * SAMPLE_RATE)
    fitted = np.zeros((length, samples.shape[1]), np.float32)
    fitted[: len(samples)] = samples[:length]
    loudest = np.abs(fitted).max() or 1.0
    fitted *= _PEAK * _FULL_SCALE / loudest
    return np.round(fitted).astype(np.int16)


def _read_wav(data: bytes) -> NDArray[np.float32]:
    with wave.open(io.BytesIO(data)) as reader:
        if (reader.getsampwidth(), reader.getframerate()) != (2, SAMPLE_RATE):
            raise RuntimeError(f"midirenderer wrote {reader.getparams()}, expected 16 bits at {SAMPLE_RATE} Hz")
        frames = np.frombuffer(reader.readframes(reader.getnframes()), "<i2")
        return frames.reshape(-1, reader.getnchannels()).astype(np.float32)


def _write_wav(samples: NDArray[np.int16], path: str | os.PathLike) -> None:
    with atomic_write(path) as file, wave.open(file, "wb") as writer:
        writer.setnchannels(samples.shape[1])
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE)
        writer.writeframes(samples.astype("<i2").tobytes())
