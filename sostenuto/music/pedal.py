"""The sustain pedal: when it is down, the notes that it extends, and a rule for notes that have no pedal.

`_decode.py` reads the pedal's messages (controller 64) from a MIDI file. `midi.py` calls this module as it reads notes.

The rule is a guess, because keys do not determine the pedal; docs/generating.md says how good a guess.
"""

import dataclasses

import numpy as np

from sostenuto.music._decode import PEDAL_DOWN, Track, concatenate
from sostenuto.music.notes import MAX_TIME_US, Notes

NO_PEDAL = np.zeros([0, 2], np.int64)
"""A sustain pedal that is never down."""

_NEVER = np.iinfo(np.int64).max

_CHORD_US = 40_000  # notes struck within this time are one chord
_TEXTURE_NOTES = 24  # the last notes, whose range ...
_WIDE = 40  # ... in semitones needs a pedal: more than two hands span
_CLASHES = 3  # pairs of notes a semitone or a whole tone apart that blur
_MIN_CHANGE_US = 300_000  # between two changes
# After a chord's onset, because the foot follows the hand: the pedal comes up, and goes down in time for the shortest
# key.
_UP_US, _EARLIEST_DOWN_US, _DOWN_US = 50_000, 80_000, 150_000


def pedal_spans(tracks: list[Track]) -> np.ndarray:
    """Returns when the pedal of any track is down: int64 `[spans, 2]`, microseconds from the first onset."""
    notes = concatenate(tracks)
    end = int(notes.offset.max(initial=0))
    spans = np.concatenate([NO_PEDAL, *[_track_spans(track, end) for track in tracks]])
    spans = np.maximum(spans - notes.onset.min(initial=end), 0)
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    up = np.maximum.accumulate(spans[:, 1])
    is_first = np.append(True, spans[1:, 0] > up[:-1])[: len(spans)]
    is_last = np.append(is_first[1:], True)[: len(spans)]
    return _drop_empty(np.stack([spans[is_first, 0], up[is_last]], axis=1))


def extended_offsets(notes: Track, tracks: list[Track]) -> np.ndarray:
    """Returns the offsets under the pedal of `notes`, those of all `tracks`: int64 `[n]`, microseconds.

    A key released while its channel's pedal is down sounds until the pedal is released or the pitch is struck again, at
    most as long as a note can be: `MAX_TIME_US`. A pedal that is never released is released at the last note-off.
    """
    end = int(notes.offset.max(initial=0))
    released = np.concatenate([notes.offset[:0], *[_release_times(track, end) for track in tracks]])
    order = np.lexsort((notes.onset, notes.pitch))
    pitch, onset = notes.pitch[order], notes.onset[order]
    # The next onset of the same pitch that is later than this one; notes struck together share it.
    key = pitch.astype(np.int64) * (2**48) + onset
    following = np.searchsorted(key, key, side="right")
    next_index = np.minimum(following, len(key) - 1)
    has_next = (following < len(key)) & (pitch[next_index] == pitch)
    restruck = np.where(has_next, onset[next_index], _NEVER)
    extended = np.empty_like(notes.offset)
    latest = np.minimum(np.minimum(released[order], restruck), onset + MAX_TIME_US)
    extended[order] = np.maximum(notes.offset[order], latest)
    return extended


def apply_sustain(notes: Notes, pedal: np.ndarray) -> Notes:
    """Returns notes as they sound under a pedal, int64 `[spans, 2]`, as `read_midi` with "extend" returns them."""
    values = np.tile([127, 0], len(pedal))
    track = Track(notes.pitch, notes.onset_us, notes.offset_us, notes.velocity, pedal.ravel(), values)
    return dataclasses.replace(notes, duration_us=extended_offsets(track, [track]) - track.onset)


