import dataclasses
import re
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from sostenuto.errors import UserError
from sostenuto.music.notes import FIELDS, Notes
from tests.factories import random_arrays, regular_notes, tiny_model
from tests.trainer.data.repeats import recall_of, repeating_pitches
from tests.trainer.draws import surprise
from trainer.config import Config
from trainer.data.note_tensors import NoteTensors
from trainer.data.recall import TimeRecall
from trainer.generation.sampler import NoteSampler
from trainer.model.heads import HeadInput
from trainer.model.next_note import ModelState, build_model, start_note
from trainer.model.time_bins import BIN_STARTS, BIN_WIDTHS
from trainer.model.time_distribution import ticks
from trainer.workdir.load_model import LoadedModel

MANY = 256


@pytest.fixture(scope="module")
def player():
    return NoteSampler(tiny_model("density", layers=2))


@pytest.fixture(scope="module")
def primer():
    return regular_notes(12, seed=3)


def play(player, primers=None, *, num_notes=20, num_samples=MANY, temperature=1.0, seed=0, **options):
    primers = Notes.empty() if primers is None else primers
    options = {"end_odds": 0.0, **options}  # Of pieces that end, test_ending.py has the tests.
    return player.sample(
        primers, num_notes=num_notes, num_samples=num_samples, temperature=temperature, seed=seed, **options
    )


def same(one, other):
    return all(left == right for left, right in zip(one, other, strict=True))


def test_a_seed_plays_the_same_and_another_plays_otherwise(player):
    first = play(player, seed=5).notes
    assert same(first, play(player, seed=5).notes)
    assert not any(one == other for one, other in zip(first, play(player, seed=6).notes, strict=True))
    assert len({notes.pitch.tobytes() for notes in first}) == MANY


def test_a_sample_depends_neither_on_how_many_there_are_nor_on_how_long_they_are(player, primer):
    many = play(player, primer, num_notes=70)
    few = play(player, primer, num_samples=3, num_notes=70)
    assert same(few.notes, many.notes[:3])
    for num_notes in (1, 64, 65):
        shorter = play(player, primer, num_samples=3, num_notes=num_notes)
        assert same(shorter.notes, [notes[: 12 + num_notes] for notes in few.notes])
        assert shorter.notes_per_second > 0


def refused(player, words, *, primers=None, **options):
    with pytest.raises(UserError, match=words) as error:
        play(player, primers, **options)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("num_notes", [0, -1, 2.0, True, "20", None], "an integer at least 1"),
        ("num_samples", [0, -1, 1.5, None], "an integer at least 1"),
        ("seed", [-1, 2**63, 0.5, None], f"an integer at least 0 and at most {2**63 - 1:,}"),
        ("temperature", [0, -1.0, np.nan, np.inf, "warm", None, True, np.float32(0)], "a number above 0"),
        ("top_p", [0, 1.01, np.nan, "all", None, np.array([0.5])], "a number above 0 and at most 1"),
        ("returns", [-1, 1001, np.nan, "often", None], "a number at least 0 and at most 1,000"),
        ("end_odds", [-1, 1_000_001, np.nan, np.inf, "often", None], "a number at least 0 and at most 1,000,000"),
    ],
)
def test_a_number_out_of_its_range_is_an_error_that_names_it(name, values, expected, player, primer):
    for value in values:
        refused(
            player, rf"^{name}: got {re.escape(repr(value))}, expected {expected}$", primers=primer, **{name: value}
        )


def test_a_value_for_each_field_is_checked_like_one_for_all(player, primer):
    values = dict.fromkeys(FIELDS, 1.0)
    refused(player, r"^temperature\['step'\]: got 0, .* above 0$", primers=primer, temperature={**values, "step": 0})
    refused(player, r"^top_p\['pitch'\]: got nan, .* at most 1$", primers=primer, top_p={**values, "pitch": np.nan})
    refused(
        player,
        r"^top_p: got pitch, expected pitch, step, duration, velocity\. Add step, duration, velocity$",
        top_p={"pitch": 0.9},
    )
    refused(player, r"^temperature: got pitch, .*, tempo, expected", temperature={**values, "tempo": 1.0})
    refused(player, r"^temperature: got no field, expected", temperature={})
    refused(player, r"^temperature: got array", temperature=np.zeros((9, 9)))


