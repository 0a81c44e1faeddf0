"""Runners elsewhere: the job sent to Dataflow, its workers, and launchers that are restarted."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from beam_preprocess.config import Config
from beam_preprocess.engines.dataflow import job_name
from beam_preprocess.engines.job_errors import JobFailedError, extract_user_error
from beam_preprocess.preprocess import preprocess
from sostenuto.cli import app
from sostenuto.data.manifest import Manifest
from sostenuto.errors import FileError, HeldError, MissingError, RecordError, UnavailableError, UserError
from sostenuto.storage import lease
from tests import bare_site
from tests.dataflow_server import DataflowServer, Job
from tests.factories import melody, write_files
from tests.gcs_server import GcsServer
from tests.processes import REPOSITORY, run_python

pytest.importorskip("google.cloud.dataflow_v1beta3", reason="Beam is installed without its parts for Google Cloud")

GOLDEN = Path(__file__).parent / "golden" / "dataflow_job.json"

FILES = {f"{index % 3}/{index}.mid": melody(range(40, 50 + index)) for index in range(12)}
INPUT, OUTPUT, TEMP = "gs://bucket/midi", "gs://bucket/dataset", "gs://bucket/temp"
CONFIG = Config(INPUT, OUTPUT, num_shards=2)

CLOUD = ["--runner=DataflowRunner", "--project=my-project", "--region=europe-west4", f"--temp_location={TEMP}"]


def dataflow_args(server: DataflowServer, *more: str) -> list[str]:
    # The experiment skips a slow call of pip freeze.
    endpoint = [f"--dataflow_endpoint={server.url}", "--no_auth"]
    return [*CLOUD, *endpoint, "--experiments=disable_logging_submission_environment", *more]


def command(server: DataflowServer, *more: str, flags: tuple[str, ...] = ()) -> list[str]:
    own = [f"--input={INPUT}", f"--output={OUTPUT}", "--num_shards=2", *flags]
    return ["-m", "beam_preprocess", *own, "--", *dataflow_args(server, *more)]


@pytest.fixture
def bucket(gcs: GcsServer) -> GcsServer:
    for name, data in FILES.items():
        gcs.put(f"{INPUT}/{name}", data)
    return gcs


@pytest.fixture
def server() -> Iterator[DataflowServer]:
    with DataflowServer() as server:
        yield server


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, bytes]:
    """The dataset that the local runner makes of the same files."""
    directory = tmp_path_factory.mktemp("local")
    write_files(directory / "midi", FILES)
    preprocess(Config(str(directory / "midi"), str(directory / "dataset"), num_shards=2), quiet=True)
    return {path.name: path.read_bytes() for path in (directory / "dataset").iterdir()}


# The program of a worker with only the packages that it was sent: it runs the graph that was sent.
WORKER = """
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.portability.python_urns import EMBEDDED_PYTHON
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
with open(sys.argv[1], "rb") as file:
    graph = beam_runner_api_pb2.Pipeline.FromString(file.read())
for environment in graph.components.environments.values():
    environment.urn, environment.payload = EMBEDDED_PYTHON, b""
    del environment.dependencies[:]
FnApiRunner().run_via_runner_api(graph, PipelineOptions([])).wait_until_finish()
print(*sys.modules)
"""


class Worker:
    """Does the work of a job as Dataflow's workers do: with the package and the graph in the bucket."""

    def __init__(self, server: DataflowServer, bucket: GcsServer, directory: Path) -> None:
        self._server, self._bucket, self._directory = server, bucket, directory
        self.may_begin = threading.Event()
        self.installed: list[str] = []
        self.modules: set[str] = set()

    def __call__(self, job: Job) -> None:
        job["currentState"] = "JOB_STATE_RUNNING"
        staged = job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"].rpartition("/")[0]
        package = self._bucket.get(f"{staged}/extra_packages.txt").decode().strip()
        for name in ("pipeline.pb", package):
            (self._directory / name).write_bytes(self._bucket.get(f"{staged}/{name}"))
        self.installed = bare_site.install(self._directory / package, self._directory / "site")
        self.may_begin.wait(30)
        process = bare_site.run(self._directory / "site", WORKER, str(self._directory / "pipeline.pb"))
        self.modules = set(process.stdout.split())
        state = "JOB_STATE_FAILED" if process.returncode else "JOB_STATE_DONE"
        self._server.finish(job, state, [process.stderr] if process.returncode else None)


