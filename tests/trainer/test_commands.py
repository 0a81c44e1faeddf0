"""The three commands as a user starts them: what they say, the status they leave, the files they write."""

import dataclasses
import datetime
import json
import re
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor
from subprocess import CompletedProcess

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import rgb_to_hsv, to_rgb

from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from sostenuto.music import plots
from sostenuto.music.midi import read_midi, read_pedal, write_midi
from sostenuto.music.notes import FIELDS
from tests.factories import melody, midi_bytes, tiny_model, write_dataset
from tests.pages import Page
from tests.processes import REPOSITORY, run_python
from trainer.config import Config
from trainer.presets import PRESETS, preset, read_config
from trainer.workdir.formats import ExportInfo

TINY = Config(
    units=16, layers=1, head_units=16, pitch_embedding=8, time_embedding=8, velocity_embedding=8, seq_length=16,
    batch_size=8, warmup_steps=5, log_every=5, evaluate_every=10, checkpoint_every=10, max_to_keep=2,
)  # fmt: skip
STEPS = 30
CHECKPOINT = {"checkpoint.json", "variables.index", "variables.data-00000-of-00001"}
PRIMER = [60, 64, 67, 72, 67, 64]
PRIMER_PEDAL = np.array([[100_000, 700_000]])
OF_SINGLE = ["--data={single}", "--workdir={trained}", "--output={o.json}"]
OF_LONG = ["--data={long}", "--workdir={trained}", "--output={o.json}"]
FLAGS = {
    "trainer": {"data", "workdir", "preset", "config", "quiet", "log_json", "seq_length", "units", "layers",
                "batch_size", "steps", "epochs", "max_minutes", "replicas", "learning_rate", "precision", "seed",
                "checkpoint_every", "samples", "gcs_user_project", "pitch_weight", "step_weight", "duration_weight"},
    "trainer.evaluate": {"workdir", "data", "split", "output", "generated", "num_primers", "primer_notes", "num_notes",
                         "temperature", "top_p", "returns", "end_odds", "seed", "quiet", "log_json",
                         "gcs_user_project"},
    "trainer.generate": {"workdir", "output", "primer", "primer_seconds", "num_notes", "num_samples", "temperature",
                         "top_p", "returns", "end_odds", "seed", "key", "range", "density", "tempo", "avoid_repeats",
                         "pedal", "audio", "quiet", "log_json", "gcs_user_project"},
    "trainer.report": {"workdir", "data", "quiet", "log_json", "gcs_user_project"},
}  # fmt: skip


def run(command: str, *flags: str) -> CompletedProcess[str]:
    return run_python("-m", command, *flags)


def assert_went_well(process) -> None:
    """Status 0, and on stderr nothing but lines of our own that say what is being done."""
    assert process.returncode == 0, process.stderr
    ours = r"(loading|scoring|counting|generating|rendering|comparing|drawing|writing|reading|replacing) .+|\w+: \d.+"
    assert not [line for line in process.stderr.splitlines() if not re.fullmatch(ours, line)]


def files(directory) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def assert_refused(process, *words: str) -> None:
    """Status 2 and one line that names the thing, and nothing else."""
    assert process.returncode == 2, process.stderr
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert re.match(r"trainer(\.\w+)?: \S", line)
    for word in words:
        assert word in line


# Without a model: answered before TensorFlow is loaded.


