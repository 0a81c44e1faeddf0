"""Several real processes that train together, each as a host of its own would."""

import fcntl
import io
import json
import os
import re
import signal
import subprocess
import wave

import numpy as np
import pytest

from tests.factories import TINY, tiny_model, write_trained
from tests.processes import REPOSITORY, run_python
from tests.trainer.runs import TRAIN, ended, files, metrics, run_all, started, wait_for_report, weights, workers

FLAGS = [
    "--preset=base", "--units=16", "--layers=1", "--head_units=16", "--seq_length=16", "--batch_size=12",
    "--warmup_steps=5", "--schedule=constant", "--dropout=0.3", "--stretch=0.1", "--precision=float64", "--ema=0.9",
    "--log_every=5", "--evaluate_every=20",
]  # fmt: skip
PEER_LOST = 75


def one_line(process) -> str:
    (line,) = process.stderr.splitlines()
    return line


@pytest.fixture(scope="module")
def told_to_end(dataset, tmp_path_factory):
    """Two workers, the second one terminated: their workdir, and how both ended."""
    workdir = tmp_path_factory.mktemp("workers") / "w"
    with started(*workers(2, dataset, workdir, *FLAGS, "--steps=100000")) as processes:
        wait_for_report(workdir, 20, processes)
        processes[1].send_signal(signal.SIGTERM)
        return workdir, ended(processes), files(workdir)


@pytest.fixture(scope="module")
def gone_on(dataset, told_to_end):
    """Three workers that went on from there: the train_step they began at, and how they ended."""
    workdir = told_to_end[0]
    (saved,) = (workdir / "checkpoints").iterdir()
    resumed_at = int(saved.name)
    return resumed_at, run_all(workers(3, dataset, workdir, f"--steps={resumed_at + 30}"))


@pytest.fixture(scope="module")
def alone(dataset, told_to_end, gone_on):
    """The workdir of one process that did as many train_steps, with a profile."""
    workdir = told_to_end[0].parent / "alone"
    command = [*TRAIN, f"--data={dataset}", f"--workdir={workdir}", *FLAGS, f"--steps={gone_on[0] + 30}", "--profile"]
    (process,) = run_all([command])
    assert process.returncode == 0, process.stderr
    return workdir


def test_workers_agree_on_the_length_that_the_clock_allows(dataset, tmp_path):
    workdir = tmp_path / "w"
    flags = [*TINY["base"], "--max_minutes=0.4", "--evaluate_every=500"]
    for process in run_all(workers(2, dataset, workdir, *flags)):
        assert process.returncode == 0, process.stderr
    run, result = (json.loads((workdir / name).read_text()) for name in ("run.json", "result.json"))
    assert result["reason"] == "steps"
    assert result["train_step"] == run["steps"] == max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    # None where the machine was so slow that the time ended before the speed was known.
    assert (run["evaluate_every"] or 500) <= 500
    scored = [line["train_step"] for line in metrics(workdir) if "val_nats" in line]
    assert scored[-1] == run["steps"]


def test_when_one_is_terminated_all_end_and_the_chief_saves(told_to_end):
    workdir, (chief, worker), left = told_to_end
    assert worker.returncode == 128 + signal.SIGTERM, worker.stderr
    assert chief.returncode == PEER_LOST, chief.stderr
    (saved,) = (workdir / "checkpoints").iterdir()
    assert f"another worker received a signal: saved at train_step {int(saved.name):,}; the same" in chief.stderr
    assert f"SIGTERM: saved at train_step {int(saved.name):,}; the same" in worker.stderr
    assert "result.json" not in left
    assert "Traceback" not in chief.stderr + worker.stderr


def test_another_number_of_workers_resumes_from_there(gone_on):
    """Each reads the checkpoint that the chief chose; the third has no performance of its own to score."""
    resumed_at, processes = gone_on
    for process in processes:
        assert process.returncode == 0, process.stderr
    assert f"resumed at train_step {resumed_at:,}" in processes[0].stderr
    assert f"finished after {resumed_at + 30:,} train_steps (--steps reached)" in processes[0].stdout
    assert [process.stdout for process in processes[1:]] == ["", ""]


def test_only_the_chief_reports_on_the_run(told_to_end, gone_on):
    """Each worker reports only on itself."""
    for process in (told_to_end[1][1], *gone_on[1][1:]):
        assert not re.search(r"train_step \d+: |parameters|training to", process.stderr)
    size = "1 x CPU on each of 3 hosts, global batch 12 = 4 x 3 replicas"
    assert size in gone_on[1][0].stderr


def test_the_weights_are_those_of_one_process(told_to_end, alone):
    """With dropout and augmentation on, two workers first and then three; the averages and the optimizer's too."""
    one, many = weights(alone), weights(told_to_end[0])
    assert one.keys() == many.keys()
    assert {name.partition("/")[0] for name in one} == {"model", "ema", "optimizer"}
    for name, values in one.items():
        assert np.linalg.norm(many[name] - values) <= 1e-9 * np.linalg.norm(values), name