@contextlib.contextmanager
def running(arguments: list[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Runs a program, and kills it at the end."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Returns what a process says, up to the line that holds a text."""
    said = ""
    while text not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    return said


def staged(bucket: GcsServer) -> list[str]:
    """Returns the unfinished files of jobs."""
    return [name for name in bucket.names(f"{TEMP}/") if name.startswith("preprocess.tmp-")]


def test_a_launcher_that_is_ended_leaves_its_job_and_the_next_one_waits_for_it(server, bucket, expected, tmp_path):
    """The whole way: launched, described, packed, staged, installed without extras, run, read back."""
    server.on_create = worker = Worker(server, bucket, tmp_path)
    bucket.put(f"{OUTPUT}/train-00000-of-00002.tfrecord.tmp-0123456789ab", b"left by a run that was killed")
    flags = ("--max_num_workers=7", "--autoscaling_algorithm=THROUGHPUT_BASED", "--machine_type=n2-highmem-4")
    arguments = command(server, *flags, "--no_use_public_ips")
    with running(arguments) as first:
        said = read_until(first, "JOB_STATE_RUNNING")
        first.send_signal(signal.SIGTERM)
        out, rest = first.communicate(timeout=60)
    assert (first.returncode, out) == (143, "")
    assert rest == "the job continues. To wait for it, run the same command again\n"
    (job,) = server.jobs
    console = f"https://console.cloud.google.com/dataflow/jobs/europe-west4/{job['id']}?project=my-project"
    assert "12 files into 4 shards (2 train, 1 validation, 1 test)" in said
    assert f"the Dataflow job {job_name(CONFIG)}: {console}\n" in said
    # The files of a killed run were removed before the start. The job has its own elsewhere.
    assert bucket.names(f"{OUTPUT}/") == []
    assert staged(bucket)

    with running(arguments) as second:
        assert console in read_until(second, "JOB_STATE_RUNNING")
        assert bucket.names(f"{OUTPUT}/") == []
        assert staged(bucket)
        worker.may_begin.set()
        out, said = second.communicate(timeout=120)
    assert (second.returncode, len(server.jobs)) == (0, 1), said
    assert "JOB_STATE_DONE" in said
    assert OUTPUT in out.splitlines()[-1]

    assert bucket.contents(f"{OUTPUT}/") == expected
    assert staged(bucket) == []
    assert {"apache-beam", "google-cloud-storage", "symusic"} <= set(worker.installed)
    assert not {"tensorflow", "keras", "google-cloud-dataflow-client", "pytest"} & set(worker.installed)
    assert {"symusic", "sostenuto.music.midi", "beam_preprocess.pipeline"} <= worker.modules
    assert not {"tensorflow", "keras", "trainer", "pytest"} & worker.modules
    check_golden(job, (tmp_path / "pipeline.pb").read_bytes())


def check_golden(job: Job, graph: bytes) -> None:
    """Compares what was asked of Dataflow with the file: its steps, and the options that change what a user pays."""
    from apache_beam.portability.api import beam_runner_api_pb2

    pipeline = beam_runner_api_pb2.Pipeline.FromString(graph)
    # The parts of a step are internal to Beam, except for groupings, which send data between workers.
    steps: dict[str, int] = {}
    for step in pipeline.components.transforms.values():
        name = step.unique_name.removeprefix("PreprocessCorpus/").removeprefix("WriteCorpus/").partition("/")[0]
        if step.spec.urn and not step.subtransforms:
            steps[name] = steps.get(name, 0) + (step.spec.urn == "beam:transform:group_by_key:v1")
    environment = job["environment"]
    (pool,) = environment["workerPools"]
    (image,) = pool["sdkHarnessContainerImages"]
    options = environment["sdkPipelineOptions"]["options"]
    document = {
        "type": job["type"],
        "groupings by step": dict(sorted(steps.items())),
        "pool": {key: pool[key] for key in ("autoscalingSettings", "machineType", "ipConfiguration")},
        "packages": [re.sub(r"-[0-9.]+\.tar", ".tar", package["name"]) for package in pool["packages"]],
        "image": image["containerImage"].rpartition("/")[2].partition("_sdk")[0].rstrip("0123456789."),
        "options": {key: options[key] for key in ("project", "region", "pickle_library", "save_main_session")},
    }
    assert document == json.loads(GOLDEN.read_text(encoding="utf-8")), json.dumps(document, indent=1)


def test_no_wait_starts_the_job_and_returns(server, bucket, capfd):
    args = dataflow_args(server)
    # A failed job is not active.
    server.add(job_name(CONFIG), "JOB_STATE_FAILED")
    assert preprocess(CONFIG, beam_args=args, wait=False) is None
    _, job = server.jobs
    said = capfd.readouterr().err
    assert f"gcloud dataflow jobs describe {job['id']} --region=europe-west4 --project=my-project" in said
    # --quiet shows nothing; a job that waits for workers is found as well.
    assert preprocess(CONFIG, beam_args=args, wait=False, quiet=True) is None
    assert (len(server.jobs), capfd.readouterr()) == (2, ("", ""))


@pytest.mark.parametrize("refuses_twins", [False, True])
def test_a_job_that_another_launcher_starts_at_the_same_moment_is_waited_for(server, bucket, refuses_twins, capfd):
    server.refuses_twins = refuses_twins
    create = server.create

    def another_first(asked: Job):
        server.create = create
        server.add(asked["name"], "JOB_STATE_RUNNING")
        return create(asked)

    server.create = another_first
    assert preprocess(CONFIG, beam_args=dataflow_args(server), wait=False) is None
    (job,) = server.jobs
    assert job["id"] in capfd.readouterr().err


def test_a_finished_job_is_not_run_again(server, bucket, expected):
    for name, data in expected.items():
        bucket.put(f"{OUTPUT}/{name}", data)
    manifest = preprocess(CONFIG, beam_args=dataflow_args(server), quiet=True)
    assert manifest.sha256 == Manifest.load(OUTPUT).sha256
    assert not server.jobs


@pytest.mark.parametrize(
    ("lacks", "message"),
    [
        ("dataset.json", "has no dataset.json"),
        ("test-00000-of-00001.tfrecord", "lacks test-0"),
        ("validation-00000-of-00001.tfrecord:", "has 3 bytes, expected [0-9,]+"),
    ],
)
def test_a_job_that_is_done_without_a_dataset_failed(server, bucket, expected, lacks, message):
    job = server.add(job_name(CONFIG), "JOB_STATE_RUNNING")
    for name, data in expected.items():
        if name != lacks:
            bucket.put(f"{OUTPUT}/{name}", b"cut" if name == lacks.rstrip(":") else data)
    server.on_look = lambda job: server.finish(job, "JOB_STATE_DONE")
    with pytest.raises(JobFailedError, match=f"{job['name']} is done, but .*{message}"):
        preprocess(CONFIG, beam_args=dataflow_args(server), quiet=True)


REJECTED = """Traceback (most recent call last):
  File "apache_beam/runners/common.py", line 1500, in process
  File "beam_preprocess/commit.py", line 133, in _check_rejections
    raise UserError(
sostenuto.errors.UserError: 9 of 12 files were rejected [while running 'PreprocessCorpus/Publish-ptransform-33']
"""


@pytest.mark.parametrize(
    ("state", "messages", "error", "message"),
    [
        (
            "JOB_STATE_FAILED",
            [REJECTED, "Workflow failed."],
            UserError,
            r"^9 of 12 files were rejected$",
        ),
        ("JOB_STATE_FAILED", ["no quota", "Workflow failed."], JobFailedError, "Workflow failed.*/jobs/europe-west4/"),
        ("JOB_STATE_CANCELLED", [], JobFailedError, "ended as JOB_STATE_CANCELLED: see https://console.cloud"),
    ],
)
def test_a_failed_job_is_reported_and_cleaned_up(server, bucket, state, messages, error, message):
    server.on_create = lambda job: server.finish(job, state, messages)
    with pytest.raises(error, match=message):
        preprocess(CONFIG, beam_args=dataflow_args(server), quiet=True)
    assert bucket.names(f"{OUTPUT}/") == staged(bucket) == []


def test_a_launcher_leaves_the_files_of_a_run_of_another_machine_alone(server, bucket, monkeypatch):
    """The other one renews its lease."""
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)
    holder = {"host": "elsewhere", "pid": 7, "started": "1", "processes": "another", "pod": ""}
    shard = f"{OUTPUT}/test-00000-of-00001.tfrecord.tmp-0123456789ab"
    bucket.put(shard, b"half a shard")

    def renew(method, path):
        if path.endswith(".lock?alt=media"):
            bucket.put(f"{OUTPUT}/.lock", json.dumps({**holder, "renewed": time.time()}).encode())

    bucket.put(f"{OUTPUT}/.lock", json.dumps({**holder, "renewed": time.time()}).encode())
    bucket.before = renew
    with pytest.raises(HeldError, match=f"{OUTPUT}: process 7 on elsewhere writes a dataset to it"):
        preprocess(CONFIG, beam_args=dataflow_args(server), quiet=True)
    assert (bucket.get(shard), server.jobs) == (b"half a shard", [])


def test_a_failed_job_is_one_line_and_status_1(server, bucket):
    job = server.add(job_name(CONFIG), "JOB_STATE_RUNNING")
    server.on_look = lambda job: server.finish(job, "JOB_STATE_CANCELLED")
    process = run_python(*command(server, flags=("--quiet",)))
    assert (process.returncode, process.stdout) == (1, "")
    (line,) = process.stderr.splitlines()
    assert line.startswith("beam_preprocess: the Dataflow job sostenuto-preprocess-")
    assert line.endswith(
        f"see https://console.cloud.google.com/dataflow/jobs/europe-west4/{job['id']}?project=my-project"
    )


def test_a_service_that_denies_is_a_users_mistake(server, bucket):
    server.denies = True
    with pytest.raises(UserError, match=r"my-project in europe-west4 cannot be used .*roles/dataflow\.developer"):
        preprocess(CONFIG, beam_args=dataflow_args(server), quiet=True)


def test_missing_credentials_are_reported_with_the_command_that_creates_them(server, bucket, tmp_path, monkeypatch):
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    args = [arg for arg in dataflow_args(server) if arg != "--no_auth"]
    with pytest.raises(UserError, match="gcloud auth application-default login"):
        preprocess(CONFIG, beam_args=args, quiet=True)
    assert server.requests == []


def test_a_dry_run_starts_nothing(server, bucket, capfd):
    assert preprocess(CONFIG, beam_args=dataflow_args(server, "--dry_run=True")) is None
    assert server.jobs == []
    assert "was described, and not started" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("config", "beam_args", "message"),
    [
        ({}, [CLOUD[0], *CLOUD[2:]], "--project is missing"),
        ({}, [*CLOUD[:2], CLOUD[3]], "--region is missing"),
        ({}, CLOUD[:3], "--temp_location is missing"),
        ({}, [*CLOUD[:3], "--temp_location=/tmp"], "--temp_location=/tmp: Dataflow's workers cannot reach it"),
        ({"input": "midi"}, CLOUD, "--input=midi: Dataflow's workers cannot reach it"),
        ({"output": "dataset"}, CLOUD, "--output=dataset: Dataflow's workers cannot reach it"),
        ({}, ["--runner=PortableRunner"], "--job_endpoint is missing"),
        ({}, ["--runner"], "expected one argument"),
    ],
)
def test_invalid_options_are_rejected_before_anything_is_listed(config, beam_args, message):
    # Without a bucket in this test, a listing would take long and fail with another error.
    with pytest.raises(UserError, match=message):
        preprocess(Config(**{"input": INPUT, "output": OUTPUT, **config}), beam_args=beam_args)