@pytest.mark.parametrize(
    "primers", [3, "song.mid", [None], np.zeros((9, 9)), random_arrays(4), [random_arrays(4)], [[60, 62]]]
)
def test_primers_of_another_type_are_an_error(player, primers):
    refused(player, r"^primers: got .+, expected Notes or a list of Notes$", primers=primers)


def test_no_primer_at_all_is_an_error(player):
    refused(player, r"^primers: got an empty list, expected at least one\. Pass Notes\.empty\(\)", primers=[])


def test_numbers_of_numpy_are_numbers(player, primer):
    options = {"num_notes": 3, "num_samples": 2, "seed": 4, "temperature": 0.5, "top_p": 0.5}
    arrays = {name: np.array(value)[()] for name, value in options.items()}
    assert same(play(player, primer, **options).notes, play(player, primer, **arrays).notes)


def test_a_loaded_model_is_played_as_it_is(player, primer):
    loaded = NoteSampler(LoadedModel(player._model, 7))
    assert same(play(loaded, primer, num_samples=2).notes, play(player, primer, num_samples=2).notes)


def test_the_primer_is_the_beginning_of_every_sample(player, primer):
    samples = play(player, primer)
    assert all(len(notes) == 32 for notes in samples.notes)
    assert all(notes[:12] == primer for notes in samples.notes)
    # The continuation begins where the primer stands, not where its last note has died away.
    assert min(notes.step_us[12] for notes in samples.notes) < primer.duration_us[-1] / 4


def test_each_primer_of_several_is_continued_as_it_is_alone():
    # With other weights the likeliest may be the same after each primer.
    player = NoteSampler(tiny_model("density", layers=2, seed=4))
    primers = [regular_notes(length, seed=length) for length in (30, 7, 30, 1, 7)] + [Notes.empty()]
    together = play(player, primers, num_samples=1, temperature=1e-6).notes
    assert len({notes[len(primer) :].pitch.tobytes() for primer, notes in zip(primers, together, strict=True)}) > 3
    for primer, notes in zip(primers, together, strict=True):
        (alone,) = play(player, primer, num_samples=1, temperature=1e-6).notes
        assert notes[: len(primer)] == primer
        assert notes == alone


def test_a_sample_depends_on_its_own_primer_and_place_alone(player):
    primers = [regular_notes(length, seed=length) for length in (9, 30, 9, 14)]
    others = [regular_notes(30, seed=77), primers[1], Notes.empty(), primers[3], regular_notes(3, seed=78), primers[0]]
    some, more = (play(player, each, num_samples=1, num_notes=70).notes for each in (primers, others))
    for place in (1, 3):
        assert some[place] == more[place]
    # The same primer at another place is continued in another way.
    assert some[0] != more[5]
    assert len(some[0]) == len(more[5]) == 79


def test_the_samples_of_each_primer_lie_together(player, primer):
    other = regular_notes(5, seed=4)
    twice = play(player, [primer, other], num_samples=2).notes
    assert same(twice, play(player, [primer, primer, other, other], num_samples=1).notes)
    assert len({notes.pitch.tobytes() for notes in twice}) == 4


class Count(NamedTuple):
    notes: tf.Tensor


