import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sostenuto.music.notes import MAX_TICK, ticks
from tests.trainer.models import random_arrays, tiny_model
from trainer.data.note_table import NoteTable
from trainer.data.note_tensors import START_PITCH
from trainer.evaluation import scorer as scoring
from trainer.evaluation.scorer import (
    NoteScores,
    Residuals,
    Scorer,
    TimeResiduals,
    by_composer,
    confidence_intervals,
    figures,
    sums,
)
from trainer.model import time_distribution
from trainer.model.next_note import start_note

LENGTHS = [9, 1, 15, 0, 2, 11]
RESIDUALS = TimeResiduals(Residuals("laplace", 0.1, 0.3), Residuals("gaussian", -0.2, 0.8))


def table_of(lengths, seed=0) -> NoteTable:
    notes = np.empty(sum(lengths), [("pitch", "u1"), ("velocity", "u1"), ("step_us", "<i4"), ("duration_us", "<i4")])
    for field, values in random_arrays(len(notes), seed=seed)._asdict().items():
        notes[field] = values
    return NoteTable(notes, np.cumsum([0, *lengths]))


@pytest.fixture(scope="module")
def table():
    return table_of(LENGTHS)


@pytest.fixture(scope="module")
def carrying():
    return Scorer(tiny_model("density", layers=2))


def outputs_one_by_one(model, table):
    """What the body gives for each scored note, the state carried from the performance's start; and that note."""
    tables = model.decode_weights()
    for index in range(len(table.lengths)):
        performance = table.performance(index)
        hidden, state = model.decode_step(start_note(1), model.initial_state(1), tables)
        for place in range(len(performance.pitch)):
            note = performance.map(lambda field, place=place: tf.constant(field[place : place + 1]))
            if place:
                yield hidden, note
            hidden, state = model.decode_step(note, state, tables)


def outputs_of_windows(model, table):
    """The same, read from exactly the notes of the window before each note."""
    for index in range(len(table.lengths)):
        performance = table.performance(index)
        for place in range(1, len(performance.pitch)):
            begin = max(place - model.config.seq_length, 0)
            window = performance.map(
                lambda field, begin=begin, place=place: tf.constant(field[np.newaxis, begin:place])
            )
            hidden, _ = model.forward(window)
            yield hidden[:, -1], performance.map(lambda field, place=place: tf.constant(field[place : place + 1]))


def pitch_scores(logits, pitch):
    better = np.sum(logits.numpy()[0] > logits.numpy()[0, pitch])
    return {"pitch": -tf.nn.log_softmax(logits).numpy()[0, pitch], "pitch_top1": better < 1, "pitch_top5": better < 5}


def density_scores(model, hidden, note):
    logits = model.heads.logits(hidden, note)
    step_ticks = time_distribution.tick_probabilities(logits["step"]).numpy()[0]
    duration_ticks = time_distribution.tick_probabilities(logits["duration"]).numpy()[0]
    step = ticks(note.step_us.numpy())[0]
    median = np.searchsorted(np.cumsum(step_ticks), 0.5)
    return {
        **pitch_scores(logits["pitch"], note.pitch.numpy()[0]),
        "step": -np.log(step_ticks[step]),
        "duration": -np.log(duration_ticks[ticks(note.duration_us.numpy())[0]]),
        "step_within_30ms": abs(median - step) <= 3,
    }


def regression_scores(model, hidden, note):
    predicted = {name: value.numpy() for name, value in model.heads.predict_fields(hidden).items()}
    step = ticks(note.step_us.numpy())
    away = ticks(np.maximum(predicted["step"].astype(np.float64) * 1e6, 0)) - step
    return {
        **pitch_scores(tf.constant(predicted["pitch"]), note.pitch.numpy()[0]),
        "step": RESIDUALS.step.nats(predicted["step"].astype(np.float64), step)[0],
        "duration": RESIDUALS.duration.nats(predicted["duration"].astype(np.float64), ticks(note.duration_us.numpy()))[
            0
        ],
        "step_within_30ms": abs(away[0]) <= 3,
    }


def assert_close(scores, other, tolerance=1e-4):
    for field in NoteScores._fields:
        np.testing.assert_allclose(getattr(scores, field), getattr(other, field), atol=tolerance, rtol=tolerance)


