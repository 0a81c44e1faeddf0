"""Sampling a few notes at a time: as `NoteSampler` plays, with loops that are compiled once."""

import numpy as np
import pytest
import tensorflow as tf

from sostenuto.errors import UserError
from tests.factories import tiny_model
from trainer.generation import live
from trainer.generation.controls import Controls
from trainer.generation.live import SAMPLED_NOTES, LiveSampler, Stream
from trainer.generation.steering import start_live

PITCH_RANGE = (40, 80)


@pytest.fixture(scope="module")
def sampler():
    return LiveSampler(tiny_model("density", layers=2, pitch_range=PITCH_RANGE, composers=("Ada", "Bach")))


@pytest.fixture
def without_returns(monkeypatch):
    monkeypatch.setattr(live, "DEFAULT_RETURNS", 0.0)


FIRST = Stream(0)


def play(sampler, notes, *, options=None, stream=FIRST, composer="", parts=(SAMPLED_NOTES,)):
    """Returns notes `[fields, notes]` and the state after them, sampled in parts of these lengths, again and again."""
    options = options or sampler.make_options(1.0, 1.0)
    state, steering, played = sampler.start(composer), start_live(1e5), []
    position = 0
    while position < notes:
        count = min(parts[len(played) % len(parts)], notes - position)
        part, state, steering = sampler.sample(state, steering, options, stream, position=position, count=count)
        played.append(part)
        position += count
    return np.concatenate(played, axis=1), state


def assert_equal(one, other):
    for left, right in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)


def test_the_notes_do_not_depend_on_the_calls(sampler):
    whole, _ = play(sampler, 40)
    for parts in ((1,), (3, 5, 8)):
        np.testing.assert_array_equal(play(sampler, 40, parts=parts)[0], whole)


def test_notes_that_are_read_leave_the_state_of_notes_that_were_sampled(sampler, without_returns):
    notes, state = play(sampler, 150, composer="Ada")
    assert_equal(sampler.read(sampler.start("Ada"), notes), state)
    half = sampler.read(sampler.start("Ada"), notes[:, :70])
    assert_equal(sampler.read(half, notes[:, 70:]), state)


def test_a_stream_is_a_seed_and_an_attempt(sampler):
    first, _ = play(sampler, 40, stream=Stream(2**53 - 1, 4))
    np.testing.assert_array_equal(play(sampler, 40, stream=Stream(2**53 - 1, 4))[0], first)
    for other in (Stream(2**53 - 1, 5), Stream(0, 4)):
        assert (play(sampler, 40, stream=other)[0] != first).any()


def test_pitches_belong_to_the_range_and_the_key(sampler):
    notes, _ = play(sampler, 80)
    assert PITCH_RANGE[0] <= notes[0].min()
    assert notes[0].max() <= PITCH_RANGE[1]
    assert len(set((notes[0] % 12).tolist())) > 7
    options = sampler.make_options(1.0, 1.0, Controls(key="C major"))
    assert set((play(sampler, 80, options=options)[0][0] % 12).tolist()) <= {0, 2, 4, 5, 7, 9, 11}


@pytest.mark.parametrize("density", [3.0, 12.0])
def test_the_density_is_approached(sampler, density):
    options = sampler.make_options(1.0, 1.0, Controls(density=density))
    notes, _ = play(sampler, 600, options=options)
    assert 1e6 / notes[1, 200:].mean() == pytest.approx(density, rel=0.25)
    free, _ = play(sampler, 600)
    assert abs(1e6 / free[1, 200:].mean() - density) > 0.25 * density


def test_all_settings_share_the_compiled_loops(sampler):
    sampler.compile()
    counts = sampler._sample.experimental_get_tracing_count(), sampler._read.experimental_get_tracing_count()
    for controls in (Controls(), Controls(key="D minor"), Controls(density=9.0)):
        play(sampler, 10, options=sampler.make_options(0.7, 0.9, controls), composer="Bach", parts=(1, 8))
    after = sampler._sample.experimental_get_tracing_count(), sampler._read.experimental_get_tracing_count()
    assert after == counts


def test_a_low_temperature_draws_likely_notes(sampler):
    first = {}
    for settings in ((1.0, 1.0), (0.001, 1.0), (1.0, 0.001)):
        options = sampler.make_options(*settings)
        notes = [play(sampler, 1, options=options, stream=Stream(seed))[0] for seed in range(30)]
        first[settings] = {int(note[0, 0]) for note in notes}
    assert len(first[1.0, 1.0]) > 5
    assert len(first[0.001, 1.0]) == 1
    assert first[0.001, 1.0] == first[1.0, 0.001]


def test_a_composer_changes_the_notes(sampler):
    assert (play(sampler, 40, composer="Ada")[0] != play(sampler, 40)[0]).any()
    with pytest.raises(UserError, match="Eve"):
        sampler.start("Eve")


def test_a_model_without_memory_and_composers_plays():
    plain = LiveSampler(tiny_model("density", memory_units=0))
    assert play(plain, 20)[0].shape == (4, 20)


def test_a_model_without_a_distribution_of_the_step_refuses_a_density():
    sampler = LiveSampler(tiny_model("regression"))
    assert not sampler.has_density
    sampler.make_options(1.0, 1.0, Controls(key="C major"))
    with pytest.raises(UserError, match="density=5: got a model with model=regression"):
        sampler.make_options(1.0, 1.0, Controls(density=5))


def test_a_model_that_cannot_start_is_rejected():
    with pytest.raises(UserError, match="positions=last"):
        LiveSampler(tiny_model("regression", positions="last", seq_length=8))