@pytest.mark.parametrize("command", FLAGS)
def test_help_answers_at_once_and_shows_the_flags(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = run(command, "--help")
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert process.returncode == 0
    assert process.stderr == ""
    assert process.stdout.startswith(f"usage: python -m {command} --")
    shown = set(re.findall(r"^  --(?:\[no\])?(\w+)", process.stdout, re.MULTILINE))
    assert FLAGS[command] <= shown
    # Time of the processor, not of the clock: the machine may be busy with other tests.
    assert ended.ru_utime + ended.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.mark.parametrize("command", FLAGS)
def test_help_loads_neither_tensorflow_nor_beam(command):
    loaded = run_python("-X", "importtime", "-m", command, "--help").stderr
    assert "absl.flags" in loaded
    assert not re.search(r"\b(tensorflow|keras|apache_beam|matplotlib)\b", loaded)


def test_help_names_the_train_steps_that_are_profiled():
    source = (REPOSITORY / "trainer" / "callbacks" / "profiler.py").read_text()
    first, last = re.search(r"_TRACED = \((\d+), (\d+)\)", source).groups()
    profiled = f"train_steps {int(first) + 1} to {last}"  # The trace begins after the first of the two.
    assert profiled in " ".join(run("trainer", "--help").stdout.split())
    assert profiled in (REPOSITORY / "docs" / "training.md").read_text()


@pytest.fixture(scope="module")
def places(tmp_path_factory, dataset):
    """Directories and files that are not what a command wants, by name."""
    here = tmp_path_factory.mktemp("places")
    unfinished = here / "unfinished"
    shutil.copytree(dataset, unfinished)
    (unfinished / "dataset.json").unlink()
    damaged = here / "damaged"
    shutil.copytree(dataset, damaged)
    (damaged / "dataset.json").write_text("{}")
    paths = {
        "data": dataset,
        "none": here / "none",
        "unfinished": unfinished,
        "damaged": damaged,
        "single": write_dataset(here / "single", {"train": [20], "test": [1, 1]}),
        "long": write_dataset(here / "long", {"train": [40, 700], "test": [640, 20, 700, 800]}),
        "silent.mid": here / "silent.mid",
        "cut.mid": here / "cut.mid",
        "text.mid": here / "text.mid",
        "primer.mid": here / "primer.mid",
        "long.mid": here / "long.mid",
        "unknown.json": here / "unknown.json",
        "wrong.json": here / "wrong.json",
        "w": here / "w",
        "o": here / "o",
        "o.json": here / "o.json",
        "extended": here / "extended",
        "music": here / "music",
        "exported": here / "exported",
        **{name: here / name for name in ("trained", "moved", "exchanged", "last")},
    }
    for name, data, positions in (
        ("trained", dataset, "every"),
        ("moved", paths["none"], "every"),
        ("exchanged", paths["long"], "every"),
        ("last", dataset, "last"),
    ):
        paths[name].mkdir()
        config = dataclasses.replace(TINY, positions=positions)
        (paths[name] / "config.json").write_text(config.to_json())
        run_json = {"dataset": Manifest.load(dataset).sha256, "data": str(data)}
        (paths[name] / "run.json").write_text(json.dumps(run_json))
    paths["exported"].mkdir()
    ExportInfo(3, (40, 90), TINY, "extend").save(str(paths["exported"] / "export.json"))
    (paths["exported"] / "saved_model.pb").touch()
    paths["music"].mkdir()
    (paths["music"] / "sample-000.mid").write_text("mine")
    paths["extended"].mkdir()
    (paths["extended"] / "run.json").write_text('{"sustain": "extend"}')
    paths["silent.mid"].write_bytes(midi_bytes([]))
    paths["cut.mid"].write_bytes(melody(PRIMER)[:-20])
    paths["text.mid"].write_text("Ceci n'est pas un fichier MIDI.\n")
    write_midi(read_midi(melody(PRIMER), "primer").notes, paths["primer.mid"], PRIMER_PEDAL)
    # Two tracks in unison: a sample's file has each note once.
    paths["long.mid"].write_bytes(midi_bytes(*[melody(PRIMER * 350)[14:]] * 2))
    paths["unknown.json"].write_text('{"lstm_units": 8, "unit": 9}')
    paths["wrong.json"].write_text('{"dropout": 1.5}')
    return paths


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--workdir={w}"], ["--data is missing"]),
        (["--data={data}"], ["--workdir is missing"]),
        (["--data={none}", "--workdir={w}"], ["none: no such directory", "sostenuto preprocess"]),
        (["--data={unfinished}", "--workdir={w}"], ["unfinished: has no dataset.json", "sostenuto preprocess"]),
        (["--data={damaged}", "--workdir={w}"], ["damaged/dataset.json", "schema version"]),
        (["--data={data}", "--workdir={w}", "--preset=huge"], ["--preset", "huge", *PRESETS]),
        (["--data={data}", "--workdir={w}", "--unit=8"], ["--unit:", "--units"]),
        (["--data={data}", "--workdir={w}", "--units=many"], ["--units:", "many"]),
        (["--data={data}", "--workdir={w}", "--units=0"], ["units=0: expected at least 1"]),
        (["--data={data}", "--workdir={w}", "--units=1000000000000"], ["units=1000000000000", "at most 16,384"]),
        (["--data={data}", "--workdir={w}", "--model=transformer"], ["--model:", "transformer", "density"]),
        (["--data={data}", "--workdir={w}", "--steps=5", "--epochs=1"], ["--steps, --epochs and --max_minutes"]),
        (["--data={data}", "--workdir={w}", "--max_minutes=inf"], ["--max_minutes: expected a finite number"]),
        (["--data={data}", "--workdir={w}", "--seq_length=5000", "--quiet"], ["--seq_length=5000", "120 notes"]),
        (["--data={data}", "--workdir={w}", "--batch_size=4096", "--quiet"], ["--batch_size=4096", "windows"]),
        (["--data={data}", "--workdir={w}", "--config={none}"], ["none: no such config file"]),
        (["--data={data}", "--workdir={w}", "--config={unknown.json}"], ["unknown.json: unknown field 'lstm_units'"]),
        (["--data={data}", "--workdir={w}", "--config={wrong.json}"], ["dropout=1.5"]),
        (["--data={data}", "--workdir={w}", "--config={wrong.json}", "--preset=base"], ["--preset and --config"]),
        (["--data={data}", "--workdir={w}", "--init_from={none}"], ["--init_from: ", "none: no such directory"]),
        (["--data={data}", "--workdir={w}", "--init_from={extended}"], ["--init_from: ", "extended: is no workdir"]),
        (["--data={data}", "--workdir={w}", "--freeze=lstm_0"], ["freeze='lstm_0' needs init_from"]),
        (
            ["--data={data}", "--workdir={w}", "--init_from={trained}", "--units=8", "--quiet"],
            ["trained: has units=16, this run units=8. Pass --units=16"],
        ),
        (["{data}", "--workdir={w}"], ["unexpected argument"]),
    ],
    ids=lambda value: " ".join(value[-1:]),
)
def test_a_mistake_in_training_is_one_line(places, flags, words):
    assert_refused(run("trainer", *(_filled(flag, places) for flag in flags)), *words)
    assert not places["w"].exists()


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("trainer", ["--data={none}", "--workdir={w}"]),
        ("trainer.evaluate", ["--workdir={none}"]),
        ("trainer.evaluate", ["--workdir={trained}", "--data={none}", "--output={o.json}"]),
        ("trainer.generate", ["--workdir={none}", "--output={o}"]),
        ("trainer.report", ["--workdir={none}"]),
        ("trainer.report", ["--workdir={trained}", "--compare_with={none}"]),
        ("tuning", ["--data={none}", "--workdir={w}"]),
    ],
)
def test_a_directory_that_does_not_exist_is_noticed_before_tensorflow_loads(places, command, flags):
    process = run(command, *(_filled(flag, places) for flag in flags))
    assert process.returncode == 2
    assert re.fullmatch(rf"{command}: \S+/none: no such directory, expected a \w+\. .+\n", process.stderr)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data={data}"], ["--workdir is missing"]),
        (["--workdir={w}"], ["w: no such directory"]),
        (["--workdir={extended}"], ["extended: is no workdir"]),
        (["--workdir={moved}"], ["none: the dataset that", "moved", "not there any more", "--data=DIR"]),
        (["--workdir={exchanged}"], ["long: is not the dataset that", "exchanged", "--output=FILE"]),
        (["--data={unfinished}", "--workdir={trained}"], ["unfinished: has no dataset.json"]),
        (["--data={long}", "--workdir={trained}"], ["long: is not the dataset", "--output=FILE"]),
        (["--data={long}", "--workdir={trained}", "--generated"], ["long: is not the dataset", "--output=FILE"]),
        (["--data={long}", "--workdir={trained}", "--output={trained}/evaluation-test.json"], ["is not the dataset"]),
        (
            ["--data={long}", "--workdir={trained}", "--output={trained}/evaluation-train.json"],
            ["trained is a workdir"],
        ),
        (["--workdir={trained}", "--output={moved}/evaluation-test.json"], ["moved is a workdir"]),
        (["--workdir={trained}", "--output={trained}/export/scores.json"], ["export is part of a workdir"]),
        (["--workdir={trained}", "--output={data}/dataset.json"], ["data is a dataset"]),
        (["--workdir={trained}", "--output={music}"], ["music: is a directory"]),
        (["--workdir={trained}", "--output={text.mid}"], ["text.mid exists", "Move it"]),
        (["--workdir={trained}", "--output={text.mid}/scores.json"], ["text.mid is a file"]),
        (["--workdir={trained}", "--output=/proc/none/scores.json"], ["/proc/none: cannot be written"]),
        (["--data={data}", "--workdir={trained}", "--split=dev"], ["--split:", "dev", "validation"]),
        (["--workdir={exported}"], ["exported: is an export", "Pass --data=DIR and --output=FILE"]),
        (["--workdir={exported}", "--data={data}"], ["exported: is an export", "--output=FILE"]),
        (["--workdir={exported}", "--output={o.json}"], ["exported: is an export", "--data=DIR"]),
        (
            ["--data={data}", "--workdir={exported}", "--output={exported}/evaluation-test.json"],
            ["exported is an export"],
        ),
        (
            ["--data={data}", "--workdir={exported}", "--output={o.json}", "--quiet"],
            ["exported/best: the weights", "corrupt"],
        ),
        ([*OF_SINGLE, "--split=validation"], ["single", "validation"]),
        (OF_SINGLE, ["single", "test", "nothing to score"]),
        (["--data={data}", "--workdir={trained}", "--generated"], ["0 pieces", "640 notes", "at least 2"]),
        ([*OF_LONG, "--generated", "--num_primers=4"], ["num_primers=4", "only 3", "=3 or"]),
        (["--data={long}", "--workdir={w}", "--num_primers=2"], ["--num_primers=2", "--generated"]),
        (["--data={long}", "--workdir={w}", "--temperature=0.9"], ["--temperature=0.9", "needs --generated"]),
        (["--data={long}", "--workdir={w}", "--top_p=pitch=0.9"], ["--top_p=pitch=0.9", "needs --generated"]),
        (["--data={long}", "--workdir={w}", "--seed=0"], ["--seed=0", "needs --generated"]),
        ([*OF_LONG, "--generated", "--end_odds=2"], ["--end_odds=2", "--whole_pieces"]),
        (["--data={long}", "--workdir={w}", "--num_notes=9"], ["--num_notes=9", "needs --generated"]),
        (["--data={long}", "--workdir={w}", "--primer_notes=9"], ["--primer_notes=9", "needs --generated"]),
        ([*OF_LONG, "--generated", "--num_notes=2048"], ["0 pieces", "2176 notes", "smaller --num_notes"]),
        (
            ["--data={long}", "--workdir={last}", "--generated", "--primer_notes=0"],
            ["primer_notes=0", "from silence", "1 or"],
        ),
        ([*OF_LONG, "--generated", "--temperature=pitch=0"], ["temperature=pitch=0", "above"]),
        ([*OF_LONG, "--generated", "--primer_notes=0", "--num_notes=1"], ["--num_notes=1", "2 or more"]),
        ([*OF_LONG, "--generated", "--top_p=1.5"], ["--top_p=1.5", "at most 1"]),
        ([*OF_LONG, "--generated", "--num_primers=0"], ["num_primers", "0"]),
    ],
    ids=lambda value: " ".join(value[-1:]),
)
def test_a_mistake_in_evaluating_is_one_line(places, flags, words):
    assert_refused(run("trainer.evaluate", *(_filled(flag, places) for flag in flags)), *words)
    assert_untouched(places)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--output={o}"], ["--workdir is missing"]),
        (["--workdir={w}"], ["--output is missing"]),
        (["--workdir={w}", "--output={o}", "--primer={none}"], ["none", "cannot be read"]),
        (["--workdir={w}", "--output={o}", "--primer={silent.mid}"], ["silent.mid", "no notes to continue"]),
        (["--workdir={w}", "--output={o}", "--primer={cut.mid}"], ["cut.mid"]),
        (["--workdir={w}", "--output={o}", "--primer={text.mid}"], ["text.mid"]),
        (["--workdir={w}", "--output={o}", "--temperature=0"], ["--temperature=0", "above 0"]),
        (["--workdir={w}", "--output={o}", "--temperature=nan"], ["--temperature=nan", "above 0"]),
        (["--workdir={w}", "--output={o}", "--temperature=warm"], ["--temperature=warm", "above 0"]),
        (["--workdir={w}", "--output={o}", "--temperature=tempo=1"], ["--temperature=tempo=1", "step, duration"]),
        (["--workdir={w}", "--output={o}", "--temperature=step=1,0.9"], ["--temperature=step=1,0.9", "0.9,pitch=1"]),
        (["--workdir={w}", "--output={o}", "--top_p=0"], ["--top_p=0", "above 0 and at most 1"]),
        (["--workdir={w}", "--output={o}", "--top_p=pitch=1.5"], ["--top_p=pitch=1.5", "at most 1"]),
        (["--workdir={w}", "--output={o}", "--key=H minor"], ["--key: got 'H minor'", "as in D minor"]),
        (["--workdir={w}", "--output={o}", "--range=C7-C2"], ["--range: got 'C7-C2'", "as in C2-C7"]),
        (["--workdir={w}", "--output={o}", "--density=-1"], ["density", "-1"]),
        (["--workdir={w}", "--output={o}", "--tempo=0"], ["tempo", "0.1"]),
        (["--workdir={w}", "--output={o}", "--primer_seconds=5"], ["--primer_seconds=5", "no --primer"]),
        (["--workdir={w}", "--output={o}", "--primer={primer.mid}", "--primer_seconds=0"], ["--primer_seconds=0"]),
        (["--workdir={extended}", "--output={o}", "--pedal"], ["--pedal", "sustain=extend"]),
        (["--workdir={w}", "--output={o}", "--num_notes=0"], ["num_notes", "0"]),
        (["--workdir={w}", "--output={o}", "--num_notes=100001"], ["num_notes", "100001"]),
        (["--workdir={w}", "--output={o}", "--num_samples=10001"], ["num_samples", "10001"]),
        (["--workdir={w}", "--output={o}", "--num_notes=100000", "--num_samples=101"], ["10,100,000", "10,000,000"]),
        (["--workdir={w}", "--output={music}"], ["sample-000.mid: exists, and no samples.json lists it", "Move it"]),
        (["--workdir={trained}", "--output={trained}"], ["trained is a workdir", "Choose another directory"]),
        (["--workdir={w}", "--output={trained}/best"], ["best is part of a workdir"]),
        (["--workdir={w}", "--output={exported}"], ["exported is an export"]),
        (["--workdir={w}", "--output={exported}/best"], ["best is part of an export"]),
        (["--workdir={exported}", "--output={o}", "--pedal"], ["--pedal", "sustain=extend"]),
        (["--workdir={w}", "--output={data}"], ["data is a dataset"]),
        (["--workdir={w}", "--output={text.mid}"], ["text.mid is a file"]),
        (["--workdir={w}", "--output={text.mid}/music"], ["music: cannot be written", "Not a directory"]),
        (["--workdir={w}", "--output=/proc/none"], ["/proc/none: cannot be written"]),
    ],
    ids=lambda value: " ".join(value[-1:]),
)
def test_a_mistake_in_generating_is_one_line(places, flags, words):
    assert_refused(run("trainer.generate", *(_filled(flag, places) for flag in flags)), *words)
    assert_untouched(places)


