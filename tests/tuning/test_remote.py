"""A study in a bucket."""

import itertools
import json
import threading
import time

import pytest

from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from tests.trainer.workdir.test_remote import put_directory
from tests.tuning.test_worker import SPACE, Trials
from tuning import artifacts
from tuning.roles import ALONE_ID, Role
from tuning.search import Search
from tuning.study import Study
from tuning.trial import Assignment, StudyConfig
from tuning.worker import Worker

W = "gs://bucket/study"
CONFIG = StudyConfig("random", 2, 12, worker_timeout=20.0)


def opened(config=CONFIG, **options) -> Study:
    return Study(W, SPACE, config, **options)


def test_a_study_in_a_bucket_resumes_where_it_was(gcs):
    with opened() as study:
        first = study.next_trial("tuner0")
        assert isinstance(first, Assignment)
        assert json.loads(gcs.get(f"{W}/study.json"))["trials"][0]["worker"] == "tuner0"
        with pytest.raises(UserError, match=rf"{W}: process \d+ on \S+ leads this study. Wait until it ends"):
            opened()
    # Started again, the worker gets its trial back.
    with opened() as study:
        assert study.next_trial("tuner0") == Assignment(**{**vars(first), "attempt": 2})
    assert gcs.names(f"{W}/") == ["study.json"]
    with pytest.raises(UserError, match="a study cannot shrink: got max_trials=1"):
        opened(StudyConfig("random", 1, 12, worker_timeout=20.0))


def test_many_workers_at_once_share_the_writes_of_a_bucket_that_takes_one_a_second(gcs):
    with opened(StudyConfig("random", 40, 12)) as study:
        writes = []
        gcs.before = lambda method, path: writes.append(time.monotonic()) if method == "POST" else None
        start = time.monotonic()
        answers = {}

        def ask(number: int) -> None:
            answers[number] = study.next_trial(f"tuner{number}")
            # The trial is in the bucket before its worker gets it.
            there = json.loads(gcs.get(f"{W}/study.json"))["trials"]
            assert answers[number].trial in {trial["id"] for trial in there}

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({answer.trial for answer in answers.values()}) == 20
        assert time.monotonic() - start < 15
        assert all(later - earlier > 0.9 for earlier, later in itertools.pairwise(writes))


def test_a_chief_whose_study_was_taken_over_writes_no_more(gcs, monkeypatch):
    monkeypatch.setattr("sostenuto.storage.lease.RENEW_SECONDS", 0.05)
    with opened() as study:
        gcs.put(f"{W}/.lock", b"{}")
        before = gcs.get(f"{W}/study.json")
        with pytest.raises(UserError, match="another process has taken it over"):
            study.next_trial("tuner0")
        assert gcs.get(f"{W}/study.json") == before


def test_overwrite_removes_the_study_and_its_trials_and_nothing_else(gcs):
    with opened() as study:
        study.next_trial("tuner0")
    for name in ("trials/0000/config.json", "trials/0000/.lock", "summaries/events", "trials.json", "letter.txt"):
        gcs.put(f"{W}/{name}", b"{}")
    with opened(overwrite=True) as study:
        artifacts.remove(W)
        assert study.trials() == []
    assert gcs.names(f"{W}/") == ["letter.txt", "study.json"]


def test_a_search_continues_the_trial_in_the_bucket(gcs, dataset):
    put_directory(gcs, dataset, "gs://bucket/data")
    manifest = Manifest.load("gs://bucket/data")
    with opened() as study:
        source = Trials(study.next_trial(ALONE_ID), report=lambda _, train_step: "go" if train_step < 8 else "lost")
        Worker(source, ALONE_ID, space=SPACE, config=CONFIG, manifest=manifest, workdir=W, quiet=True).run()
        (ended,) = source.results
        assert (ended.outcome, ended.train_step) == ("interrupted", 8)
    reports = gcs.get(f"{W}/trials/0000/metrics.jsonl").splitlines()
    assert reports
    search = Search(SPACE, CONFIG, manifest, W, quiet=True)
    assert search.alone(Role("alone", worker=ALONE_ID), overwrite=False) == 0
    trials = json.loads(gcs.get(f"{W}/trials.json"))["trials"]
    assert [(trial["state"], trial["attempts"]) for trial in trials] == [("completed", 2), ("completed", 1)]
    # Resumed: the same lines, including the speed.
    assert gcs.get(f"{W}/trials/0000/metrics.jsonl").splitlines()[: len(reports)] == reports
    names = gcs.names(f"{W}/")
    assert {"best_config.json", "report.html", "study.json", "trials.json"} <= set(names)
    assert {f"trials/{name}/result.json" for name in ("0000", "0001")} <= set(names)
    assert not [name for name in names if name.endswith(".lock")]
