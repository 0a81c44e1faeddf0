"""`python -m tuning` as a user starts it."""

import json
import re
import resource
import signal
import time

import pytest

from sostenuto.data.manifest import Manifest
from tests.processes import run_python
from tests.tuning.runs import START, Search, free_address, wait_until
from tests.tuning.studies import complete
from trainer.presets import parse_config, read_config
from tuning.space_file import create_space
from tuning.study import Study
from tuning.trial import Assignment, StudyConfig

FLAGS = ["--max_trials=2", "--train_steps=60", "--seed=4", "--fix=units=8", "--fix=seq_length=16", "--nostop_weak"]


def assert_refused(process, *expected: str) -> None:
    """Checks that a process ended with status 2 and one line."""
    assert process.returncode == 2, process.stderr
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("tuning: "), line
    for text in expected:
        assert text in line


def seconds_of_processor(*arguments: str) -> float:
    """What a command takes of a processor, however busy the machine is."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run_python("-m", "tuning", *arguments).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.fixture(scope="module")
def ended(dataset, tmp_path_factory):
    """A search that Ctrl-C interrupted in its second trial, resumed to its end."""
    search = Search(dataset, tmp_path_factory.mktemp("search"), *FLAGS)
    with search.started() as process:
        wait_until(lambda: search.has_checkpoint("0001"), "the second trial", [process])
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 128 + signal.SIGINT, search.said()
    search.broken_off = search.study
    search.before = search.reports("0001")
    (search.workdir / "notes.txt").write_text("the user's own")
    assert search.ends("--retrain_best") == 0, search.said()
    return search


def test_ctrl_c_leaves_a_study_that_resumes_where_it_was(ended, dataset, tmp_path):
    assert [trial["state"] for trial in ended.broken_off["trials"]] == ["completed", "queued"]
    assert "Traceback" not in "\n".join(ended.said())
    assert any("run the same command to resume" in line for line in ended.said())
    # The trial was resumed: it still has the lines of the first process.
    assert ended.before
    assert ended.reports("0001")[: len(ended.before)] == ended.before
    assert len(ended.reports("0001")) > len(ended.before)
    assert [(trial["state"], trial["attempts"]) for trial in ended.trials] == [("completed", 1), ("completed", 2)]
    # The same trials as those of an uninterrupted study.
    start = parse_config(json.dumps(START), "start")
    space = create_space(start, fix=["units=8", "seq_length=16"])
    config = StudyConfig("random", 2, 60, seed=4, stop_weak=False, data=Manifest.load(dataset).sha256)
    with Study(tmp_path, space, config) as untouched:
        while isinstance(trial := untouched.next_trial("tuner0"), Assignment):
            complete(untouched, trial, 8.0)
        assert [trial["values"] for trial in ended.trials] == [record.values for record in untouched.trials()]
    assert ended.trials[0]["values"] == space.base_values


def test_a_study_ends_with_a_table_a_page_and_a_config_that_the_trainer_takes(ended):
    best = min(ended.trials, key=lambda trial: trial["score"])
    config = read_config(ended.workdir / "best_config.json")
    assert {name: getattr(config, name) for name in best["values"]} == best["values"]
    # At the base config's length, which is not a trial's; trained so by --retrain_best.
    result = json.loads((ended.workdir / "best" / "result.json").read_text())
    assert config.steps == result["train_step"] == START["steps"]
    assert read_config(ended.workdir / "best" / "config.json") == config
    assert best["trial"] in (ended.workdir / "report.html").read_text()
    for trial in ended.trials:
        shown = rf"{trial['trial']} +completed +100% +{trial['score']:.3f} "
        assert any(re.match(shown, line) for line in ended.said()), trial


def test_what_does_not_belong_together_is_refused_and_nothing_is_lost(ended, dataset):
    before = (ended.workdir / "study.json").read_bytes()
    chief = ["--role=chief", f"--chief_address={free_address()}"]
    others = {
        "--fix=layers=2": ("space: layers: got fixed to 2, expected not searched. ", "--overwrite"),
        "--seed=5": ("settings: seed: got 5, expected 4. ", "--overwrite"),
        "--max_trials=1": ("got max_trials=1, expected 2 or more", "--max_trials"),
    }
    for flag, expected in others.items():
        assert_refused(run_python("-m", "tuning", *ended.flags, *chief, flag), str(ended.workdir), *expected)
    assert (ended.workdir / "study.json").read_bytes() == before


def test_a_chief_overwrites_only_with_the_flag_and_exits_without_workers(ended):
    """The last one to use that study."""
    assert ended.ends(
        "--overwrite", "--max_idle=1", "--role=chief", f"--chief_address={free_address()}", name="chief"
    ) == 75, ended.said("chief")  # fmt: skip
    assert any(re.fullmatch(r"chief: listening on localhost:\d+, 2 trials", line) for line in ended.said("chief"))
    assert any("no worker called for 1 s" in line for line in ended.said("chief"))
    assert ended.study["trials"] == []
    left = {path.name for path in ended.workdir.iterdir()} - {".lock", "study.json"}
    assert left <= {"notes.txt", "best", "trials.json", "report.html", "summaries"}
    assert (ended.workdir / "notes.txt").read_text() == "the user's own"


def test_a_study_that_found_nothing_says_why_and_is_no_success(dataset, tmp_path):
    # Three replicas do not divide a batch of eight.
    search = Search(dataset, tmp_path / "search", "--max_trials=2", "--fix=replicas=3", "--retrain_best")
    assert search.ends() == 2, search.said()
    line = search.said()[-1]
    assert "no trial completed" in line
    assert "is no multiple of the 3 replicas" in line
    assert [trial["state"] for trial in search.trials] == ["failed", "failed"]
    assert not (search.workdir / "best").exists()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--fix=unit=256"], ("--fix=unit=256", "unknown hyperparameter 'unit', did you mean 'units'?")),
        (["--space={here}/space.yaml"], ("space.yaml: units", "the range from 512 to 64 is empty")),
        (["--data={here}/nowhere"], ("{here}/nowhere",)),
        (["--role=worker", "--worker_id=tuner1"], ("--role=worker: the chief's address is missing", "--chief_address")),
        (["--role=worker", "--chief_address=localhost:1"], ("--worker_id",)),
        (["--max_trials=0"], ("max_trials=0: expected at least 1",)),
        (["--max_trials=1000000000000"], ("max_trials=1000000000000", "at most 100,000")),
        (["--chief_patience=nan"], ("--chief_patience: expected a finite number",)),
        (["--max_idle=1e300"], ("--max_idle=1e+300", "at most 31,536,000")),
        (["--tuner=grid"], ("--tuner", "one of random, bayesian, hyperband", "'grid'")),
    ],
)  # fmt: skip
def test_bad_input_is_a_line(dataset, tmp_path, flags, expected):
    (tmp_path / "space.yaml").write_text("units: {low: 512, high: 64}\n")
    flags = [flag.format(here=tmp_path) for flag in flags]
    given = [f"--data={dataset}", f"--workdir={tmp_path / 'w'}", *flags]
    process = run_python("-m", "tuning", *given)
    assert_refused(process, *(text.format(here=tmp_path).replace("--fix=", "--fix ") for text in expected))
    assert not (tmp_path / "w").exists()


def test_a_chief_that_cannot_be_reached_is_looked_for_and_not_for_ever(dataset, tmp_path):
    address = free_address()
    search = Search(dataset, tmp_path / "search")
    start = time.monotonic()
    status = search.ends(
        "--role=worker", "--worker_id=tuner0", f"--chief_address={address}", "--chief_patience=2", "--overwrite"
    )
    assert time.monotonic() - start < 60
    assert status == 75, "2 would end a Job of Kubernetes for good"
    _, waiting, refused = search.said()  # first, that TensorFlow is loaded
    assert waiting == f"waiting for the chief at {address}"
    assert refused.startswith("tuning: ")
    assert f"chief at {address}: no answer for 2 s" in refused
    assert not search.workdir.exists()


def test_help_is_quick_and_shows_the_space():
    process = run_python("-m", "tuning", "--help")
    assert process.returncode == 0
    for text in ("--max_trials", "`sostenuto preprocess`", "retrain_best", "duration_weight", "times the pitch loss's"):
        assert text in process.stdout
    assert min(seconds_of_processor("--help") for _ in range(2)) < 1
