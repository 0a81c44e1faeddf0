import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from sostenuto.errors import UserError
from sostenuto.music.notes import ticks
from tests.factories import random_arrays, tiny_model
from tests.trainer.data.repeats import recall_of, repeating_pitches
from trainer.data.matches import find_matches
from trainer.data.note_table import NoteTable
from trainer.data.note_tensors import START_PITCH
from trainer.data.recall import PitchRecall, TimeRecall
from trainer.evaluation.residuals import TimeResiduals, residual_nats
from trainer.evaluation.scorer import Scorer
from trainer.evaluation.statistics import NoteScores, compute_metrics, score_composers, sum_scores
from trainer.model.memory import match_pitch, recall_times
from trainer.model.next_note import start_note
from trainer.workdir.evaluation_formats import ResidualDensity

LENGTHS = [9, 1, 15, 0, 2, 11]
RESIDUALS = TimeResiduals(ResidualDensity("laplace", 0.1, 0.3), ResidualDensity("gaussian", -0.2, 0.8))


def table_of(lengths, seed=0) -> NoteTable:
    notes = np.empty(sum(lengths), [("pitch", "u1"), ("velocity", "u1"), ("step_us", "<i4"), ("duration_us", "<i4")])
    for field, values in random_arrays(len(notes), seed=seed)._asdict().items():
        notes[field] = values
    # Few pitches, so that phrases return and the model recalls them.
    notes["pitch"] = 60 + notes["pitch"] % 4
    return NoteTable(notes, np.cumsum([0, *lengths]))


@pytest.fixture(scope="module")
def table():
    return table_of(LENGTHS)


@pytest.fixture(scope="module")
def carrying():
    return Scorer(tiny_model("density", layers=2))


def outputs_one_by_one(model, table):
    """What the body gives for each scored note, the state carried from the performance's start; and that note.

    And its times; and what the body gives after it, if it is the performance's last.
    """
    tables = model.decode_weights()
    for index in range(len(table.lengths)):
        performance = table.performance(index)
        hidden, state = model.decode_step(start_note(1), model.initial_decode_state(1), tables)
        for place in range(len(performance.pitch)):
            note = performance.map(lambda field, place=place: tf.constant(field[place : place + 1]))
            before, times = hidden, ()
            if model.has_memory:
                times = recall_times(state.memory, match_pitch(state.memory, tf.cast(note.pitch, tf.int64)))
            hidden, state = model.decode_step(note, state, tables)
            if place:
                yield before, note, times, hidden if place == len(performance.pitch) - 1 else None


def outputs_of_windows(model, table):
    """The same, read from exactly the notes of the window before each note."""
    for index in range(len(table.lengths)):
        performance = table.performance(index)
        for place in range(1, len(performance.pitch)):
            begin = max(place - model.config.seq_length, 0)
            window = performance.map(
                lambda field, begin=begin, place=place: tf.constant(field[np.newaxis, begin:place])
            )
            pitches, times = (), ()
            if model.has_memory:
                pitches, times = recall_of(performance.map(lambda field, place=place: field[np.newaxis, : place + 1]))
                pitches = PitchRecall(*(part[:, begin + 1 : place + 1] for part in pitches))
                times = TimeRecall(*(part[:, place] for part in times))
            hidden, _ = model.forward(window, recall=pitches)
            yield (
                hidden.map(lambda part: part[:, -1]),
                performance.map(lambda field, place=place: tf.constant(field[place : place + 1])),
                times,
                None,
            )


def pitch_scores(logits, pitch):
    better = np.sum(logits.numpy()[0] > logits.numpy()[0, pitch])
    return {"pitch": -tf.nn.log_softmax(logits).numpy()[0, pitch], "pitch_top1": better < 1, "pitch_top5": better < 5}


def end_nats(model, hidden, after):
    """Nats that a piece goes on before a note and, for its last one, that it ends after it."""
    if model.heads.end is None:
        return 0.0
    goes_on = 1 - tf.sigmoid(model.heads.end(hidden.body, hidden.position))
    ends = 1.0 if after is None else tf.sigmoid(model.heads.end(after.body, after.position))
    return -np.log((goes_on * ends).numpy()[0])


def density_scores(model, hidden, note, times, after):
    logits = model.heads.logits(hidden, note, times)
    step_ticks = model.heads.times["step"].tick_probabilities(logits["step"]).numpy()[0]
    duration_ticks = model.heads.times["duration"].tick_probabilities(logits["duration"]).numpy()[0]
    step = ticks(note.step_us.numpy())[0]
    median = np.searchsorted(np.cumsum(step_ticks), 0.5)
    return {
        **pitch_scores(logits["pitch"], note.pitch.numpy()[0]),
        "step": -np.log(step_ticks[step]),
        "duration": -np.log(duration_ticks[ticks(note.duration_us.numpy())[0]]),
        "step_within_30ms": abs(median - step) <= 3,
        "end": end_nats(model, hidden, after),
    }


