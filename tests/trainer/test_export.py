"""An export is loaded where its user loads it: in a process that has TensorFlow and nothing else."""

import importlib.metadata
import json
import os
import re
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sostenuto.errors import UserError
from sostenuto.music.notes import TICK_US
from tests.factories import random_arrays, read_files, tiny_model, write_trained
from tests.processes import REPOSITORY
from tests.trainer.data.repeats import recall_of
from trainer.config import Config
from trainer.data.note_table import NoteTable
from trainer.data.note_tensors import NoteTensors
from trainer.evaluation.scorer import Scorer
from trainer.export import export_model
from trainer.model.heads import UNIFORMS_PER_NOTE
from trainer.model.next_note import build_model, start_note
from trainer.model.time_bins import BIN_STARTS, BIN_WIDTHS
from trainer.workdir import layout
from trainer.workdir.load_model import load_model

VOICES, NOTES, PLAYED, CHUNK = 3, 30, 20, 13
TEMPERATURE = 0.8
SEED = 11
PITCH_RANGE = (40, 90)
COMPOSERS = ("Alkan", "Liszt")  # The voices have none, the first and the second.

# What runs without the project. The first argument names the packages that may be imported; no others can be found.
ELSEWHERE = """
import json, os, sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

packages = {*json.loads(sys.argv[1]), *sys.stdlib_module_names}

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        known = name.partition(".")[0] in packages or name.startswith("_sysconfigdata")
        return super().find_spec(name, path, target) if known else None

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Finder]
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import tensorflow as tf

voices, played, chunk, temperature, seed = json.loads(sys.argv[2])
results = {}
for kind in ("density", "last"):
    exported = tf.saved_model.load(f"{kind}/export")
    call = exported.signatures
    notes = {name: tf.constant(field) for name, field in np.load(f"{kind}.npz").items()}

    composers = list(range(voices)) if kind == "density" else [0] * voices
    state = call["initial_state"](composer=tf.constant(composers))
    parts = []
    for begin in range(0, notes["pitch"].shape[1] - 1, chunk):
        window = {name: field[:, begin : begin + chunk + 1] for name, field in notes.items()}
        scored = call["score"](**window, **state)
        state = {name: scored.pop(name) for name in state}
        parts.append(scored)
    for name in parts[0]:
        results[f"{kind} {name}"] = np.concatenate([part[name] for part in parts], axis=1)

    voice = {**{name: field[:, -1] for name, field in notes.items()}, **state}
    for number in range(played):
        voice = call["next_note"](
            **voice, temperature=tf.constant(temperature), seed=tf.constant([seed, number], tf.int32)
        )
        if kind == "density":
            results.setdefault("density ends", []).append(voice.pop("end_probability").numpy())
        for name in notes:
            results.setdefault(f"{kind} played {name}", []).append(voice[name].numpy())
np.savez("results.npz", **results)

for kind, program in json.load(sys.stdin).items():
    os.rename(kind, "workdir")
    exec(program)
    print("end of", kind)
    os.rename("workdir", kind)
assert not {"keras", "trainer", "notes"} & sys.modules.keys()
"""


