"""MIDI files as rows of their notes, to compare with."""

from io import BytesIO

from sostenuto.music.midi import read_midi, to_pretty_midi
from sostenuto.music.notes import Notes
from tests.factories import midi_bytes


def rows(notes: Notes) -> list[tuple[int, int, int, int]]:
    """Returns (onset, pitch, offset, velocity) of each note, times in microseconds from the first onset."""
    return list(
        zip(*(array.tolist() for array in (notes.onset_us, notes.pitch, notes.offset_us, notes.velocity)), strict=True)
    )


def read(*tracks, sustain="ignore", **header) -> list[tuple[int, int, int, int]]:
    return rows(read_midi(midi_bytes(*tracks, **header), "x.mid", sustain=sustain).notes)


def written_and_read(notes: Notes) -> Notes:
    buffer = BytesIO()
    to_pretty_midi(notes).write(buffer)
    return read_midi(buffer.getvalue(), "x.mid").notes