def test_reports_and_scores_are_those_of_one_process(told_to_end, alone):
    """Each once, with no gap where the run was interrupted."""
    one, many = metrics(alone), metrics(told_to_end[0])
    assert [line["train_step"] for line in many] == [line["train_step"] for line in one]
    for theirs, its in zip(many, one, strict=True):
        assert theirs == pytest.approx(its, rel=1e-9)
    assert any("val_nats" in line for line in many)
    many, one = (json.loads((workdir / "result.json").read_text()) for workdir in (told_to_end[0], alone))
    assert many == {**one, "best": pytest.approx(one["best"], rel=1e-9)}


def test_the_best_weights_are_the_averages(told_to_end, alone):
    """Of the last train_step, which is the best one here."""
    for workdir in (told_to_end[0], alone):
        (best,) = (workdir / "best").iterdir()
        assert int(best.name) == metrics(workdir)[-1]["train_step"]
        # The averages are a vector for each group of variables, so values are compared without their places.
        kept, averages, trained = (
            np.sort(np.concatenate([value.ravel() for name, value in saved.items() if name.startswith(group)]))
            for saved, group in (
                (weights(workdir, "best"), "model/"),
                (weights(workdir), "ema/"),
                (weights(workdir), "model/"),
            )
        )
        np.testing.assert_array_equal(kept, averages)
        assert not np.array_equal(kept, trained)


def test_the_workdir_is_that_of_one_process(told_to_end, alone):
    """But that checkpoints were saved at other moments too, and that two chiefs wrote summaries."""

    def names(workdir):
        return {name for name in files(workdir) if not name.startswith(("summaries/", "checkpoints/", "export/"))}

    workdir = told_to_end[0]
    assert names(workdir) == names(alone)
    assert len(list((workdir / "summaries" / "train").iterdir())) == 2
    configs = [json.loads((directory / "config.json").read_text()) for directory in (workdir, alone)]
    assert configs[0] == configs[1]


def test_a_finished_run_is_left_alone_by_every_worker(dataset, told_to_end, alone):
    workdir = told_to_end[0]
    before = {name: (workdir / name).stat().st_mtime_ns for name in files(workdir)}
    # Without the third: no worker waits for another.
    for process in run_all(workers(3, dataset, workdir)[:2]):
        assert process.returncode == 0
        assert f"{workdir} is finished: --steps reached at train_step" in process.stderr
    assert {name: (workdir / name).stat().st_mtime_ns for name in files(workdir)} == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{cluster: [a:1]}", ["TF_CONFIG=", "is not JSON", "Correct or unset it"]),
        (
            '{"cluster": {"worker": ["a:1", "b:2", "a:1"]}, "task": {"type": "worker", "index": 1}}',
            ["TF_CONFIG names this worker twice: a:1"],
        ),
        ('{"cluster": {"worker": ["a:1", "b:2"]}}', ["TF_CONFIG has no task"]),
    ],
)
def test_a_tf_config_that_makes_no_sense_is_one_line(dataset, tmp_path, text, words):
    process = run_python("-m", "trainer", f"--data={dataset}", f"--workdir={tmp_path / 'w'}", TF_CONFIG=text)
    assert (process.returncode, process.stdout) == (2, "")
    for word in words:
        assert word in one_line(process)
    assert not (tmp_path / "w").exists()


def test_workers_of_different_configs_both_say_so(dataset, tmp_path):
    chief, worker = workers(2, dataset, tmp_path / "w", *FLAGS, "--steps=10", "--quiet")
    for index, process in enumerate(run_all([chief, [*worker, "--seed=3"]])):
        assert process.returncode == 2, process.stderr
        assert one_line(process).startswith(f"trainer: worker {index} of 2: the workers were given different configs")
        assert process.stdout == ""
    assert not (tmp_path / "w").exists()


