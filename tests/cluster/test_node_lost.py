"""A lost node: its pods stay Terminating until it is tainted as out of service, or deleted."""

import time
from collections.abc import Iterator

import pytest

from tests.cluster.conftest import long, stand_in_test
from tests.cluster.control_plane import wait_until
from tests.cluster.jobs import Jobs

_TAINT = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"


@pytest.fixture
def lost(jobs: Jobs) -> Iterator[list[str]]:
    """Names of lost nodes, to be deleted after the test: their pods would stay."""
    names: list[str] = []
    yield names
    jobs.cluster.kubectl("delete", "node", *names, "--ignore-not-found")


@stand_in_test
@pytest.mark.parametrize("remedy", ["taint", long("delete")])
def test_a_job_waits_until_the_node_is_declared_lost(jobs: Jobs, lost, train_losses, remedy: str):
    cluster = jobs.cluster
    jobs.apply(jobs.overlay(RUN=f"lost-{remedy}"), "train")
    pod = jobs.wait_for_training("train-")
    (name,) = (name for name, node in cluster.nodes.items() if node.runs(pod))
    lost.append(name)
    cluster.nodes.pop(name).stop()
    cluster.add_node(f"after-{name}-{remedy}")
    wait_until("the pod is to leave its node", lambda: "deletionTimestamp" in jobs.pods("train-")[0]["metadata"])
    time.sleep(10)
    # podReplacementPolicy: Failed. A second pod could write into the workdir of one that still runs.
    assert [one["metadata"]["name"] for one in jobs.pods("train-")] == [pod]
    assert not jobs.job("train")["status"].get("failed")
    if remedy == "taint":
        cluster.kubectl("taint", "nodes", name, _TAINT)
    else:
        cluster.kubectl("delete", "node", name)
    assert jobs.ends("train") == ["Complete"]
    assert not jobs.job("train")["status"].get("failed")
    assert jobs.newest("train-") != pod
    assert jobs.losses(f"lost-{remedy}") == train_losses