def infer_pedal(notes: Notes) -> np.ndarray:
    """Returns when a pianist might have held the sustain pedal: int64 `[spans, 2]`, as `read_pedal` returns it.

    The pedal is down where the texture is wide. It changes just after a chord that brings a lower note, or several
    notes close to those struck since the last change.
    """
    if not len(notes):
        return NO_PEDAL
    pitch, onset, offset = notes.pitch.astype(np.int64), notes.onset_us, notes.offset_us
    starts = np.flatnonzero(np.diff(onset, prepend=-_CHORD_US - 1) > _CHORD_US)
    spans = []
    down_us, changed_us, sounding = None, 0, np.zeros(0, np.int64)
    for start, end in zip(starts, np.append(starts[1:], len(notes)), strict=True):
        chord, chord_us = pitch[start:end], onset[start]
        is_wide = np.ptp(pitch[max(0, end - _TEXTURE_NOTES) : end]) >= _WIDE
        may_change = chord_us - changed_us > _MIN_CHANGE_US
        if down_us is not None and (not is_wide or (may_change and _would_blur(chord, sounding))):
            spans.append((down_us, chord_us + _UP_US))
            down_us = None
        if is_wide and down_us is None:
            down_us = np.clip(offset[start:end].min(), chord_us + _EARLIEST_DOWN_US, chord_us + _DOWN_US)
            changed_us, sounding = chord_us, chord
        else:
            sounding = np.append(sounding, chord)
    if down_us is not None:
        spans.append((down_us, offset.max()))
    return _drop_empty(np.minimum(np.array(spans, np.int64).reshape(-1, 2), offset.max()))


def continued_pedal(pedal: np.ndarray, notes: Notes, primer_notes: int, *, by_rule: bool) -> np.ndarray:
    """Returns the primer's pedal, int64 `[spans, 2]`, up to the seam, and from there the rule's or none."""
    seam_us = notes.onset_us[primer_notes] if primer_notes else 0
    before = _drop_empty(np.minimum(pedal, seam_us))
    after = _drop_empty(np.maximum(infer_pedal(notes), seam_us) if by_rule else NO_PEDAL)
    if len(before) and len(after) and before[-1, 1] == after[0, 0]:  # It stays down across the seam.
        after[0, 0] = before[-1, 0]
        before = before[:-1]
    return np.concatenate([before, after])


def _track_spans(track: Track, end: int) -> np.ndarray:
    """Returns when one track's pedal is down: int64 `[spans, 2]`."""
    down = np.concatenate([[False], track.pedal_value >= PEDAL_DOWN, [False]])
    changes = np.append(track.pedal_time, end)[down[1:] != down[:-1]]
    changes[1::2] = np.maximum(changes[1::2], changes[::2])  # A pedal may go down after the last note-off.
    return changes.reshape(-1, 2)


def _release_times(track: Track, end: int) -> np.ndarray:
    """Returns when the pedal lets each note end: its offset, or the release of a pedal that is down then."""
    if not len(track.pedal_time):
        return track.offset
    down = track.pedal_value >= PEDAL_DOWN
    # For each change of the pedal, the first release at it or after it.
    release = np.where(down, _NEVER, track.pedal_time)
    release = np.minimum.accumulate(release[::-1])[::-1]
    release[release == _NEVER] = end
    last = np.searchsorted(track.pedal_time, track.offset, side="right") - 1
    is_held = (last >= 0) & down[np.maximum(last, 0)]
    return np.where(is_held, release[np.maximum(last, 0)], track.offset)


def _drop_empty(spans: np.ndarray) -> np.ndarray:
    """Returns the spans of positive length."""
    return spans[spans[:, 1] > spans[:, 0]]


def _would_blur(chord: np.ndarray, sounding: np.ndarray) -> bool:
    """Returns whether a chord requires the notes under the pedal to end."""
    clashes = np.isin(np.abs(chord[:, np.newaxis] - sounding), (1, 2)).sum()
    return bool(chord.min() < sounding.min() or clashes >= _CLASHES)