def assert_untouched(places) -> None:
    """Nothing was written, replaced or removed."""
    assert not any(places[name].exists() for name in ("w", "o", "o.json"))
    assert files(places["trained"]) == {"config.json", "run.json"}
    assert files(places["music"]) == {"sample-000.mid"}
    assert (places["music"] / "sample-000.mid").read_text() == "mine"
    assert places["text.mid"].read_text().startswith("Ceci")


def _filled(flag: str, places) -> str:
    return re.sub(r"{(.+)}", lambda match: str(places[match[1]]), flag)


# With a model: one tiny run, and around it all that needs a process with TensorFlow in it, two at a time.


@pytest.fixture(scope="module")
def processes(tmp_path_factory, dataset, places):
    """A tiny run from training to music, and one that cannot go well: where they are, and what each command said."""
    here = tmp_path_factory.mktemp("processes")
    (here / "tiny.json").write_text(TINY.to_json())
    data, workdir, tutorial = (
        f"--data={dataset}",
        f"--workdir={here / 'w'}",
        _untrained_tutorial(here / "tutorial", dataset),
    )
    tiny = f"--config={here / 'tiny.json'}"
    (here / "one").mkdir()
    for name in ("sample-007.mid", "sample-007.wav", "sample-999.mid", "letter.txt"):
        (here / "one" / name).write_text("of an earlier call")
    (here / "one" / "samples.json").write_text('{"samples": [], "files": ["sample-007.mid", "sample-007.wav"]}')
    (here / "two").mkdir()
    (here / "two" / "sample-005.mid").write_text("of an earlier call")
    (here / "two" / "samples.json").write_text('{"samples": [], "files": ["sample-005.mid"]}')
    # With this seed no key is struck twice at once, which MIDI cannot hold.
    music = ["trainer.generate", workdir, f"--primer={places['primer.mid']}", "--num_notes=30", "--end_odds=0",
             "--seed=9"]  # fmt: skip
    at_once = {
        "train": ["trainer", data, workdir, tiny, "--dropout=0.1", f"--steps={STEPS}", "--log_json"],
        "diverge": ["trainer", data, f"--workdir={here / 'diverged'}", tiny, "--learning_rate=1e30", "--steps=50",
                    "--warmup_steps=0", "--evaluate_every=0", "--quiet"],
        "tutorial": ["trainer.evaluate", data, f"--workdir={tutorial}", "--quiet"],
    }  # fmt: skip
    once_trained = {
        "generate": [*music, f"--output={here / 'two'}", "--num_samples=2", "--audio"],
        "again": [*music, f"--output={here / 'one'}", "--quiet", "--temperature=1.0,pitch=0.92", "--top_p=pitch=1"],
        "cut": [
            *music,
            f"--output={here / 'cut'}",
            "--primer_seconds=1",
            "--nopedal",
            "--temperature=0.9,pitch=1",
            "--top_p=step=0.95",
        ],
        "long": ["trainer.generate", workdir, f"--primer={places['long.mid']}", "--num_notes=30",
                 f"--output={here / 'of a long primer'}", "--end_odds=0", "--quiet", "--seed=9"],
        "evaluate": ["trainer.evaluate", workdir, "--log_json"],
        "compare": ["trainer.evaluate", f"--data={places['long']}", workdir, f"--output={here / 'compared.json'}",
                  "--generated", "--num_primers=2", "--temperature=0.9,pitch=1", "--top_p=step=0.95",
                  "--whole_pieces=2", "--end_odds=1e6"],
        "finished": ["trainer", data, workdir],
        "fine-tune": ["trainer", data, f"--workdir={here / 'fine'}", f"--init_from={here / 'w'}", "--steps=1",
                      "--learning_rate=1e-12", "--samples=0", "--quiet"],
        "export evaluated": ["trainer.evaluate", data, f"--workdir={here / 'w' / 'export'}",
                             f"--output={here / 'passed-on.json'}", "--quiet"],
        "export played": [*music, f"--workdir={here / 'w' / 'export'}", f"--output={here / 'passed-on'}", "--quiet"],
        "report": ["trainer.report", f"--workdir={here / 'copy'}", data],
    }  # fmt: skip
    # Each loads TensorFlow for seconds: two at a time.
    with ThreadPoolExecutor(2) as pool:
        running = {name: pool.submit(run, *command) for name, command in at_once.items()}
        assert running["train"].result().returncode == 0, running["train"].result().stderr
        shutil.copytree(here / "w", here / "copy", ignore=shutil.ignore_patterns("samples", "report.html"))
        running |= {name: pool.submit(run, *command) for name, command in once_trained.items()}
        return here, {name: process.result() for name, process in running.items()}


