import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.data.repeats import alignments_by_definition, matches_by_definition, repeating_pitches
from tests.trainer.data.windows import PLAIN, draw_epoch, numbers, table_of
from trainer.config import Config
from trainer.data.alignments import ALIGNMENTS, PLACES
from trainer.data.matches import CONTEXTS, MATCHES, SAME_PITCHES
from trainer.data.recall import CANDIDATES, TIMES
from trainer.data.recall_table import RecallTable
from trainer.data.windows import WindowSampler

LENGTHS = [70, 0, 1, 45]


@pytest.fixture(scope="module")
def table():
    table = table_of(LENGTHS)
    table.notes["pitch"] = np.concatenate([repeating_pitches(length, seed) for seed, length in enumerate(LENGTHS)])
    return table


def expected_candidates(pitch, note, alignments):
    """The candidates after a note: (pitch, distance, strength), or zeros."""
    candidates = [(0, 0, 0)] * CANDIDATES
    for index, distance in enumerate(matches_by_definition(pitch)[note]):
        if distance:
            shift = pitch[note] - pitch[note - distance] if index % CONTEXTS >= len(SAME_PITCHES) else 0
            candidates[index] = (pitch[note - distance + 1] + shift, distance, 0)
    for index, one in enumerate(alignments[note]):
        for place in one.open_places():
            if place <= note:
                slot = MATCHES + index * PLACES + place - one.place + 1
                candidates[slot] = (pitch[place] + one.shift, note - one.place, one.strength)
    return candidates


def expected_places(pitch, note, alignments):
    """The earlier places of a note: (distance, strength), or zeros."""
    places = [(int(distance), 0) for distance in matches_by_definition(pitch)[note]] + [(0, 0)] * ALIGNMENTS
    for index, one in enumerate(alignments[note - 1]):
        there = [place for place in one.open_places() if place < note and pitch[place] + one.shift == pitch[note]]
        if there:
            place = min(there, key=lambda place: (abs(place - one.place - 1), place))
            places[MATCHES + index] = (note - place, one.strength)
    return places


def test_each_note_recalls_what_followed_earlier_places_and_their_times(table):
    recall = RecallTable(table)
    pitch = table.notes["pitch"][:70].astype(int)
    alignments = alignments_by_definition(pitch)
    pitches, times = recall(tf.range(70, dtype=tf.int64)[tf.newaxis], tf.ones([1, 70], tf.bool))
    assert pitches.pitch.shape == (1, 69, CANDIDATES)
    for note in range(69):
        got = np.stack([part[0, note] for part in pitches], axis=-1)
        np.testing.assert_array_equal(got, expected_candidates(pitch, note, alignments))
        places = np.array(expected_places(pitch, note + 1, alignments))
        np.testing.assert_array_equal(np.stack([part[0, note] for part in times[2:]], axis=-1), places)
        distance = places[:, 0]
        for field in ("step_us", "duration_us"):
            expected = np.where(distance > 0, table.notes[field][note + 1 - distance], 0)
            np.testing.assert_array_equal(getattr(times, field)[0, note], expected)
    assert np.sum(pitches.strength > 0) > 100
    assert np.sum(times.distance[..., -ALIGNMENTS:] > 0) > 10
    assert times.distance.shape == (1, 69, TIMES)


@pytest.mark.parametrize("positions", ["every", "last"])
def test_windows_recall_what_the_whole_performance_does(table, positions):
    windows = WindowSampler(table, Config(positions=positions, seq_length=8, seed=3, **PLAIN))
    batch = draw_epoch(windows, 2)
    rows = np.arange(len(table.notes))[np.newaxis]
    pitches, times = RecallTable(table)(tf.constant(rows), tf.ones(rows.shape, tf.bool))
    target = numbers(batch.targets)
    has_before = batch.mask & ~np.isin(target, table.offsets[:-1])
    last = batch.mask.shape[1]
    for part, whole in zip(batch.recall.pitches, pitches, strict=True):
        np.testing.assert_array_equal(part[:, -last:][has_before], whole.numpy()[0][target[has_before] - 1])
    for part, whole in zip(batch.recall.times, times, strict=True):
        np.testing.assert_array_equal(part[has_before], whole.numpy()[0][target[has_before] - 1])
    # A performance's start and padding recall nothing.
    assert not batch.recall.times.distance[~has_before].any()
    begins = np.zeros(batch.inputs.pitch.shape, bool)
    begins[:, -last:] = batch.mask & ~has_before
    assert not batch.recall.pitches.distance[begins].any()


def test_transposed_and_stretched_windows_recall_transposed_and_stretched_notes(table):
    config = Config(seq_length=8, seed=3, transpose=6, stretch=0.3)
    plain = draw_epoch(WindowSampler(table, config.replace(**PLAIN)), 1)
    changed = draw_epoch(WindowSampler(table, config), 1)
    shift = (changed.targets.pitch - plain.targets.pitch)[:, :1, np.newaxis]
    assert np.unique(shift).size > 3
    recalled = changed.recall.pitches.distance > 0
    np.testing.assert_array_equal(
        changed.recall.pitches.pitch[recalled], (plain.recall.pitches.pitch + shift)[recalled]
    )
    # Candidates that would leave MIDI's pitches are no candidates.
    assert recalled.sum() == ((plain.recall.pitches.distance > 0) & ((plain.recall.pitches.pitch + shift) < 128)).sum()
    np.testing.assert_array_equal(changed.recall.times.distance, plain.recall.times.distance)
    factor = changed.targets.duration_us[:, 0] / plain.targets.duration_us[:, 0]
    assert np.ptp(factor) > 0.2
    expected = plain.recall.times.duration_us * factor[:, np.newaxis, np.newaxis]
    np.testing.assert_allclose(changed.recall.times.duration_us, expected, rtol=1e-3)