def packages_of_tensorflow() -> list[str]:
    """What can be imported where TensorFlow is installed; Keras, which it asks for too, left out."""
    wanted, distributions = ["tensorflow"], set()
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name in distributions or name == "keras":
            continue
        distributions.add(name)
        requirements = [Requirement(line) for line in importlib.metadata.requires(name) or []]
        wanted += [one.name for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [
        package
        for package, names in importlib.metadata.packages_distributions().items()
        if distributions & {canonicalize_name(name) for name in names}
    ]


def with_start(notes):
    """Notes `[batch, notes]` behind what stands before a performance."""
    start = start_note(len(notes.pitch)).map(lambda field: field[:, tf.newaxis])
    return NoteTensors(*(tf.concat([first, field], axis=1) for first, field in zip(start, notes, strict=True)))


def uniforms(voices, *seed):
    return tf.random.stateless_uniform([voices, UNIFORMS_PER_NOTE], seed, alg="philox")


def played(model, note, state, seed):
    """The notes that the model itself draws, `[notes, voices]` for each field, and the probabilities of an end."""
    drawn, ends = [], []
    for number in range(PLAYED):
        hidden, state = model.decode_step(note, state, model.decode_weights())
        drawn_by = uniforms(len(note.pitch), seed, number)
        note, _ = model.heads.sample(hidden, drawn_by, tf.constant(TEMPERATURE), memory=state.memory)
        drawn.append(note)
        if model.heads.end:
            ends.append(tf.sigmoid(model.heads.end(hidden.body, hidden.position)))
    return NoteTensors(*(np.stack(field) for field in zip(*drawn, strict=True))), ends


@pytest.fixture(scope="module")
def models():
    return {
        "density": tiny_model("density", layers=2, pitch_range=PITCH_RANGE, composers=COMPOSERS),
        "last": tiny_model("regression", positions="last", seq_length=CHUNK, pitch_range=PITCH_RANGE),
    }


@pytest.fixture(scope="module")
def inputs(models):
    """The windows that are scored: of the density model from the performances' starts."""
    notes = random_arrays(VOICES, NOTES, seed=4)
    # Few pitches, so that phrases return and the model recalls them.
    notes = notes._replace(pitch=60 + notes.pitch % 4)
    return {"density": with_start(notes), "last": notes}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory, models, inputs):
    """What the exports gave without the project, and what the example of the docs printed."""
    directory = tmp_path_factory.mktemp("elsewhere")
    for kind, model in models.items():
        export_model(str(write_trained(directory / kind, model)))
        np.savez(directory / f"{kind}.npz", **inputs[kind]._asdict())
    # A fine-tuned model has a program too, whose card has the first: it runs with the page's other blocks.
    page = (REPOSITORY / "docs" / "export.md").read_text()
    programs = [text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if '"workdir/export"' in text]
    for kind, program in zip(models, programs, strict=True):
        assert f"```python\n{program}```" in (directory / kind / "export" / "README.md").read_text()
    done = subprocess.run(
        [sys.executable, "-I", "-c", ELSEWHERE, json.dumps(packages_of_tensorflow()),
         json.dumps([VOICES, PLAYED, CHUNK, TEMPERATURE, SEED])],
        cwd=directory, input=json.dumps(dict(zip(models, programs, strict=True))), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with np.load(directory / "results.npz") as results:
        return dict(results), done.stdout


def table_of(notes):
    """Notes `[batch, notes]` as the table of a split, a performance each."""
    batch, length = notes.pitch.shape
    rows = np.empty(batch * length, [(field, "<i4") for field in NoteTensors._fields])
    for field, values in notes._asdict().items():
        rows[field] = np.ravel(values)
    return NoteTable(rows, np.arange(batch + 1) * length)


def test_scores_are_those_of_evaluation_with_the_state_carried_over_chunks(elsewhere, models, inputs):
    results, _ = elsewhere
    table = table_of(inputs["density"].map(lambda field: field[:, 1:]))
    scores = Scorer(models["density"]).score(table._replace(composers=("", *COMPOSERS)))
    for field in ("pitch", "step", "duration"):
        nats = results[f"density {field}_nats"]
        assert nats.shape == (VOICES, NOTES)
        # Evaluation leaves the first note of a performance out.
        np.testing.assert_allclose(np.ravel(nats[:, 1:]), getattr(scores, field), rtol=1e-4, atol=1e-4)
    targets = inputs["density"].map(lambda field: field[:, 1:])
    pitches, times = recall_of(targets)
    state = models["density"].initial_state(VOICES, np.arange(VOICES))
    hidden, _ = models["density"].forward(inputs["density"].map(lambda field: field[:, :-1]), state, pitches)
    nats = models["density"].heads.losses(hidden, targets, times)
    for field, expected in nats.items():
        np.testing.assert_allclose(results[f"density {field}_nats"], expected, rtol=1e-4, atol=1e-4)


def test_sampling_continues_scored_notes_as_the_model_does(elsewhere, models, inputs):
    results, _ = elsewhere
    for kind, model in models.items():
        state, weights = model.initial_decode_state(VOICES, np.arange(VOICES)), model.decode_weights()
        for index in range(NOTES - (kind != "density")):
            note = inputs[kind].map(lambda field, index=index: field[:, index])
            _, state = model.decode_step(note, state, weights)
        expected, ends = played(model, inputs[kind].map(lambda field: field[:, -1]), state, SEED)
        if kind == "density":
            np.testing.assert_allclose(results["density ends"], ends, rtol=1e-3, atol=1e-6)
        for field, notes in expected._asdict().items():
            # A predicted time is rounded to microseconds; one that is drawn is a multiple of 10,000.
            rounding = 2 if field.endswith("_us") else 0
            np.testing.assert_allclose(results[f"{kind} played {field}"], notes, rtol=0, atol=rounding, err_msg=field)
        assert len({tuple(voice) for voice in expected.pitch.T}) == VOICES


def test_the_example_of_the_docs_plays_from_silence(elsewhere, models):
    _, printed = elsewhere
    lines = [[int(number) for number in line.split()] for line in printed.partition("end of density")[0].splitlines()]
    assert len(lines) == 100
    model = models["density"]
    note, state, onset_us = start_note(1), model.initial_decode_state(1), 0
    for number, line in enumerate(lines):
        hidden, state = model.decode_step(note, state, model.decode_weights())
        note, _ = model.heads.sample(hidden, uniforms(1, 2024, number), tf.constant(1.0), memory=state.memory)
        onset_us += int(note.step_us[0]) if number else 0
        assert line == [onset_us, *(int(field[0]) for field in (note.pitch, note.duration_us, note.velocity))]


def test_the_program_with_a_primer_continues_it(elsewhere):
    _, printed = elsewhere
    printed = printed.partition("end of density\n")[2].partition("end of last")[0]
    lines = [[int(number) for number in line.split()] for line in printed.splitlines()]
    assert len(lines) == 100
    assert lines[0][0] >= 23 * 250_000
    assert all(PITCH_RANGE[0] <= pitch <= PITCH_RANGE[1] for _, pitch, _, _ in lines)


def test_an_export_plays_within_the_range_of_its_model(elsewhere):
    results, printed = elsewhere
    for kind in ("density", "last"):
        pitches = results[f"{kind} played pitch"]
        assert PITCH_RANGE[0] <= pitches.min() <= pitches.max() <= PITCH_RANGE[1]
    lines = [line.split() for line in printed.splitlines() if not line.startswith("end")]
    assert all(PITCH_RANGE[0] <= int(pitch) <= PITCH_RANGE[1] for _, pitch, _, _ in lines)


def test_at_temperature_0_the_likeliest_values_are_played(tmp_path):
    model = tiny_model("density", layers=1)
    exported = tf.saved_model.load(export_model(str(write_trained(tmp_path / "workdir", model))))
    notes = [play_one(exported, temperature=np.float32(0), seed=[seed, 0]) for seed in range(8)]
    (pitch,) = {int(note["pitch"][0]) for note in notes}
    for field in ("step_us", "duration_us", "velocity"):
        assert len({int(note[field][0]) for note in notes}) == 1
    hidden, _ = model.decode_step(start_note(1), model.initial_state(1), model.decode_weights())
    logits = model.heads.logits(hidden, start_note(1)._replace(pitch=tf.constant([pitch])))
    assert pitch == np.argmax(logits["pitch"])
    chances = model.heads.times["step"].tick_probabilities(logits["step"]).numpy()[0]
    likeliest = np.argmax(np.add.reduceat(chances, BIN_STARTS))
    first, width = BIN_STARTS[likeliest], BIN_WIDTHS[likeliest]
    assert int(notes[0]["step_us"][0]) == TICK_US * (first + np.argmax(chances[first : first + width]))


def test_a_last_position_model_scores_the_end_of_a_window_as_in_evaluation(elsewhere, models, inputs):
    results, _ = elsewhere
    # The first chunk is read from the initial state, and its last note from as many notes as the model was trained on.
    hidden, _ = models["last"].forward(inputs["last"].map(lambda field: field[:, :CHUNK]))
    last = hidden.map(lambda part: part[:, -1])
    expected = models["last"].heads.predict_fields(last)
    for field in ("step", "duration"):
        scored = results[f"last {field}_seconds"]
        assert scored.shape == (VOICES, NOTES - 1)
        np.testing.assert_allclose(scored[:, CHUNK - 1], expected[field], rtol=1e-4, atol=1e-5)
    nats = models["last"].heads.losses(last, inputs["last"].map(lambda field: field[:, CHUNK]))["pitch"]
    np.testing.assert_allclose(results["last pitch_nats"][:, CHUNK - 1], nats, rtol=1e-4, atol=1e-5)


def test_a_last_position_model_scores_a_window_with_the_memory_of_the_notes_before_it(tmp_path):
    model = tiny_model("density", layers=1, positions="last", seq_length=8)
    exported = tf.saved_model.load(export_model(str(write_trained(tmp_path / "workdir", model))))
    initial_state, score = (exported.signatures[name] for name in ("initial_state", "score"))
    notes = random_arrays(1, 40, seed=4)
    notes = notes._replace(pitch=60 + notes.pitch % 4)
    expected = Scorer(model).score(table_of(notes))
    state = initial_state(composer=tf.constant([0]))
    before, window = (notes.map(lambda field, rows=rows: field[:, rows]) for rows in (slice(32), slice(31, None)))
    memory = {name: value for name, value in score(**before._asdict(), **state).items() if name.startswith("memory_")}
    scored = score(**window._asdict(), **{**state, **memory})
    for field in ("pitch", "step", "duration"):
        np.testing.assert_allclose(scored[f"{field}_nats"][0, -1], getattr(expected, field)[-1], rtol=1e-4, atol=1e-4)


def play_one(exported, **changes):
    """Has an export play the first note of a performance, or what follows another note."""
    start = {field: value.numpy() for field, value in start_note(1)._asdict().items()}
    inputs = {**start, "temperature": np.float32(1), "seed": [1, 2], **changes}
    state = exported.signatures["initial_state"](composer=tf.constant([0]))
    return exported.signatures["next_note"](**{name: tf.constant(value) for name, value in inputs.items()}, **state)


def test_a_window_of_one_note_has_no_score_and_leaves_the_state_alone(tmp_path):
    model = tiny_model("density", layers=2)
    exported = tf.saved_model.load(export_model(str(write_trained(tmp_path / "workdir", model))))
    notes = {field: value[:, tf.newaxis] for field, value in start_note(2)._asdict().items()}
    state = exported.signatures["initial_state"](composer=tf.constant([0, 0]))
    state = {name: part + tf.ones([], part.dtype) for name, part in state.items()}
    scored = exported.signatures["score"](**notes, **state)
    assert {name: value.shape for name, value in scored.items() if name.endswith("_nats")} == {
        f"{field}_nats": [2, 0] for field in ("pitch", "step", "duration", "velocity", "end")
    }
    assert all(np.array_equal(scored[name], part) for name, part in state.items())


def test_a_composer_that_the_model_does_not_know_is_refused(tmp_path):
    model = tiny_model("density", layers=1, composers=COMPOSERS)
    exported = tf.saved_model.load(export_model(str(write_trained(tmp_path / "workdir", model))))
    for composer in (-1, 3):
        with pytest.raises(tf.errors.InvalidArgumentError, match="expected composer 0 to 2"):
            exported.signatures["initial_state"](composer=tf.constant([0, composer]))


@pytest.mark.parametrize(
    ("positions", "wrong"),
    [
        ("last", {"pitch": [128]}),
        ("every", {"pitch": [129]}),
        ("every", {"velocity": [128]}),
        ("every", {"step_us": [-1]}),
    ],
)
def test_what_is_no_note_of_the_model_is_refused(tmp_path, positions, wrong):
    model = tiny_model("regression", positions=positions)
    exported = tf.saved_model.load(export_model(str(write_trained(tmp_path / "workdir", model))))
    assert play_one(exported, pitch=[127])["pitch"].shape == [1]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"expected pitch 0 to 12[78], step_us"):
        play_one(exported, **wrong)


