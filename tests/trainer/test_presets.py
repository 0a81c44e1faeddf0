import json
import pathlib

import pytest

from sostenuto.errors import UserError
from trainer.config import Config
from trainer.presets import PRESETS, parse_config, preset, read_config

GOLDEN = pathlib.Path(__file__).parent / "golden"


def message(error) -> str:
    """The error's message, which is one line."""
    (line,) = str(error.value).splitlines()
    return line


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_what_was_reviewed(name):
    assert preset(name).to_json() == (GOLDEN / f"{name}.json").read_text(), (
        f"the preset {name} has changed: if that is meant, write its to_json() to {GOLDEN / name}.json"
    )


def test_every_preset_and_nothing_else_was_reviewed():
    assert {path.stem for path in GOLDEN.iterdir()} == set(PRESETS)
    assert all(preset(name).preset == name for name in PRESETS)


def test_fields_that_a_file_leaves_out_are_those_of_its_preset():
    assert parse_config('{"units": 8, "learning_rate": 1}', "x") == Config(units=8, learning_rate=1.0)
    assert parse_config('{"preset": "tutorial", "epochs": 2}', "x") == preset("tutorial").replace(epochs=2)
    assert isinstance(parse_config('{"learning_rate": 1}', "x").learning_rate, float)
    assert parse_config('{"epochs": 2}', "x") == Config(epochs=2, max_minutes=0.0)


def test_a_file_that_names_a_preset_starts_from_it():
    assert parse_config('{"preset": "tutorial", "steps": 9}', "x") == preset("tutorial").replace(steps=9)
    with pytest.raises(UserError, match=f"preset 'another': expected one of {', '.join(PRESETS)}"):
        parse_config('{"preset": "another"}', "x")


def test_an_unknown_field_names_the_nearest():
    with pytest.raises(UserError) as error:
        parse_config('{"unit": 8}', "my.json")
    assert message(error) == "my.json: unknown field 'unit'. Did you mean 'units'?"
    with pytest.raises(UserError, match=r"unknown field 'zzz'$"):
        parse_config('{"zzz": 8}', "my.json")


@pytest.mark.parametrize("name", ["huge", 3, None, ["seed"]])
def test_a_file_that_starts_from_an_unknown_preset_lists_those_that_are(name):
    with pytest.raises(UserError, match=f"expected one of {', '.join(PRESETS)}"):
        parse_config(json.dumps({"preset": name}), "my.json")


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '"units"', "null"])
def test_a_file_that_holds_no_object_is_named(text):
    with pytest.raises(UserError, match=r"my\.json: expected .*JSON object of config fields") as error:
        parse_config(text, "my.json")
    message(error)


def test_a_file_that_is_not_there_or_is_binary_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: no such config file"):
        read_config(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(bytes(range(128, 256)))
    with pytest.raises(UserError, match=r"binary\.json: expected JSON: 'utf-8' codec"):
        read_config(tmp_path / "binary.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"units": 8, "units": 9}', "the key 'units' occurs twice"),
        ('{"units": NaN}', "config: units=nan: expected int, got float"),
        ('{"dropout": NaN}', "config: dropout=nan: expected a finite number"),
        ('{"learning_rate": 1e999}', "config: learning_rate=inf: expected a finite number"),
        (f'{{"steps": {"9" * 5000}}}', "config: steps=inf: expected int, got float"),
        (f'{{"learning_rate": {"9" * 5000}}}', "config: learning_rate=inf: expected a finite number"),
        ("[" * 100_000, "expected JSON: nested too deeply"),
        ('{"units": 0}', "config: units=0: expected at least 1"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_file_and_field(text, words):
    with pytest.raises(UserError, match=rf"^my\.json: .*{words}") as error:
        parse_config(text, "my.json")
    message(error)


def test_an_unknown_preset_lists_those_that_are():
    with pytest.raises(UserError, match=f"'huge': expected one of {', '.join(PRESETS)}"):
        preset("huge")