@pytest.fixture
def workdir(processes):
    """The workdir of the run that was trained to its end."""
    return processes[0] / "w"


def _untrained_tutorial(directory, dataset):
    """A workdir as a run of the tutorial's kind leaves it, but without the training; its dataset has been moved."""
    from trainer.checkpoints.manager import CheckpointManager

    model = tiny_model("regression", positions="last", seq_length=8)
    directory.mkdir()
    (directory / "config.json").write_text(model.config.to_json())
    run_json = {"data": "moved away", "dataset": Manifest.load(dataset).sha256}
    (directory / "run.json").write_text(json.dumps(run_json))
    CheckpointManager(str(directory / "best"), max_to_keep=1).save(
        3,
        {"model": [variable.value for variable in model.weights]},
        {"score": 1.0, "config": dataclasses.asdict(model.config)},
    )
    return directory


def test_training_leaves_exactly_its_files(workdir):
    summaries = {name for name in files(workdir) if name.startswith("summaries/")}
    assert sorted(name.split("/")[1] for name in summaries) == ["train", "validation"]
    best = json.loads((workdir / "result.json").read_text())["best_train_step"]
    assert files(workdir) - summaries == {
        ".lock",
        "config.json",
        "run.json",
        "result.json",
        "metrics.jsonl",
        "report.html",
        "evaluation-test.json",
        "samples/samples.json",
        *(f"samples/sample-{index:03d}.{kind}" for index in range(8) for kind in ("mid", "mp3")),
        "export/export.json",
        "export/README.md",
        "export/fingerprint.pb",
        "export/saved_model.pb",
        *(f"export/best/{best:08d}/{name}" for name in CHECKPOINT),
        "export/variables/variables.data-00000-of-00001",
        "export/variables/variables.index",
        *(f"checkpoints/{train_step:08d}/{name}" for train_step in (20, 30) for name in CHECKPOINT),
        *(f"best/{best:08d}/{name}" for name in CHECKPOINT),
    }


