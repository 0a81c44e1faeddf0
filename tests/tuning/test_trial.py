import dataclasses
import math

import pytest

from sostenuto.errors import UserError
from tests.tuning.studies import study_config


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tuner": "grid"}, "tuner='grid': expected one of random, bayesian, hyperband"),
        ({"max_trials": 0}, "max_trials=0: expected at least 1"),
        ({"train_steps": -5}, "train_steps=-5"),
        ({"worker_timeout": math.nan}, "worker_timeout=nan"),
        ({"max_attempts": 0}, "max_attempts=0"),
        ({"max_trials": 10**12}, "max_trials=1000000000000: expected at least 1 and at most 100,000"),
        ({"train_steps": 10**12}, "train_steps=1000000000000: expected at least 1 and at most 1,000,000,000"),
        ({"score_timeout": 1e300}, "score_timeout=1e\\+300: expected above 0 and at most 31,536,000"),
        ({"worker_timeout": math.inf}, "worker_timeout=inf"),
    ],
)
def test_settings_out_of_their_range_are_refused(changes, expected):
    with pytest.raises(UserError, match=expected):
        dataclasses.replace(study_config(), **changes)