class CountingModel:
    """Stands in for a model and its heads: counts the notes, and returns the count as each step in microseconds."""

    config = tiny_model("density").config
    start = 2**24  # beyond it, float32 lacks every other number
    has_memory = False
    composers = ()
    end = None

    def __init__(self):
        self.heads = self

    def initial_state(self, batch, composer):
        return ModelState((), Count(tf.fill([batch], self.start)))

    def forward(self, inputs, state):
        counts = state.history.notes[:, tf.newaxis] + tf.cumsum(tf.ones_like(inputs.pitch), axis=1)
        return self._hidden(counts), ModelState((), Count(counts[:, -1]))

    def decode_weights(self):
        return []

    def decode_step(self, inputs, state, weights, matches=None, returns=None):
        count = state.history.notes + 1
        return self._hidden(count), ModelState((), Count(count))

    def _hidden(self, counts):
        return HeadInput(tf.cast(counts - self.start, tf.float32)[..., tf.newaxis])

    def sample(self, hidden, uniforms, temperature, top_p, memory, constraints):
        step_us = tf.cast(hidden.body[:, 0], tf.int32)
        sixty = tf.fill(tf.shape(step_us), 60)
        return NoteTensors(sixty, step_us, sixty, sixty), None


def test_the_counts_of_a_state_continue_from_each_primer():
    primers = [regular_notes(length, seed=length) for length in (5, 3, 5)]
    played = play(NoteSampler(CountingModel()), primers, num_samples=1, num_notes=4).notes
    for primer, notes in zip(primers, played, strict=True):
        # One more, since the beginning of a performance is read too.
        np.testing.assert_array_equal(notes.step_us[len(primer) :], len(primer) + 1 + np.arange(4))


class ReturningModel(CountingModel):
    """Returns 1 as the step of each note after which the music returns."""

    def decode_step(self, inputs, state, weights, matches=None, returns=None):
        _, state = super().decode_step(inputs, state, weights)
        return HeadInput(tf.cast(returns >= 0, tf.float32)[:, tf.newaxis]), state


def test_music_returns_as_often_as_asked_and_each_sample_where_its_own_seed_says():
    player = NoteSampler(ReturningModel())
    happens = np.stack([notes.step_us[2:] for notes in play(player, num_samples=20, num_notes=1002, returns=50).notes])
    assert 40 < happens.mean() * 1000 < 60  # 2.9 standard deviations are 4.4
    assert len({row.tobytes() for row in happens}) == 20
    alone = play(player, num_samples=1, num_notes=1002, returns=50).notes[0]
    np.testing.assert_array_equal(alone.step_us[2:], happens[0])
    assert not np.any([notes.step_us[2:] for notes in play(player, num_samples=3, num_notes=200, returns=0).notes])
    rarer = play(player, num_samples=20, num_notes=1002).notes
    assert 2 < np.mean([notes.step_us[2:] for notes in rarer]) * 1000 < 6


def test_time_at_the_seam_continues_from_the_primers_last_onset(player, primer):
    model = player._model
    # Keys that still sound for a minute, and a file that would end long after: neither holds the next note up.
    held = dataclasses.replace(primer, duration_us=np.append(primer.duration_us[:-3], [60_000_000] * 3))
    samples = play(player, held, num_notes=1).notes
    assert all(notes[:12] == held for notes in samples)
    inputs = NoteTensors(*(getattr(held, field).astype(np.int32)[np.newaxis] for field in NoteTensors._fields))
    begin = start_note(1).map(lambda field: field.numpy()[:, np.newaxis])
    heard = NoteTensors(*(tf.constant(np.append(*both, axis=1)) for both in zip(begin, inputs, strict=True)))
    drawn = NoteTensors(
        *(tf.constant([getattr(notes, field)[12] for notes in samples], tf.int32) for field in NoteTensors._fields)
    )
    pitches, times = recall_of(
        NoteTensors(*(np.stack([getattr(notes, field) for notes in samples]) for field in NoteTensors._fields))
    )
    heard = heard.map(lambda field: tf.repeat(field, MANY, axis=0))
    hidden = model.forward(heard, recall=pitches)[0].map(lambda part: part[:, -1])
    times = TimeRecall(*(part[:, -1] for part in times))
    # The step is what the model expects after the primer's last note, and no gap is added to it.
    logits = model.heads.logits(hidden, drawn, times)
    probabilities = model.heads.times["step"].tick_probabilities(logits["step"])
    assert surprise(ticks(drawn.step_us), probabilities) < 5


