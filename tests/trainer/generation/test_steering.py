import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from sostenuto.errors import UserError
from sostenuto.music.notes import Notes
from tests.factories import regular_notes, tiny_model
from trainer.data.note_tensors import NoteTensors
from trainer.generation.controls import Controls
from trainer.generation.sampler import NoteSampler
from trainer.generation.steering import Steering, SteeringState, constrain, follow, make_steering, start
from trainer.model.time_bins import BIN_STARTS

D_MINOR = [0, 1, 2, 4, 5, 7, 9, 10, 11]
PITCH_RANGE = (40, 90)


@pytest.fixture(scope="module")
def sampler():
    # Without memory, the loop compiles faster.
    return NoteSampler(musical_model(memory_units=0))


def musical_model(**changes):
    """A random model whose steps are mostly those of music, some 7 notes per second."""
    model = tiny_model("density", layers=1, pitch_range=PITCH_RANGE, **changes)
    (bias,) = [variable for variable in model.heads.weights if variable.path == "step_logits/bias"]
    bias.assign_sub(2 * np.log((BIN_STARTS + 3) / 10) ** 2)
    return model


@pytest.fixture(scope="module")
def primer():
    return regular_notes(12, seed=3)


def sample(sampler, primers=None, *, num_notes=100, num_samples=4, temperature=1.0, seed=0, **controls):
    primers = Notes.empty() if primers is None else primers
    return sampler.sample(
        primers, num_notes=num_notes, num_samples=num_samples, temperature=temperature, seed=seed,
        controls=Controls(**controls), end_odds=0.0,
    ).notes  # fmt: skip


def repeats(pitches, run):
    """Counts the runs of pitches that occurred before."""
    runs = [bytes(pitches[place : place + run].tolist()) for place in range(len(pitches) - run + 1)]
    return len(runs) - len(set(runs))


def test_controls_that_are_off_change_nothing(sampler, primer):
    expected = sampler.sample(primer, num_notes=100, num_samples=4, temperature=1.0, seed=0, end_odds=0.0).notes
    assert sample(sampler, primer, key=None, density=0, avoid_repeats=0, tempo=1) == expected


@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_all_generated_pitches_belong_to_key_and_range(sampler, primer, top_p):
    controls = Controls(key="D minor", range="C3-C5")
    played = sampler.sample(
        primer, num_notes=100, num_samples=16, temperature=1.5, seed=0, top_p=top_p, controls=controls, end_odds=0.0
    ).notes
    assert all(notes[:12] == primer for notes in played)
    pitches = np.concatenate([notes.pitch[12:] for notes in played])
    assert pitches.min() >= 48
    assert pitches.max() <= 72
    assert set(pitches % 12) <= set(D_MINOR)


def test_another_key_range_or_length_of_runs_compiles_nothing_again(sampler):
    controls = {"key": "D minor", "density": 8, "avoid_repeats": 4}
    sample(sampler, **controls)
    compiled = sampler._decode.experimental_get_tracing_count()
    sample(sampler, **{**controls, "key": "F# major"})
    sample(sampler, range="C3-C5", density=3, avoid_repeats=5, tempo=2)
    assert sampler._decode.experimental_get_tracing_count() == compiled


@pytest.mark.parametrize("changes", [{}, {"memory_units": 0, "precision": "float64"}])
def test_no_run_of_pitches_is_generated_twice_if_repeats_are_avoided(changes):
    player = NoteSampler(musical_model(**changes))
    # A primer whose runs would be repeated.
    primer = dataclasses.replace(regular_notes(30, seed=1), pitch=np.arange(60, 90))
    options = {"num_notes": 300, "temperature": {"pitch": 0.3, "step": 1.0, "duration": 1.0, "velocity": 1.0}}
    assert any(repeats(notes.pitch, 3) for notes in sample(player, primer, **options))
    played = sample(player, primer, **options, avoid_repeats=3, density=8)
    assert not any(repeats(notes.pitch, 3) for notes in played)


def test_a_repeat_is_permitted_where_every_pitch_would_repeat(sampler):
    played = sample(sampler, range="C4-C#4", avoid_repeats=2, num_notes=40)
    assert {pitch for notes in played for pitch in notes.pitch} == {60, 61}


