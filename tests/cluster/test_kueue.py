"""`components/kueue` under Kueue's own controller: what has no room in the quota waits, whole."""

import time
from collections.abc import Iterator

import pytest

from tests.cluster.conftest import SEARCH, long_test
from tests.cluster.control_plane import wait_until
from tests.cluster.jobs import Jobs

_TUNE = {"../../base/tune": "../../jobset/tune"}
_QUEUE = """
apiVersion: kueue.x-k8s.io/v1beta2
kind: ResourceFlavor
metadata: {name: sostenuto-test}
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: ClusterQueue
metadata: {name: cluster-queue}
spec:
  namespaceSelector: {}
  resourceGroups:
    - coveredResources: [cpu, memory, ephemeral-storage]
      flavors:
        - name: sostenuto-test
          resources:
            - {name: cpu, nominalQuota: CPUS}
            - {name: memory, nominalQuota: 1Ti}
            - {name: ephemeral-storage, nominalQuota: 10Ti}
"""


@pytest.fixture
def quota(jobs: Jobs) -> Iterator[object]:
    """Sets how many CPUs the queue of components/kueue has."""
    jobs.require("clusterqueues.kueue.x-k8s.io")
    if jobs.cluster.kubectl("get", "clusterqueue", "cluster-queue", "--ignore-not-found"):
        pytest.skip("the cluster has a ClusterQueue cluster-queue, which is not the tests' own")

    def set_quota(cpus: int) -> None:
        jobs.cluster.kubectl("apply", "-f", "-", stdin=_QUEUE.replace("CPUS", str(cpus)))

    yield set_quota
    jobs.delete_all()
    jobs.cluster.kubectl("delete", "localqueues", "--all", "--all-namespaces")
    jobs.cluster.kubectl("delete", "clusterqueue/cluster-queue", "resourceflavor/sostenuto-test", "--timeout=60s")


@long_test
def test_jobs_are_admitted_in_turn(jobs: Jobs, quota, train_losses):
    """The quota has room for one of the two, which ask for 2 CPUs each."""
    quota(2)
    overlay = jobs.overlay(components=["kueue"], jobs=_TUNE, RUN="queued", STORE="/store/queued")
    jobs.apply(overlay, "preprocess", "train")
    wait_until("one is admitted", lambda: jobs.pods(""))
    suspended = [jobs.job(name)["spec"]["suspend"] for name in ("preprocess", "train")]
    assert sorted(suspended) == [False, True]
    if suspended[0]:  # training waits for the dataset, which waits for the quota
        quota(4)
    assert jobs.ends("preprocess", "train") == ["Complete", "Complete"]
    assert jobs.losses("queued", "/store/queued") == train_losses


def test_a_search_is_admitted_as_a_whole(jobs: Jobs, quota, scores):
    """The chief asks for 1 CPU, its two workers for 2 each."""
    quota(4)
    jobs.apply(jobs.overlay(components=["kueue"], jobs=_TUNE, STUDY="queued", **SEARCH), "tune")
    wait_until("Kueue has seen the JobSet", lambda: jobs.workloads())
    time.sleep(5)
    assert jobs.pods("tune") == []
    quota(5)
    assert jobs.jobset_ends("tune") == "Completed"
    assert jobs.scores("queued") == scores
