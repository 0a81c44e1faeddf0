"""Commands over a bucket with faults: they end with what they write without them, or with 75 and the reason."""

import json
import random
import re
import sys
import time
from typing import NamedTuple

import pytest

from tests.factories import TINY, melody
from tests.gcs_server import RANDOM_FAULTS, GcsServer
from tests.processes import run_python
from tests.trainer.runs import TRAIN, ended, started
from tests.tuning.runs import START
from trainer.checkpoints.manager import MANIFEST

W = "gs://bucket/w"
PATIENCE = 8  # seconds
CORPUS = {f"{index % 3}/{index}.mid": melody(range(40, 60 + index)) for index in range(24)}
PREPROCESS = ["beam_preprocess", "--input=gs://bucket/midi", "--output=gs://bucket/data", "--num_shards=2", "--quiet"]
TRAINER = [
    "trainer", "--data=gs://bucket/data", f"--workdir={W}", *TINY["base"], "--layers=1", "--steps=12",
    "--checkpoint_every=4", "--evaluate_every=6", "--quiet",
]  # fmt: skip
TUNING = [
    "tuning", "--data=gs://bucket/data", "--workdir=gs://bucket/search", "--config=gs://bucket/start.json",
    "--max_trials=2", "--train_steps=4", "--quiet",
]  # fmt: skip
COMMANDS = {"preprocess": PREPROCESS, "train": TRAINER, "tune": TUNING}


@pytest.fixture(autouse=True)
def _empty_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def put_inputs(server: GcsServer) -> None:
    for name, data in CORPUS.items():
        server.put(f"gs://bucket/midi/{name}", data)
    server.put("gs://bucket/start.json", json.dumps(START).encode())


def results(server: GcsServer) -> dict[str, bytes]:
    """Returns what is the same in every run: datasets, weights and scores. A checkpoint's manifest holds times."""
    contents = server.contents("gs://bucket/")
    same = ("data/", "w/checkpoints/", "w/best/", "w/result.json", "search/best_config.json")
    return {name: data for name, data in contents.items() if name.startswith(same) and not name.endswith(MANIFEST)}


class Untouched(NamedTuple):
    """What the commands write without faults, and the seconds that each takes for that on this machine."""

    results: dict[str, bytes]
    seconds: dict[str, float]


@pytest.fixture(scope="module")
def untouched():
    """The commands without faults."""
    with GcsServer() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", server.url)
        put_inputs(server)
        seconds = {}
        for name, command in COMMANDS.items():
            start = time.monotonic()
            run_python("-m", *command, check=True)
            seconds[name] = time.monotonic() - start
        yield Untouched(results(server), seconds)


@pytest.mark.usefixtures("kills")  # minutes
@pytest.mark.parametrize("fault", ["mixed", *RANDOM_FAULTS])
def test_commands_end_with_the_same_result_whatever_a_tenth_of_their_requests_suffers(gcs, untouched, fault):
    put_inputs(gcs)
    choose = random.Random(fault)
    if fault == "mixed":
        gcs.error_rate = 0.1
    else:
        gcs.fault_of = lambda method, path: fault if choose.random() < 0.1 else None
    for command in COMMANDS.values():
        process = run_python("-m", *command)
        assert process.returncode == 0, process.stderr
    assert gcs.faults > 10
    assert results(gcs) == untouched.results


@pytest.mark.usefixtures("kills")
@pytest.mark.parametrize("fault", ["refuse", "too many", "cut before", "stall", "stall within"])
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("moment", [1, 12, 60])
def test_a_bucket_that_stops_answering_is_told_of_and_ends_every_command_with_75_in_time(
    gcs, untouched, fault, name, moment
):
    put_inputs(gcs)
    for output, data in untouched.results.items() if name != "preprocess" else ():
        if output.startswith("data/"):
            gcs.put(f"gs://bucket/{output}", data)
    outage: list[float] = []

    def strike(method, path):
        if len(gcs.requests) >= moment:
            outage.append(time.monotonic())
        return fault if outage else None

    gcs.fault_of = strike
    module, *flags = COMMANDS[name]
    with started([sys.executable, "-m", "tests.faults.impatient", str(PATIENCE), module, *flags]) as processes:
        (process,) = ended(processes)
    assert process.returncode == 75 if outage else not process.returncode, process.stderr
    if outage:
        # A run may train on before it waits for its last upload, and a busy machine takes long for that.
        assert time.monotonic() - outage[0] < 2 * PATIENCE + 10 + untouched.seconds[name]
        *_, last = process.stderr.splitlines()
        assert re.search(r"gs://bucket.*: (the bucket does not answer|cannot be reached)", last), process.stderr
        assert process.stderr.count("no answer for") == 1, process.stderr


@pytest.mark.usefixtures("kills")
def test_training_in_a_bucket_that_stops_answering_ends_with_75_and_one_warning(gcs, dataset):
    for path in dataset.rglob("*.*"):
        gcs.put(f"gs://bucket/data/{path.relative_to(dataset)}", path.read_bytes())
    gcs.fault_of = lambda method, path: "refuse" if gcs.generation(f"{W}/metrics.jsonl") else None
    module, *flags = TRAINER
    with started([TRAIN[0], "-m", "tests.faults.impatient", "4", module, *flags]) as processes:
        (process,) = ended(processes)
    assert process.returncode == 75, process.stderr
    warning, *saves, error = process.stderr.splitlines()
    assert all("training continues, and the next save is uploaded" in line for line in saves)
    assert re.match(r"gs://bucket: no answer for 1 s \(Service Unavailable\)\. Trying again for up to \d s", warning)
    assert "the bucket does not answer" in error