def test_no_wait_needs_dataflow():
    with pytest.raises(UserError, match="--no_wait: needs a job on Dataflow"):
        preprocess(CONFIG, wait=False)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--max_num_worker=3"], "unknown beam pipeline option --max_num_worker"),
        (["--setup_file=nowhere/setup.py"], "nowhere/setup.py: no such file"),
    ],
)
def test_a_mistaken_option_is_rejected_before_dataflow_is_asked(server, bucket, more, message):
    with pytest.raises(UserError, match=message):
        preprocess(CONFIG, beam_args=dataflow_args(server, *more), quiet=True)
    assert server.requests == []
    assert bucket.names(f"{OUTPUT}/") == []


def test_the_name_of_a_job_depends_only_on_the_dataset():
    assert job_name(CONFIG) == job_name(Config(f"{INPUT}/", OUTPUT, num_shards=2, overwrite=True))
    others = [Config(INPUT, OUTPUT), Config(INPUT, f"{OUTPUT}2", num_shards=2), Config(TEMP, OUTPUT, num_shards=2)]
    assert len({job_name(config) for config in [CONFIG, *others]}) == 4


def test_only_user_errors_are_extracted():
    assert str(extract_user_error("RuntimeError: sostenuto.errors.UserError: a.mid: bad")) == "a.mid: bad"
    assert extract_user_error("ZeroDivisionError: division by zero [while running 'WriteShards']") is None


