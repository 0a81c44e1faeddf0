import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sostenuto.music.notes import PITCHES
from tests.factories import random_arrays
from trainer.data.note_tensors import START_PITCH, NoteTensors
from trainer.model import note_history
from trainer.model.note_history import HISTORY_LENGTH, NoteHistory
from trainer.model.time_bins import BINS
from trainer.model.time_distribution import bins

FORGOTTEN_US = 16_000_000

times = st.one_of(st.just(0), st.integers(0, 300_000), st.integers(0, 2**31 - 1))
sequences = st.lists(st.tuples(st.integers(0, START_PITCH), times, times), min_size=1, max_size=2 * HISTORY_LENGTH)


def arrays(notes):
    """Notes (pitch, step_us, duration_us) as a batch of one."""
    pitch, step_us, duration_us = (np.array([column], np.int32) for column in zip(*notes, strict=True))
    return NoteTensors(*map(tf.constant, (pitch, step_us, duration_us, np.full_like(pitch, 64))))


def listened(notes, before):
    """The last notes after all of the notes, and those at each."""
    at_each = note_history.extend_history(notes, before)
    return tf.nest.map_structure(lambda field: field[:, -1], at_each), at_each


def expected(notes):
    """The (age_us, pitch, remaining_us) of what sounds or has not been forgotten after the last note, newest first."""
    now = sum(step for _, step, _ in notes)
    onset, found = 0, []
    for pitch, step, duration in notes:
        onset += step
        age = now - onset
        if pitch != START_PITCH and age < FORGOTTEN_US:
            found.append((age, pitch, max(min(duration, FORGOTTEN_US) - age, 0)))
        else:
            found.append(None)
    return found[: -HISTORY_LENGTH - 1 : -1]


def described(last):
    """What `expected` says, of a batch of one."""
    fields = zip(
        *(field.numpy()[0][::-1].tolist() for field in (last.age_us, last.pitch, last.remaining_us)), strict=True
    )
    return [note if note[0] < FORGOTTEN_US else None for note in fields]


@settings(max_examples=60, deadline=None)
@given(sequences)
def test_the_last_notes_are_those_that_were_played(notes):
    last, _ = listened(arrays(notes), note_history.empty_history(1))
    found = described(last)
    wanted = expected(notes)
    assert found[: len(wanted)] == wanted
    assert not any(found[len(wanted) :])
    # What is forgotten does not sound either.
    assert all(np.where(last.age_us == FORGOTTEN_US, last.remaining_us, 0).ravel() == 0)


@settings(max_examples=40, deadline=None)
@given(sequences, st.integers(1, 2 * HISTORY_LENGTH))
def test_they_do_not_depend_on_how_the_notes_are_cut_up(notes, cut):
    whole, at_each = listened(arrays(notes), note_history.empty_history(1))
    cut = min(cut, len(notes))
    last, first_part = listened(arrays(notes[:cut]), note_history.empty_history(1))
    np.testing.assert_array_equal(tf.stack(first_part), tf.stack([field[:, :cut] for field in at_each]))
    if notes[cut:]:
        last, _ = listened(arrays(notes[cut:]), last)
    np.testing.assert_array_equal(tf.stack(last), tf.stack(whole))


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_keys_hold_what_sounds_and_fading_traces(dtype):
    last, _ = listened(random_arrays(3, 50), note_history.empty_history(3))
    keys = note_history.key_features(last, dtype)
    assert keys.dtype == dtype
    wanted = np.zeros((3, PITCHES, 3))
    for row in range(3):
        for pitch, age, remaining in zip(*(field.numpy()[row] for field in last), strict=True):
            if age < FORGOTTEN_US:
                wanted[row, pitch] += remaining > 0, np.exp(-age / 0.3e6), np.exp(-age / 3e6)
    np.testing.assert_allclose(keys, wanted.reshape(3, -1), atol=1e-6)
    assert wanted.max(axis=(0, 1)).min() > 0.5


def test_releases_count_by_the_bin_of_time():
    remaining = np.zeros((2, HISTORY_LENGTH), np.int32)
    remaining[0, :4] = 5_000, 5_000, 1_230_000, 15_999_999
    remaining[1, 7], remaining[1, 8] = 4_999, -70_000
    found = note_history.release_histogram(tf.constant(remaining), tf.float32).numpy()
    of_long, of_most = int(bins(tf.constant(1_230_000))), int(bins(tf.constant(15_999_999)))
    wanted = np.zeros((2, BINS))
    wanted[0, [1, of_long, of_most]] = 2, 1, 1
    wanted[1, 0] = 1  # What has ended, however long ago, is nowhere.
    np.testing.assert_array_equal(found, wanted)


def test_before_a_performance_there_are_none():
    nothing = note_history.empty_history(2)
    assert note_history.key_features(nothing, tf.float32).numpy().sum() == 0
    assert note_history.release_histogram(nothing.remaining_us, tf.float32).numpy().sum() == 0
    start = NoteTensors(*(tf.fill([2, 1], value) for value in (START_PITCH, 0, 0, 0)))
    last, _ = listened(start, nothing)
    np.testing.assert_array_equal(tf.stack(NoteHistory(*last)[1:]), tf.stack(nothing[1:]))
