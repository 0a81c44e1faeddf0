import itertools
import shutil

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from tests.trainer.datasets import write_dataset
from trainer.config import Config
from trainer.data.windows import START_PITCH, NoteTable, WindowSampler, chosen, load_table

LENGTHS = st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any)
SEEDS = st.integers(0, 2**31 - 1)
PLAIN = {"transpose": 0, "stretch": 0.0}


def table_of(lengths, *, lowest=40, highest=80) -> NoteTable:
    """Performances of notes that can be told apart: the i-th of all lasts 1,000 + i ms."""
    random = np.random.default_rng(sum(lengths))
    total = sum(lengths)
    notes = np.empty(total, [("pitch", "u1"), ("velocity", "u1"), ("step_us", "<i4"), ("duration_us", "<i4")])
    notes["pitch"] = random.integers(lowest, highest + 1, total)
    notes["velocity"] = random.integers(1, 128, total)
    notes["step_us"] = random.integers(0, 2_000_000, total)
    notes["duration_us"] = (1_000 + np.arange(total)) * 1_000
    offsets = np.cumsum([0, *lengths])
    notes["step_us"][offsets[:-1][np.diff(offsets) > 0]] = 0
    return NoteTable(notes, offsets)


def draw(windows, first_slot, count):
    """A batch with its arrays as NumPy's."""
    batch = windows.batch(tf.constant(first_slot, tf.int64), count)
    return tf.nest.map_structure(lambda part: part.numpy(), batch)


def draw_epoch(windows, epoch):
    return draw(windows, epoch * windows.per_epoch, windows.per_epoch)


def numbers(notes) -> np.ndarray:
    """Which note of the table each one is; those that stand for no note are negative."""
    return notes.duration_us // 1_000 - 1_000


def assert_equal(one, other):
    for left, right in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
        np.testing.assert_array_equal(left, right)


def joined(batches):
    return tf.nest.map_structure(lambda *parts: np.concatenate(parts), *batches)


@settings(max_examples=60)
@given(LENGTHS, st.integers(1, 20), SEEDS, st.integers(0, 1000))
def test_an_epoch_has_every_note_as_a_target_once(lengths, seq_length, seed, epoch):
    table = table_of(lengths)
    windows = WindowSampler(table, Config(seq_length=seq_length, seed=seed, **PLAIN))
    batch = draw_epoch(windows, epoch)
    assert batch.inputs.pitch.shape == batch.targets.pitch.shape == batch.mask.shape == (windows.per_epoch, seq_length)
    assert windows.targets_per_epoch == sum(lengths)
    # A window has a target at least, and all its padding on the right.
    assert batch.mask[:, 0].all()
    assert (batch.mask[:, 1:] <= batch.mask[:, :-1]).all()

    target = numbers(batch.targets)
    np.testing.assert_array_equal(np.sort(target[batch.mask]), np.arange(sum(lengths)))
    np.testing.assert_array_equal(np.sort(batch.windows), np.arange(windows.per_epoch))
    for field, column in batch.targets._asdict().items():
        np.testing.assert_array_equal(column[batch.mask], table.notes[field][target[batch.mask]])
        assert (column[~batch.mask] == 0).all()

    # The input is the note before the target, or the start where there is none in this performance.
    begins = np.isin(target, table.offsets[:-1]) & batch.mask
    goes_on = batch.mask & ~begins
    np.testing.assert_array_equal(numbers(batch.inputs)[goes_on], target[goes_on] - 1)
    for field, column in batch.inputs._asdict().items():
        np.testing.assert_array_equal(column[goes_on], table.notes[field][target[goes_on] - 1])
        assert (column[begins] == (START_PITCH if field == "pitch" else 0)).all()
    assert (batch.inputs.pitch[goes_on] < START_PITCH).all()

    # No window spans two performances.
    owner = np.searchsorted(table.offsets[1:], target, side="right")
    assert all(len(np.unique(row[sounds])) == 1 for row, sounds in zip(owner, batch.mask, strict=True))


