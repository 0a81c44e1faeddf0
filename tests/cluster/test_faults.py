"""Disturbed jobs have the results of undisturbed ones."""

import re
import signal
import time

import pytest

from tests.cluster.conftest import SEARCH, Undisturbed, long, long_test, only_stand_in, stand_in_test
from tests.cluster.jobs import Jobs
from tests.k8s.conftest import MANY

CHECKPOINT_EVERY = 200  # train_steps, in run.json


def disturb(jobs: Jobs, pod: str, how: str) -> None:
    if how == "evict":
        jobs.evict(pod)
    elif how == "delete":
        jobs.delete_pod(pod)
    elif how == "hang":
        jobs.signal(pod, signal.SIGSTOP)
        jobs.delete_pod(pod)
    else:
        jobs.signal(pod, {"kill": signal.SIGKILL, "terminate": signal.SIGTERM}[how])


def resumed_at(jobs: Jobs, prefix: str) -> int:
    """The train_step at which the newest pod resumed; 0 if it started from the beginning."""
    train_steps = re.findall(r"resumed at train_step ([0-9,]+)", jobs.log(jobs.newest(prefix)))
    return int(train_steps[0].replace(",", "")) if train_steps else 0


@pytest.fixture(scope="module")
def checksums(all_jobs: Jobs, undisturbed: Undisturbed) -> str:
    """The checksums of a larger dataset, made by one undisturbed pod."""
    all_jobs.delete_all()
    all_jobs.write_corpus("/store/large", files=300, notes=500)
    all_jobs.apply(all_jobs.overlay(INPUT="/store/large/midi", STORE="/store/undisturbed"), "preprocess")
    assert all_jobs.ends("preprocess") == ["Complete"]
    all_jobs.delete_all()
    return all_jobs.checksums("/store/undisturbed/dataset")


def test_preprocessing_starts_again_with_the_same_files(jobs: Jobs, checksums):
    jobs.apply(jobs.overlay(INPUT="/store/large/midi", STORE="/store/evicted"), "preprocess")
    pod = jobs.wait_for_start("preprocess-")
    jobs.wait_for_log(pod, "loading Apache Beam")
    time.sleep(3)
    jobs.evict(pod)
    assert jobs.ends("preprocess") == ["Complete"]
    assert jobs.newest("preprocess-") != pod
    assert not jobs.job("preprocess")["status"].get("failed")
    assert jobs.checksums("/store/evicted/dataset") == checksums


@pytest.mark.parametrize("evicted", [long(""), "preprocess-worker-1", long("preprocess-many")])
def test_many_pods_preprocess_the_same_files(jobs: Jobs, checksums, evicted: str):
    store = f"/store/many-{evicted}"
    many = {"../../base/preprocess": "../../base/preprocess-many"}
    jobs.apply(jobs.overlay(jobs=many, INPUT="/store/large/midi", STORE=store), "preprocess-many")
    pod = jobs.wait_for_start("preprocess-many")
    jobs.wait_for_log(pod, "loading Apache Beam")
    if evicted:
        time.sleep(3)
        jobs.evict(jobs.newest(evicted))
    assert jobs.ends("preprocess-many", "preprocess-worker") == ["Complete", "Complete"]
    for job in ("preprocess-many", "preprocess-worker"):
        assert not jobs.job(job)["status"].get("failed")
    assert jobs.checksums(f"{store}/dataset") == checksums


@pytest.mark.parametrize(
    ("how", "failures"),
    [
        ("evict", 0),
        only_stand_in("kill", 1, is_long=True),
        long("delete", 0),
        only_stand_in("terminate", 0, is_long=True),
        only_stand_in("hang", 1, is_long=True),
    ],
)
def test_training_resumes_with_the_same_results(jobs: Jobs, train_losses, how: str, failures: int):
    jobs.apply(jobs.overlay(RUN=f"train-{how}"), "train")
    is_saved = how in ("evict", "delete", "terminate")
    reached = 40 if is_saved else CHECKPOINT_EVERY + 10
    disturb(jobs, jobs.wait_for_training("train-", reached), how)
    assert jobs.ends("train") == ["Complete"]
    assert jobs.job("train")["status"].get("failed", 0) == failures
    # Before the first periodic checkpoint there is only the one that SIGTERM saves.
    assert resumed_at(jobs, "train-") >= (reached if is_saved else CHECKPOINT_EVERY)
    assert jobs.losses(f"train-{how}") == train_losses


@long_test
def test_a_pod_that_is_deleted_as_it_starts_is_replaced(jobs: Jobs, train_losses):
    jobs.apply(jobs.overlay(RUN="early"), "train")
    jobs.delete_pod(jobs.wait_for_start("train-"))
    assert jobs.ends("train") == ["Complete"]
    assert jobs.losses("early") == train_losses


@long_test
@stand_in_test
def test_a_job_fails_after_more_kills_than_its_limit(jobs: Jobs):
    jobs.apply(jobs.overlay(RUN="kills"), "train")
    killed: set[str] = set()
    for _ in range(4):
        jobs.wait_for_another("train-", killed)
        pod = jobs.wait_for_start("train-")
        killed.add(pod)
        jobs.signal(pod, signal.SIGKILL)
    assert jobs.ends("train") == ["BackoffLimitExceeded"]


@pytest.mark.parametrize(
    ("disturbances", "failures"),
    [
        only_stand_in({1: "kill"}, 1),
        long({0: "evict"}, 0),
        long({1: "evict"}, 0),
        long({0: "evict", 1: "evict"}, 0),
    ],
    ids=lambda value: " ".join(f"{how}-{index}" for index, how in value.items()) if isinstance(value, dict) else None,
)
def test_workers_resume_with_the_same_results(jobs: Jobs, train_many_losses, disturbances, failures: int):
    run = "-".join(["many", *(f"{how}-{index}" for index, how in disturbances.items())])
    jobs.apply(jobs.overlay(jobs=MANY, RUN=run), "train-many")
    jobs.wait_for_training("train-many-0", CHECKPOINT_EVERY + 10)
    pods = {index: jobs.newest(f"train-many-{index}") for index in (0, 1)}
    for index, how in disturbances.items():
        disturb(jobs, pods[index], how)
    assert jobs.ends("train-many") == ["Complete"]
    # The other worker's 75 does not count.
    assert jobs.job("train-many")["status"].get("failed", 0) == failures
    assert {jobs.newest(f"train-many-{index}") for index in (0, 1)}.isdisjoint(pods.values())
    assert resumed_at(jobs, "train-many-0") >= CHECKPOINT_EVERY
    assert jobs.losses(run) == train_many_losses


@pytest.mark.parametrize(
    ("who", "how", "failures"),
    [
        long("tune-chief", "evict", 0),
        only_stand_in("tune-worker-1", "kill", 1, is_long=True),
        long("tune-worker-1", "evict", 0),
        only_stand_in("tune-chief", "kill", 1, is_long=True),
    ],
)
def test_a_search_resumes_with_the_same_scores(jobs: Jobs, scores, who: str, how: str, failures: int):
    study = f"{who}-{how}"
    jobs.apply(jobs.overlay(STUDY=study, **SEARCH), "tune")
    jobs.wait_for_training(who, by="tune-worker-1")
    disturb(jobs, jobs.newest(who), how)
    assert jobs.ends("tune-chief", "tune-worker") == ["Complete", "Complete"]
    job = who.removesuffix("-1")
    assert jobs.job(job)["status"].get("failed", 0) == failures
    assert len(jobs.pods(who)) > 1 or how != "kill"
    assert jobs.scores(study) == scores
