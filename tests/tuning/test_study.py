"""Studies on disk: identity, locking, files and threads. tests/tuning/test_scheduler.py has the policy."""

import json
import math
import os
import threading

import pytest

from sostenuto import storage
from sostenuto.errors import UserError
from tests.tuning.studies import BASE, SPACE, complete, interrupt, report, run, study_config
from tuning.space_file import create_space
from tuning.study import Study, fingerprint
from tuning.trial import Assignment, Done, best_trial


@pytest.fixture
def opened(tmp_path):
    """Opens the study of this test; a second call opens it again, as after a kill."""
    studies = []

    def opened(config=None, space=SPACE, **options):
        for study in studies:
            study.close()
        studies.append(Study(tmp_path, space, config or study_config(), **options))
        return studies[-1]

    yield opened
    for study in studies:
        study.close()


def test_a_reopened_study_has_the_same_trials_queue_and_oracle(opened):
    study = opened(study_config("hyperband", 9))
    first, second = study.next_trial("tuner0"), study.next_trial("tuner1")
    assert report(study, first, 0.1, 9.0) == "go"
    assert interrupt(study, second)
    before = study.trials()
    study = opened(study_config("hyperband", 9))
    assert study.trials() == before
    assert study.heartbeat(first.trial, first.attempt)
    assert study.next_trial("tuner2").trial == second.trial
    assert complete(study, first)
    run(study, "tuner2")
    assert best_trial(study.trials()).share == 1.0


def test_more_trials_may_be_asked_for_later(opened):
    study = opened(study_config(max_trials=3))
    run(study)
    three = study.trials()
    study = opened(study_config(max_trials=5, worker_timeout=10.0, max_attempts=2))
    assert not study.is_done
    run(study)
    assert len(study.trials()) == 5
    assert study.trials()[:3] == three
    with pytest.raises(UserError, match="got max_trials=4, expected 5 or more"):
        opened(study_config(max_trials=4))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"space": create_space(BASE, fix=["units=64"])}, r"space: units: got fixed to 64, expected 64, 96, .*512\. "),
        (
            {"space": create_space(BASE.replace(units=64, seed=1))},
            r"base config: units: got 64, expected 256; seed: got 1, expected 0\. ",
        ),
        ({"config": study_config("bayesian")}, "settings: tuner: got bayesian, expected random. "),
        ({"config": study_config(seed=5)}, "seed: got 5, expected 0"),
        ({"config": study_config(data="b" * 64)}, "data: got bbb.*, expected [^b]*. "),
    ],
)
def test_a_study_of_something_else_is_refused_by_name(opened, tmp_path, options, expected):
    opened()
    with pytest.raises(UserError, match=expected) as caught:
        opened(**options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}: ")
    assert "--workdir, or --overwrite" in str(caught.value)
    other = fingerprint(options.get("space", SPACE), options.get("config", study_config()))
    assert other != opened().fingerprint


def test_the_length_of_the_start_config_makes_no_other_study(opened):
    longer = create_space(BASE.replace(epochs=3, max_to_keep=9))
    fingerprints = {opened().fingerprint, opened(study_config(max_trials=9), space=longer).fingerprint}
    assert len(fingerprints) == 1