@settings(max_examples=40)
@given(LENGTHS, st.integers(1, 20), SEEDS, st.integers(0, 1000))
def test_with_the_last_position_an_epoch_has_each_window_once(lengths, seq_length, seed, epoch):
    assume(max(lengths) > seq_length)
    table = table_of(lengths)
    windows = WindowSampler(table, Config(positions="last", seq_length=seq_length, seed=seed, **PLAIN))
    batch = draw_epoch(windows, epoch)
    assert batch.mask.shape == (windows.per_epoch, 1)
    assert batch.mask.all()
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
    # 200 = 12 x 16 + 8: the first window has 8 to 16 notes.
    borders = [min(first[first > 0]) for first in epochs]
    assert set(borders) <= set(range(8, 17))
    assert len(set(borders)) > 5
    assert len({tuple(np.sort(first)) for first in epochs}) > 15
    ranks = [tuple(np.argsort(np.argsort(first))) for first in epochs]
    assert len(set(ranks)) == 20


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
def test_a_batch_is_a_function_of_its_slots_alone(positions, seed, first_slot, shares):
    config = Config(positions=positions, seq_length=8, seed=seed, transpose=6, stretch=0.3)
    table = table_of([30, 12, 9])
    whole = draw(WindowSampler(table, config), first_slot, sum(shares))
    windows = WindowSampler(table, config)
    starts = first_slot + np.cumsum([0, *shares[:-1]])
    parts = [draw(windows, start, share) for start, share in reversed(list(zip(starts, shares, strict=True)))]
    assert_equal(joined(parts[::-1]), whole)


def test_a_batch_within_a_graph_is_the_same():
    windows = WindowSampler(table_of([30, 12, 9]), Config(seq_length=8, stretch=0.3))
    traced = tf.function(lambda first_slot: windows.batch(first_slot, 6))(tf.constant(11, tf.int64))
    assert_equal(tf.nest.map_structure(lambda part: part.numpy(), traced), draw(windows, 11, 6))


@pytest.mark.parametrize(
    ("lowest", "highest"), [(30, 40), (21, 30), (95, 108), (22, 106), (21, 108), (5, 60), (0, 127)]
)
def test_a_transposed_window_moves_as_one_and_stays_on_the_keyboard(lowest, highest):
    table = table_of([300, 5], lowest=lowest, highest=highest)
    plain = draw(WindowSampler(table, Config(seq_length=20, **PLAIN)), 0, 64)
    moved = draw(WindowSampler(table, Config(seq_length=20, transpose=6, stretch=0.0)), 0, 64)
    sounding = np.concatenate([plain.inputs.pitch[:, :1] < START_PITCH, plain.mask], axis=1)
    pitch, other = (
        np.concatenate([batch.inputs.pitch[:, :1], batch.targets.pitch], axis=1) for batch in (plain, moved)
    )
    shift = np.where(sounding, other - pitch, 0)
    by = np.where(shift.max(axis=1) > 0, shift.max(axis=1), shift.min(axis=1))
    np.testing.assert_array_equal(shift, np.where(sounding, by[:, np.newaxis], 0))
    assert np.abs(by).max() <= 6
    # A note beyond a piano's keys, which some files have, is not taken further out.
    assert other[sounding].min() >= min(21, pitch[sounding].min())
    assert other[sounding].max() <= max(108, pitch[sounding].max())
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


def test_windows_longer_than_every_performance_are_refused():
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


@pytest.fixture
def data(dataset, tmp_path):
    """A dataset that the test may damage."""
    return shutil.copytree(dataset, tmp_path / "data")


def assert_holds(table, manifest, split):
    performances = [performance.notes for performance in manifest.read_performances(split)]
    np.testing.assert_array_equal(table.lengths, [len(notes) for notes in performances])
    for index, notes in enumerate(performances):
        for field, column in table.performance(index)._asdict().items():
            assert column.dtype == np.int32
            np.testing.assert_array_equal(column, getattr(notes, field))


