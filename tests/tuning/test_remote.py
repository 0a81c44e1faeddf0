"""A study in a bucket."""

import itertools
import json
import threading
import time

import pytest

from sostenuto.data.manifest import Manifest
from sostenuto.errors import ChangedError, LostError, UserError
from tests.trainer.workdir.test_remote import put_directory
from tests.tuning.runs import free_address
from tests.tuning.test_worker import SPACE, Trials
from tuning import artifacts
from tuning.roles import ALONE_ID, Role
from tuning.search import Search
from tuning.study import Study
from tuning.summary import StudySummary
from tuning.trial import Assignment, StudyConfig
from tuning.worker import Worker

W = "gs://bucket/study"
CONFIG = StudyConfig("random", 2, 12, worker_timeout=20.0)


def on_post(number: int, do):
    """Returns a hook of the server that does something before an upload."""
    posts = itertools.count(1)
    return lambda method, path: do() if method == "POST" and next(posts) == number else None


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


@pytest.mark.parametrize(
    ("name", "is_first"), [("study.json", False), ("trials.json", False), ("trials.json", True)], ids=str
)
def test_a_search_that_was_taken_over_unawares_replaces_no_file_of_its_successor(gcs, name, is_first):
    """It was stopped between the check of its lease and the write, while the other process wrote."""
    with opened() as study:
        summary = StudySummary(study.trials(), SPACE, CONFIG, W, "gs://bucket/data")
        if not is_first:
            artifacts.write(summary, study.lock)
        taken = threading.Event()

        def take_over(method, path):
            if not taken.is_set() and (name in path or method == "POST"):
                taken.set()
                gcs.put(f"{W}/.lock", b"{}")
                gcs.put(f"{W}/{name}", b"of the successor")

        gcs.before = take_over
        with pytest.raises(LostError, match=f"{W}: .* has taken it over"):
            study.next_trial("tuner0") if name == "study.json" else artifacts.write(summary, study.lock)
        assert taken.is_set()
        assert gcs.get(f"{W}/{name}") == b"of the successor"


def test_a_search_resumes_no_study_that_changed_while_it_was_read(gcs):
    """The last write of a process that lost the study may arrive after its successor has read it."""
    with opened() as study:
        study.next_trial("tuner0")
        late = gcs.get(f"{W}/study.json").replace(b"tuner0", b"tuner7")
    # The lease is written first, the study second.
    gcs.before = on_post(2, lambda: gcs.put(f"{W}/study.json", late))
    with pytest.raises(ChangedError, match=f"{W}/study.json: another process wrote it first"):
        opened()
    gcs.before = lambda *_: None
    with opened() as study:
        assert study.trials()[0].worker == "tuner7"


def test_a_chief_whose_study_was_taken_over_ends(gcs, dataset, monkeypatch):
    monkeypatch.setattr("sostenuto.storage.lease.RENEW_SECONDS", 0.05)
    search = Search(SPACE, CONFIG, Manifest.load(str(dataset)), W, quiet=True)
    gcs.before = on_post(3, lambda: gcs.put(f"{W}/.lock", b"{}"))  # after the lease and the study
    with pytest.raises(LostError, match=f"{W}: .* has taken it over"):
        search.chief(Role("chief", address=free_address()), overwrite=False, max_idle=20)


def test_overwrite_removes_the_study_and_its_trials_and_nothing_else(gcs):
    with opened() as study:
        study.next_trial("tuner0")
    for name in ("trials/0000/config.json", "trials/0000/.lock", "summaries/events", "trials.json", "letter.txt"):
        gcs.put(f"{W}/{name}", b"{}")
    with opened(overwrite=True) as study:
        artifacts.remove(W, study.lock)
        assert study.trials() == []
    assert gcs.names(f"{W}/") == ["letter.txt", "study.json"]


def test_a_search_continues_the_trial_in_the_bucket(gcs, dataset):
    put_directory(gcs, dataset, "gs://bucket/data")
    manifest = Manifest.load("gs://bucket/data")
    with opened() as study:
        source = Trials(study.next_trial(ALONE_ID), report=lambda _, train_step: "go" if train_step < 8 else "lost")
        Worker(source, ALONE_ID, space=SPACE, config=CONFIG, manifest=manifest, workdir=W, quiet=True).run()
        (ended,) = source.results
        assert (ended.outcome, ended.train_step) == ("queued", 8)
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