def assert_equals_notes(scores, expected):
    expected = list(expected)
    assert len(scores.pitch) == sum(max(length - 1, 0) for length in LENGTHS) == len(expected)
    for field in NoteScores._fields:
        np.testing.assert_allclose(getattr(scores, field), [note[field] for note in expected], atol=1e-4, rtol=1e-4)
    assert 0 < np.mean(scores.step_within_30ms) < 1
    assert np.std(scores.step) > 0.5


def test_the_score_is_that_of_playing_along_note_by_note(carrying, table):
    model = carrying._model
    expected = (density_scores(model, hidden, note) for hidden, note in outputs_one_by_one(model, table))
    assert_equals_notes(carrying.score(table), expected)


@pytest.mark.parametrize(("kind", "scores_of"), [("density", density_scores), ("regression", regression_scores)])
def test_a_last_position_model_reads_the_window_before_each_note(monkeypatch, table, kind, scores_of):
    model = tiny_model(kind, positions="last", seq_length=6)
    expected = [scores_of(model, hidden, note) for hidden, note in outputs_of_windows(model, table)]
    scorer = Scorer(model)
    residuals = RESIDUALS if kind == "regression" else None
    assert_equals_notes(scorer.score(table, residuals), expected)
    monkeypatch.setattr(scoring, "_WINDOWS", 5)
    assert_equals_notes(scorer.score(table, residuals), expected)


def test_the_score_does_not_depend_on_how_the_reading_is_cut(monkeypatch, carrying, table):
    whole = carrying.score(table)
    for chunk, lanes in ((1, 3), (7, 2), (23, 100), (1000, 1)):
        monkeypatch.setattr(scoring, "CHUNK", chunk)
        monkeypatch.setattr(scoring, "LANES", lanes)
        assert_close(carrying.score(table), whole)


def test_each_performance_is_scored_by_itself_and_in_its_place(carrying, table):
    whole = carrying.score(table)
    begin = 0
    for index, length in enumerate(LENGTHS):
        if length < 2:
            continue
        rows = slice(table.offsets[index], table.offsets[index + 1])
        alone = carrying.score(NoteTable(table.notes[rows], np.array([0, length])))
        part = slice(begin, begin + length - 1)
        assert_close(alone, NoteScores(*(scores[part] for scores in whole)))
        begin += length - 1


def test_the_first_note_is_heard_but_not_scored(carrying):
    table, other = table_of([9]), table_of([9])
    other.notes["pitch"][0] = (other.notes["pitch"][0] + 1) % START_PITCH
    one, two = carrying.score(table), carrying.score(other)
    assert len(one.pitch) == 8
    assert abs(one.pitch[0] - two.pitch[0]) > 1e-3


def test_no_scored_field_sees_its_own_velocity_or_what_comes_later(carrying):
    table = table_of([12])
    before = carrying.score(table)
    for field, blind in (
        ("velocity", ("pitch", "step", "duration")),
        ("duration_us", ("pitch", "step")),
        ("step_us", ("pitch",)),
    ):
        other = table_of([12])
        other.notes[field][6] = other.notes[field][6] // 2 + 1
        after = carrying.score(other)
        for scored in ("pitch", "step", "duration"):
            # Row i is note i + 1: note 6 is row 5.
            upto = 6 if scored in blind else 5
            np.testing.assert_array_equal(getattr(after, scored)[:upto], getattr(before, scored)[:upto])
        assert np.abs(after.pitch[6:] - before.pitch[6:]).max() > 1e-4


# Densities around a predicted time.

SCALES = st.floats(1e-3, 20)
CENTRES = st.floats(-5, 5)
PREDICTED = st.one_of(st.floats(-30, 30), st.sampled_from([-1e3, 0.0, 0.005, 9.995, 10.0, 1e3]))


@given(st.sampled_from(["laplace", "gaussian"]), CENTRES, SCALES, PREDICTED)
def test_the_masses_of_all_ticks_sum_to_one(kind, centre, scale, predicted):
    grid = np.arange(MAX_TICK + 1)
    nats = Residuals(kind, centre, scale).nats(np.full(len(grid), predicted), grid)
    assert np.isfinite(nats).all()
    assert nats.min() >= -1e-9
    assert abs(np.exp(-nats).sum() - 1) < 1e-6