def test_the_config_of_a_run_is_the_file_and_the_flags(workdir):
    assert read_config(workdir / "config.json") == TINY.replace(dropout=0.1, steps=STEPS)


def test_a_run_that_starts_from_another_has_its_model_its_score_and_its_own_training(workdir, processes):
    here, done = processes
    assert done["fine-tune"].returncode == 0, done["fine-tune"].stderr
    expected = preset("base").with_model_of(TINY)
    expected = expected.replace(init_from=str(workdir), steps=1, learning_rate=1e-12)
    assert read_config(here / "fine" / "config.json") == expected
    best = json.loads((workdir / "result.json").read_text())["best"]
    assert json.loads((here / "fine" / "result.json").read_text())["best"] == pytest.approx(best, abs=1e-5)
    assert f"{workdir}, train_step " in (here / "fine" / "report.html").read_text()


def test_an_export_alone_scores_and_plays_as_its_run(workdir, processes):
    here, done = processes
    for name in ("export evaluated", "export played"):
        assert done[name].returncode == 0, done[name].stderr
    assert json.loads((here / "passed-on.json").read_text()) == json.loads(
        (workdir / "evaluation-test.json").read_text()
    )
    assert (here / "passed-on" / "sample-000.mid").read_bytes() == (here / "one" / "sample-000.mid").read_bytes()


def test_training_reports_as_the_contract_says(workdir, processes):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["train_step"] for line in lines] == [5, 10, 15, 20, 25, 30]
    for line in lines:
        assert {"loss", "pitch_nll", "step_nll", "duration_nll", "notes_per_second", "learning_rate"} <= line.keys()
        assert ("val_nats" in line) == (line["train_step"] % 10 == 0)
        assert all(np.isfinite(value) for value in line.values())
    assert lines[-1]["loss"] < lines[0]["loss"]
    result = json.loads((workdir / "result.json").read_text())
    assert result["train_step"] == STEPS
    assert result["reason"] == "steps"
    assert result["best"] == min(line["val_nats"] for line in lines if "val_nats" in line)
    assert (
        f"finished after {STEPS} train_steps (--steps reached); best validation score" in processes[1]["train"].stdout
    )
    *_, evaluate, generate, page = processes[1]["train"].stdout.splitlines()
    assert evaluate == f"next: sostenuto evaluate --workdir={workdir}"
    assert generate == f"      sostenuto generate --workdir={workdir} --output=music"
    assert page == f"report: {workdir / 'report.html'}"
    assert "notes/s" in processes[1]["train"].stderr


