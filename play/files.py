"""MIDI files of a session: what was played, and music to continue."""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from play.keyboard import Keyboard
from play.piece import FILE, Piece, PlayedNote, make_played, to_notes
from sostenuto.errors import UserError
from sostenuto.music.midi import midi_bytes
from sostenuto.music.notes import Notes

_MAX_NOTES: Final = 10_000  # the last ones of a file
_REPLAYED_US: Final = 10_000_000
_WAIT_US: Final = 200_000  # until the replay begins
_LONGEST_REST_US: Final = 1_800_000_000  # and duration, in a file: below `MAX_TIME_US`


def place_file(notes: Notes, at_us: int) -> tuple[list[PlayedNote], int]:
    """Returns the notes of a file so placed that its last ten seconds come now, and the number of those before them.

    Raises:
        UserError: there are no notes.
    """
    if not len(notes):
        raise UserError("the file has no notes. Choose another MIDI file")
    notes = notes[-_MAX_NOTES:]
    onset_us = notes.onset_us
    first = int(np.searchsorted(onset_us, onset_us[-1] - _REPLAYED_US))
    start_us = at_us + _WAIT_US - int(onset_us[first])
    return make_played(onset_us + start_us, notes.pitch, notes.duration_us, notes.velocity, FILE), first


def write_file(piece: Piece, keyboard: Keyboard, at_us: int) -> bytes:
    """Returns what was played until a time as a MIDI file, with the pedal and the keys that are down.

    Raises:
        UserError: nothing was played.
    """
    held = keyboard.held(at_us)
    is_held = {(note.onset_us, note.pitch) for note in held}
    played = [note for note in piece.notes if note.onset_us <= at_us and note[:2] not in is_held] + held
    if not played:
        raise UserError("nothing was played yet, so there is nothing to save")
    played.sort()
    onset_us = np.array([note.onset_us for note in played])
    placed = [
        note._replace(onset_us=place_us, duration_us=min(note.duration_us, _LONGEST_REST_US))
        for note, place_us in zip(played, _shorten_rests(onset_us, onset_us).tolist(), strict=True)
    ]
    spans = _shorten_rests(keyboard.pedal(at_us), onset_us).reshape(-1, 2) - placed[0].onset_us
    return midi_bytes(to_notes(placed), np.maximum(spans[spans[:, 1] > 0], 0))


def _shorten_rests(times_us: ArrayLike, onset_us: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns times as they are if no two onsets, ascending, are further apart than `_LONGEST_REST_US`."""
    times = np.asarray(times_us, np.int64)
    excess = np.append(0, np.cumsum(np.maximum(np.diff(onset_us) - _LONGEST_REST_US, 0)))
    before = np.maximum(np.searchsorted(onset_us, times, side="right") - 1, 0)
    # What was in a part of a rest that is left out comes at the rest's end.
    following = np.append((onset_us - excess)[1:], np.iinfo(np.int64).max)
    return np.minimum(times - excess[before], following[before])