def test_a_table_is_built_once_and_mapped(data, tmp_path):
    manifest = Manifest.load(data)
    cache = str(tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    for split in ("train", "validation"):
        for _ in range(2):
            table = load_table(manifest, split, cache_directory=cache)
            assert isinstance(table.notes, np.memmap)
            assert table.notes.dtype.itemsize == 10
            assert_holds(table, manifest, split)
    kept = load_table(manifest, "train", cache_directory=cache)
    for shard in data.glob("*.tfrecord"):
        shard.unlink()
    np.testing.assert_array_equal(load_table(manifest, "train", cache_directory=cache).notes, kept.notes)
    with pytest.raises(UserError):
        load_table(manifest, "test", cache_directory=cache)


def test_a_dataset_in_a_bucket_is_read_once(data, tmp_path, gcs):
    for path in data.iterdir():
        gcs.put(f"gs://bucket/data/{path.name}", path.read_bytes())
    remote, local = Manifest.load("gs://bucket/data"), Manifest.load(data)
    assert_holds(load_table(remote, "train", cache_directory=str(tmp_path)), local, "train")
    requests = len(gcs.requests)
    # Its table is that of the same dataset on the disk: the manifest's checksum names both.
    load_table(local, "train", cache_directory=str(tmp_path))
    load_table(remote, "train", cache_directory=str(tmp_path))
    assert len(gcs.requests) == requests
    (shard, *_) = remote.shard_paths("validation")
    gcs.put(shard, gcs.get(shard)[:-1])
    with pytest.raises(UserError, match=r"got 985 bytes, expected 986 as in dataset\.json"):
        load_table(remote, "validation", cache_directory=str(tmp_path))


@pytest.mark.parametrize("part", ["notes", "offsets"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-7], lambda data: data[:20], lambda data: b"", lambda data: b"?" * 999]
)
def test_a_damaged_table_is_built_anew(data, tmp_path, part, damage):
    manifest = Manifest.load(data)
    load_table(manifest, "train", cache_directory=str(tmp_path))
    (path,) = tmp_path.glob(f"*-train-*.{part}.npy")
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        assert_holds(load_table(manifest, "train", cache_directory=str(tmp_path)), manifest, "train")


def test_another_dataset_has_a_table_of_its_own(data, tmp_path):
    manifest = Manifest.load(data)
    other = Manifest.load(write_dataset(tmp_path / "other", {"train": [70, 33, 120, 5]}, seed=9))
    for one in (manifest, other, manifest):
        assert_holds(load_table(one, "train", cache_directory=str(tmp_path)), one, "train")


def test_the_table_of_an_empty_split_names_the_others(tmp_path):
    manifest = Manifest.load(write_dataset(tmp_path / "other", {"train": [7]}))
    with pytest.raises(UserError, match="the test split is empty, expected one of: train"):
        load_table(manifest, "test", cache_directory=str(tmp_path))
    assert list(tmp_path.glob("*.npy")) == []


@pytest.mark.parametrize("performances", [1, 7, 399])
def test_a_share_of_the_corpus_is_part_of_every_larger_share(performances):
    shares = [set(chosen(performances, share)) for share in (1e-9, 0.1, 0.5, 0.99, 1.0)]
    assert len(shares[0]) == 1
    assert all(less <= more for less, more in itertools.pairwise(shares))
    assert shares[2] <= set(range(performances))
    assert len(shares[2]) == -(-performances // 2)
    assert shares[-1] == set(range(performances))
    if performances == 399:
        # Not the first ones: performances of one composer stand together.
        assert max(shares[1]) > 350


def test_a_part_of_a_table_has_just_these_performances():
    table = table_of([5, 3, 8])
    part = table.part([2, 0])
    assert part.lengths.tolist() == [8, 5]
    for index, whole in ((0, 2), (1, 0)):
        for one, other in zip(part.performance(index), table.performance(whole), strict=True):
            np.testing.assert_array_equal(one, other)
    assert table.part([]).lengths.tolist() == []