def test_evaluation_writes_the_contracts_figures(dataset, workdir, processes):
    process = processes[1]["evaluate"]
    assert process.returncode == 0, process.stderr
    figures = json.loads((workdir / "evaluation-test.json").read_text())
    assert figures.keys() >= {
        "nats_per_note", "pitch_top1", "pitch_top5", "step_within_30ms", "notes", "performances", "train_step"
    }  # fmt: skip
    nats = figures["nats_per_note"]
    assert nats.keys() == {"pitch", "step", "duration", "total"}
    assert nats["total"] == pytest.approx(nats["pitch"] + nats["step"] + nats["duration"])
    assert 0 <= figures["pitch_top1"] <= figures["pitch_top5"] <= 1
    assert figures["notes"] == 30 + 41 - 2
    assert figures["performances"] == 2
    assert figures["train_step"] == json.loads((workdir / "result.json").read_text())["best_train_step"]
    assert figures["dataset"] == Manifest.load(dataset).sha256
    for name, shown in (("histogram", "histogram"), ("ngram", "n-gram")):
        counted = figures["baselines"][name]
        assert counted.keys() == nats.keys()
        assert f"{shown} {counted['total']:.3f} = {counted['pitch']:.3f} + " in process.stdout
    assert f"{nats['total']:.3f} nats/note" in process.stdout
    assert f"{figures['notes']:,} notes of {dataset}\n" in process.stdout
    written = [workdir / "evaluation-test.json", workdir / "report.html", workdir / "export" / "README.md"]
    assert process.stdout.splitlines()[-1] == f"wrote {', '.join(map(str, written))}"


def test_the_model_card_has_the_scores_of_the_test_split(dataset, workdir):
    card = (workdir / "export" / "README.md").read_text()
    figures = json.loads((workdir / "evaluation-test.json").read_text())
    (row,) = [line for line in card.splitlines() if line.startswith("| test | ") and "(" in line]
    assert row.startswith(f"| test | {figures['nats_per_note']['total']:.3f} (")
    assert f"`{dataset}`" in card
    result = json.loads((workdir / "result.json").read_text())
    assert f"| validation, while training | {result['best']:.3f} |" in card


def test_a_run_records_and_plays_the_pitches_of_its_training_notes(dataset, workdir, processes):
    lowest, highest = json.loads((workdir / "run.json").read_text())["pitch_range"]
    counts = Manifest.load(dataset).histograms("train").pitch
    assert (lowest, highest) == (counts.nonzero()[0][0], counts.nonzero()[0][-1])
    assert json.loads((workdir / "export" / "export.json").read_text())["pitch_range"] == [lowest, highest]
    for path in [*workdir.glob("samples/*.mid"), *processes[0].glob("two/*.mid")]:
        pitch = read_midi(path.read_bytes(), path.name).notes.pitch
        assert lowest <= pitch.min() <= pitch.max() <= highest


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_for_a_machine_every_line_on_stderr_is_an_object(processes, command):
    lines = [json.loads(line) for line in processes[1][command].stderr.splitlines()]
    for line in lines:
        assert datetime.datetime.fromisoformat(line["time"]).utcoffset() == datetime.timedelta(0)
        assert line["severity"] == ("NOTICE" if "the training split has" in line["message"] else "INFO")
    messages = [line["message"] for line in lines]
    assert sum(message.startswith("warning: the training split has") for message in messages) == (command == "train")
    assert (messages[0], messages[-1]) == ("loading TensorFlow", "writing the report's page")


def test_the_figures_of_a_line_are_its_fields(workdir, processes):
    said = [json.loads(line) for line in processes[1]["train"].stderr.splitlines()]
    reports = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    told = [line for line in said if "loss" in line]
    assert len(told) == len(reports)
    for line, report in zip(told, reports, strict=True):
        assert line.items() >= report.items()
        nats = report["pitch_nll"] + report["step_nll"] + report["duration_nll"]
        assert f"train_step {report['train_step']}: training {nats:.3f}" in line["message"]
        assert line["planned"] == STEPS
        assert line["seconds_left"] is None or line["seconds_left"] >= 0


def test_scores_by_composer_stand_in_the_file_and_on_the_terminal(workdir, processes):
    composers = json.loads((workdir / "evaluation-test.json").read_text())["by_composer"]
    assert list(composers) == ["Clara Schumann", "Fanny Hensel"]
    assert [own["notes"] for own in composers.values()] == [40, 29]
    lines = processes[1]["evaluate"].stdout.splitlines()
    for name, own in composers.items():
        (line,) = [line for line in lines if line.strip().startswith(name)]
        assert f"{own['nats_per_note']['total']:.3f} = " in line
        assert "1 performance" in line


def test_pieces_that_another_split_has_too_are_told_apart(workdir, processes):
    document = json.loads((workdir / "evaluation-test.json").read_text())
    unshared, composers = document["unshared"], document["by_composer"]
    assert (unshared["notes"], unshared["performances"]) == (40, 1)
    (same,) = [own for own in composers.values() if own["notes"] == 40]
    assert unshared["nats_per_note"] == pytest.approx(same["nats_per_note"])
    told = f"without 1 performance of pieces that other splits have too: {unshared['nats_per_note']['total']:.3f} = "
    assert any(line.startswith(told) for line in processes[1]["evaluate"].stdout.splitlines())


