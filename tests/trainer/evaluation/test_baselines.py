import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sostenuto.data.manifest import Manifest
from sostenuto.music.notes import MAX_TICK, PITCHES, TICK_US
from tests.factories import regular_notes, write_dataset
from tests.processes import run_python
from trainer.data.note_table import NoteTable, load_table
from trainer.evaluation import baselines
from trainer.evaluation.baselines import Histogram, Ngram

COLUMNS = [("pitch", "u1"), ("velocity", "u1"), ("step_us", "<i4"), ("duration_us", "<i4")]
FIELDS = ("pitch", "step", "duration")


def performance(pitch, *, step_us=200_000, duration_us=150_000, velocity=70) -> np.ndarray:
    """Rows of a note table, one a pitch; each other argument is one for all, or one for each."""
    rows = np.empty(len(pitch), COLUMNS)
    rows["pitch"], rows["step_us"], rows["duration_us"], rows["velocity"] = pitch, step_us, duration_us, velocity
    return rows


def table(*performances) -> NoteTable:
    empty = np.empty(0, COLUMNS)
    return NoteTable(np.concatenate([empty, *performances]), np.cumsum([0, *map(len, performances)], dtype=np.int64))


def music(length, seed) -> np.ndarray:
    notes = regular_notes(length, seed)
    return performance(notes.pitch, step_us=notes.step_us, duration_us=notes.duration_us, velocity=notes.velocity)


def noise(length, seed) -> np.ndarray:
    """Notes that have nothing to do with those before."""
    random = np.random.default_rng(seed)
    return performance(
        random.integers(40, 60, length),
        step_us=random.integers(0, 30, length) * TICK_US,
        duration_us=random.integers(1, 30, length) * TICK_US,
    )


def ngram(train, validation) -> Ngram:
    return Ngram(Histogram(train), train, validation)


def means(model, scored) -> dict[str, float]:
    return {field: float(nats.mean()) for field, nats in model.nats(scored).items()}


TRAIN, VALIDATION = table(*(music(300, seed) for seed in range(4))), table(music(200, 50), music(5, 51))
MODELS = {"histogram": Histogram(TRAIN), "ngram": ngram(TRAIN, VALIDATION)}

notes = st.lists(
    st.tuples(
        st.integers(0, PITCHES - 1),
        st.one_of(st.integers(0, 400_000), st.integers(0, 2**31 - 1)),
        st.one_of(st.integers(0, 400_000), st.integers(0, 2**31 - 1)),
    ),
    min_size=2,
    max_size=9,
)


def as_performance(drawn) -> np.ndarray:
    pitch, step_us, duration_us = (np.array(values) for values in zip(*drawn, strict=True))
    return performance(pitch, step_us=step_us, duration_us=duration_us)


def probabilities(model, rows, field) -> np.ndarray:
    """Of every value of a field of the last note, all before it, and its fields that come first, as they are."""
    values = np.arange(PITCHES) if field == "pitch" else np.arange(MAX_TICK + 1) * TICK_US
    column = field if field == "pitch" else f"{field}_us"
    versions = np.repeat(rows[np.newaxis], len(values), axis=0)
    versions[column][:, -1] = values
    nats = model.nats(table(*versions))[field]
    return np.exp(-nats.reshape(len(values), len(rows) - 1)[:, -1])


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("model", MODELS)
@given(notes)
@settings(max_examples=25)
def test_probabilities_of_all_values_sum_to_one_in_every_context(model, field, drawn):
    found = probabilities(MODELS[model], as_performance(drawn), field)
    assert np.all(found > 0)
    assert found.sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("field", FIELDS)
def test_probabilities_sum_to_one_in_contexts_that_were_counted_often(field):
    counted = TRAIN.performance(0)
    assert len(counted.pitch) > 200
    for length in (2, 3, 10, 200):
        assert probabilities(MODELS["ngram"], TRAIN.notes[:length], field).sum() == pytest.approx(1, abs=1e-9)


def test_a_histogram_counts_scored_notes_and_half_a_note_more_for_each_value():
    train = table(performance([9, 60, 60, 62], step_us=[7, 0, 4_999, 5_000], duration_us=20_000_000), performance([9]))
    histogram = Histogram(train)
    assert histogram.probabilities["pitch"][[60, 62, 9]] == pytest.approx(np.array([2.5, 1.5, 0.5]) / (3 + 64))
    assert histogram.probabilities["step"][:3] == pytest.approx(np.array([2.5, 1.5, 0.5]) / (3 + 1001 / 2))
    nats = histogram.nats(table(performance([1, 62])))
    assert nats["pitch"] == pytest.approx(-np.log([1.5 / 67]))
    assert histogram.probabilities["duration"][MAX_TICK] == pytest.approx(3.5 / (3 + 1001 / 2))