@pytest.mark.parametrize(("precision", "dtype"), [("mixed_bfloat16", tf.float32), ("float64", tf.float64)])
def test_a_model_of_any_precision_is_exported_in_that_of_its_weights(tmp_path, precision, dtype):
    workdir = str(write_trained(tmp_path / "workdir", tiny_model("density", layers=1, precision=precision)))
    after = play_one(tf.saved_model.load(export_model(workdir)))
    assert after["hidden_0"].dtype == dtype
    model = load_model(workdir).model
    hidden, state = model.decode_step(start_note(1), model.initial_decode_state(1), model.decode_weights())
    expected, _ = model.heads.sample(hidden, uniforms(1, 1, 2), tf.constant(1, dtype), memory=state.memory)
    assert all(after[field] == value for field, value in expected._asdict().items())


def test_an_export_is_the_same_on_every_machine(tmp_path, monkeypatch):
    workdir = write_trained(tmp_path / "workdir", tiny_model("density", layers=2))
    written = []
    for cores in (1, 8):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        directory = export_model(str(workdir))
        reader = tf.train.load_checkpoint(f"{directory}/variables/variables")
        weights = [reader.get_tensor(name) for name in reader.get_variable_to_shape_map() if "VARIABLE" in name]
        written.append(sorted((weight.shape, weight.tobytes()) for weight in weights))
        assert b"Cudnn" not in (workdir / "export" / "saved_model.pb").read_bytes()
    assert written[0] == written[1]