def test_a_comparison_with_real_music_writes_its_figures(processes, places):
    here, finished = processes
    process = finished["compare"]
    assert_went_well(process)
    figures = json.loads((here / "compared.json").read_text())
    assert figures["distributions"].keys() == {
        "pitch", "pitch_class", "interval", "step", "duration", "velocity", "polyphony", "notes_per_second"
    }  # fmt: skip
    for by_name in figures["distributions"].values():
        assert by_name.keys() == {"generated", "real"}
        assert all(0 <= distance["overlap"] <= 1 and distance["kl"] >= 0 for distance in by_name.values())
    assert 0 <= figures["mean_overlap"]["generated"] <= 1
    for figure in ("pitch_class_entropy", "longest_loop", "repeated_8grams", "copied_run"):
        assert figures[figure]["generated"]["max"] >= figures[figure]["generated"]["mean"]
    assert figures["primers"] == ["test/0.mid", "test/2.mid"]
    assert (figures["primer_notes"], figures["num_notes"]) == (128, 512)
    # Whole pieces end at once with such odds; continuations do not end.
    assert (figures["lengths"]["pieces"], figures["lengths"]["ended"], figures["lengths"]["end_odds"]) == (2, 2, 1e6)
    assert figures["lengths"]["mean"]["generated"] < 5
    assert sum(figures["counts"]["generated"]["pitch"]) == 2 * 512
    for by_name in (*figures["repeated_notes"].values(), *figures["structure"].values()):
        assert all(0 <= summary["mean"] <= summary["max"] <= 1 for summary in by_name.values())
    assert 0 <= figures["pictured"] < 2
    assert figures["temperature"] == {"pitch": 1.0, "step": 0.9, "duration": 0.9, "velocity": 0.9}
    assert figures["top_p"] == {"pitch": 1.0, "step": 0.95, "duration": 1.0, "velocity": 1.0}
    assert figures["held_out"] == {"performances": 3, "pieces": 3, "notes": 640 + 700 + 800}
    ((composer, statistics),) = figures["by_composer"].items()
    assert (composer, statistics["continuations"]) == ("Fanny Hensel", 2)
    assert all(mean.keys() == {"generated", "real"} for mean in statistics["means"].values())
    assert "overlap" in process.stdout
    assert re.search(r"\nFanny Hensel, 2 generated +\d+\.\d .*\nFanny Hensel, 2 real +\d+\.\d ", process.stdout)
    assert process.stdout.splitlines()[-1] == f"wrote {here / 'compared.json'}"
    assert str(places["long"]) in process.stdout


def test_the_page_has_what_training_and_evaluation_came_to(workdir):
    page = Page((workdir / "report.html").read_text())
    assert len(page.all("audio")) == 8
    run = json.loads((workdir / "run.json").read_text())
    assert f"{run['parameters']:,} parameters" in page.text
    assert run["device"] in page.text
    figures = json.loads((workdir / "evaluation-test.json").read_text())
    assert f"{figures['nats_per_note']['total']:.3f}" in page.text
    assert "The run has not finished" not in page.text
    assert "of other weights" not in page.text


def test_the_report_plays_the_same_samples_where_there_are_none(workdir, processes):
    here, finished = processes
    process = finished["report"]
    assert process.returncode == 0, process.stderr  # where its progress may stand, on a busy machine
    assert process.stdout.strip() == str(here / "copy" / "report.html")
    for index in range(8):
        name = f"samples/sample-{index:03d}.mid"
        assert (here / "copy" / name).read_bytes() == (workdir / name).read_bytes()


def test_a_report_of_what_was_not_trained_is_refused_in_a_line(processes, places):
    here, _ = processes
    assert_refused(run("trainer.report", f"--workdir={here / 'tutorial'}"), "tutorial", "nothing was trained in it yet")
    other = run("trainer.report", f"--workdir={here / 'w'}", f"--data={places['long']}")
    assert_refused(other, "--data=", "is not the dataset")


def test_a_model_without_densities_is_scored_through_its_residuals(processes):
    here, finished = processes
    process = finished["tutorial"]
    assert (process.returncode, process.stderr) == (0, "")
    figures = json.loads((here / "tutorial" / "evaluation-test.json").read_text())
    assert np.isfinite(figures["nats_per_note"]["total"])
    assert figures["residuals"].keys() == {"step", "duration"}
    assert figures["residuals"]["step"]["kind"] in ("laplace", "gaussian")
    own = {"config.json", "run.json", "evaluation-test.json"}
    assert files(here / "tutorial") == {*own, *(f"best/00000003/{name}" for name in CHECKPOINT)}


def test_generation_leaves_exactly_its_files(processes):
    here, finished = processes
    process = finished["generate"]
    assert_went_well(process)
    samples = [f"sample-{index:03d}" for index in (0, 1)]
    assert files(here / "two") == {
        "samples.json",
        "distributions.png",
        *(f"{sample}.{kind}" for sample in samples for kind in ("mid", "png", "wav")),
    }
    assert (here / "two" / "sample-001.wav").read_bytes()[:4] == b"RIFF"
    assert "sound by" in process.stdout
    assert process.stdout.rstrip().endswith(f"wrote 8 files to {here / 'two'}, listed in {here / 'two/samples.json'}")


def test_generation_removes_the_files_that_an_earlier_call_listed_and_nothing_else(processes):
    assert files(processes[0] / "one") == {
        "samples.json", "distributions.png", "sample-000.mid", "sample-000.png", "sample-999.mid", "letter.txt"
    }  # fmt: skip
    listed = json.loads((processes[0] / "one" / "samples.json").read_text())["files"]
    assert sorted(listed) == ["distributions.png", "sample-000.mid", "sample-000.png"]


def test_generation_says_what_it_did(workdir, places, processes):
    replaced = f"replacing the 2 files that an earlier call wrote to {processes[0] / 'two'}"
    assert replaced in processes[1]["generate"].stderr.splitlines()
    document = json.loads((processes[0] / "two" / "samples.json").read_text())
    assert document["notes_per_second"] > 0
    assert document["seed"] == 9
    assert document["temperature"] == {**dict.fromkeys(FIELDS, 1.0), "pitch": 0.92}
    assert document["top_p"] == dict.fromkeys(FIELDS, 1.0)
    assert document["returns"] == 4
    assert document["end_odds"] == 0
    assert (document["sustain"], document["pedal"]) == ("ignore", True)
    assert (document["num_notes"], document["num_samples"]) == (30, 2)
    assert document["primer"] == str(places["primer.mid"])
    assert document["primer_notes"] == len(PRIMER)
    assert document["workdir"] == str(workdir)
    assert [sample["midi"] for sample in document["samples"]] == ["sample-000.mid", "sample-001.mid"]