def test_without_a_primer_the_first_note_is_drawn_from_what_begins_a_performance(player):
    model = player._model
    samples = play(player, num_notes=1)
    assert all(len(notes) == 1 for notes in samples.notes)
    hidden, _ = model.decode_step(start_note(1), model.initial_state(1), model.decode_weights())
    logits = model.heads.logits(hidden, start_note(1)._replace(pitch=tf.zeros([1], tf.int32)))["pitch"]
    expected = tf.nn.softmax(logits).numpy()[0]
    frequencies = np.bincount([notes.pitch[0] for notes in samples.notes], minlength=128) / MANY
    # By chance alone the squared distance is (1 - sum of squares) / n on average.
    assert np.sum((frequencies - expected) ** 2) < 3 * (1 - np.sum(expected**2)) / MANY
    uniform = np.full(128, 1 / 128)
    assert np.sum((uniform - expected) ** 2) > 10 * (1 - np.sum(expected**2)) / MANY


def _temper_ticks(probabilities, temperature):
    """Applies a temperature to the bins, and to the ticks within each bin."""
    probabilities = probabilities.numpy().astype(np.float64)
    bins, powers = np.add.reduceat(probabilities, BIN_STARTS, axis=-1), probabilities ** (1 / temperature)
    factors = bins ** (1 / temperature) / np.maximum(np.add.reduceat(powers, BIN_STARTS, axis=-1), 1e-300)
    tempered = powers * np.repeat(factors, BIN_WIDTHS, axis=-1)
    return tempered / tempered.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_sampled_notes_follow_the_distributions_that_score_them(primer, temperature):
    model = tiny_model("density", layers=2)
    samples = play(NoteSampler(model), primer, num_notes=16, temperature=temperature).notes
    fields = [np.stack([getattr(notes, field) for notes in samples]) for field in NoteTensors._fields]
    targets = NoteTensors(*(tf.constant(field, tf.int32) for field in fields))
    begins = start_note(MANY).map(lambda field: field[:, tf.newaxis])
    inputs = NoteTensors(
        *(tf.concat([begin, field[:, :-1]], axis=1) for begin, field in zip(begins, targets, strict=True))
    )
    # In one pass over all notes, as they are scored.
    pitches, times = recall_of(targets)
    targets, times = tf.nest.map_structure(lambda field: field[:, 12:], (targets, times))
    # Another model would not expect it.
    other = tiny_model("density", layers=2, seed=2)
    for one, low, high in ((model, 0, 5), (other, 10, np.inf)):
        logits = one.heads.logits(one.forward(inputs, recall=pitches)[0].map(lambda part: part[:, 12:]), targets, times)
        for field in ("pitch", "step", "duration", "velocity"):
            if field in ("step", "duration"):
                chosen = ticks(getattr(targets, f"{field}_us"))
                probabilities = _temper_ticks(one.heads.times[field].tick_probabilities(logits[field]), temperature)
            else:
                chosen, probabilities = getattr(targets, field), tf.nn.softmax(logits[field] / temperature)
            disagreement = surprise(np.ravel(chosen), np.reshape(probabilities, [MANY * 16, -1]))
            assert low <= disagreement < high, (field, disagreement)


def test_without_temperature_the_likeliest_is_played(player, primer):
    samples = play(player, primer, num_notes=1, temperature=1e-6).notes
    assert len({notes.pitch[-1] for notes in samples}) == 1
    warm = np.bincount([notes.pitch[-1] for notes in play(player, primer, num_notes=1).notes])
    assert warm[samples[0].pitch[-1]] == warm.max()


def test_a_top_p_of_1_leaves_everything_as_it_is(player, primer):
    plain = play(player, primer).notes
    assert same(plain, play(player, primer, top_p=1.0).notes)
    assert same(
        plain, play(player, primer, top_p=dict.fromkeys(FIELDS, 1.0), temperature=dict.fromkeys(FIELDS, 1.0)).notes
    )


def test_a_vanishing_top_p_plays_the_likeliest(player, primer):
    narrow = play(player, primer, num_samples=3, top_p=1e-6).notes
    cold = play(player, primer, num_samples=3, temperature=1e-6).notes
    assert same(narrow, cold)
    assert not same(narrow, play(player, primer, num_samples=3, top_p=0.9).notes)


