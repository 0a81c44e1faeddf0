"""benchmarks/composers.py, without a model."""

import sys

import numpy as np

from tests.processes import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import composers as benchmark


def test_a_piece_gets_the_name_of_the_nearest_centroid():
    random = np.random.default_rng(0)
    owners = np.repeat(np.arange(3), 20)
    apart = random.normal(0, 1, (60, 4)) + 10 * owners[:, np.newaxis]
    centres = benchmark.centroids(apart, owners, 3)
    np.testing.assert_allclose(centres[1], apart[20:40].mean(axis=0))
    assert (benchmark.classify(apart, centres) == owners).all()
    assert (benchmark.classify_by_others(apart, owners, 3) == owners).all()
    # Where nothing tells them apart, the others' centroids are right by chance alone.
    alike = random.normal(0, 1, (60, 4))
    assert np.mean(benchmark.classify_by_others(alike, owners, 3) == owners) < 0.6