@given(st.sampled_from(["laplace", "gaussian"]), st.floats(-1, 1), st.floats(0.05, 2), st.floats(-1, 11))
def test_a_mass_is_the_integral_over_the_ticks_10_ms(kind, centre, scale, predicted):
    grid = np.arange(MAX_TICK + 1)
    distribution = {"laplace": stats.laplace, "gaussian": stats.norm}[kind](predicted + centre, scale)
    edges = np.concatenate([[-np.inf], np.arange(MAX_TICK) * 0.01 + 0.005, [np.inf]])
    mass = np.diff(distribution.cdf(edges))
    nats = Residuals(kind, centre, scale).nats(np.full(len(grid), predicted), grid)
    np.testing.assert_allclose(np.exp(-nats), mass, atol=1e-12)


@pytest.mark.parametrize("kind", ["laplace", "gaussian"])
@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0])
def test_far_tails_cost_much_but_never_infinitely(kind, scale):
    residuals = Residuals(kind, 0.0, scale)
    for predicted in (-100.0, 1e5):
        tick = np.arange(MAX_TICK + 1)
        nats = residuals.nats(np.full(len(tick), predicted), tick)
        assert np.isfinite(nats).all()
        # Whoever predicts far below the grid pays more for each later tick, up to the last, which stands for many.
        toward = nats if predicted < 0 else nats[::-1]
        assert (np.diff(toward)[1:-1] > 0).all()
        assert toward[-2] > 90 / scale


def constant_model(step, duration):
    """A model that predicts the same seconds whatever it hears."""
    model = tiny_model("regression")
    for weight in model.weights:
        if weight.shape[-1] == 1:
            weight.assign(np.zeros(weight.shape))
    (step_bias, duration_bias) = (weight for weight in model.weights if weight.shape == (1,))
    step_bias.assign([step])
    duration_bias.assign([duration])
    return model


def test_the_better_family_is_fitted():
    random = np.random.default_rng(0)
    laplace, gaussian = 4 + random.laplace(0, 0.2, 4000), 5 + random.normal(0, 0.3, 4000)
    scorer = Scorer(constant_model(3.5, 5.25))
    for step, duration in ((laplace, gaussian), (gaussian, laplace)):
        table = table_of([2000, 2000])
        table.notes["step_us"], table.notes["duration_us"] = np.rint(step * 1e6), np.rint(duration * 1e6)
        residuals = scorer.fit_residuals(table)
        for fitted, seconds, predicted in ((residuals.step, step, 3.5), (residuals.duration, duration, 5.25)):
            kind, place, scale = ("laplace", 4, 0.2) if seconds is laplace else ("gaussian", 5, 0.3)
            assert fitted.kind == kind
            assert abs(fitted.centre - (place - predicted)) < 0.02
            assert abs(fitted.scale - scale) < 0.02
        # What was fitted predicts such notes as well as their own distribution does.
        entropy = {"laplace": stats.laplace(0, 0.2).entropy(), "gaussian": stats.norm(0, 0.3).entropy()}
        scores = scorer.score(table, residuals)
        assert abs(np.mean(scores.step) - (entropy[residuals.step.kind] - np.log(0.01))) < 0.05
        assert abs(np.mean(scores.duration) - (entropy[residuals.duration.kind] - np.log(0.01))) < 0.05


def test_hits_are_counted_by_rank_and_by_distance():
    model = constant_model(0.5, 0.5)
    (bias,) = (weight for weight in model.weights if weight.shape == (128,))
    (kernel,) = (weight for weight in model.weights if weight.shape == (16, 128))
    kernel.assign(np.zeros(kernel.shape))
    bias.assign(np.arange(128) / 10)
    table = table_of([9])
    ranks = np.array([3, 0, 1, 4, 5, 0, 127, 4, 6])
    step_ms = np.array([0, 470, 460, 530, 540, 500, 464, 465, 10_000])
    table.notes["pitch"], table.notes["step_us"] = 127 - ranks, step_ms * 1000
    scores = Scorer(model).score(table, RESIDUALS)
    np.testing.assert_array_equal(scores.pitch_top1, ranks[1:] == 0)
    np.testing.assert_array_equal(scores.pitch_top5, ranks[1:] < 5)
    np.testing.assert_array_equal(scores.step_within_30ms, [True, False, True, False, True, False, True, False])


def test_perfect_predictions_leave_a_density():
    table = table_of([50])
    table.notes["step_us"][1:] = 500_000
    table.notes["duration_us"] = 750_000
    scorer = Scorer(constant_model(0.5, 0.75))
    residuals = scorer.fit_residuals(table)
    scores = scorer.score(table, residuals)
    assert residuals.step.scale > 0
    assert np.isfinite(scores.step).all()
    assert scores.step.max() < 0.01
    np.testing.assert_array_equal(scores.step_within_30ms, 1)