def test_with_top_p_a_sample_does_not_depend_on_how_many_there_are(player, primer):
    options = {"top_p": {"pitch": 0.8, "step": 0.9, "duration": 1.0, "velocity": 0.5}, "num_notes": 70}
    assert same(play(player, primer, num_samples=3, **options).notes, play(player, primer, **options).notes[:3])


def test_the_temperature_of_a_field_acts_on_that_field_alone(player, primer):
    for field in FIELDS:
        cold = {**dict.fromkeys(FIELDS, 1.0), field: 1e-6}
        for options in ({"temperature": cold}, {"top_p": cold}):
            ended = [notes[12:] for notes in play(player, primer, num_notes=1, **options).notes]
            values = {
                "pitch": [notes.pitch[0] for notes in ended],
                "velocity": [notes.velocity[0] for notes in ended],
            }
            for name, drawn in values.items():
                # Velocity is given what came before it in the note, so that it varies with that.
                assert (len(set(drawn)) == 1) == (name == field == "pitch"), (field, name, options)


def test_music_in_strict_time_is_played_in_strict_time():
    random = np.random.default_rng(0)
    steps, durations = np.array([0, 400_000, 800_000]), np.array([400_000, 800_000, 1_200_000, 2_400_000])
    model = build_model(Config(units=16, layers=1, head_units=16, memory_units=0))
    optimizer = keras.optimizers.Adam(1e-2)

    @tf.function(autograph=False)
    def update(notes):
        with tf.GradientTape() as tape:
            head_input, _ = model.forward(notes.map(lambda field: field[:, :-1]))
            losses = model.heads.losses(head_input, notes.map(lambda field: field[:, 1:]))
            loss = tf.add_n([tf.reduce_mean(loss) for loss in losses.values()])
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    for _ in range(150):
        fields = random.integers(60, 72, (32, 16)), *(random.choice(each, (32, 16)) for each in (steps, durations))
        update(NoteTensors(*(tf.constant(field, tf.int32) for field in (*fields, np.full((32, 16), 64)))))
    played = play(NoteSampler(model), num_notes=30).notes
    for values, name in ((steps, "step_us"), (durations, "duration_us")):
        drawn = np.concatenate([getattr(notes, name)[1:] for notes in played])
        assert np.isin(drawn, values).mean() > 0.95, name
        assert set(values) <= set(drawn)


@pytest.fixture(scope="module")
def tutorial():
    return NoteSampler(tiny_model("regression", positions="last", seq_length=8))


def test_a_last_position_model_needs_a_primer(tutorial):
    with pytest.raises(UserError, match="Give a --primer") as error:
        play(tutorial)
    assert len(str(error.value).splitlines()) == 1


