import dataclasses
import functools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sostenuto.errors import UserError, mismatches
from tests.processes import run_python
from trainer.config import CHANGEABLE_ON_RESUME, LENGTH_FIELDS, Config
from trainer.presets import parse_config, read_config

FIELDS = {field.name: field for field in dataclasses.fields(Config)}

# A value other than the default of `base` for every field; each is in its range.
OTHER = {
    "preset": "tutorial",
    "model": "regression",
    "positions": "last",
    "seq_length": 25,
    "units": 7,
    "layers": 3,
    "pitch_embedding": 1,
    "recent_embedding": 0,
    "memory_units": 0,
    "composer_embedding": 0,
    "head_blocks": 2,
    "time_embedding": 2,
    "velocity_embedding": 3,
    "head_units": 4,
    "dropout": 0.25,
    "init_from": "runs/a",
    "freeze": "embedding,lstm_0",
    "pitch_weight": 0.05,
    "step_weight": 0.0,
    "duration_weight": 2.5,
    "velocity_weight": 0.0,
    "end_weight": 0.0,
    "train_fraction": 0.5,
    "transpose": 0,
    "stretch": 0.1,
    "composer_pieces": 2.5,
    "batch_size": 1,
    "accumulation_steps": 4,
    "optimizer": "adam",
    "learning_rate": 1e-5,
    "schedule": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.5,
    "clip_norm": 0.0,
    "ema": 0.999,
    "steps": 9,
    "epochs": 8,
    "max_minutes": 0.5,
    "monitor": "loss",
    "evaluate_every": 1,
    "patience": 2,
    "precision": "float64",
    "replicas": 2,
    "seed": 2**31 - 1,
    "deterministic": False,
    "log_every": 0,
    "checkpoint_every": 0,
    "max_to_keep": 1,
}

# The largest value of each field that takes memory or time in its proportion.
LARGEST = {
    **dict.fromkeys(
        ("seq_length", "units", "pitch_embedding", "time_embedding", "velocity_embedding", "recent_embedding",
         "memory_units", "composer_embedding", "head_units"), 16_384),
    **dict.fromkeys(("layers", "head_blocks"), 64),
    **dict.fromkeys(("batch_size", "accumulation_steps"), 65_536),
    **dict.fromkeys(
        ("warmup_steps", "steps", "evaluate_every", "patience", "log_every", "checkpoint_every"), 10**9),
    "epochs": 10**6, "max_minutes": 525_600.0, "replicas": 1_024, "max_to_keep": 10_000, "transpose": 24,
    "seed": 2**31 - 1,
}  # fmt: skip

# For each field, values out of its range or of another kind.
WRONG = {
    "preset": [3],
    "model": ["lstm", None],
    "positions": ["first"],
    **{
        name: [0, -1, 2.5, True, "8"]
        for name in (
            "seq_length", "units", "layers", "pitch_embedding", "time_embedding", "velocity_embedding", "head_units",
            "batch_size", "accumulation_steps", "max_to_keep",
        )
    },
    "dropout": [-0.1, 1.0, float("nan")],
    "init_from": [3, None],
    "freeze": [3, None],
    "ema": [-0.1, 1.0, float("nan"), "0.9"],
    **{
        name: [-0.5, float("nan"), float("inf"), "1", True]
        for name in (
            "pitch_weight", "step_weight", "duration_weight", "velocity_weight", "end_weight", "weight_decay",
            "clip_norm", "max_minutes",
        )
    },
    "train_fraction": [0.0, 1.5, float("nan"), "1"],
    "transpose": [-1, 25],
    "stretch": [-0.1, 1.0],
    "composer_pieces": [-0.1, 1_000_001, float("nan")],
    "optimizer": ["sgd"],
    "learning_rate": [0.0, -1e-3, float("nan"), float("inf")],
    "schedule": ["linear"],
    **{
        name: [-1, 0.5]
        for name in (
            "recent_embedding", "memory_units", "composer_embedding", "head_blocks", "warmup_steps", "steps", "epochs",
            "evaluate_every",
            "patience", "replicas", "log_every", "checkpoint_every",
        )
    },
    "monitor": ["val_loss"],
    "precision": ["float16"],
    "seed": [-1, 2**31],
    "deterministic": [1, "yes"],
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.type in (int, float)])
def test_a_number_that_takes_memory_or_time_has_a_maximum_that_its_help_names(name):
    if name not in LARGEST:  # a weight, a rate or a fraction
        assert FIELDS[name].type is float
        return
    largest = LARGEST[name]
    implied = {"evaluate_every": 0, "monitor": "loss"} if name == "evaluate_every" else {}
    assert getattr(Config().replace(**{**implied, name: largest}), name) == largest
    for beyond in (largest + 1, 10**12):
        with pytest.raises(UserError, match=f"config: {name}={beyond}: expected .*at most {largest:,.0f}"):
            Config().replace(**{name: beyond})
    assert f"At most {largest:,.0f}. (default" in shown_flags()[name]["text"]


