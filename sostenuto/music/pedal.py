"""A sustain pedal for notes that have none: a rule, for models whose durations end when a key is released.

It is a guess, since keys alone do not tell what a foot did; docs/generating.md says how good a guess.
"""

import numpy as np

from sostenuto.music.midi import NO_PEDAL
from sostenuto.music.notes import Notes

_CHORD_US = 40_000  # notes struck within this time are one chord
_TEXTURE_NOTES = 24  # so many notes back ...
_WIDE = 40  # ... and so many semitones apart: more than two hands hold
_CLASHES = 3  # pairs of notes a semitone or a whole tone apart that blur
_SHORTEST_US = 300_000  # between two changes
# After a chord's onset, for the foot follows the hand: the change begins, and ends in time to catch the shortest key.
_UP_US, _SOONEST_DOWN_US, _DOWN_US = 50_000, 80_000, 150_000


def infer_pedal(notes: Notes) -> np.ndarray:
    """When a pianist might have held the sustain pedal.

    It is down where the texture is wide, and is changed just after a chord that brings a lower note, or several notes
    close to those struck since the last change.

    Returns:
        int64 `[spans, 2]`, microseconds from the first onset: when it goes down, and when it comes up.
    """
    if not len(notes):
        return NO_PEDAL
    pitch, onset, offset = notes.pitch.astype(np.int64), notes.onset_us, notes.offset_us
    starts = _chord_starts(onset)
    spans = []
    begun, changed_us, heard = None, 0, np.zeros(0, np.int64)
    for start, end in zip(starts, np.append(starts[1:], len(notes)), strict=True):
        chord, struck_us = pitch[start:end], onset[start]
        wide = np.ptp(pitch[max(0, end - _TEXTURE_NOTES) : end]) >= _WIDE
        in_time = struck_us - changed_us > _SHORTEST_US
        if begun is not None and (not wide or (in_time and _would_blur(chord, heard))):
            spans.append((begun, struck_us + _UP_US))
            begun = None
        if wide and begun is None:
            begun = np.clip(offset[start:end].min(), struck_us + _SOONEST_DOWN_US, struck_us + _DOWN_US)
            changed_us, heard = struck_us, chord
        else:
            heard = np.append(heard, chord)
    if begun is not None:
        spans.append((begun, offset.max()))
    made = np.minimum(np.array(spans, np.int64).reshape(-1, 2), offset.max())
    return made[made[:, 1] > made[:, 0]]


def continued_pedal(pedal: np.ndarray, notes: Notes, primer_notes: int, *, by_rule: bool) -> np.ndarray:
    """The primer's pedal up to the first note after it, and from there on the rule's or none.

    Args:
        pedal: int64 `[spans, 2]`, the primer's.
        notes: the primer and its continuation.
        primer_notes: how many notes are the primer's.
        by_rule: whether the continuation has a pedal.

    Returns:
        int64 `[spans, 2]`.
    """
    seam_us = notes.onset_us[primer_notes] if primer_notes else 0
    before = np.minimum(pedal, seam_us)
    after = np.maximum(infer_pedal(notes), seam_us) if by_rule else NO_PEDAL
    before, after = (spans[spans[:, 1] > spans[:, 0]] for spans in (before, after))
    if len(before) and len(after) and before[-1, 1] == after[0, 0]:  # It stays down over the seam.
        after[0, 0] = before[-1, 0]
        before = before[:-1]
    return np.concatenate([before, after])


def _chord_starts(onset_us: np.ndarray) -> np.ndarray:
    """The first note of each chord."""
    return np.flatnonzero(np.diff(onset_us, prepend=-_CHORD_US - 1) > _CHORD_US)


def _would_blur(chord: np.ndarray, heard: np.ndarray) -> bool:
    """Whether a chord wants the notes that were struck under the pedal to end."""
    clashes = np.isin(np.abs(chord[:, np.newaxis] - heard), (1, 2)).sum()
    return bool(chord.min() < heard.min() or clashes >= _CLASHES)