def test_two_processes_do_not_lead_one_study(tmp_path, opened):
    opened()
    with pytest.raises(UserError, match=rf"process {os.getpid()} on .* leads this study"):
        Study(tmp_path, SPACE, study_config())


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "expected JSON"), ("[]", "an object"), ("{}", "space is missing"), ("\xff", "codec"), ("", "JSON")],
)
def test_a_file_that_is_no_study_is_refused(tmp_path, opened, text, words):
    (tmp_path / "study.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=rf"study\.json: .*{words}.*another --workdir, or --overwrite"):
        opened()


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (("trials", 0, "state"), "lost", r"trials\[0\]\.state: got \"lost\", expected 'completed' or "),
        (("trials", 0, "vanished"), -1, r"trials\[0\]\.vanished: got -1, expected an integer"),
        (("trials", 0, "scores"), [{"train_step": 1}], r"trials\[0\]\.scores\[0\]\.share is missing"),
        (("trials", 0, "values"), {"zzz": 1}, "trials: 0000 has values of zzz, expected "),
        (("trials", 0, "values", "units"), "many", "config: units='many': expected int, got str"),
        (("trials", 0, "id"), "7", "trials: got the ids 7, expected 0000"),
        *(
            (("trials", 0, "directory"), name, f"trials: 0000 has the directory '{name}', expected 'trials/0000'")
            for name in ("/srv", "../x", "trials/../..", "trials/0001")
        ),
        (("queue",), ["0007"], "queue: got 0007, expected the queued trials"),
        (("settings", "max_trials"), 10**30, r"settings\.max_trials: got 1e\+30, expected an integer"),
        (("oracle", "current_bracket"), 10**9, r"oracle\.current_bracket: got 1000000000, expected at most 2"),
    ],
)
def test_a_wrong_value_of_a_study_is_named(tmp_path, opened, keys, value, words):
    opened().next_trial("tuner0")
    part = state = json.loads((tmp_path / "study.json").read_text())
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    (tmp_path / "study.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match=rf"study\.json: {words}.*--overwrite to delete the study") as error:
        opened()
    assert "\n" not in str(error.value)


def test_overwriting_removes_the_study_and_its_trials_and_nothing_else(tmp_path, opened):
    study = opened()
    trial = study.next_trial("tuner0")
    for name in (trial.directory, "mine"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("x")
    study = opened(study_config("bayesian"), overwrite=True)
    assert study.trials() == []
    assert not (tmp_path / "trials").exists()
    assert (tmp_path / "mine" / "file").exists()
    (tmp_path / "study.json").unlink()
    (tmp_path / "trials").mkdir()
    with pytest.raises(UserError, match=r"got trials/ without study\.json"):
        opened(overwrite=True)
    assert (tmp_path / "trials").exists()


def test_a_failed_write_fails_the_call_and_the_next_call_writes(opened, monkeypatch):
    study = opened()
    first = study.next_trial("tuner0", "a")

    def full(path, data):
        raise UserError(f"{path}: cannot be written (No space left on device)")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes_atomic", full)
        with pytest.raises(UserError, match="No space left"):
            complete(study, first)
        with pytest.raises(UserError, match="No space left"):
            study.next_trial("tuner1", "b")
    assert complete(study, first)
    other = study.next_trial("tuner1", "b")
    assert (other.trial, other.attempt) == ("0001", 1)
    before = study.trials()
    assert [trial.status for trial in before] == ["completed", "running"]
    assert opened().trials() == before


def test_the_state_is_json_that_others_can_read(opened, tmp_path):
    study = opened()
    first = study.next_trial("tuner0")
    report(study, first, 0.5, math.inf)

    def refuse(constant):
        raise AssertionError(constant)

    state = json.loads((tmp_path / "study.json").read_text(), parse_constant=refuse)
    assert state["trials"][0]["scores"] == [{"train_step": 500, "share": 0.5, "score": None}]


def test_many_threads_of_workers_lose_and_double_nothing(tmp_path):
    with Study(tmp_path, SPACE, study_config(max_trials=24)) as study:
        ran = []

        def work(worker):
            while not isinstance(answer := study.next_trial(worker), Done):
                if isinstance(answer, Assignment):
                    ran.append(answer.trial)
                    assert report(study, answer, 0.5, 9.0) == "go"
                    assert complete(study, answer)

        threads = [threading.Thread(target=work, args=(f"tuner{index}",)) for index in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(ran) == [f"{index:04d}" for index in range(24)]
        assert study.next_trial("tuner0") == Done("24 trials: 24 completed")