def test_repeats_of_a_primer_are_excluded_and_reach_back_4096_notes(sampler):
    pitches = np.random.default_rng(0).integers(60, 72, 4200)
    model = sampler._model
    for run, last in ((2, 0), (3, 0), (3, 150)):
        kept = pitches[: len(pitches) - last]
        primers = [Notes(kept, np.zeros_like(kept), np.ones_like(kept), np.full_like(kept, 64))]
        controls = Controls(avoid_repeats=run)
        steering, state = make_steering(controls, model), start(controls, primers)
        for pitch in pitches[len(kept) :]:
            note = NoteTensors(*(tf.constant([value], tf.int32) for value in (pitch, 0, 1, 64)))
            state = follow(steering, state, note)
        (allowed,) = constrain(steering, state).pitches.numpy()
        recent = pitches[-4096:].tolist()
        context = recent[len(recent) - run + 1 :]
        excluded = {
            recent[place + run - 1]
            for place in range(len(recent) - run + 1)
            if recent[place : place + run - 1] == context
        }
        assert set(range(*PITCH_RANGE)) - set(np.flatnonzero(allowed).tolist()) == excluded


@pytest.mark.parametrize(("density", "tempo"), [(4, 1), (16, 1), (8, 1.25)])
def test_a_density_is_met_as_heard(sampler, density, tempo):
    played = sample(sampler, num_notes=1000, density=density, tempo=tempo)
    seconds = sum(notes.onset_us[-1] - notes.onset_us[99] for notes in played) / 1e6
    assert abs(4 * 900 / seconds / density - 1) < 0.15
    # Chords and melodies are both left.
    is_chord = np.concatenate([notes.step_us[1:] for notes in played]) < 35_000
    assert 0.05 < is_chord.mean() < 0.5


def test_a_density_follows_on_from_that_of_the_primer(sampler):
    fast, slow = (dataclasses.replace(regular_notes(40, seed=1), step_us=np.append(0, np.full(39, step)))
                  for step in (20_000, 800_000))  # fmt: skip
    controls = Controls(density=8)
    steering, state = make_steering(controls, sampler._model), start(controls, [fast, slow, Notes.empty()])
    tilts = constrain(steering, state).tilt.numpy()
    assert tilts[0] < -0.5
    assert tilts[1] > 0.5
    assert tilts[2] == 0


def test_a_tempo_changes_the_times_of_the_whole_sample_alone(sampler, primer):
    plain, faster = sample(sampler, primer), sample(sampler, primer, tempo=1.25)
    for one, other in zip(plain, faster, strict=True):
        np.testing.assert_array_equal(one.pitch, other.pitch)
        np.testing.assert_array_equal(one.velocity, other.velocity)
        np.testing.assert_allclose(one.onset_us / 1.25, other.onset_us, atol=1)
        np.testing.assert_allclose(one.duration_us / 1.25, other.duration_us, atol=1)


def test_a_sample_with_controls_does_not_depend_on_how_many_there_are(sampler, primer):
    controls = {"key": "D minor", "density": 8, "avoid_repeats": 4}
    assert sample(sampler, primer, num_samples=2, **controls) == sample(sampler, primer, **controls)[:2]


def test_a_regression_model_has_all_controls_but_the_density(primer):
    sampler = NoteSampler(tiny_model("regression", positions="last", seq_length=8))
    played = sample(sampler, primer, key="D minor", range="C3-C5", avoid_repeats=4, tempo=2)
    pitches = np.concatenate([notes.pitch[12:] for notes in played])
    assert set(pitches.tolist()) <= {pitch for pitch in range(48, 73) if pitch % 12 in D_MINOR}
    assert not any(repeats(notes.pitch, 4) for notes in played)
    with pytest.raises(UserError, match=r"^density=8: .*model=regression.*\. Leave the density out$"):
        sample(sampler, primer, density=8)


def test_controls_of_another_type_are_an_error(sampler):
    with pytest.raises(UserError, match=r"^controls: got dict, expected Controls$"):
        sampler.sample(Notes.empty(), num_notes=1, temperature=1.0, seed=0, controls={"key": "D minor"})


def test_without_controls_the_loop_has_no_further_inputs(sampler):
    assert make_steering(Controls(), sampler._model) == Steering()
    assert start(Controls(tempo=2), [Notes.empty()]) == SteeringState()
