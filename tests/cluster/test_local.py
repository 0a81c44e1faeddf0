"""`overlays/local` on a control plane: everything applied at once, and what fails by itself."""

from tests.cluster.conftest import SEARCH, Undisturbed
from tests.cluster.jobs import Jobs


def test_everything_may_be_applied_at_once(undisturbed: Undisturbed):
    """Training and search wait for the dataset; no pod asks for more than Pod Security allows."""
    assert "Warning" not in undisturbed.printed
    assert max(undisturbed.losses) == 500
    assert len(undisturbed.scores) == int(SEARCH["MAX_TRIALS"])
    assert "http://localhost:6006" in undisturbed.board


def test_bad_input_fails_the_job_at_once(jobs: Jobs):
    jobs.apply(jobs.overlay(INPUT="/store/nothing", STORE="/store/none"), "preprocess")
    assert jobs.ends("preprocess") == ["PodFailurePolicy"]
    (pod,) = jobs.pods("preprocess")
    assert "/store/nothing: " in jobs.log(pod["metadata"]["name"])
