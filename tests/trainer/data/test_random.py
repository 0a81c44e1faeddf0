import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.random import Purpose, permute_index, uniform_rows

SEEDS = st.integers(0, 2**31 - 1)
PURPOSES = st.integers(1, 40)
ROWS = st.integers(0, 2**40)


def shuffles_of(seed, epochs, size, purpose=Purpose.WINDOW, indices=None):
    """The places of all indices, or of the first few, in the shuffle of each epoch: `[epochs, indices]`."""
    index = np.arange(indices or size)
    epoch = np.repeat(np.asarray(epochs, np.int64), len(index))
    places = permute_index(seed, purpose, tf.constant(epoch), tf.constant(np.tile(index, len(epochs))), size=size)
    return places.numpy().reshape(len(epochs), len(index))


def unevenness(counts):
    """Chi squared a degree of freedom of counts whose expectations are equal: about 1 for a fair draw."""
    expected = counts.mean()
    return ((counts - expected) ** 2 / expected).sum() / (counts.size - 1)


def rows_of(seed, purpose, first_row, rows, columns):
    return uniform_rows(seed, purpose, tf.constant(first_row, tf.int64), tf.constant(rows), columns).numpy()


@given(SEEDS, st.integers(0, 2**31), st.integers(1, 300))
def test_a_shuffle_is_a_bijection(seed, epoch, size):
    (places,) = shuffles_of(seed, [epoch], size)
    np.testing.assert_array_equal(np.sort(places), np.arange(size))


@pytest.mark.parametrize("size", [100, 1000])
def test_epochs_seeds_and_purposes_have_shuffles_of_their_own(size):
    # Near and far numbers, and such as differ in their high bits alone.
    epochs = [0, 1, 2, 255, 256, 512, 65536, 2**31]
    shuffles = np.concatenate(
        [
            shuffles_of(seed, epochs, size, purpose)
            for seed in (0, 1, 256, 65536, 2**31 - 1)
            for purpose in (Purpose.WINDOW, Purpose.PHASE)
        ]
    )
    # Any two agree in as many places as chance has it: in one.
    agreements = [np.sum(shuffles[:i] == one, axis=1) for i, one in enumerate(shuffles)]
    assert np.concatenate(agreements).max() <= 9
    assert 0.9 < np.concatenate(agreements).mean() < 1.1


@pytest.mark.parametrize("size", [10, 37])
def test_over_the_epochs_every_index_comes_everywhere(size):
    places = shuffles_of(7, range(1000), size)
    counts = np.stack([np.bincount(places[:, index], minlength=size) for index in range(size)])
    assert unevenness(counts) < 1.5


@pytest.mark.parametrize("choices", [16, 25, 128])
def test_places_in_a_long_shuffle_choose_evenly(choices):
    places = shuffles_of(0, range(500), 2**31, Purpose.PHASE, indices=50)
    counts = np.stack([np.bincount(column, minlength=choices) for column in places.T % choices])
    assert unevenness(counts) < 1.2
    assert unevenness(counts.sum(axis=0)) < 1.8


@pytest.mark.parametrize("lag", [1, 16, 64])
def test_a_shuffle_leaves_no_neighbourhood(lag):
    size = 10_000
    places = shuffles_of(7, range(50), size)
    apart = (places[:, lag:] - places[:, :-lag]) % size
    # A distance of 0 never comes: the classes that hold it are left out.
    counts = np.bincount(apart.ravel() // 100, minlength=100)[1:-1]
    assert unevenness(counts) < 1.5


def test_examples_of_several_epochs_are_shuffled_each_by_its_own():
    examples = tf.range(24, dtype=tf.int64)
    together = permute_index(3, Purpose.WINDOW, examples // 8, examples % 8, size=8).numpy().reshape(3, 8)
    np.testing.assert_array_equal(together, np.concatenate([shuffles_of(3, [epoch], 8) for epoch in range(3)]))


@given(SEEDS, PURPOSES, ROWS, st.integers(1, 11), st.integers(0, 30), st.integers(1, 30))
def test_a_slice_of_rows_equals_those_rows_of_the_whole(seed, purpose, first_row, columns, skipped, rows):
    whole = rows_of(seed, purpose, first_row, skipped + rows + 5, columns)
    assert whole.shape == (skipped + rows + 5, columns)
    part = rows_of(seed, purpose, first_row + skipped, rows, columns)
    np.testing.assert_array_equal(part, whole[skipped : skipped + rows])


@given(SEEDS, ROWS, st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_any_number_of_replicas_draws_the_same_numbers(seed, first_example, replicas):
    share = 12 // replicas
    parts = [rows_of(seed, 3, first_example + replica * share, share, 6) for replica in range(replicas)]
    np.testing.assert_array_equal(np.concatenate(parts), rows_of(seed, 3, first_example, 12, 6))


def test_uniform_numbers_are_uniform():
    numbers = rows_of(5, 3, 1000, 20_000, 5)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    # Six standard deviations of the mean and of the variance of 100,000 uniform numbers.
    assert abs(numbers.mean() - 1 / 2) < 0.006
    assert abs(numbers.var() - 1 / 12) < 0.0015
    assert np.abs(np.corrcoef(numbers, rowvar=False) - np.eye(5)).max() < 0.05
    assert abs(np.corrcoef(numbers[1:, 0], numbers[:-1, 0])[0, 1]) < 0.05


def test_seeds_purposes_and_rows_have_numbers_of_their_own():
    tables = [
        rows_of(seed, purpose, first_row, 50, 4)
        for seed in (0, 1, 2**31 - 1)
        for purpose in (1, 2, 4, 12)
        for first_row in (0, 50, 2**33)
    ]
    numbers = np.stack(tables).ravel()
    # Of 7,200 draws out of 2**23 numbers, about three pairs are equal by chance.
    assert len(np.unique(numbers)) > len(numbers) - 20
