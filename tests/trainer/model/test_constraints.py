import numpy as np
import tensorflow as tf

from trainer.model.constraints import tilt_steps
from trainer.model.time_bins import BIN_STARTS, BIN_WIDTHS, BINS


def test_a_tilt_divides_probabilities_by_a_power_of_the_step():
    logits = np.random.default_rng(0).normal(0, 1, (3, BINS)).astype(np.float32)
    tilts = np.array([-2, 0, 3], np.float32)
    tilted = tf.nn.softmax(tilt_steps(tf.constant(logits), tf.constant(tilts))).numpy()
    seconds = (BIN_STARTS + (BIN_WIDTHS - 1) / 2) / 100
    expected = np.exp(logits) / (seconds + 0.3) ** tilts[:, np.newaxis]
    np.testing.assert_allclose(tilted, expected / expected.sum(axis=-1, keepdims=True), rtol=1e-4)
    assert np.all(np.diff(tilted @ seconds) < 0)
