"""The cluster of the tests, its dataset, and the results of undisturbed jobs."""

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from _pytest.mark import ParameterSet

from tests.cluster import build, clusters
from tests.cluster.clusters import Cluster
from tests.cluster.jobs import Jobs
from tests.k8s.checks import NAMESPACE
from tests.k8s.conftest import MANY

CONTEXT = os.environ.get("SOSTENUTO_CLUSTER_CONTEXT", "")
# Settings of a search: a trial for each of the two workers.
SEARCH = {"MAX_TRIALS": "2", "TRAIN_STEPS": "200"}
_TOO_LONG = "takes long: make cluster"


# Tests that `make cluster` runs and `.ci/run` does not, and tests of what only the stand-in's nodes can do.
long_test = pytest.mark.skipif(os.environ.get("SOSTENUTO_CLUSTER") != "all", reason=_TOO_LONG)
stand_in_test = pytest.mark.skipif(bool(CONTEXT), reason="needs the stand-in's nodes")


def long(*values: object) -> ParameterSet:
    """Parameters of a long test."""
    return pytest.param(*values, marks=long_test)


def only_stand_in(*values: object, is_long: bool = False) -> ParameterSet:
    """Parameters of a test that needs the stand-in's nodes."""
    return pytest.param(*values, marks=[stand_in_test, *([long_test] if is_long else [])])


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if not os.environ.get("SOSTENUTO_CLUSTER"):
        pytest.skip(_TOO_LONG)
    if CONTEXT:
        image = os.environ.get("SOSTENUTO_CLUSTER_IMAGE")
        assert image, "an existing cluster needs an image: make cluster CONTEXT=name IMAGE=name:tag"
        with clusters.existing(CONTEXT, image) as cluster:
            names = [one["metadata"]["name"] for one in cluster.api.items("/api/v1/namespaces")]
            assert NAMESPACE not in names, f"namespace {NAMESPACE} exists, and the tests delete it: use another cluster"
            try:
                yield cluster
            finally:
                cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=300s")
        return
    if reason := _why_no_stand_in():
        pytest.skip(reason)
    with clusters.stand_in(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def _why_no_stand_in() -> str:
    if os.geteuid() != 0:
        return "needs root, for namespaces"
    needed = ["ip", "nsenter", "openssl", "setpriv", "unshare", *([] if build.are_built() else ["go"])]
    if missing := [name for name in needed if not shutil.which(name)]:
        return f"needs {', '.join(missing)} on the PATH"
    can = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, check=False)
    return f"needs namespaces: {can.stderr.decode().strip()}" if can.returncode else ""


@pytest.fixture(scope="session")
def all_jobs(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    """The cluster with namespace and volume, on which a job has written the corpus and the configs."""
    jobs = Jobs(cluster, tmp_path_factory.mktemp("manifests"))
    jobs.apply(jobs.overlay(), "platform")
    jobs.write_corpus("/store", files=12, notes=80)
    return jobs


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """The jobs of `overlays/local`, applied at once and left alone.

    Attributes:
        printed: by `kubectl apply`.
        losses: of the training.
        scores: of the search.
        board: TensorBoard's log.
    """

    printed: str
    losses: dict[int, float]
    scores: dict[str, float]
    board: str


@pytest.fixture(scope="session")
def undisturbed(all_jobs: Jobs) -> Undisturbed:
    printed = all_jobs.apply(all_jobs.overlay(RUN="undisturbed", STUDY="undisturbed", **SEARCH))
    assert all_jobs.ends("preprocess", "train", "tune-chief", "tune-worker") == ["Complete"] * 4
    board = all_jobs.wait_for_log(all_jobs.wait_for_start("tensorboard"), "TensorBoard ")
    all_jobs.delete_all()
    return Undisturbed(printed, all_jobs.losses("undisturbed"), all_jobs.scores("undisturbed"), board)


@pytest.fixture
def jobs(all_jobs: Jobs, undisturbed: Undisturbed) -> Iterator[Jobs]:
    """The cluster with the dataset and without jobs."""
    all_jobs.delete_all()
    yield all_jobs
    all_jobs.delete_all()


@pytest.fixture(scope="session")
def train_losses(undisturbed: Undisturbed) -> dict[int, float]:
    """The losses of an undisturbed train Job."""
    return undisturbed.losses


@pytest.fixture(scope="session")
def scores(undisturbed: Undisturbed) -> dict[str, float]:
    """The scores of an undisturbed search."""
    return undisturbed.scores


@pytest.fixture(scope="session")
def train_many_losses(all_jobs: Jobs, undisturbed: Undisturbed) -> dict[int, float]:
    """The losses of two undisturbed workers."""
    all_jobs.delete_all()
    all_jobs.apply(all_jobs.overlay(jobs=MANY, RUN="undisturbed-many"), "train-many")
    assert all_jobs.ends("train-many") == ["Complete"]
    assert not all_jobs.job("train-many")["status"].get("failed")
    all_jobs.delete_all()
    return all_jobs.losses("undisturbed-many")
