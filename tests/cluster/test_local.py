"""`overlays/local` on a control plane: everything applied at once, and what fails by itself."""

from tests.cluster.conftest import SEARCH, Undisturbed, long_test
from tests.cluster.jobs import Jobs

WAITING = ["train", "tune-chief", "tune-worker"]
_WAIT = "wait-for-dataset"


def test_everything_may_be_applied_at_once(undisturbed: Undisturbed):
    """Training and search wait for the dataset; no pod asks for more than Pod Security allows."""
    assert "Warning" not in undisturbed.printed
    assert max(undisturbed.losses) == 500
    assert len(undisturbed.scores) == int(SEARCH["MAX_TRIALS"])
    assert "http://localhost:6006" in undisturbed.board


def test_bad_input_fails_the_job_and_those_that_wait_for_it(jobs: Jobs):
    overlay = jobs.overlay(INPUT="/store/nothing", STORE="/store/none", RUN="none", STUDY="none", **SEARCH)
    jobs.apply(overlay, "train", "tune")
    for job in WAITING:
        jobs.wait_for_another(f"{job}-", pods=[])
    waiting = [jobs.newest(f"{job}-") for job in WAITING]
    for pod in waiting:
        jobs.wait_for_log(pod, "no sign of preprocessing yet", _WAIT)
    jobs.apply(overlay, "preprocess")
    assert jobs.ends("preprocess", *WAITING) == ["PodFailurePolicy"] * 4
    (pod,) = jobs.pods("preprocess")
    assert "/store/nothing: " in jobs.log(pod["metadata"]["name"])
    for pod in waiting:
        assert "preprocessing failed: /store/nothing: " in jobs.log(pod, _WAIT).splitlines()[-1]


@long_test
def test_a_job_does_not_wait_for_what_nobody_prepares(jobs: Jobs):
    jobs.apply(jobs.overlay(STORE="/store/never", RUN="never", WAIT_MINUTES="0.1"), "train")
    assert jobs.ends("train") == ["PodFailurePolicy"]
    (pod,) = jobs.pods("train-")
    assert "no dataset, and no sign of life" in jobs.log(pod["metadata"]["name"], _WAIT).splitlines()[-1]
