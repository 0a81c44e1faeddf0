"""Notes as sound, WAV or MP3, without system libraries.

`midirenderer` (a wheel without dependencies) plays the General MIDI soundfont that pretty_midi contains. Without
either of them, pretty_midi adds up decaying tones.
"""

import dataclasses
import importlib.resources
import io
import math
import wave
from types import ModuleType
from typing import Final

import numpy as np
import pretty_midi
from numpy.typing import NDArray

from sostenuto import extras
from sostenuto.errors import CannotCompressError, UserError
from sostenuto.music.midi import to_pretty_midi
from sostenuto.music.notes import Notes
from sostenuto.music.pedal import NO_PEDAL, apply_sustain
from sostenuto.storage import atomic_write
from sostenuto.storage.paths import StrPath

SAMPLE_RATE: Final = 48_000  # samples per second, fixed by midirenderer
MAX_SECONDS: Final = 20 * 60  # a WAV takes 11.5 MB a minute, and its format ends at 4 GB
TAIL_SECONDS: Final = 2.0  # after the last note-off, for release and reverberation
SOUNDFONT: Final = "TimGM6mb.sf2"

_PEAK: Final = 0.9  # of full scale
_MP3_COMPRESSION: Final = 0.75  # of a variable bit rate, 0 to 1
_FULL_SCALE: Final = 32767
# Tried from loud to soft until nothing clips; amplitude is proportional to the square of a controller's value.
_CHANNEL_VOLUMES: Final = (127, 64, 32, 16)
_VOLUME, _SUSTAIN = 7, 64  # MIDI controllers


def render_wav(notes: Notes, path: StrPath, pedal: np.ndarray = NO_PEDAL) -> str:
    """Plays notes into a WAV file of 48 kHz and 16 bits, written atomically.

    The file is two seconds longer than the notes, of which only the first 20 minutes are played.

    Args:
        notes: the notes.
        path: the file.
        pedal: int64 `[spans, 2]`, as `read_pedal` returns it.

    Returns:
        The name of the player, for the user, and whether the notes were truncated.

    Raises:
        UserError: there are no notes.
    """
    if not len(notes):
        raise UserError(f"{path}: no notes to play, expected at least one")
    played, pedal = truncate(notes, pedal, MAX_SECONDS)
    samples, player = render(played, pedal)
    with atomic_write(path) as file, wave.open(file, "wb") as writer:
        writer.setnchannels(samples.shape[1])
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE)
        writer.writeframes(samples.astype("<i2").tobytes())
    return player if played is notes else f"{player}, first {MAX_SECONDS // 60} minutes only"


def render(notes: Notes, pedal: np.ndarray = NO_PEDAL) -> tuple[NDArray[np.int16], str]:
    """Returns the sound of at least one note under a pedal, int16 `[frames, channels]`, and the name of the player."""
    sustained = apply_sustain(notes, pedal)
    try:
        samples = _play_soundfont(notes, pedal, sustained.seconds)
        player = f"{SOUNDFONT} through midirenderer"
    except (ImportError, OSError, RuntimeError) as error:  # One of them is missing, or rejects the other.
        tones = to_pretty_midi(sustained).synthesize(fs=SAMPLE_RATE, wave=_tone)
        samples = tones.astype(np.float32)[:, np.newaxis]
        player = f"plain tones of pretty_midi, without a piano ({error})"
    fitted = np.zeros((math.ceil((sustained.seconds + TAIL_SECONDS) * SAMPLE_RATE), samples.shape[1]), np.float32)
    fitted[: len(samples)] = samples[: len(fitted)]
    fitted *= _PEAK * _FULL_SCALE / (np.abs(fitted).max() or 1.0)
    return np.round(fitted).astype(np.int16), player


def to_mp3(samples: NDArray[np.int16]) -> bytes:
    """Returns sound, `[frames, channels]`, as MP3 of about 6 kB per second; raises CannotCompressError."""
    file = io.BytesIO()
    compressor().write(
        file, downsample(samples), SAMPLE_RATE // 2, format="MP3", subtype="MPEG_LAYER_III",
        bitrate_mode="VARIABLE", compression_level=_MP3_COMPRESSION,
    )  # fmt: skip
    return file.getvalue()


def compressor() -> ModuleType:
    """Returns soundfile, which writes MP3; raises CannotCompressError if it is not installed."""
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the system lacks the library that its wheels contain.
        raise CannotCompressError(f"soundfile cannot be loaded ({error}). {extras.remedy('train')}") from error
    return soundfile


def downsample(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """Returns sound, `[samples, 2]`, at half of `SAMPLE_RATE`, from -1 to 1; it loses a piano's highest overtones."""
    from scipy import signal

    return signal.resample_poly(samples.astype(np.float32) / _FULL_SCALE, 1, 2, axis=0).clip(-1, 1)


def truncate(notes: Notes, pedal: np.ndarray, seconds: float) -> tuple[Notes, np.ndarray]:
    """Returns the notes that start before a time, ended there, and their pedal; the same object if none is cut."""
    end_us = round(seconds * 1e6)
    pedal = np.minimum(pedal, end_us)
    pedal = pedal[pedal[:, 1] > pedal[:, 0]]
    if notes.seconds <= seconds:
        return notes, pedal
    started = notes[: int(np.searchsorted(notes.onset_us, end_us))]
    duration_us = np.minimum(started.duration_us, end_us - started.onset_us)
    return dataclasses.replace(started, duration_us=duration_us), pedal


def _play_soundfont(notes: Notes, pedal: np.ndarray, seconds: float) -> NDArray[np.float32]:
    """Returns the sound of the soundfont's piano: float32 `[samples, 2]`, any scale."""
    from midirenderer import render_wave_from

    soundfont = importlib.resources.files(pretty_midi).joinpath(SOUNDFONT).read_bytes()
    midi = to_pretty_midi(notes, pedal)
    (piano,) = midi.instruments
    # The player stops at the last event: releasing the pedal at the end makes it play the tail.
    changes = [*piano.control_changes, pretty_midi.ControlChange(_SUSTAIN, 0, seconds + TAIL_SECONDS)]
    for volume in _CHANNEL_VOLUMES:
        piano.control_changes = [pretty_midi.ControlChange(_VOLUME, volume, 0.0), *changes]
        data = io.BytesIO()
        midi.write(data)
        samples = _read_wav(render_wave_from(soundfont, data.getvalue()))
        if np.abs(samples).max() < _FULL_SCALE:
            break
    return samples


def _tone(phase: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns a wave with a few overtones."""
    return np.sin(phase) + 0.4 * np.sin(2 * phase) + 0.15 * np.sin(3 * phase)


def _read_wav(data: bytes) -> NDArray[np.float32]:
    """Returns the samples of a WAV file: float32 `[frames, channels]`."""
    with wave.open(io.BytesIO(data)) as reader:
        if (reader.getsampwidth(), reader.getframerate()) != (2, SAMPLE_RATE):
            raise RuntimeError(f"midirenderer: got {reader.getparams()}, expected 16 bits at {SAMPLE_RATE} Hz")
        frames = np.frombuffer(reader.readframes(reader.getnframes()), "<i2")
        return frames.reshape(-1, reader.getnchannels()).astype(np.float32)
