import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sostenuto.music.midi import read_midi, read_pedal, to_pretty_midi
from sostenuto.music.notes import Notes
from sostenuto.music.pedal import NO_PEDAL, apply_sustain, continued_pedal, infer_pedal
from tests.factories import random_notes

BEAT_US = 250_000


def waltz(basses, *, chord=(72, 76, 79)) -> Notes:
    """Far below a chord a bass, then the chord three times, all keys soon released: hands that leap."""
    rows = []
    for bar, bass in enumerate(basses):
        start = bar * 4 * BEAT_US
        rows.append((bass, start))
        rows += [(pitch, start + beat * BEAT_US) for beat in (1, 2, 3) for pitch in chord]
    pitch, onset = np.array(rows).T
    return Notes.from_onsets(pitch, onset, onset + 100_000, np.full(len(rows), 70))


def is_down(pedal, at_us) -> bool:
    return any(down <= at_us < up for down, up in pedal)


def test_leaping_hands_are_held_together_by_the_pedal():
    notes = waltz([36, 36, 36])
    pedal = infer_pedal(notes)
    assert is_down(pedal, 2 * BEAT_US)
    # The bass, long released, sounds on under the chords.
    bass = np.flatnonzero(notes.pitch == 36)[1]
    assert notes.duration_us[bass] == 100_000
    assert apply_sustain(notes, pedal).duration_us[bass] > 2 * BEAT_US


def test_a_narrow_texture_stays_dry():
    notes = waltz([60, 62, 59], chord=(67, 71, 74))
    np.testing.assert_array_equal(infer_pedal(notes), NO_PEDAL)
    np.testing.assert_array_equal(infer_pedal(Notes.empty()), NO_PEDAL)


def test_the_pedal_is_changed_just_after_a_new_harmony():
    notes = waltz([38, 31, 31])
    changes = infer_pedal(notes)
    second_bar = 4 * BEAT_US
    assert is_down(changes, second_bar)  # The hands have not left the old bass before the new one is struck,
    assert not is_down(changes, second_bar + 70_000)  # then the foot lets it go,
    assert is_down(changes, second_bar + 200_000)  # and catches the new one,
    assert apply_sustain(notes, changes).duration_us[notes.pitch == 31][0] == 4 * BEAT_US  # whose key is soon released.
    assert is_down(changes, 2 * second_bar + 70_000)  # The same harmony again is no reason.


@given(st.integers(0, 1000), st.integers(0, 80))
def test_spans_are_in_order_and_within_the_music(seed, count):
    notes = random_notes(seed, count)
    pedal = infer_pedal(notes)
    assert np.all(np.diff(pedal.ravel()) >= 0)
    assert np.all(pedal[:, 1] > pedal[:, 0])
    assert np.all(pedal[1:, 0] > pedal[:-1, 1])
    if len(pedal):
        assert pedal[0, 0] >= 0
        assert pedal[-1, 1] <= notes.offset_us.max()


@given(st.integers(0, 1000), st.integers(1, 79))
def test_later_notes_do_not_change_the_pedal_before_them(seed, count):
    notes = random_notes(seed, 80)
    last_us = notes.onset_us[count - 1]
    whole, part = infer_pedal(notes), infer_pedal(notes[:count])
    for at_us in np.linspace(0, max(last_us - 50_000, 0), 50):
        assert is_down(whole, at_us) == is_down(part, at_us)


@pytest.mark.parametrize("by_rule", [True, False])
def test_the_primers_pedal_is_kept_to_the_seam(by_rule):
    notes = waltz([36] * 6)
    primer_notes = 20  # two bars
    seam_us = notes.onset_us[primer_notes]
    own = np.array([[10_000, 400_000], [600_000, seam_us - 100_000], [seam_us - 50_000, seam_us + 900_000]])
    pedal = continued_pedal(own, notes, primer_notes, by_rule=by_rule)
    np.testing.assert_array_equal(pedal[:2], own[:2])
    assert is_down(pedal, seam_us - 1)
    assert all(is_down(pedal, at_us) == by_rule for at_us in (seam_us, seam_us + 3 * BEAT_US))
    if by_rule:  # Down before the seam and after it: the foot does not move.
        assert pedal[2, 0] == seam_us - 50_000
    else:
        assert pedal[-1, 1] == seam_us


def test_from_silence_the_pedal_is_the_rules_or_none():
    notes = waltz([36, 43])
    np.testing.assert_array_equal(continued_pedal(NO_PEDAL, notes, 0, by_rule=True), infer_pedal(notes))
    np.testing.assert_array_equal(continued_pedal(NO_PEDAL, notes, 0, by_rule=False), NO_PEDAL)


def test_a_primer_goes_through_midi_and_back_with_its_notes_and_its_pedal():
    """What is written of a primer and its continuation begins, note by note, as the primer did."""
    notes = waltz([36, 43, 36, 43])
    primer_notes = 20
    seam_us = notes.onset_us[primer_notes]
    # The primer's last chord is held far into the continuation, which strikes its keys again.
    duration_us = notes.duration_us.copy()
    duration_us[primer_notes - 3 : primer_notes] = 5_000_000
    notes = Notes(notes.pitch, notes.step_us, duration_us, notes.velocity)
    own = np.array([[0, 600_000], [620_000, seam_us]])
    data = io.BytesIO()
    to_pretty_midi(notes, continued_pedal(own, notes, primer_notes, by_rule=False)).write(data)
    read = read_midi(data.getvalue(), "x.mid").notes
    assert read[: primer_notes - 3] == notes[: primer_notes - 3]
    np.testing.assert_array_equal(read.onset_us, notes.onset_us)
    np.testing.assert_array_equal(read.pitch, notes.pitch)
    # No key is struck while it is held: the former note ends where the key is struck again.
    for pitch in np.unique(read.pitch):
        same = read.pitch == pitch
        assert np.all(read.offset_us[same][:-1] <= read.onset_us[same][1:])
    np.testing.assert_array_equal(read_pedal(data.getvalue(), "x.mid"), own)