CHAINED = """Traceback (most recent call last):
sostenuto.errors.HeldError: process 7 on elsewhere

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
sostenuto.errors.{name}: gs://bucket/x: what is wrong. What to do [while running 'Publish-ptransform-33']
"""


@pytest.mark.parametrize(
    ("kind", "status"),
    [(UserError, 2), (FileError, 2), (MissingError, 2), (RecordError, 2), (HeldError, 2), (UnavailableError, 75)],
)
def test_a_workers_error_has_the_status_that_it_has_here(kind, status):
    error = extract_user_error(CHAINED.format(name=kind.__name__))
    assert (type(error), str(error)) == (kind, "gs://bucket/x: what is wrong. What to do")
    assert app._explain_end(error)[0] == status
    assert type(extract_user_error(CHAINED.format(name="MidiDecodeError"))) is UserError


@pytest.fixture
def job_server() -> Iterator[str]:
    """A portable job server, as Flink and Spark have one; this one's workers are the launcher's own."""
    from apache_beam.runners.portability.local_job_service import LocalJobServicer

    servicer = LocalJobServicer()
    port = servicer.start_grpc_server()
    yield f"localhost:{port}"
    servicer.stop()


def test_a_job_server_writes_the_same_bytes(job_server, expected, tmp_path):
    corpus = write_files(tmp_path / "midi", FILES)
    args = ["--runner=PortableRunner", f"--job_endpoint={job_server}", "--environment_type=LOOPBACK"]
    preprocess(Config(str(corpus), str(tmp_path / "dataset"), num_shards=2), beam_args=args, quiet=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "dataset").iterdir()} == expected
    write_files(corpus, {f"bad/{index}.mid": b"no MIDI" for index in range(20)})
    with pytest.raises(UserError, match=r"^20 of 32 files were rejected \(20 not_midi\), more than"):
        preprocess(Config(str(corpus), str(tmp_path / "other")), beam_args=args, quiet=True)
    assert not (tmp_path / "other").exists()
