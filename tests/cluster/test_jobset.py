"""JobSets under JobSet's own controller and webhooks."""

import pytest

from tests.cluster.conftest import SEARCH, long
from tests.cluster.jobs import Jobs
from tests.k8s.conftest import JOBSETS


@pytest.fixture(autouse=True)
def _controller(jobs: Jobs) -> None:
    jobs.require("jobsets.jobset.x-k8s.io")


@pytest.mark.parametrize("evicted", [long(None), long(0), 1])
def test_workers_train_as_those_of_a_job(jobs: Jobs, train_many_losses, evicted: int | None):
    run = f"jobset-{evicted}"
    jobs.apply(jobs.overlay(jobs=JOBSETS, RUN=run), "train-many")
    pod = jobs.wait_for_training("train-many-worker-0-0")
    if evicted is not None:
        jobs.evict(jobs.newest(f"train-many-worker-0-{evicted}"))
    assert jobs.jobset_ends("train-many") == "Completed"
    # An eviction does not count, nor the 75 of the other worker.
    assert not jobs.job("train-many-worker-0")["status"].get("failed")
    assert (jobs.newest("train-many-worker-0-0") != pod) == (evicted is not None)
    assert jobs.losses(run) == train_many_losses


@pytest.mark.parametrize("evicted", [long(""), long("tune-chief-0-0"), long("tune-worker-0-1")])
def test_a_search_has_the_scores_of_jobs(jobs: Jobs, scores, evicted: str):
    study = f"jobset-{evicted}"
    jobs.apply(jobs.overlay(jobs=JOBSETS, STUDY=study, **SEARCH), "tune")
    jobs.wait_for_training("tune-worker-0-1")
    if evicted:
        jobs.evict(jobs.newest(evicted))
    # successPolicy: the workers end with the chief.
    assert jobs.jobset_ends("tune") == "Completed"
    assert not jobs.job("tune-chief-0")["status"].get("failed")
    assert jobs.scores(study) == scores