@functools.cache
def shown_flags() -> dict[str, dict]:
    return {flag["name"]: flag for flag in json.loads(run_python("-m", "trainer", "--help_json").stdout)}


def changed(*names: str) -> Config:
    # A regression model has no score to watch.
    implied = {"evaluate_every": 0, "monitor": "loss"} if "model" in names else {}
    if "freeze" in names:
        implied["init_from"] = OTHER["init_from"]
    return Config().replace(**{name: OTHER[name] for name in names} | implied)


def message(error) -> str:
    """The error's message, which is one line."""
    (line,) = str(error.value).splitlines()
    return line


def test_this_file_knows_every_field():
    assert OTHER.keys() == WRONG.keys() == FIELDS.keys()


@given(
    st.sets(st.sampled_from([name for name in FIELDS if name not in (*LENGTH_FIELDS, "preset")])),
    st.sampled_from(LENGTH_FIELDS),
)
def test_a_config_file_gives_back_the_config(names, length):
    config = changed(*names, length)
    assert parse_config(config.to_json(), "config.json") == config


def test_a_config_file_holds_every_field(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(changed("steps").to_json())
    assert list(json.loads(path.read_text())) == list(FIELDS)
    assert read_config(path) == Config().replace(steps=9)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_value_out_of_range_is_one_line_that_names_the_field(name, value):
    with pytest.raises(UserError) as error:
        Config().replace(**{name: value})
    shown = {str(value), repr(value)}
    assert any(message(error).startswith(f"config: {name}={text}: expected ") for text in shown)


@pytest.mark.parametrize("name", FIELDS)
def test_the_other_values_of_this_file_are_in_range(name):
    assert getattr(changed(name), name) == OTHER[name]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"units": 16_384, "layers": 9},
            r"units=16384, layers=9: units x units x layers is 2,415,919,104, expected at",
        ),
        (
            {"batch_size": 65_536, "seq_length": 8192},
            r"batch_size=65536, seq_length=8192, units=256, layers=2: batch_size x .* at most 68,719,476,736\.",
        ),
    ],
)
def test_fields_that_only_together_take_too_much_memory_are_refused_by_name(changes, words):
    with pytest.raises(UserError, match=words):
        Config(**changes)


def test_some_loss_must_be_left():
    with pytest.raises(UserError, match="pitch_weight, step_weight and duration_weight are all 0"):
        Config(pitch_weight=0.0, step_weight=0.0, duration_weight=0.0)


def test_patience_with_a_score_needs_the_score():
    with pytest.raises(UserError, match="evaluate_every"):
        Config(patience=2, evaluate_every=0)
    assert Config(patience=2, evaluate_every=0, monitor="loss").patience == 2


def test_a_model_without_densities_has_no_score_to_watch():
    with pytest.raises(UserError, match="evaluate_every needs model=density") as error:
        Config(model="regression")
    message(error)
    assert Config(model="regression", evaluate_every=0).model == "regression"


