import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sostenuto.errors import UserError
from tests.trainer.data.windows import PLAIN, assert_equal, draw, draw_epoch, joined, numbers, table_of
from trainer.config import Config
from trainer.data.note_tensors import START_PITCH
from trainer.data.windows import WindowSampler

LENGTHS = st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any)
SEEDS = st.integers(0, 2**31 - 1)


@settings(max_examples=60)
@given(LENGTHS, st.integers(1, 20), SEEDS, st.integers(0, 1000), st.sampled_from([{}, {"end_weight": 0.0}]))
def test_an_epoch_has_every_note_and_every_end_as_a_target_once(lengths, seq_length, seed, epoch, changes):
    table, config = table_of(lengths), Config(**changes)
    windows = WindowSampler(table, Config(seq_length=seq_length, seed=seed, **PLAIN, **changes))
    batch = draw_epoch(windows, epoch)
    assert batch.inputs.pitch.shape == batch.targets.pitch.shape == batch.mask.shape == (windows.per_epoch, seq_length)
    assert windows.targets_per_epoch == sum(lengths)
    # A window has a target at least, a note or the end, and all its padding on the right.
    is_target = batch.mask | batch.is_end
    assert is_target[:, 0].all()
    assert (is_target[:, 1:] <= is_target[:, :-1]).all()
    assert not (batch.mask & batch.is_end).any()

    target = numbers(batch.targets)
    np.testing.assert_array_equal(np.sort(target[batch.mask]), np.arange(sum(lengths)))
    np.testing.assert_array_equal(np.sort(batch.windows), np.arange(windows.per_epoch))
    for field, column in batch.targets._asdict().items():
        np.testing.assert_array_equal(column[batch.mask], table.notes[field][target[batch.mask]])
        assert (column[~batch.mask] == 0).all()

    # The input is the note before the target, or the start where there is none in this performance.
    begins = np.isin(target, table.offsets[:-1]) & batch.mask
    follows = batch.mask & ~begins
    np.testing.assert_array_equal(numbers(batch.inputs)[follows], target[follows] - 1)
    for field, column in batch.inputs._asdict().items():
        np.testing.assert_array_equal(column[follows], table.notes[field][target[follows] - 1])
        assert (column[begins] == (START_PITCH if field == "pitch" else 0)).all()
    assert (batch.inputs.pitch[follows] < START_PITCH).all()

    # The end of each performance follows its last note.
    last_notes = np.cumsum(lengths)[np.array(lengths) > 0] - 1
    np.testing.assert_array_equal(
        np.sort(numbers(batch.inputs)[batch.is_end]), last_notes if config.has_ending else np.empty(0)
    )
    # Before the first input of a window are the notes of its performance before it.
    number = numbers(batch.inputs)[:, 0]
    starts = batch.inputs.pitch[:, 0] == START_PITCH
    first_of_own = table.offsets[np.searchsorted(table.offsets, number, side="right") - 1]
    np.testing.assert_array_equal(batch.position, np.where(starts, 0, number - first_of_own))

    # No window spans two performances.
    owner = np.searchsorted(table.offsets[1:], target, side="right")
    assert all(len(np.unique(row[sounds])) <= 1 for row, sounds in zip(owner, batch.mask, strict=True))


@settings(max_examples=40)
@given(LENGTHS, st.integers(1, 20), SEEDS, st.integers(0, 1000))
def test_with_the_last_position_an_epoch_has_each_window_once(lengths, seq_length, seed, epoch):
    assume(max(lengths) > seq_length)
    table = table_of(lengths)
    windows = WindowSampler(table, Config(positions="last", seq_length=seq_length, seed=seed, **PLAIN))
    batch = draw_epoch(windows, epoch)
    assert batch.mask.shape == (windows.per_epoch, 1)
    assert batch.mask.all()
    assert not batch.is_end.any()
    expected = [
        offset + place
        for offset, length in zip(table.offsets, lengths, strict=False)
        for place in range(seq_length, length)
    ]
    assert windows.targets_per_epoch == windows.per_epoch == len(expected)
    target = numbers(batch.targets)
    np.testing.assert_array_equal(np.sort(target[:, 0]), expected)
    np.testing.assert_array_equal(numbers(batch.inputs), target + np.arange(-seq_length, 0))
    for field in batch.inputs._fields:
        np.testing.assert_array_equal(getattr(batch.targets, field), table.notes[field][target])
        np.testing.assert_array_equal(getattr(batch.inputs, field), table.notes[field][numbers(batch.inputs)])