def test_a_worker_whose_chief_cannot_begin_ends_too(dataset, tmp_path):
    """Here another process trains in the workdir."""
    (tmp_path / "w").mkdir()
    with (tmp_path / "w" / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        chief, worker = run_all(workers(2, dataset, tmp_path / "w", *FLAGS, "--steps=10", "--quiet"))
    assert chief.returncode == 2, chief.stderr
    assert one_line(chief).startswith(f"trainer: {tmp_path / 'w'}: another process is training in it")
    assert worker.returncode == PEER_LOST, worker.stderr
    assert one_line(worker).startswith("trainer: worker 1 of 2: lost another worker")
    assert files(tmp_path / "w") == {".lock"}


# What one process leaves for TensorBoard.


@pytest.fixture(scope="module")
def board(alone):
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

    multiplexer = EventMultiplexer(tensor_size_guidance=dict.fromkeys(("scalars", "images", "audio"), 0))
    multiplexer.AddRunsFromDirectory(str(alone / "summaries"))
    multiplexer.Reload()
    return multiplexer


def summaries(board, tag: str, run: str = "train") -> dict[int, np.ndarray]:
    """The values of a summary by train_step."""
    from tensorboard.util import tensor_util

    return {event.step: tensor_util.make_ndarray(event.tensor_proto) for event in board.Tensors(run, tag)}


@pytest.mark.parametrize(
    ("name", "run", "tag"),
    [
        ("loss", "train", "loss"),
        ("learning_rate", "train", "learning_rate"),
        ("pitch_nll", "train", "pitch_nll"),
        ("val_pitch_nll", "validation", "pitch_nll"),
        ("val_nats", "validation", "nats"),
    ],
)
def test_tensorboard_shows_every_report(board, alone, name, run, tag):
    reported = {line["train_step"]: line[name] for line in metrics(alone) if name in line}
    shown = summaries(board, tag, run)
    assert shown.keys() == reported.keys()
    assert [float(value) for value in shown.values()] == pytest.approx(list(reported.values()), rel=1e-6)


def test_training_and_validation_share_the_charts_of_tensorboard(board, alone):
    tags = {run: set(board.GetAccumulator(run).summary_metadata) for run in ("train", "validation")}
    assert tags["train"] & tags["validation"] == {"nats", "pitch_nll", "step_nll", "duration_nll"}
    assert not [tag for tag in tags["train"] | tags["validation"] if tag.startswith("val_")]
    nats = summaries(board, "nats")
    parts = [summaries(board, f"{field}_nll") for field in ("pitch", "step", "duration")]
    for train_step, value in nats.items():
        assert float(value) == pytest.approx(sum(float(part[train_step]) for part in parts), rel=1e-6)


def test_tensorboard_shows_what_the_model_plays(board, alone):
    scored = [line["train_step"] for line in metrics(alone) if "val_nats" in line]
    for tag in ("piano roll", "distributions"):
        images = summaries(board, tag)
        assert list(images) == scored
        for width, height, *pictures in images.values():
            assert len(pictures) == 1
            assert pictures[0].startswith(b"\x89PNG")
            assert int(width) > 200
            assert int(height) > 100
    shown = board.GetAccumulator("train").summary_metadata
    assert shown["piano roll"].plugin_data.plugin_name == "images"
    sounds = summaries(board, "sound")
    assert list(sounds) == scored
    for (wav,) in sounds.values():
        with wave.open(io.BytesIO(wav)) as file:
            assert 2 < file.getnframes() / file.getframerate() <= 15
    assert shown["sound"].plugin_data.plugin_name == "audio"


def test_tensorboard_lists_the_hyperparameters(board, alone):
    """As its HParams plugin reads them: the main ones and what differs from the preset, and the validation scores."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    provider = MultiplexerDataProvider(board, str(alone))
    context = backend_context.Context(TBContext(data_provider=provider))
    hparams = context.hparams_metadata(RequestContext(), "")
    experiment = context.experiment_from_metadata(RequestContext(), "", True, hparams, [])
    assert [info.name.tag for info in experiment.metric_infos] == [
        "duration_nll", "nats", "pitch_nll", "pitch_top1", "step_nll",
    ]  # fmt: skip
    changed = {flag.partition("=")[0].removeprefix("--") for flag in FLAGS}
    main = {"preset", "seq_length", "units", "layers", "dropout", "batch_size", "learning_rate"}
    assert {info.name for info in experiment.hparam_infos} == main | changed | {"steps", "max_minutes"}
    request = api_pb2.ListSessionGroupsRequest(
        slice_size=10,
        allowed_statuses=[api_pb2.STATUS_UNKNOWN],
        col_params=[{"metric": info.name} for info in experiment.metric_infos],
    )
    (group,) = list_session_groups.Handler(RequestContext(), context, "", request).run().session_groups
    assert group.hparams["units"].number_value == 16
    assert group.hparams["precision"].string_value == "float64"
    assert group.hparams["preset"].string_value == "base"
    (score,) = [value for value in group.metric_values if value.name.tag == "nats"]
    last = [line for line in metrics(alone) if "val_nats" in line][-1]
    assert score.value == pytest.approx(last["val_nats"], rel=1e-6)
    assert score.training_step == last["train_step"]


def test_a_profile_is_written(alone):
    (trace,) = (alone / "summaries").rglob("*.xplane.pb")
    assert trace.stat().st_size > 1000


def test_workers_that_read_different_weights_to_start_with_stop_before_anything_is_written(dataset, tmp_path):
    commands = workers(2, dataset, tmp_path / "w", *FLAGS, "--init_from=source", "--quiet")
    processes = []
    for seed, command in enumerate(commands):
        host = tmp_path / str(seed)
        host.mkdir()
        write_trained(host / "source", tiny_model("density", layers=1, head_units=16, seed=seed))
        command.append("--config=source/config.json")
        command.remove("--preset=base")
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        processes.append(
            subprocess.Popen(command, cwd=host, env=environment, stdout=-1, stderr=subprocess.PIPE, text=True)
        )
    for process in ended(processes):
        assert process.returncode == 2
        assert re.match(
            r"trainer: --init_from=source: the hosts have read different weights\. Pass ", one_line(process)
        )
    assert not (tmp_path / "w").exists()