@pytest.mark.parametrize(
    "lengths", [{"max_minutes": 0.0}, {"steps": 5}, {"epochs": 5}, {"steps": 1, "epochs": 1, "max_minutes": 0.0}]
)
def test_exactly_one_length_is_given(lengths):
    with pytest.raises(UserError, match="exactly one of steps, epochs and max_minutes") as error:
        Config(**lengths)
    message(error)


def test_replace_switches_between_the_lengths():
    config = Config()
    for name in (*LENGTH_FIELDS, *reversed(LENGTH_FIELDS)):
        config = config.replace(**{name: 3})
        assert {other: getattr(config, other) for other in LENGTH_FIELDS} == {
            **dict.fromkeys(LENGTH_FIELDS, 0),
            name: 3,
        }
    assert config.replace(units=3).steps == 3


def test_mismatches_name_the_fixed_fields_and_both_values():
    config = changed("units", "steps", "dropout")
    assert mismatches(config.fixed(), Config().fixed()) == [
        "units: got 7, expected 256",
        "dropout: got 0.25, expected 0.0",
    ]
    assert mismatches(Config().fixed(), Config().fixed()) == []
    assert "steps" not in config.fixed()
    assert mismatches({"a": 1}, {"b": 2}) == ["b: got nothing, expected 2", "a: got 1, expected nothing"]


def test_only_weights_that_came_from_somewhere_can_be_frozen():
    with pytest.raises(UserError, match=r"config: freeze='lstm_0' needs init_from, .*Give init_from too") as error:
        Config(freeze="lstm_0")
    message(error)


def test_a_config_takes_the_model_of_another_and_nothing_of_its_training():
    other = changed(*(name for name in FIELDS if name not in ("preset", *LENGTH_FIELDS)))
    taken = Config(evaluate_every=0, monitor="loss").with_model_of(other)
    assert taken.shape == other.shape == {"model": "regression", "units": 7, "layers": 3}
    differing = {name for name in FIELDS if getattr(taken, name) != getattr(Config(), name)}
    assert differing - {"evaluate_every", "monitor"} == {
        "model", "positions", "seq_length", "units", "layers", "pitch_embedding", "time_embedding",
        "velocity_embedding", "recent_embedding", "memory_units", "composer_embedding", "head_units", "head_blocks",
    }  # fmt: skip


def test_a_train_step_sees_all_batches_that_it_accumulates():
    assert Config(batch_size=12).windows_per_train_step == 12
    assert Config(batch_size=12, accumulation_steps=4).windows_per_train_step == 48


def test_fields_that_a_resumed_run_may_change():
    """How long, how often, on what: nothing that changes what a train_step computes."""
    others = {"patience", "evaluate_every", "checkpoint_every", "max_to_keep", "log_every", "replicas"}
    assert {*LENGTH_FIELDS, *others} == CHANGEABLE_ON_RESUME


def test_a_config_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().units = 3


def test_every_field_but_preset_has_a_flag_with_its_help():
    shown = {flag["name"]: flag for flag in json.loads(run_python("-m", "trainer", "--help_json").stdout)}
    for field in FIELDS.values():
        if field.name == "preset":
            continue
        flag = shown[field.name]
        assert flag["text"].startswith(field.metadata["help"])
        assert flag["group"] == field.metadata["group"]
        assert flag["choices"] == list(field.metadata["choices"])
        assert (flag["kind"] == "") == (field.type is bool)


def test_a_flag_shows_the_presets_that_differ_from_base():
    shown = {flag["name"]: flag["text"] for flag in json.loads(run_python("-m", "trainer", "--help_json").stdout)}
    assert shown["units"].endswith("(default: 256; large: 512; tutorial: 128)")
    assert shown["pitch_weight"].endswith("(default: 1; tutorial: 0.05)")
    assert shown["max_to_keep"].endswith("(default: 3; tutorial: 50)")
    assert shown["deterministic"].endswith("(default: true)")
