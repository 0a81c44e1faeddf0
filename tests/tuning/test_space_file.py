"""Search spaces from flags and files."""

import pytest

from sostenuto.errors import UserError
from tests.processes import run_python
from trainer.presets import preset
from tuning.default_space import PARAMETERS, SEARCHED_BY_DEFAULT
from tuning.space_file import create_space

BASE = preset("base")
DECLARED = {parameter.field: parameter for parameter in PARAMETERS}


def written(tmp_path, text):
    path = tmp_path / "space.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def searched(space):
    return {parameter.field: parameter for parameter in space.parameters}


def test_flags_are_parsed_without_tensorflow_and_keras_tuner():
    process = run_python("-c", "import sys, tuning.space_file, tuning.study; print(*sys.modules)")
    assert process.returncode == 0, process.stderr
    assert not {"tensorflow", "keras", "keras_tuner", "sklearn"} & set(process.stdout.split())


def test_three_hyperparameters_are_searched_by_default_and_others_by_name():
    assert set(searched(create_space(BASE))) == set(SEARCHED_BY_DEFAULT)
    more = create_space(BASE, tune=["layers", "learning_rate"])
    assert set(searched(more)) == {*SEARCHED_BY_DEFAULT, "layers", "learning_rate"}
    assert create_space(BASE, tune=["all"]).parameters == PARAMETERS


def test_a_fixed_field_is_the_same_in_every_trial():
    space = create_space(BASE, fix=["units=64", "weight_decay=1e-3", "deterministic=false"])
    assert "units" not in searched(space)
    config = space.trial_config({"seq_length": 64}, 100)
    assert (config.units, config.weight_decay, config.deterministic, config.seq_length) == (64, 1e-3, False, 64)
    assert space.start == BASE.replace(units=64, weight_decay=1e-3, deterministic=False)
    assert space.base_config == BASE


def test_a_file_fixes_narrows_and_adds(tmp_path):
    file = written(
        tmp_path,
        """
        seq_length: 64
        units: {low: 100, high: 300}
        step_weight: [2, 0.5, 1]
        learning_rate: {low: 1e-4, high: 1e-3}
        dropout: {low: 0, high: 0.5, step: 0.1}
        pitch_weight: {low: 0.5, high: 2, sampling: log}
        head_units: {low: 64, high: 256, step: 2, sampling: log}
        warmup_steps: {low: 0, high: 100}
        optimizer: [adam, adamw]
        """,
    )
    space = create_space(BASE, file=file)
    found = searched(space)
    assert space.fixed == {"seq_length": 64}
    assert found["units"].grid == (128, 192, 256)
    assert found["step_weight"].grid == (0.5, 1.0, 2.0)
    assert (found["learning_rate"].low, found["learning_rate"].high) == (1e-4, 1e-3)
    assert found["learning_rate"].sampling == "log"
    assert found["dropout"].grid == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    assert found["head_units"].grid == (64, 128, 256)
    assert (found["warmup_steps"].kind, found["warmup_steps"].grid) == ("int", None)
    assert found["optimizer"].grid == ("adam", "adamw")
    assert found["duration_weight"] == DECLARED["duration_weight"]
    values = {**space.base_values, "optimizer": "adam", "head_units": 64}
    assert space.trial_config(values, 10).optimizer == "adam"