def test_a_last_position_model_reads_the_last_notes_of_the_primer(tutorial):
    primer = regular_notes(20, seed=1)
    step_us = primer.step_us.copy()
    step_us[[0, 12]] = 0
    primer = Notes(primer.pitch, step_us, primer.duration_us, primer.velocity)
    whole = play(tutorial, primer, num_samples=2, num_notes=6)
    assert all(notes[:20] == primer for notes in whole.notes)
    assert same([notes[12:] for notes in whole.notes], play(tutorial, primer[12:], num_samples=2, num_notes=6).notes)
    heard = Notes(np.append(primer.pitch[:12] // 2, primer.pitch[12:]), step_us, primer.duration_us, primer.velocity)
    assert same([notes[12:] for notes in whole.notes], [
        notes[12:] for notes in play(tutorial, heard, num_samples=2, num_notes=6).notes
    ])  # fmt: skip
    # In one call: primers longer than seq_length, of equal length, and shorter.
    several = play(tutorial, [primer, primer[:3], primer[12:]], num_samples=1, num_notes=6, temperature=1e-6).notes
    np.testing.assert_array_equal(several[0][12:].pitch, several[2].pitch)
    assert len(several[1]) == 9
    with pytest.raises(UserError, match="Give a --primer"):
        play(tutorial, [primer, Notes.empty()], num_samples=1)
    short = play(tutorial, primer[:3], num_samples=2, num_notes=6)
    assert all(len(notes) == 9 for notes in short.notes)


def test_a_last_position_model_remembers_the_whole_of_each_primer():
    model = tiny_model("density", positions="last", seq_length=8)
    player = NoteSampler(model)
    primers = [dataclasses.replace(regular_notes(n, seed=n), pitch=repeating_pitches(n, n)) for n in (40, 12, 3)]
    together = play(player, primers, num_samples=1, temperature=1e-6).notes
    for primer, notes in zip(primers, together, strict=True):
        assert [notes] * 3 == play(player, [primer] * 3, num_samples=1, temperature=1e-6).notes
    # The notes before the window matter, because they are recalled.
    cut = dataclasses.replace(primers[0][32:], step_us=np.append(0, primers[0].step_us[33:]))
    assert together[0][40:] != play(player, [cut] * 3, num_samples=1, temperature=1e-6).notes[0][8:]


@pytest.mark.parametrize("precision", ["float64", "mixed_bfloat16"])
def test_a_model_of_any_precision_plays(primer, precision):
    player = NoteSampler(tiny_model("density", layers=1, precision=precision))
    samples = play(player, primer, num_samples=2, num_notes=5)
    assert [len(notes) for notes in samples.notes] == [17, 17]
    assert samples.notes[0] != samples.notes[1]


def favouring(kind, pitches, amount, *, pitch_range=(0, 127), **changes):
    """A model with an amount added to the logits of some pitches."""
    model = tiny_model(kind, pitch_range=pitch_range, **changes)
    (bias,) = [variable for variable in model.heads.weights if variable.path in ("pitch_logits/bias", "pitch/bias")]
    value = bias.numpy()
    value[pitches] += amount
    bias.assign(value)
    return model


@pytest.mark.parametrize(("kind", "options"), [("density", {}), ("density", {"top_p": 0.5}), ("regression", {})])
def test_no_pitch_outside_of_the_models_range_is_played(kind, options, primer):
    changes = {"positions": "last", "seq_length": 8} if kind == "regression" else {}
    free = play(NoteSampler(favouring(kind, [0, 127], 30, **changes)), primer, num_samples=16, **options).notes
    assert {0, 127} & {pitch for notes in free for pitch in notes.pitch[12:]}
    # The primer's own pitches are outside.
    assert primer.pitch.min() < 70
    bound = NoteSampler(favouring(kind, [0, 127], 30, pitch_range=(70, 90), **changes))
    played = play(bound, primer, num_samples=16, **options).notes
    assert all(notes[:12] == primer for notes in played)
    pitches = np.concatenate([notes.pitch[12:] for notes in played])
    assert pitches.min() >= 70
    assert pitches.max() <= 90


def test_a_sample_that_stays_within_the_range_is_the_same_without_one(primer):
    rare = [*range(5), *range(123, 128)]
    free = play(NoteSampler(favouring("density", rare, -2)), primer, num_notes=6).notes
    bound = play(NoteSampler(favouring("density", rare, -2, pitch_range=(5, 122))), primer, num_notes=6).notes
    within = [notes.pitch[12:].min() >= 5 and notes.pitch[12:].max() <= 122 for notes in free]
    assert MANY // 2 < sum(within) < MANY
    for one, other, stays in zip(free, bound, within, strict=True):
        assert (one == other) == stays


@pytest.mark.parametrize("kind", ["density", "regression"])
def test_scores_do_not_depend_on_the_range(kind):
    inputs, targets = (random_arrays(3, 20, seed=seed) for seed in (1, 2))
    losses = []
    for pitch_range in ((0, 127), (40, 60)):
        model = tiny_model(kind, pitch_range=pitch_range)
        losses.append(model.heads.losses(model.forward(inputs)[0], targets))
    for field, values in losses[0].items():
        np.testing.assert_array_equal(values, losses[1][field])
        assert np.isfinite(values).all()
