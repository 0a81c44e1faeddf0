"""A sustain pedal for notes that have none: a rule, for models whose durations end when a key is released.

It is a guess, since keys alone do not tell what a foot did; docs/generating.md says how good a guess.
"""

import numpy as np

from notes.midi import NO_PEDAL
from notes.representation import Notes

_CHORD_US = 40_000  # notes struck within this time are one chord
_TEXTURE_NOTES = 24  # so many notes back ...
_WIDE = 40  # ... and so many semitones apart: more than two hands hold
_CLASHES = 3  # pairs of notes a semitone or a whole tone apart that blur
_SHORTEST_US = 300_000  # between two changes
# After a chord's onset, the foot following the hand; down again sooner where a key would be released before.
_UP_US, _DOWN_US = 50_000, 150_000


def legato_pedal(notes: Notes) -> np.ndarray:
    """When a pianist might have held the sustain pedal.

    It is down where the texture is wide, and is changed just after a chord that brings a new lowest note or that would
    blur with what was struck since the last change.

    Returns:
        int64 `[spans, 2]`, microseconds from the first onset: when it goes down, and when it comes up.
    """
    if not len(notes):
        return NO_PEDAL
    pitch, onset = notes.pitch.astype(np.int64), notes.onset_us
    starts = _chord_starts(onset)
    ends = np.append(starts[1:], len(notes))
    following = np.append(onset[starts[1:]], max(notes.offset_us.max(), onset[-1] + 1))
    spans = []
    begun, changed_us, heard = None, 0, np.zeros(0, np.int64)
    for start, end, next_us in zip(starts, ends, following, strict=True):
        recent, chord = pitch[max(0, end - _TEXTURE_NOTES) : end], pitch[start:end]
        wide = np.ptp(recent) >= _WIDE
        if begun is not None and (
            not wide or (onset[start] - changed_us > _SHORTEST_US and _wants_change(chord, heard))
        ):
            spans.append((begun, min(onset[start] + _UP_US, next_us)))
            begun = None
        if wide and begun is None:
            caught_us = max(onset[start] + _UP_US, min(onset[start] + _DOWN_US, notes.offset_us[start:end].min()))
            begun, changed_us, heard = min(caught_us, next_us), onset[start], chord
        else:
            heard = np.append(heard, chord)
    if begun is not None:
        spans.append((begun, following[-1]))
    made = np.array(spans, np.int64).reshape(-1, 2)
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
    after = np.maximum(legato_pedal(notes), seam_us) if by_rule else NO_PEDAL
    before, after = (spans[spans[:, 1] > spans[:, 0]] for spans in (before, after))
    if len(before) and len(after) and before[-1, 1] == after[0, 0]:  # It stays down over the seam.
        after[0, 0] = before[-1, 0]
        before = before[:-1]
    return np.concatenate([before, after])


def _chord_starts(onset_us: np.ndarray) -> np.ndarray:
    """The first note of each chord."""
    return np.flatnonzero(np.diff(onset_us, prepend=-_CHORD_US - 1) > _CHORD_US)


def _wants_change(chord: np.ndarray, heard: np.ndarray) -> bool:
    """Whether a chord would be blurred by the notes that were struck under the pedal."""
    clashes = np.isin(np.abs(chord[:, np.newaxis] - heard), (1, 2)).sum()
    return bool(chord.min() < heard.min() or clashes >= _CLASHES)