def test_a_summary_is_totals_over_notes():
    random = np.random.default_rng(0)
    scores = NoteScores(*random.random((3, 40)), *(random.random((3, 40)) < 0.4).astype(np.float64))
    summary = figures(sums(scores))
    nats = summary["nats_per_note"]
    assert summary["notes"] == 40
    assert set(nats) == {"pitch", "step", "duration", "total"}
    for field in ("pitch", "step", "duration"):
        assert nats[field] == pytest.approx(getattr(scores, field).sum() / 40)
    assert nats["total"] == pytest.approx((scores.pitch.sum() + scores.step.sum() + scores.duration.sum()) / 40)
    for field in ("pitch_top1", "pitch_top5", "step_within_30ms"):
        assert summary[field] == pytest.approx(getattr(scores, field).sum() / 40)
    assert all(isinstance(value, float) for value in nats.values())


def scores_of_performances(means, notes, spread=0.0, seed=0) -> NoteScores:
    """Performances whose notes all have about the same nats."""
    nats = np.repeat(means, notes) + spread * np.random.default_rng(seed).standard_normal(np.sum(notes))
    return NoteScores(nats, 2 * nats, 3 * nats, *[np.zeros_like(nats)] * 3)


def test_the_confidence_is_that_of_performances_not_of_notes():
    """A thousand notes of a performance that are alike say no more about others than one of them does."""
    means = np.random.default_rng(1).normal(2.0, 0.3, 200)
    few, many = (
        confidence_intervals(scores_of_performances(means, np.full(200, notes)), np.full(200, notes + 1))
        for notes in (1, 50)
    )
    for field in few:
        assert many[field] == pytest.approx(few[field])
    # The interval of a mean that the normal distribution gives.
    error = 1.96 * means.std() / np.sqrt(200)
    assert few["pitch"] == pytest.approx([means.mean() - error, means.mean() + error], abs=0.01)
    assert few["total"] == pytest.approx([6 * end for end in few["pitch"]])


def test_the_confidence_weighs_performances_by_their_notes_and_takes_any_length():
    lengths = np.array([1001, 1, 0, 101])
    low, high = confidence_intervals(scores_of_performances([2.0, 4.0], [1000, 100]), lengths)["pitch"]
    assert low == 2.0
    assert high == 4.0
    same = confidence_intervals(scores_of_performances([2.0, 2.0], [1000, 100]), lengths)
    assert same == {"pitch": [2.0, 2.0], "step": [4.0, 4.0], "duration": [6.0, 6.0], "total": [12.0, 12.0]}
    assert confidence_intervals(scores_of_performances([2.0, 4.0], [1000, 100], spread=0.5), lengths) == (
        confidence_intervals(scores_of_performances([2.0, 4.0], [1000, 100], spread=0.5), lengths)
    )


def test_scores_by_composer_add_up_to_those_of_the_split(table, carrying):
    scores = carrying.score(table)
    composers = ["Schumann", "Clara", "", "Schumann", "Bach", "Bach"]
    table_of_composers = by_composer(scores, table.lengths, composers)
    # Clara's only performance is a single note, which is not scored.
    assert list(table_of_composers) == ["Bach", "Schumann", "unknown"]
    assert {name: own["notes"] for name, own in table_of_composers.items()} == {
        "Bach": 1 + 10, "Schumann": 8, "unknown": 14
    }  # fmt: skip
    assert {name: own["performances"] for name, own in table_of_composers.items()} == {
        "Bach": 2, "Schumann": 2, "unknown": 1
    }  # fmt: skip
    whole = figures(sums(scores))
    for field, nats in whole["nats_per_note"].items():
        parts = [own["nats_per_note"][field] * own["notes"] for own in table_of_composers.values()]
        assert sum(parts) == pytest.approx(nats * whole["notes"])


def test_each_composer_has_the_notes_of_its_own_performances():
    scores = scores_of_performances([2.0, 5.0, 4.0], [10, 3, 30])
    own = by_composer(scores, np.array([11, 4, 31]), ["Liszt", "Alkan", "Liszt"])
    assert own["Alkan"]["nats_per_note"] == pytest.approx({"pitch": 5, "step": 10, "duration": 15, "total": 30})
    assert own["Liszt"]["nats_per_note"]["pitch"] == pytest.approx((10 * 2 + 30 * 4) / 40)