def regression_scores(model, hidden, note, *_):
    predicted = {name: value.numpy() for name, value in model.heads.predict_fields(hidden).items()}
    step = ticks(note.step_us.numpy())
    away = ticks(np.maximum(predicted["step"].astype(np.float64) * 1e6, 0)) - step
    return {
        **pitch_scores(tf.constant(predicted["pitch"]), note.pitch.numpy()[0]),
        "step": residual_nats(RESIDUALS.step, predicted["step"].astype(np.float64), step)[0],
        "duration": residual_nats(
            RESIDUALS.duration, predicted["duration"].astype(np.float64), ticks(note.duration_us.numpy())
        )[0],
        "step_within_30ms": abs(away[0]) <= 3,
        "end": 0.0,
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
    expected = (density_scores(model, *outputs) for outputs in outputs_one_by_one(model, table))
    assert_equals_notes(carrying.score(table), expected)


@pytest.mark.parametrize(("kind", "scores_of"), [("density", density_scores), ("regression", regression_scores)])
def test_a_last_position_model_reads_the_window_before_each_note(table, kind, scores_of):
    model = tiny_model(kind, positions="last", seq_length=6, seed=1)
    expected = [scores_of(model, *outputs) for outputs in outputs_of_windows(model, table)]
    residuals = RESIDUALS if kind == "regression" else None
    for scorer in (Scorer(model), Scorer(model, windows=5)):
        assert_equals_notes(scorer.score(table, residuals), expected)


def test_the_score_does_not_depend_on_how_the_reading_is_cut(carrying, table):
    whole = carrying.score(table)
    for chunk, lanes in ((1, 3), (7, 2), (23, 100), (1000, 1)):
        assert_close(Scorer(carrying._model, chunk=chunk, lanes=lanes).score(table), whole)


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


@pytest.mark.parametrize("positions", ["every", "last"])
def test_a_changed_note_changes_no_earlier_score(positions):
    scorer = Scorer(tiny_model("density", positions=positions, seq_length=8))
    table, other = table_of([70]), table_of([70], seed=1)
    table.notes["pitch"] = repeating_pitches(70, 1)
    assert find_matches(table.notes["pitch"], table.offsets).any(axis=1).sum() > 20
    before = scorer.score(table)
    for place in (0, 12, 40, 69):  # The end after the last note, whose nats the note has, depends on it.
        changed = NoteTable(table.notes.copy(), table.offsets)
        changed.notes[place] = other.notes[place]
        after = scorer.score(changed)
        for scores, unchanged in zip(after, before, strict=True):
            np.testing.assert_array_equal(scores[: max(place - 1, 0)], unchanged[: max(place - 1, 0)])
        assert np.abs(after.pitch[place:] - before.pitch[place:]).max(initial=place == 69) > 1e-3


@pytest.mark.parametrize("positions", ["every", "last"])
def test_performances_of_one_note_have_no_score(positions):
    scorer = Scorer(tiny_model("density", positions=positions))
    assert [len(scores) for scores in scorer.score(table_of([1, 0, 1]))] == [0] * 7


def constant_model(step, duration):
    """A model that predicts the same seconds after any notes."""
    model = tiny_model("regression")
    for weight in model.weights:
        if weight.shape[-1] == 1:
            weight.assign(np.zeros(weight.shape))
    (step_bias, duration_bias) = (weight for weight in model.weights if weight.shape == (1,))
    step_bias.assign([step])
    duration_bias.assign([duration])
    return model


def test_residuals_of_performances_of_a_single_note_are_refused():
    with pytest.raises(UserError, match="no performance of the validation split has a second note"):
        Scorer(constant_model(3.5, 5.25)).fit_residuals(table_of([1, 1, 0]))


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


def test_scores_by_composer_add_up_to_those_of_the_split(table, carrying):
    scores = carrying.score(table)
    composers = ["Schumann", "Clara", "", "Schumann", "Bach", "Bach"]
    table_of_composers = score_composers(scores, table.lengths, composers)
    # Clara's only performance is a single note, which is not scored.
    assert list(table_of_composers) == ["Bach", "Schumann", "unknown"]
    assert {name: own.notes for name, own in table_of_composers.items()} == {
        "Bach": 1 + 10, "Schumann": 8, "unknown": 14
    }  # fmt: skip
    assert {name: own.performances for name, own in table_of_composers.items()} == {
        "Bach": 2, "Schumann": 2, "unknown": 1
    }  # fmt: skip
    whole = compute_metrics(sum_scores(scores))
    for field, nats in whole.nats_per_note.items():
        parts = [own.nats_per_note[field] * own.notes for own in table_of_composers.values()]
        assert sum(parts) == pytest.approx(nats * whole.notes)
