import dataclasses
import math
from collections.abc import Callable

import pytest

from tests.processes import run_python
from trainer.presets import preset
from tuning.oracles import Oracle
from tuning.space_file import create_space
from tuning.trial import TUNERS, StudyConfig, Trial, TrialStatus

BASE = preset("base")


def study_config(tuner, max_trials=12, seed=0):
    return StudyConfig(tuner, max_trials, 1000, seed=seed)


def small_space(tmp_path, text="seq_length: [64, 128]\nunits: [128, 192, 256]\nstep_weight: 1\nduration_weight: 1\n"):
    path = tmp_path / "space.yaml"
    path.write_text(text, encoding="utf-8")
    return create_space(BASE, file=str(path))


def distance(values):
    """Nats/note of a corpus where step_weight 2, duration_weight 0.5 and 384 units over 256 notes are best."""
    return (
        abs(math.log2(values.get("units", 384) / 384))
        + abs(math.log2(values.get("seq_length", 256) / 256))
        + abs(math.log2(values.get("step_weight", 2) / 2))
        + abs(math.log2(values.get("duration_weight", 0.5) / 0.5))
    )


def search(oracle: Callable[[], Oracle] | Oracle, fails=lambda values: False, workers=1):
    """Runs trials by turns until nothing more is proposed; those of one turn know nothing of each other."""
    records: list[Trial] = []
    while True:
        turn = []
        for _ in range(workers):
            current = oracle if isinstance(oracle, Oracle) else oracle()
            name = f"{len(records):04d}"
            proposal = current.propose(name, records)
            if proposal is None:
                break
            turn.append(len(records))
            records.append(
                Trial(name, TrialStatus.RUNNING, proposal.values, proposal.share, "trials/x", parent=proposal.parent)
            )
        if not turn:
            return records
        for index in turn:
            record = records[index]
            if fails(record.values):
                records[index] = dataclasses.replace(record, status=TrialStatus.FAILED)
            else:
                score = 8 + distance(record.values)
                records[index] = dataclasses.replace(record, status=TrialStatus.COMPLETED, score=score)


@pytest.mark.parametrize("tuner", TUNERS)
@pytest.mark.parametrize("text", ["layers: 2", "units: [64, 96]\nseq_length: {low: 300, high: 400, step: 50}"])
def test_the_first_trial_is_the_start_config_even_from_outside_of_the_space(tmp_path, tuner, text):
    space = small_space(tmp_path, text)
    first, *others = search(Oracle(space, study_config(tuner, 8)))
    assert first.values == space.base_values
    for record in others:
        if record.parent is None:
            assert record.values == {each.field: each.clamp(record.values[each.field]) for each in space.parameters}


@pytest.mark.parametrize("tuner", TUNERS)
def test_no_config_is_tried_twice_and_a_small_space_is_tried_whole(tmp_path, tuner):
    records = search(Oracle(small_space(tmp_path), study_config(tuner, 40)))
    tried = [tuple(record.values.values()) for record in records if record.parent is None]
    assert len(tried) == 6
    assert set(tried) == {(seq_length, units) for seq_length in (64, 128) for units in (128, 192, 256)}
    assert any(record.share == 1 for record in records)


@pytest.mark.parametrize("tuner", TUNERS)
def test_a_new_oracle_before_each_trial_proposes_the_same(tmp_path, tuner):
    max_trials = 5 if tuner == "bayesian" else 9
    space, of = small_space(tmp_path, "seq_length: 128\nduration_weight: 1"), study_config(tuner, max_trials)
    one = search(Oracle(space, of))
    last = Oracle(space, of)

    def reload():
        nonlocal last
        last = Oracle(space, of, last.state())
        return last

    assert search(reload) == one
    assert search(Oracle(space, study_config(tuner, max_trials, seed=1)))[1:] != one[1:]


def test_a_random_search_is_the_same_in_every_process_and_order_of_results():
    program = """
from trainer.presets import preset
from tuning.oracles import Oracle
from tuning.space_file import create_space
from tuning.trial import StudyConfig, Trial, TrialStatus
oracle = Oracle(create_space(preset("base")), StudyConfig("random", 5, 1000))
trials = []
for index in range(5):
    values = oracle.propose(str(index), trials).values
    trials.append(Trial(str(index), TrialStatus.RUNNING, values, 1.0, ""))
print([trial.values for trial in trials])
"""
    process = run_python("-c", program, PYTHONHASHSEED="7")
    assert process.returncode == 0, process.stderr
    records = search(Oracle(create_space(BASE), study_config("random", 5)), workers=2)
    assert process.stdout.strip() == str([record.values for record in records])


