import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sostenuto.errors import UserError
from trainer.config import Config
from trainer.presets import preset
from tuning.default_space import PARAMETERS
from tuning.space import Parameter, notes_per_train_step
from tuning.space_file import create_space

BASE = preset("base")
DECLARED = {parameter.field: parameter for parameter in PARAMETERS}


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda parameter: parameter.field)
def test_the_config_takes_every_declared_value_and_base_has_one_of_them(parameter):
    for value in parameter.grid or (parameter.low, parameter.high):
        assert getattr(BASE.replace(**{parameter.field: value}), parameter.field) == value
    of_base = getattr(BASE, parameter.field)
    assert parameter.clamp(of_base) == of_base
    assert parameter.unit
    assert parameter.why


def test_the_first_trial_is_the_start_config_at_the_study_s_length():
    config = create_space(BASE).trial_config({}, 2400)
    of_the_study = ("steps", "max_minutes", "evaluate_every", "checkpoint_every", "log_every", "max_to_keep")
    changed = [
        field.name for field in dataclasses.fields(Config) if getattr(config, field.name) != getattr(BASE, field.name)
    ]
    assert set(changed) == set(of_the_study)
    assert (config.steps, config.evaluate_every, config.checkpoint_every) == (2400, 400, 200)


@given(
    seq_length=st.sampled_from(DECLARED["seq_length"].values),
    batch_size=st.sampled_from(DECLARED["batch_size"].values),
    train_steps=st.integers(100, 5000),
)
def test_every_trial_reads_as_many_notes_and_is_scored_six_times(seq_length, batch_size, train_steps):
    space = create_space(BASE, tune=["batch_size"])
    config = space.trial_config({"seq_length": seq_length, "batch_size": batch_size}, train_steps)
    a_train_step = notes_per_train_step(config)
    missing = train_steps * notes_per_train_step(BASE) - config.steps * a_train_step
    assert abs(missing) <= a_train_step / 2 or config.steps == 1
    scored = {*range(config.evaluate_every, config.steps + 1, config.evaluate_every), config.steps}
    assert len(scored) <= 6
    assert len(scored) >= min(config.steps, 4)


@given(st.data())
def test_what_keras_tuner_samples_is_in_the_space_and_in_the_config_s_range(data):
    space = create_space(BASE, tune=["all"])
    hyperparameters = space.declare()
    values = {}
    for parameter, hyperparameter in zip(space.parameters, hyperparameters.space, strict=True):
        assert hyperparameter.default == getattr(BASE, parameter.field)
        value = parameter.round_value(hyperparameter.prob_to_value(data.draw(st.floats(0, 1, exclude_max=True))))
        assert value == parameter.clamp(value)
        assert parameter.round_value(value) == value
        values[parameter.field] = value
    space.trial_config(values, 100)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"high": 4.0}, "got None to 4.0, expected a range in ascending order"),
        ({"low": 4.0, "high": 0.25}, "got 4.0 to 0.25, expected a range in ascending order"),
        ({"low": 0.0, "high": 4.0, "sampling": "log"}, "expected a range in ascending order above 0"),
        ({"low": 0.25, "high": 4.0, "step": 1.0, "sampling": "log"}, "got step=1.0, expected a number above 1"),
    ],
)
def test_a_range_without_values_is_refused_before_it_is_used(values, message):
    with pytest.raises(UserError, match=f"step_weight: .*{message}"):
        Parameter("step_weight", "float", **values)
