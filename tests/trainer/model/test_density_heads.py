import numpy as np
import pytest
import tensorflow as tf

from sostenuto.music.notes import MAX_TICK, TICK_US
from tests.factories import random_arrays, tiny_model
from tests.trainer.draws import surprise
from trainer.data.alignments import STRONGEST
from trainer.data.matches import MATCHES
from trainer.data.note_tensors import NoteTensors
from trainer.data.recall import CANDIDATES, TIMES, PitchRecall, TimeRecall
from trainer.model import heads, time_distribution
from trainer.model.heads import HeadInput
from trainer.model.note_history import HISTORY_LENGTH, release_histogram

FIELDS = ("pitch", "step", "duration", "velocity")


@pytest.fixture(scope="module")
def density():
    return tiny_model("density").heads


def reading_of(*shape, seed=1):
    """The input of heads of 16 units; the last notes have ended, will end soon, or go on for long."""
    body = np.random.default_rng(seed).normal(0, 1, (*shape, 16))
    remaining_us = np.random.default_rng(seed).choice([0, 4_000, 60_000, 500_000, 9_000_000], (*shape, HISTORY_LENGTH))
    remaining_us = tf.constant(remaining_us, tf.int64)
    releases = release_histogram(remaining_us, tf.float32)
    position = tf.zeros(shape, tf.int64)
    return HeadInput(tf.constant(body, tf.float32), remaining_us, releases, position=position)


def repeated(head_input, times):
    return head_input.map(lambda part: tf.repeat(part, times, axis=0))


def notes_of(count, **fields):
    """Notes that are all alike but for the fields given."""
    alike = {"pitch": 60, "step_us": 120_000, "duration_us": 340_000, "velocity": 64, **fields}
    return NoteTensors(*(tf.constant(np.broadcast_to(alike[name], count), tf.int32) for name in NoteTensors._fields))


def uniforms(count, seed=0):
    return tf.constant(np.random.default_rng(seed).random((count, heads.UNIFORMS_PER_NOTE), np.float32))


def softmax(logits):
    return tf.nn.softmax(tf.cast(logits, tf.float64)).numpy()


# Densities.