def test_a_flag_wins_over_the_file_and_one_value_is_no_search(tmp_path):
    file = written(tmp_path, "units: [64, 128]\nlayers: [3]\nstep_weight: {low: 2, high: 2}\n")
    space = create_space(BASE, fix=["units=96"], file=file)
    assert space.fixed == {"layers": 3, "step_weight": 2.0, "units": 96}
    assert set(searched(space)) == {"seq_length", "duration_weight"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"fix": ["unts=256"]}, "--fix unts=256: unknown hyperparameter 'unts', did you mean 'units'?"),
        ({"fix": ["units"]}, "--fix units: expected FIELD=VALUE"),
        ({"fix": ["units=0"]}, "--fix units=0: units=0: expected at least 1"),
        ({"fix": ["units=1.5"]}, "expected int, got float"),
        ({"fix": ["units="]}, "expected int, got NoneType"),
        ({"fix": ["units=[256"]}, "is no YAML"),
        ({"fix": ["units=2024-13-45"]}, "is no YAML (month must be in 1..12)"),
        ({"fix": [f"units={'9' * 5000}"]}, "is no YAML"),
        ({"fix": [f"units={'[' * 3000}"]}, "is no YAML"),
        ({"fix": ["learning_rate=fast"]}, "got 'fast', expected a number"),
        ({"fix": ["steps=100"]}, "such as --train_steps, set steps"),
        ({"fix": ["layers=2"], "tune": ["layers"]}, "also in --tune. Pass only one"),
        ({"fix": ["model=regression"]}, "needs model=density"),
        (
            {"fix": [f"{field}=1" for field in SEARCHED_BY_DEFAULT]},
            "is fixed. Pass others with --tune",
        ),
        ({"tune": ["layer"]}, "--tune=layer: unknown hyperparameter 'layer', did you mean 'layers'?"),
        ({"tune": ["weight_decay"]}, "no declared range. Pass one with --space"),
    ],
)
def test_a_wrong_flag_is_one_line(arguments, expected):
    with pytest.raises(UserError) as caught:
        create_space(BASE, **arguments)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("units: [64, 128", "is no YAML"),
        ("", "got nothing"),
        ("- units", "expected lines such as"),
        ("batchsize: 3", "unknown hyperparameter 'batchsize', did you mean 'batch_size'?"),
        ("units: []", "units: the list is empty"),
        ("units: [64, -1]", "units=-1: expected at least 1"),
        ("units: [64, many]", "expected int, got str"),
        ("units: {low: 300, high: 100}", "the range from 300 to 100 is empty"),
        ("units: {low: 130, high: 140}", "none of 64, 96, 128, 192, 256, 384, 512 is from 130 to 140"),
        ("units: {low: 64, hihg: 100}", "unknown key 'hihg', did you mean 'high'?"),
        ("units: {low: 64, high: 100, step: 0}", "step=0: expected a number above 0"),
        ("units: {low: 64, high: 100, step: 1.5}", "step=1.5: expected a whole number"),
        ("units: {low: 64, high: 100, step: 1, sampling: log}", "step=1: expected a number above 1"),
        ("dropout: {low: 0, high: 0.5, step: 1e-9}", "expected at most 10000"),
        ("dropout: {low: 0, high: 0.5, sampling: log}", "low=0: expected above 0 with sampling=log"),
        ("dropout: {low: 0, high: 0.5, sampling: quadratic}", "expected one of linear, log"),
        ("dropout: {low: 0, high: 1}", "dropout=1.0: expected at least 0 and below 1"),
        ("dropout: {low: 0, high: .inf}", "expected a finite number"),
        ("weight_decay: {high: 1}", "low is missing, expected both low and high"),
        ("optimizer: {low: 0, high: 1}", "no number. Pass a list"),
        ("optimizer: [adam, sgd]", "optimizer='sgd': expected one of adam, adamw"),
        ("evaluate_every: [1, 2]", "such as --train_steps, set evaluate_every"),
        ("1: 2", "unknown hyperparameter '1'"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path, text, expected):
    file = written(tmp_path, text)
    with pytest.raises(UserError) as caught:
        create_space(BASE, file=file)
    assert expected in str(caught.value)
    assert str(caught.value).startswith(file)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_and_a_model_without_a_score_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        create_space(BASE, file=str(tmp_path / "none.yaml"))
    with pytest.raises(UserError, match="Pass model=density"):
        create_space(preset("tutorial"))


def test_a_start_outside_of_the_space_leaves_the_space_as_it_is(tmp_path):
    file = written(
        tmp_path, "units: [64, 96]\ndropout: {low: 0.1, high: 0.3, step: 0.1}\nbatch_size: {low: 1, high: 9, step: 2}"
    )
    space = create_space(BASE, file=file)
    hyperparameters = space.declare()
    assert {name: hyperparameters.get(name) for name in ("units", "dropout", "batch_size")} == {
        "units": 96,
        "dropout": 0.1,
        "batch_size": 9,
    }
    assert space.base_values["units"] == 256


def test_differences_between_spaces_are_listed_by_name(tmp_path):
    space, other = create_space(BASE), create_space(BASE, fix=["layers=3"], file=written(tmp_path, "units: [64, 96]"))
    assert space.differences(space.parameters, space.fixed) == []
    assert other.differences(space.parameters, space.fixed) == [
        "units: got 64, 96, expected 64, 96, 128, 192, 256, 384, 512",
        "layers: got fixed to 3, expected not searched",
    ]


def test_a_search_over_a_fine_tuning_leaves_the_shape_of_the_weights_as_it_is(tmp_path):
    fine_tuned = BASE.replace(init_from="runs/a")
    assert set(searched(create_space(fine_tuned))) == {"seq_length", "step_weight", "duration_weight"}
    for fix in (["freeze=embedding", "init_from=2024"], ["init_from=2024", "freeze=embedding"]):
        space = create_space(BASE, fix=[*fix, "units=64"])
        assert set(searched(space)) == {"seq_length", "step_weight", "duration_weight"}
        config = space.trial_config({}, 100)
        assert (config.init_from, config.freeze, config.units) == ("2024", "embedding", 64)
    file = written(tmp_path, "init_from: [runs/a, runs/b]\nfreeze: ['', embedding]")
    assert searched(create_space(fine_tuned, file=file))["freeze"].values == ("", "embedding")
    for options in ({"tune": ["layers"]}, {"file": written(tmp_path, "units: [64, 128]")}):
        with pytest.raises(UserError, match=r"(layers|units): the weights of init_from determine it"):
            create_space(fine_tuned, **options)
    with pytest.raises(UserError, match="freeze='embedding' needs init_from"):
        create_space(BASE, fix=["freeze=embedding"])