def test_a_sample_begins_with_the_primer_and_has_the_notes_that_were_asked_for(places, processes):
    primer = read_midi(places["primer.mid"].read_bytes(), "primer").notes
    for index in (0, 1):
        path = processes[0] / "two" / f"sample-{index:03d}.mid"
        notes = read_midi(path.read_bytes(), "sample").notes
        np.testing.assert_array_equal(notes.pitch[: len(PRIMER) - 1], primer.pitch[:-1])
        np.testing.assert_array_equal(notes.onset_us[: len(PRIMER) - 1], primer.onset_us[:-1])
        assert len(notes) == len(PRIMER) + 30


def test_all_that_generation_writes_counts_the_notes_of_its_midi_files(processes):
    here, finished = processes
    for directory, primer_notes in (("two", len(PRIMER)), ("of a long primer", 350 * len(PRIMER))):
        document = json.loads((here / directory / "samples.json").read_text())
        assert document["primer_notes"] == primer_notes
        for sample in document["samples"]:
            notes = read_midi((here / directory / sample["midi"]).read_bytes(), "sample").notes
            assert (sample["notes"], sample["seconds"]) == (len(notes), notes.seconds)
            assert len(notes) == primer_notes + 30
    assert "2 samples with 60 generated notes at " in finished["generate"].stdout


def test_a_sample_begins_with_the_primers_pedal(processes):
    here, finished = processes
    assert finished["cut"].returncode == 0, finished["cut"].stderr
    for name in ("two/sample-000.mid", "two/sample-001.mid", "cut/sample-000.mid"):
        pedal = read_pedal((here / name).read_bytes(), name)
        np.testing.assert_array_equal(pedal[:1], PRIMER_PEDAL)
        assert len(pedal) == 1 or not name.startswith("cut")  # --nopedal


def test_the_piano_roll_shows_the_seam_however_long_the_primer(processes):
    here, finished = processes
    assert finished["long"].returncode == 0, finished["long"].stderr
    image = matplotlib.image.imread(here / "of a long primer" / "sample-000.png")
    for colour in (plots.PRIMER_COLOUR, plots.NOTES_COLOUR):
        hue = rgb_to_hsv(to_rgb(colour))[0]
        assert (np.abs(rgb_to_hsv(image[:, :, :3])[:, :, 0] - hue) < 0.02).sum() > 100


def test_a_primer_is_cut_at_its_seconds(places, processes):
    here, _ = processes
    document = json.loads((here / "cut" / "samples.json").read_text())
    assert document["primer_notes"] == 4
    assert document["pedal"] is False
    assert document["temperature"] == {"pitch": 1.0, "step": 0.9, "duration": 0.9, "velocity": 0.9}
    assert document["top_p"] == {"pitch": 1.0, "step": 0.95, "duration": 1.0, "velocity": 1.0}
    notes = read_midi((here / "cut" / "sample-000.mid").read_bytes(), "sample").notes
    np.testing.assert_array_equal(notes.pitch[:3], PRIMER[:3])
    assert len(notes) <= 4 + 30


def test_equal_seeds_give_equal_bytes(processes):
    here, finished = processes
    assert finished["again"].returncode == 0
    assert (finished["again"].stdout, finished["again"].stderr) == ("", "")
    assert (here / "one" / "sample-000.mid").read_bytes() == (here / "two" / "sample-000.mid").read_bytes()
    assert (here / "two" / "sample-001.mid").read_bytes() != (here / "two" / "sample-000.mid").read_bytes()


def test_a_finished_workdir_says_so(workdir, processes):
    process = processes[1]["finished"]
    assert process.returncode == 0
    assert f"{workdir} is finished: --steps reached at train_step {STEPS}" in process.stderr


def test_a_loss_that_is_no_number_says_at_which_train_step(processes):
    here, finished = processes
    assert_refused(finished["diverge"], "train_step ", "is infinite or not a number", ".mid", "--learning_rate")
    # Nothing of it is offered as a trained model.
    assert not {"result.json", "checkpoints", "best"} & {path.name for path in (here / "diverged").iterdir()}


# The same refusals, but without a process each.


def test_a_directory_of_something_else_is_no_workdir(dataset, tmp_path):
    from trainer.engine import loop

    (tmp_path / "letter.txt").write_text("Dear Clara")
    with pytest.raises(UserError, match="is not empty and no workdir of the trainer") as error:
        loop.train(TINY, Manifest.load(dataset), str(tmp_path))
    assert str(tmp_path) in str(error.value)
    assert files(tmp_path) == {"letter.txt"}


def test_a_workdir_of_another_config_names_the_fields(dataset, workdir):
    from trainer.engine import loop

    config = read_config(workdir / "config.json")
    with pytest.raises(UserError, match="another config: ") as error:
        loop.train(config.replace(units=8, transpose=0, steps=50), Manifest.load(dataset), str(workdir))
    (line,) = str(error.value).splitlines()
    assert str(workdir) in line
    assert "units: got 8, expected 16" in line
    assert "transpose: got 0, expected 6" in line
    assert "steps" not in line
    assert read_config(workdir / "config.json") == config


def test_a_workdir_of_another_dataset_is_refused(places, workdir):
    from trainer.engine import loop

    before = (workdir / "run.json").read_bytes()
    with pytest.raises(UserError, match=r"fingerprint \w+…, expected \w+…\..*--data.*--workdir"):
        loop.train(read_config(workdir / "config.json"), Manifest.load(places["single"]), str(workdir))
    assert (workdir / "run.json").read_bytes() == before


def test_a_directory_without_a_model_is_named(tmp_path):
    from trainer.workdir.load_model import load_model

    with pytest.raises(UserError, match="no workdir of the trainer"):
        load_model(str(tmp_path))
    (tmp_path / "config.json").write_text(TINY.to_json())
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        load_model(str(tmp_path))


def test_the_best_weights_are_the_ones_that_are_loaded(workdir):
    from trainer.workdir.load_model import load_model

    best = json.loads((workdir / "result.json").read_text())["best_train_step"]
    assert load_model(str(workdir)).train_step == best