@pytest.mark.parametrize("field", ["step", "duration"])
def test_nats_of_a_time_are_those_of_its_tick(density, field):
    ticks = np.arange(MAX_TICK + 1)
    notes = notes_of(len(ticks), **{f"{field}_us": ticks * TICK_US})
    hidden = repeated(reading_of(1), len(ticks))
    logits = density.logits(hidden, notes)
    probability = np.exp(-density.nll(logits, notes)[field].numpy().astype(np.float64))
    expected = density.times[field].tick_probabilities(logits[field]).numpy()[0]
    np.testing.assert_allclose(probability, expected, rtol=1e-4)
    assert abs(probability.sum() - 1) < 1e-5
    # All times within the tick's 10 ms count as the tick, and all longer ones as the last tick.
    for offset in (-TICK_US // 2, TICK_US // 2 - 1):
        shifted = notes_of(len(ticks), **{f"{field}_us": np.maximum(ticks * TICK_US + offset, 0)})
        np.testing.assert_array_equal(density.nll(logits, shifted)[field], density.nll(logits, notes)[field])
    longest = notes_of(len(ticks), **{f"{field}_us": 2**31 - 1})
    np.testing.assert_allclose(density.nll(logits, longest)[field], -np.log(probability[-1]), rtol=1e-4)


@pytest.mark.parametrize("field", ["pitch", "velocity"])
def test_probabilities_of_all_numbers_sum_to_one(density, field):
    notes = notes_of(128, **{field: np.arange(128)})
    logits = density.logits(repeated(reading_of(1), 128), notes)
    assert abs(np.exp(-density.nll(logits, notes)[field].numpy()).sum() - 1) < 1e-5


def test_a_field_is_given_those_before_it_and_no_other(density):
    hidden, notes = reading_of(50), random_arrays(50)
    other = random_arrays(50, seed=1)
    before = density.logits(hidden, notes)
    changes = {"pitch": "pitch", "step": "step_us", "duration": "duration_us", "velocity": "velocity"}
    for place, changed in enumerate(FIELDS):
        name = changes[changed]
        after = density.logits(hidden, notes._replace(**{name: getattr(other, name)}))
        for field in FIELDS[: place + 1]:
            np.testing.assert_array_equal(after[field], before[field])
        for field in FIELDS[place + 1 :]:
            assert np.abs(after[field] - before[field]).max() > 0.1


def test_recall_moves_its_candidates_and_times_and_every_value_keeps_a_probability(density):
    random = np.random.default_rng(3)
    distance = random.choice([0, 1, 7, 4095], (50, CANDIDATES))
    pitch = np.where(distance, random.integers(50, 70, distance.shape), 0)
    strength = np.where(distance, random.integers(1, STRONGEST, distance.shape), 0)
    strength[:, :MATCHES] = 0
    pitches = PitchRecall(*map(tf.constant, (pitch, distance, strength)))
    places = distance[:, :TIMES]
    step_us, duration_us = (places > 0) * random.integers(0, 3_000_000, (2, 50, TIMES))
    times = TimeRecall(*map(tf.constant, (step_us, duration_us, places, strength[:, :TIMES])))
    hidden, notes = reading_of(50), random_arrays(50)
    before = density.logits(hidden, notes)
    after = density.logits(hidden._replace(recall=pitches), notes, times)

    is_candidate = np.zeros((50, 128), bool)
    is_candidate[np.nonzero(distance)[0], pitch[distance > 0]] = True
    np.testing.assert_array_equal(after["pitch"] != before["pitch"], is_candidate)
    np.testing.assert_array_equal(after["velocity"], before["velocity"])
    rows = {field: tf.repeat(logits[:4], 128, axis=0) for field, logits in after.items()}
    nats = density.nll(rows, notes_of(512, pitch=np.tile(np.arange(128), 4)))["pitch"].numpy()
    assert np.isfinite(nats).all()
    np.testing.assert_allclose(np.exp(-nats.reshape(4, 128)).sum(axis=1), 1, atol=1e-5)
    for field in ("step", "duration"):
        assert np.abs(after[field] - before[field]).max(axis=1).min() > 1e-3
        probabilities = density.times[field].tick_probabilities(after[field])
        np.testing.assert_allclose(tf.reduce_sum(probabilities, axis=1), 1, atol=1e-5)


def test_the_training_loss_is_the_nats(density):
    hidden, notes = reading_of(3, 4), random_arrays(3, 4)
    losses, nats = density.losses(hidden, notes), density.nll(density.logits(hidden, notes), notes)
    assert set(losses) == set(density.loss_names) == {*FIELDS, "end"}
    for field in FIELDS:
        assert losses[field].shape == (3, 4)
        np.testing.assert_array_equal(losses[field], nats[field])


# Drawing.


def test_each_field_has_its_own_temperature_and_top_p(density):
    hidden, drawn_by = reading_of(300), uniforms(300)
    plain, _ = density.sample(hidden, drawn_by, tf.constant(1.0))
    for place, field in enumerate(NoteTensors._fields):
        temperature = np.ones(4, np.float32)
        temperature[place] = 1e-6
        cold, _ = density.sample(hidden, drawn_by, tf.constant(temperature))
        narrow, _ = density.sample(
            hidden,
            drawn_by,
            tf.constant(1.0),
            tuple(tf.constant(1e-6) if other == place else None for other in range(4)),
        )
        # The likeliest, either way, given what was drawn before it; and those fields are drawn as ever.
        for one, other, before in zip(cold[: place + 1], narrow[: place + 1], plain[:place], strict=False):
            np.testing.assert_array_equal(one, other)
            np.testing.assert_array_equal(one, before)
        np.testing.assert_array_equal(cold[place], narrow[place])
        assert np.mean(cold[place].numpy() != plain[place].numpy()) > 0.1, field


def test_drawn_notes_follow_the_densities_that_score_them(density):
    voices = 8_000
    hidden = repeated(reading_of(4), voices // 4)
    notes, _ = density.sample(hidden, uniforms(voices), tf.constant(1.0))
    logits = density.logits(hidden, notes)
    other = density.logits(hidden.map(lambda part: part[::-1]), random_arrays(voices))
    for field in FIELDS:
        if field in ("step", "duration"):
            chosen = time_distribution.ticks(getattr(notes, f"{field}_us"))
            probabilities = density.times[field].tick_probabilities
        else:
            chosen, probabilities = getattr(notes, field), softmax
        assert surprise(chosen, probabilities(logits[field])) < 5
        assert surprise(chosen, probabilities(other[field])) > 10
    for hidden_row in range(4):
        rows = slice(hidden_row * voices // 4, (hidden_row + 1) * voices // 4)
        frequencies = np.bincount(notes.pitch.numpy()[rows], minlength=128) / (voices // 4)
        assert np.abs(frequencies - softmax(logits["pitch"])[rows][0]).max() < 0.03


def test_drawn_notes_are_legal(density):
    notes, _ = density.sample(reading_of(5_000), uniforms(5_000), tf.constant(5.0))
    for field in notes:
        assert field.dtype == tf.int32
        assert field.shape == [5_000]
    assert 0 <= notes.pitch.numpy().min() <= notes.pitch.numpy().max() <= 127
    assert 1 <= notes.velocity.numpy().min() <= notes.velocity.numpy().max() <= 127
    assert 0 <= notes.step_us.numpy().min() <= notes.step_us.numpy().max() <= MAX_TICK * TICK_US
    assert 1 <= notes.duration_us.numpy().min() <= notes.duration_us.numpy().max() <= MAX_TICK * TICK_US
    # All ticks of the wide bins come, not only their borders.
    assert len(np.unique(notes.step_us.numpy() // TICK_US)) > 700


def test_the_shortest_note_that_is_drawn_is_one_of_tick_0(density):
    notes, _ = density.sample(reading_of(20), tf.zeros([20, heads.UNIFORMS_PER_NOTE]), tf.constant(1.0))
    np.testing.assert_array_equal(notes.pitch, 0)
    np.testing.assert_array_equal(notes.step_us, 0)
    np.testing.assert_array_equal(notes.velocity, 1)
    assert (notes.duration_us.numpy() > 0).all()
    np.testing.assert_array_equal(time_distribution.ticks(notes.duration_us), 0)