def test_an_export_is_loaded_without_its_run(tmp_path):
    workdir = write_trained(tmp_path / "workdir", tiny_model("density", layers=1, pitch_range=PITCH_RANGE))
    layout.update_run(str(workdir), {"sustain": "extend"})
    expected = load_model(str(workdir))
    shutil.copytree(export_model(str(workdir)), tmp_path / "passed-on")
    shutil.rmtree(workdir)
    loaded = load_model(str(tmp_path / "passed-on"))
    assert (loaded.train_step, loaded.model.config) == (expected.train_step, expected.model.config)
    for ours, theirs in zip(loaded.model.weights, expected.model.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert loaded.model.heads.pitch_range == PITCH_RANGE
    run = layout.load_run(str(tmp_path / "passed-on"))
    assert (run.sustain, run.pitch_range) == ("extend", PITCH_RANGE)


@pytest.mark.parametrize("is_remote", [False, True])
def test_an_export_with_damaged_weights_is_refused_in_one_line(tmp_path, gcs, is_remote):
    workdir = write_trained(tmp_path / "workdir", tiny_model("regression"))
    directory = export_model(str(workdir))
    (workdir / "export" / "best" / "00000007" / "variables.index").write_bytes(b"")
    if is_remote:
        for name, data in read_files(workdir / "export").items():
            gcs.put(f"gs://bucket/export/{name}", data)
        directory = "gs://bucket/export"
    with pytest.raises(UserError, match=r"export/best: the weights of the export .* corrupt\. Copy the whole") as error:
        load_model(directory)
    assert len(str(error.value).splitlines()) == 1


@pytest.fixture
def exported(tmp_path):
    """A workdir that holds an export, and by now better weights."""
    workdir = write_trained(tmp_path / "workdir", tiny_model("density", layers=1))
    export_model(str(workdir))
    write_trained(workdir, tiny_model("density", layers=1, seed=1))
    return workdir


def test_an_export_takes_the_place_of_an_older_one(exported):
    older = read_files(exported / "export")
    (exported / "export.tmp-0123456789ab" / "variables").mkdir(parents=True)  # What a killed export left.
    assert export_model(str(exported)) == str(exported / "export")
    newer = read_files(exported / "export")
    assert newer.keys() == older.keys()
    assert newer["variables/variables.data-00000-of-00001"] != older["variables/variables.data-00000-of-00001"]
    assert json.loads(newer["export.json"])["train_step"] == 7
    assert {path.name for path in exported.iterdir()} == {"config.json", "run.json", "best", "export"}


def test_an_export_is_written_whatever_characters_its_path_has(tmp_path):
    """TensorFlow's readers take a path as a pattern."""
    workdir = write_trained(tmp_path / "Étude [1] \\ *?", tiny_model("density", layers=1))
    assert export_model(str(workdir)) == str(workdir / "export")
    (tmp_path / "plain").symlink_to(workdir)
    assert "next_note" in tf.saved_model.load(str(tmp_path / "plain" / "export")).signatures


@pytest.mark.parametrize("function", ["os.fsync", "ctypes.CDLL"], ids=["sync", "rename"])
def test_an_interrupted_export_leaves_the_older_one_whole(exported, monkeypatch, function):
    older = read_files(exported)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(function, interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_model(str(exported))
    assert read_files(exported) == older


def test_where_nothing_can_be_written_one_line_says_so(exported):
    older = read_files(exported)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(UserError, match=r"/export: cannot be written \(File too large\)") as error:
            export_model(str(exported))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(str(error.value).splitlines()) == 1
    assert read_files(exported) == older


def test_an_export_is_about_as_large_as_the_weights(tmp_path):
    model = build_model(Config())
    directory = export_model(str(write_trained(tmp_path / "workdir", model)))
    written = tf.train.list_variables(f"{directory}/variables/variables")
    numbers = sum(int(np.prod(shape)) for name, shape in written if "VARIABLE" in name)
    # In place of the embeddings and what multiplies them are their products.
    assert 1 < numbers / sum(int(np.prod(variable.shape)) for variable in model.weights) < 1.2
    assert len(read_files(tmp_path / "workdir" / "export")["saved_model.pb"]) < 1_700_000
