import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.data.repeats import matches_by_definition, repeating_pitches
from tests.trainer.data.windows import PLAIN, draw_epoch, numbers, table_of
from trainer.config import Config
from trainer.data.matches import CONTEXTS, MATCHES, SAME_PITCHES
from trainer.data.recall import CANDIDATES
from trainer.data.recall_table import RecallTable
from trainer.data.windows import WindowSampler

LENGTHS = [70, 0, 1, 45]


@pytest.fixture(scope="module")
def table():
    table = table_of(LENGTHS)
    table.notes["pitch"] = np.concatenate([repeating_pitches(length, seed) for seed, length in enumerate(LENGTHS)])
    return table


def expected_pitches(pitch, note):
    """What followed the matches of a note: sets of (match, pitch), and of those after next."""
    after, after_next = {}, {}
    for index, distance in enumerate(matches_by_definition(pitch)[note]):
        if distance:
            shift = pitch[note] - pitch[note - distance] if index % CONTEXTS >= len(SAME_PITCHES) else 0
            after[index] = pitch[note - distance + 1] + shift
            if 4 <= index < CONTEXTS and distance > 1:
                after_next[index] = pitch[note - distance + 2] + shift
    return [after.get(index) for index in range(MATCHES)] + [after_next.get(index) for index in range(4, CONTEXTS)]


def test_each_note_recalls_what_followed_its_matches_and_their_times(table):
    recall = RecallTable(table)
    pitch = table.notes["pitch"][:70].astype(int)
    pitches, times = recall(tf.range(70, dtype=tf.int64)[tf.newaxis], tf.ones([1, 70], tf.bool))
    assert pitches.pitch.shape == (1, 69, CANDIDATES)
    for note in range(69):
        distance = pitches.distance[0, note].numpy()
        got = [int(value) if far else None for value, far in zip(pitches.pitch[0, note], distance, strict=True)]
        assert got == expected_pitches(pitch, note)
        matches = matches_by_definition(pitch)[note + 1]
        np.testing.assert_array_equal(times.distance[0, note], matches)
        for field in ("step_us", "duration_us"):
            recalled = getattr(times, field)[0, note].numpy()[matches > 0]
            np.testing.assert_array_equal(recalled, table.notes[field][note + 1 - matches[matches > 0]])
    assert np.sum(pitches.distance > 0) > 100


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