def test_neighbouring_seeds_share_no_values():
    weights = []
    for seed in range(4):
        records = search(Oracle(create_space(BASE), study_config("random", 8, seed=seed)))
        weights.extend(record.values[field] for record in records[1:] for field in ("step_weight", "duration_weight"))
    assert len(set(weights)) > 0.9 * len(weights)


def test_bayesian_search_learns_where_random_does_not():
    space = create_space(BASE, fix=["units=384", "duration_weight=0.5"])
    best = {}
    for tuner in ("random", "bayesian"):
        records = search(Oracle(space, study_config(tuner, 12)))
        best[tuner] = min(distance(record.values) for record in records)
    assert best["bayesian"] < 0.5 * best["random"]


def test_bayesian_search_does_not_crowd_around_trials_under_way():
    space = create_space(BASE, fix=["units=384", "duration_weight=0.5", "seq_length=256"])
    oracle = Oracle(space, study_config("bayesian", 20))
    ended = [
        Trial(
            f"{index:04d}",
            TrialStatus.COMPLETED,
            {"step_weight": weight},
            1.0,
            "",
            score=8 + abs(math.log2(weight / 2)),
        )
        for index, weight in enumerate((0.5, 0.8, 1.2, 1.8, 2.6))
    ]
    under_way = Trial("0005", TrialStatus.RUNNING, {"step_weight": 0.25}, 1.0, "")
    proposal = oracle.propose("0006", [*ended, under_way])
    assert proposal.values["step_weight"] > 1


def test_bayesian_search_keeps_away_from_where_trials_fail():
    space = create_space(BASE, fix=["units=384", "duration_weight=0.5", "seq_length=256"])
    records = search(Oracle(space, study_config("bayesian", 12)), fails=lambda values: values["step_weight"] > 1.9)
    late = records[6:]
    assert sum(record.status == "failed" for record in late) <= len(late) / 2


def rungs(records):
    return {share: [record for record in records if record.share == share] for share in (1 / 9, 1 / 3, 1)}


def test_hyperband_promotes_the_best_from_rung_to_rung():
    records = search(Oracle(create_space(BASE), study_config("hyperband", 9)))
    first, second, third = rungs(records).values()
    assert [len(first), len(second), len(third)] == [9, 3, 1]
    best = sorted(first, key=lambda record: record.score)
    assert {record.parent for record in second} == {record.id for record in best[:3]}
    assert third[0].values == best[0].values
    assert records[int(third[0].parent)].parent == best[0].id


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("max_trials", [1, 2, 5, 12, 17, 20])
def test_hyperband_begins_as_many_configs_as_asked_for_and_trains_one_to_the_end(max_trials, workers):
    records = search(Oracle(create_space(BASE), study_config("hyperband", max_trials)), workers=workers)
    assert sum(record.parent is None for record in records) == max_trials
    assert any(record.share == 1 for record in records)
    promoted = [record.parent for record in records if record.parent]
    assert len(promoted) == len(set(promoted))


@pytest.mark.parametrize("failing", [6, 7, 8])
def test_hyperband_promotes_past_failures_and_no_failure(failing):
    proposed = []

    def fails(values):
        if values not in proposed:
            proposed.append(values)
        return proposed.index(values) < failing

    records = search(Oracle(create_space(BASE), study_config("hyperband", 9)), fails=fails)
    first, second, third = rungs(records).values()
    assert {record.parent for record in second} == {record.id for record in first if record.status == "completed"}
    assert len(third) == 1
    assert not [record for record in (*second, *third) if record.status == "failed"]


def test_hyperband_ends_where_all_trials_fail():
    records = search(Oracle(create_space(BASE), study_config("hyperband", 11)), fails=lambda values: True)
    assert [record.status for record in records] == ["failed"] * 11


def test_hyperband_continues_when_more_trials_are_asked_for():
    space = create_space(BASE)
    oracle = Oracle(space, study_config("hyperband", 5))
    records = search(oracle)
    more = Oracle(space, study_config("hyperband", 12), oracle.state())
    proposed = list(records)
    while (proposal := more.propose(f"{len(proposed):04d}", proposed)) is not None:
        proposed.append(
            Trial(
                f"{len(proposed):04d}", TrialStatus.COMPLETED, proposal.values, proposal.share, "", proposal.parent,
                score=8 + distance(proposal.values),
            )
        )  # fmt: skip
    assert sum(record.parent is None for record in proposed) == 12
    assert proposed[: len(records)] == records
