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
    ],
)
def test_settings_out_of_their_range_are_refused(changes, expected):
    with pytest.raises(UserError, match=expected):
        dataclasses.replace(study_config(), **changes)
