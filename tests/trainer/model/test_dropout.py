import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.model.layers import Dropout

SEEDS = st.integers(0, 2**31 - 1)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(rate):
    dropped = Dropout(0, rate, tf.constant(0, tf.int64))(0, tf.ones([400, 1, 100])).numpy()
    assert abs(np.mean(dropped == 0) - rate) < 0.02
    np.testing.assert_allclose(dropped[dropped != 0], 1 / (1 - rate), rtol=1e-6)


def test_a_dropout_mask_is_shared_by_the_notes_of_a_window_alone():
    dropout = Dropout(0, 0.5, tf.constant(8, tf.int64))
    masks = dropout(0, tf.ones([6, 9, 64])).numpy() > 0
    assert (masks == masks[:, :1]).all()
    other_layer = dropout(1, tf.ones([6, 9, 64])).numpy() > 0
    later = Dropout(0, 0.5, tf.constant(16, tf.int64))(0, tf.ones([6, 9, 64])).numpy() > 0
    other_seed = Dropout(1, 0.5, tf.constant(8, tf.int64))(0, tf.ones([6, 9, 64])).numpy() > 0
    rows = np.concatenate([masks[:, 0], other_layer[:, 0], later[:, 0], other_seed[:, 0]])
    assert len(np.unique(rows, axis=0)) == len(rows)


@settings(max_examples=20)
@given(SEEDS, st.integers(0, 2**40), st.sampled_from([1, 2, 4]))
def test_a_dropout_mask_depends_on_its_example_index(seed, first_example, replicas):
    activations = tf.ones([8, 2, 10])
    whole = Dropout(seed, 0.3, tf.constant(first_example, tf.int64))(2, activations)
    share = 8 // replicas
    parts = [
        Dropout(seed, 0.3, tf.constant(first_example + replica * share, tf.int64))(2, activations[:share])
        for replica in range(replicas)
    ]
    np.testing.assert_array_equal(tf.concat(parts, axis=0), whole)


def test_no_dropout_leaves_everything_as_it_is():
    activations = tf.random.stateless_uniform([2, 3, 4], [0, 1])
    assert Dropout(0, 0.0, tf.constant(0, tf.int64))(0, activations) is activations
