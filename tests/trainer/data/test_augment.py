import numpy as np
import pytest

from tests.trainer.data.windows import PLAIN, assert_equal, draw, table_of
from trainer.config import Config
from trainer.data.note_tensors import START_PITCH
from trainer.data.windows import WindowSampler


@pytest.mark.parametrize(
    ("lowest", "highest"), [(30, 40), (21, 30), (95, 108), (22, 106), (21, 108), (5, 60), (0, 127)]
)
def test_a_transposed_window_moves_as_one_and_stays_on_the_keyboard(lowest, highest):
    table = table_of([300, 5], lowest=lowest, highest=highest)
    plain = draw(WindowSampler(table, Config(seq_length=20, **PLAIN)), 0, 64)
    moved = draw(WindowSampler(table, Config(seq_length=20, transpose=6, stretch=0.0)), 0, 64)
    is_note = np.concatenate([plain.inputs.pitch[:, :1] < START_PITCH, plain.mask], axis=1)
    pitch, other = (
        np.concatenate([batch.inputs.pitch[:, :1], batch.targets.pitch], axis=1) for batch in (plain, moved)
    )
    shift = np.where(is_note, other - pitch, 0)
    by = np.where(shift.max(axis=1) > 0, shift.max(axis=1), shift.min(axis=1))
    np.testing.assert_array_equal(shift, np.where(is_note, by[:, np.newaxis], 0))
    assert np.abs(by).max() <= 6
    # A note beyond a piano's keys, which some files have, is not taken further out.
    assert other[is_note].min() >= min(21, pitch[is_note].min())
    assert other[is_note].max() <= max(108, pitch[is_note].max())
    # What is input and what is target agree, and nothing but pitches has changed.
    np.testing.assert_array_equal(
        (moved.inputs.pitch - plain.inputs.pitch)[:, 1:][plain.mask[:, :-1]],
        (moved.targets.pitch - plain.targets.pitch)[:, :-1][plain.mask[:, :-1]],
    )
    np.testing.assert_array_equal(moved.inputs.pitch == START_PITCH, plain.inputs.pitch == START_PITCH)
    np.testing.assert_array_equal(moved.targets.pitch[~plain.mask], 0)
    assert_equal([moved.inputs[1:], moved.targets[1:], moved.mask], [plain.inputs[1:], plain.targets[1:], plain.mask])


def test_transpositions_cover_their_range_evenly():
    table = table_of([400], lowest=50, highest=70)
    moved = draw(WindowSampler(table, Config(positions="last", seq_length=2, transpose=3)), 0, 3000)
    plain = draw(WindowSampler(table, Config(positions="last", seq_length=2, transpose=0)), 0, 3000)
    shifts, counts = np.unique(moved.targets.pitch - plain.targets.pitch, return_counts=True)
    np.testing.assert_array_equal(shifts, np.arange(-3, 4))
    assert np.abs(counts / 3000 - 1 / 7).max() < 0.04


def test_a_stretched_window_keeps_its_ratios():
    table = table_of([300, 5])
    plain = draw(WindowSampler(table, Config(seq_length=20, **PLAIN)), 0, 400)
    played = draw(WindowSampler(table, Config(seq_length=20, transpose=0, stretch=0.25)), 0, 400)
    factor = played.targets.duration_us[:, 0] / plain.targets.duration_us[:, 0]
    for before, after in ((plain.inputs, played.inputs), (plain.targets, played.targets)):
        for field in ("step_us", "duration_us"):
            expected = getattr(before, field) * factor[:, np.newaxis]
            # Each is rounded to a microsecond, and so was the duration that gave the factor.
            assert np.abs(getattr(after, field) - expected).max() < 4
        assert_equal([before.pitch, before.velocity], [after.pitch, after.velocity])
    assert 1 / 1.25 <= factor.min() < 0.82
    assert 1.22 < factor.max() <= 1.25
    # As often faster as slower.
    assert abs(np.mean(factor > 1) - 0.5) < 0.1
    assert abs(np.log(factor).mean()) < 0.03


def test_a_stretched_note_lasts_and_a_long_rest_stays_a_time():
    table = table_of([40])
    table.notes["duration_us"][::2] = 1
    table.notes["duration_us"][1::2] = 2**31 - 1
    table.notes["step_us"][1:] = 2**31 - 1
    batch = draw(WindowSampler(table, Config(positions="last", seq_length=1, stretch=0.9)), 0, 400)
    assert batch.targets.duration_us.min() >= 1
    assert batch.targets.step_us.min() > 2**30