def test_borders_and_order_differ_between_epochs():
    windows = WindowSampler(table_of([200, 130]), Config(seq_length=16, **PLAIN))
    epochs = [numbers(draw_epoch(windows, epoch).targets)[:, 0] for epoch in range(20)]
    assert len({tuple(first) for first in epochs}) == 20
    # 200 notes and the end are 12 x 16 + 9: the first window has 9 to 16 notes.
    borders = [min(first[first > 0]) for first in epochs]
    assert set(borders) <= set(range(9, 17))
    assert len(set(borders)) > 5
    assert len({tuple(np.sort(first)) for first in epochs}) > 15
    ranks = [tuple(np.argsort(np.argsort(first))) for first in epochs]
    assert len(set(ranks)) == 20


@pytest.mark.parametrize("half", [0.0, 1.0, 6.0])
def test_windows_have_the_composer_of_their_performance_but_hide_one_of_few_pieces_more_often(half):
    table = table_of([40] * 6)._replace(
        composers=("Liszt", "", "Alkan", "Liszt", "Liszt", "Alkan"), pieces=("a", "b", "a", "b", "c", "a")
    )
    windows = WindowSampler(table, Config(seq_length=4, composer_pieces=half, **PLAIN))
    assert windows.composers == ("Alkan", "Liszt")
    batch = draw(windows, 0, 40 * windows.per_epoch)
    performance = np.hstack([numbers(batch.inputs), numbers(batch.targets)]).max(axis=1) // 40
    own = np.array([2, 0, 1, 2, 2, 1])[performance]
    is_hidden = batch.composer != own
    assert (batch.composer[is_hidden] == 0).all()
    for composer, pieces in ((1, 1), (2, 3)):
        assert is_hidden[own == composer].mean() == pytest.approx(half / (half + pieces), abs=0.05)


def test_a_model_without_composers_has_windows_without_them():
    table = table_of([40])._replace(composers=("Liszt",))
    assert WindowSampler(table, Config(seq_length=4, composer_embedding=0)).composers == ()


def test_seeds_draw_windows_of_their_own():
    table = table_of([100, 100])
    batches = [draw(WindowSampler(table, Config(seq_length=16, seed=seed)), 0, 8) for seed in range(4)]
    assert len({batch.targets.pitch.tobytes() for batch in batches}) == 4


@settings(max_examples=25)
@given(
    st.sampled_from(["every", "last"]),
    SEEDS,
    st.integers(0, 10_000),
    st.lists(st.integers(1, 8), min_size=1, max_size=5),
)
def test_a_batch_is_a_function_of_its_example_indices_alone(positions, seed, first_example, shares):
    config = Config(positions=positions, seq_length=8, seed=seed, transpose=6, stretch=0.3)
    table = table_of([30, 12, 9])
    whole = draw(WindowSampler(table, config), first_example, sum(shares))
    windows = WindowSampler(table, config)
    starts = first_example + np.cumsum([0, *shares[:-1]])
    parts = [draw(windows, start, share) for start, share in reversed(list(zip(starts, shares, strict=True)))]
    assert_equal(joined(parts[::-1]), whole)


def test_a_batch_within_a_graph_is_the_same():
    windows = WindowSampler(table_of([30, 12, 9]), Config(seq_length=8, stretch=0.3))
    traced = tf.function(lambda first_example: windows.batch(first_example, 6))(tf.constant(11, tf.int64))
    assert_equal(tf.nest.map_structure(lambda part: part.numpy(), traced), draw(windows, 11, 6))


def test_windows_longer_than_every_performance_are_rejected():
    with pytest.raises(UserError, match=r"--seq_length=25: .* has 25 notes. Give at most 24") as error:
        WindowSampler(table_of([25, 3]), Config(positions="last", seq_length=25))
    assert len(str(error.value).splitlines()) == 1
    assert WindowSampler(table_of([25, 3]), Config(seq_length=30)).per_epoch == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_length": 126}, "--seq_length=126: .* has 25 notes. Give at most 25"),
        ({"batch_size": 31}, "--batch_size=31: an epoch has 3 windows, got 31 a train_step. Give at most 30"),
        (
            {"batch_size": 8, "accumulation_steps": 4},
            "--accumulation_steps=4: an epoch has 3 windows, got 32 .* Give at most 3",
        ),
        (
            {"batch_size": 31, "accumulation_steps": 2},
            "--batch_size=31: an epoch has 3 windows, got 62 .* Give at most 15",
        ),
    ],
)
def test_windows_and_batches_much_larger_than_the_corpus_are_rejected(changes, message, capfd):
    table, fits = table_of([25, 12, 3]), {"seq_length": 125, "batch_size": 30}
    WindowSampler(table, Config(**fits)).require_fit()
    assert "--seq_length=125: the longest training performance has 25 notes" in capfd.readouterr().err
    with pytest.raises(UserError, match=message) as error:
        WindowSampler(table, Config(**{**fits, **changes})).require_fit()
    assert len(str(error.value).splitlines()) == 1


def test_windows_that_suit_the_corpus_bring_no_warning(capfd):
    WindowSampler(table_of([25, 12, 3]), Config(seq_length=25, batch_size=8)).require_fit()
    assert capfd.readouterr() == ("", "")