def test_intervals_are_learned_in_one_key_and_known_in_another():
    melody = np.array([0, 4, 7, 12, 7, 4, 0, 2, 5, 9, 5, 2] * 20)
    found = means(
        ngram(table(performance(48 + melody)), table(performance(51 + melody))), table(performance(54 + melody))
    )
    assert found["pitch"] < 0.3
    assert means(Histogram(table(performance(48 + melody))), table(performance(54 + melody)))["pitch"] > 2


def test_a_step_is_known_from_the_steps_before_and_a_duration_from_the_notes_own_step():
    def rhythm(length, seed):
        step = np.resize([100_000, 100_000, 400_000], length)
        random = np.random.default_rng(seed)
        step = np.where(random.random(length) < 0.2, 250_000, step)
        return performance(random.integers(40, 80, length), step_us=step, duration_us=2 * step)

    train, validation, scored = (table(rhythm(length, seed)) for length, seed in ((3000, 1), (1000, 2), (1000, 3)))
    found, counted = means(ngram(train, validation), scored), means(Histogram(train), scored)
    assert found["duration"] < 0.1 < 0.8 < counted["duration"]
    assert found["step"] < counted["step"] - 0.1


def test_what_tells_nothing_gets_no_weight():
    """Notes drawn independently: earlier notes do not predict them, and the n-gram must learn that."""
    train, validation, scored = table(noise(3000, 1)), table(noise(3000, 2)), table(noise(3000, 3))
    found, counted = means(ngram(train, validation), scored), means(Histogram(train), scored)
    for field, values in (("pitch", 20), ("step", 30), ("duration", 29)):
        assert np.log(values) - 0.01 < found[field] < counted[field] + 0.01


def test_weights_are_chosen_on_the_validation_split():
    """It repeats what was counted, or it does not: so what was counted is believed, or not."""
    counted, other = music(400, 1), noise(400, 2)
    train = table(counted)
    believing, doubting = ngram(train, table(counted)), ngram(train, table(other))
    for field in FIELDS:
        assert means(believing, train)[field] < means(doubting, train)[field]
        assert means(doubting, table(other))[field] < means(believing, table(other))[field]
        assert means(doubting, table(other))[field] <= means(Histogram(train), table(other))[field] + 1e-9


def test_no_field_sees_what_comes_later_nor_any_velocity():
    rows = music(60, 7)
    before = MODELS["ngram"].nats(table(rows))
    for field, unchanged in (("duration_us", ("pitch", "step")), ("step_us", ("pitch",)), ("pitch", ())):
        changed = rows.copy()
        changed[field][30] += 17
        after = MODELS["ngram"].nats(table(changed))
        for name in FIELDS:
            scored_before = 30 if name in unchanged else 29  # the first note is not scored
            np.testing.assert_array_equal(after[name][:scored_before], before[name][:scored_before])
    louder = rows.copy()
    louder["velocity"] = 1
    for name, nats in MODELS["ngram"].nats(table(louder)).items():
        np.testing.assert_array_equal(nats, before[name])


def test_performances_are_scored_each_by_itself_without_their_first_notes():
    performances = [music(40, 3), music(1, 4), music(0, 5), music(23, 6)]
    for model in MODELS.values():
        together = model.nats(table(*performances))
        alone = [model.nats(table(rows)) for rows in performances if len(rows) > 1]
        for field in FIELDS:
            assert len(together[field]) == 39 + 22
            np.testing.assert_array_equal(together[field], np.concatenate([nats[field] for nats in alone]))


def test_scores_are_means_over_notes_and_add_up():
    scored = table(music(90, 70), music(10, 71))
    found = baselines.scores(TRAIN, VALIDATION, scored)
    assert found.keys() == MODELS.keys()
    for name, own in found.items():
        assert own == pytest.approx({**means(MODELS[name], scored), "total": sum(means(MODELS[name], scored).values())})
    assert found["ngram"]["total"] < found["histogram"]["total"]


def test_of_a_dataset_the_train_split_is_counted_and_the_validation_split_chosen_on(dataset):
    manifest = Manifest.load(dataset)
    train, validation, test = (load_table(manifest, split) for split in ("train", "validation", "test"))
    assert baselines.score_baselines(manifest, test) == baselines.scores(train, validation, test)


@pytest.mark.parametrize("lengths", [{"train": [9], "test": [9]}, {"train": [1, 1], "validation": [9], "test": [9]}])
def test_a_dataset_with_nothing_to_count_or_to_choose_on_has_no_baselines(tmp_path, lengths):
    manifest = Manifest.load(write_dataset(tmp_path / "data", lengths))
    assert baselines.score_baselines(manifest, load_table(manifest, "test")) is None


def test_counting_needs_no_tensorflow():
    program = "import sys, trainer.evaluation.baselines; print('tensorflow' in sys.modules)"
    assert run_python("-c", program, check=True).stdout == "False\n"
