"""The dataset as a flat table of notes, and the windows that train_steps draw from it.

Parsed, a corpus is small: ten bytes a note. So the trainer holds a split as four arrays, and the batch of a
train_step is a pure function of the config and the train_step: any replica, worker or resumed run can make its part
of any batch, at once.
"""

import hashlib
import logging
import math
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from sostenuto import storage
from sostenuto.data.manifest import Manifest
from sostenuto.data.tfrecord import Performance
from sostenuto.errors import UserError
from sostenuto.music.notes import MAX_TIME_US, PITCHES
from sostenuto.progress import track
from trainer.config import Config
from trainer.data import random

logger = logging.getLogger(__name__)

START_PITCH = PITCHES
"""The pitch of the input that stands for "the performance begins"; its step, duration and velocity are 0."""

_LAYOUT = 1  # to be raised with any change of what a cached table holds
_COLUMNS = {"pitch": "u1", "velocity": "u1", "step_us": "<i4", "duration_us": "<i4"}
_LOWEST_KEY, _HIGHEST_KEY = 21, 108  # A0 and C8, the ends of a piano's keyboard
# A config beyond these trains on padding, or on the same windows many times a train_step: it is a mistake.
_MOST_LENGTHS = 5  # a window, of the longest performance
_MOST_EPOCHS = 10  # a train_step


class NoteTensors(NamedTuple):
    """Raw notes as int32 arrays or tensors of one shape: MIDI numbers and microseconds."""

    pitch: tf.Tensor
    step_us: tf.Tensor
    duration_us: tf.Tensor
    velocity: tf.Tensor

    def map(self, function) -> "NoteTensors":
        """The same function applied to each field; what it returns is of one shape too."""
        return NoteTensors(*(function(field) for field in self))


class NoteTable(NamedTuple):
    """A split as one table.

    Attributes:
        notes: structured array `[notes]` with fields pitch, velocity, step_us, duration_us, performance after
            performance.
        offsets: int64 `[performances + 1]`; performance p is `notes[offsets[p]:offsets[p + 1]]`.
    """

    notes: np.ndarray
    offsets: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """int64 `[performances]`, notes of each performance."""
        return np.diff(self.offsets)

    def performance(self, index: int) -> NoteTensors:
        """The notes of one performance, int32 `[notes]`."""
        rows = self.notes[self.offsets[index] : self.offsets[index + 1]]
        return NoteTensors(*(rows[field].astype(np.int32) for field in NoteTensors._fields))

    def part(self, performances: Sequence[int]) -> "NoteTable":
        """Some of the performances, in the order given."""
        rows = [self.notes[self.offsets[index] : self.offsets[index + 1]] for index in performances]
        return NoteTable(np.concatenate([self.notes[:0], *rows]), np.cumsum([0, *map(len, rows)], dtype=np.int64))


def chosen(performances: int, share: float) -> list[int]:
    """Which performances are used where only a share of them is: at least one, and a larger share has them too.

    Args:
        performances: how many there are.
        share: above 0, at most 1.
    """
    by_chance = sorted(range(performances), key=lambda index: hashlib.sha256(str(index).encode()).digest())
    return sorted(by_chance[: math.ceil(share * performances)])


def load_table(manifest: Manifest, split: str, *, cache_directory: str | None = None) -> NoteTable:
    """Loads a split, from the local cache where this very dataset was loaded before.

    The cache is named by the checksum of the manifest, which holds the checksums of all shards: another dataset has
    another one. It may be deleted at any time.

    Args:
        manifest: the dataset.
        split: train, validation or test.
        cache_directory: where tables are kept; by default the user's cache, or the temporary directory.

    Raises:
        UserError: the split is empty or a shard is damaged.
    """
    directory = cache_directory or storage.cache_directory()
    stem = os.path.join(directory, f"{manifest.sha256}-{split}-v{_LAYOUT}")
    try:
        return NoteTable(np.load(f"{stem}.notes.npy", mmap_mode="r"), np.load(f"{stem}.offsets.npy"))
    except (FileNotFoundError, ValueError, EOFError):
        table = _build_table(manifest, split)
    for name, array in (("notes", table.notes), ("offsets", table.offsets)):
        with storage.atomic_write(f"{stem}.{name}.npy") as file:
            np.save(file, array)
    return NoteTable(np.load(f"{stem}.notes.npy", mmap_mode="r"), table.offsets)


def performances_shown(manifest: Manifest, split: str) -> Iterator[Performance]:
    """Yields a split's performances, showing how far reading them has come.

    Raises:
        UserError: a shard is damaged.
    """
    return track(
        manifest.read_performances(split),
        total=manifest.performances(split),
        unit="performance",
        description=f"reading the {split} split",
    )


def _build_table(manifest: Manifest, split: str) -> NoteTable:
    parts, lengths = [], []
    for performance in performances_shown(manifest, split):
        notes = performance.notes
        rows = np.empty(len(notes), list(_COLUMNS.items()))
        for field in _COLUMNS:
            rows[field] = getattr(notes, field)
        parts.append(rows)
        lengths.append(len(rows))
    return NoteTable(np.concatenate(parts), np.cumsum([0, *lengths], dtype=np.int64))


class Batch(NamedTuple):
    """Windows of one replica.

    Attributes:
        inputs: `[windows, seq_length]`, the note before each target; `START_PITCH` at a performance's start.
        targets: `[windows, positions]`, positions being seq_length, or 1 where only the last is a target.
        mask: bool `[windows, positions]`, False on the padding of short windows.
        windows: int64 `[windows]`, which window of the epoch each row is.
    """

    inputs: NoteTensors
    targets: NoteTensors
    mask: tf.Tensor
    windows: tf.Tensor


class WindowSampler:
    """The windows of a split, drawn by a stateless shuffle.

    With every position a target, an epoch cuts each performance of n notes into ceil(n / seq_length) windows that do
    not overlap; the first one's length, and with it all borders, is drawn anew each epoch between what fills the last
    window and seq_length. So the number of windows is the same each epoch, and an epoch has every note as a target
    once. With the last position a target, a window starts at every note that has seq_length notes after it.

    Attributes:
        per_epoch: windows in an epoch.
        targets_per_epoch: notes that an epoch has as targets.
        pitch_range: the lowest and the highest pitch of the split, before any transposition.
        longest: notes of the longest performance.
    """

    def __init__(self, table: NoteTable, config: Config) -> None:
        self._config = config
        lengths = table.lengths
        if config.positions == "every":
            counts = -(-lengths // config.seq_length)
            self.targets_per_epoch = int(lengths.sum())
        else:
            counts = np.maximum(lengths - config.seq_length, 0)
            self.targets_per_epoch = int(counts.sum())
        self.per_epoch = int(counts.sum())
        self.longest = int(lengths.max(initial=0))
        if not self.per_epoch:
            # A window of a last-position model has its target after it.
            remedy = f"Give at most {self.longest - 1}" if self.longest > 1 else "Add longer performances"
            raise UserError(f"--seq_length={config.seq_length}: {self._longest_in_words}. {remedy}")
        self.pitch_range = int(table.notes["pitch"].min()), int(table.notes["pitch"].max())
        with tf.device("CPU:0"):
            # Eager tensors that a graph captures by reference: a NumPy array would be copied into the graph.
            self._columns = NoteTensors(*(tf.constant(table.notes[field]) for field in NoteTensors._fields))
            self._offsets = tf.constant(table.offsets[:-1])
            self._lengths = tf.constant(lengths)
            self._first_window = tf.constant(np.cumsum(counts) - counts)

    @property
    def _longest_in_words(self) -> str:
        return f"the longest training performance has {self.longest:,} notes"

    def require_fit(self) -> None:
        """Checks that windows and batches suit the size of the corpus; warns of windows that are a little too long.

        Raises:
            UserError: a train_step would train on padding for the most part, or on the same windows many times.
        """
        config = self._config
        if config.seq_length > _MOST_LENGTHS * self.longest:
            raise UserError(f"--seq_length={config.seq_length}: {self._longest_in_words}. Give at most {self.longest}")
        windows, most = config.windows_per_train_step, _MOST_EPOCHS * self.per_epoch
        if windows > most:
            flag, other = "batch_size", config.accumulation_steps
            if config.batch_size <= most:
                flag, other = "accumulation_steps", config.batch_size
            raise UserError(
                f"--{flag}={windows // other}: an epoch has {self.per_epoch:,} windows, got {windows:,} a train_step. "
                f"Give at most {max(most // other, 1)}"
            )
        if config.seq_length > self.longest:
            logger.warning(
                f"--seq_length={config.seq_length}: {self._longest_in_words}, so that a part of each window is empty. "
                f"Give {self.longest} to train faster"
            )

    def batch(self, first_slot: tf.Tensor, windows: int) -> Batch:
        """The windows of slots `first_slot` to `first_slot + windows`, augmented.

        Args:
            first_slot: int64 scalar.
            windows: how many.
        """
        with tf.device("CPU:0"):
            index, performance, first, count = self._places(first_slot + tf.range(windows, dtype=tf.int64))
            notes, sounding = self._cut(performance, first, count)
            notes = self._augment(notes, sounding, first_slot)
            inputs = notes.map(lambda field: field[:, :-1])
            mask = sounding[:, 1:]
            # Zero is a legal value of every field, so that a masked loss is finite too.
            targets = notes.map(lambda field: tf.where(mask, field[:, 1:], 0))
            if self._config.positions == "last":
                targets, mask = targets.map(lambda field: field[:, -1:]), mask[:, -1:]
        return Batch(inputs, targets, mask, index)

    def place(self, slot: int) -> tuple[int, int, int]:
        """Which performance a slot's window is of, its first target there, and its last."""
        with tf.device("CPU:0"):
            _, performance, first, count = (int(value[0]) for value in self._places(tf.constant([slot], tf.int64)))
        if self._config.positions == "last":
            first, count = first + count - 1, 1
        return performance, first, first + count - 1

    def _places(self, slots: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Each slot's window of the epoch, its performance, first target and how many: int64 `[slots]` each."""
        epoch = slots // self.per_epoch
        index = random.shuffled(self._config.seed, random.Purpose.WINDOW, epoch, slots % self.per_epoch, self.per_epoch)
        performance = tf.searchsorted(self._first_window, index, side="right", out_type=tf.int64) - 1
        number = index - tf.gather(self._first_window, performance)
        return index, performance, *self._span(performance, number, epoch)

    def _span(self, performance: tf.Tensor, number: tf.Tensor, epoch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Each window's first target within its performance, and how many targets it has: int64 `[windows]` both."""
        seq_length = self._config.seq_length
        if self._config.positions == "last":
            return number + 1, tf.fill(tf.shape(number), tf.constant(seq_length, tf.int64))
        length = tf.gather(self._lengths, performance)
        tail = (length - 1) % seq_length + 1
        draw = random.shuffled(self._config.seed, random.Purpose.PHASE, epoch, performance, 2**31)
        head = tail + draw % (seq_length - tail + 1)
        first = tf.where(number == 0, tf.zeros_like(head), head + (number - 1) * seq_length)
        last = tf.minimum(head + number * seq_length, length)
        return first, last - first

    def _cut(self, performance: tf.Tensor, first: tf.Tensor, count: tf.Tensor) -> tuple[NoteTensors, tf.Tensor]:
        """Notes `first - 1` to `first + seq_length`, and which of them there are: `[windows, seq_length + 1]`."""
        place = tf.range(-1, self._config.seq_length, dtype=tf.int64)
        sounding = (first[:, tf.newaxis] + place >= 0) & (place < count[:, tf.newaxis])
        rows = tf.gather(self._offsets, performance)[:, tf.newaxis] + first[:, tf.newaxis] + place
        rows = tf.where(sounding, rows, tf.zeros_like(rows))
        absent = NoteTensors(START_PITCH, 0, 0, 0)
        notes = [
            tf.where(sounding, tf.cast(tf.gather(column, rows), tf.int32), missing)
            for column, missing in zip(self._columns, absent, strict=True)
        ]
        return NoteTensors(*notes), sounding

    def _augment(self, notes: NoteTensors, sounding: tf.Tensor, first_slot: tf.Tensor) -> NoteTensors:
        """Transposes within the keyboard and stretches time, each window by its own amounts."""
        config = self._config
        draws = random.uniform_rows(config.seed, random.Purpose.AUGMENT, first_slot, tf.shape(notes.pitch)[0], 4)
        if config.transpose:
            lowest = tf.reduce_min(tf.where(sounding, notes.pitch, _HIGHEST_KEY), axis=1)
            highest = tf.reduce_max(tf.where(sounding, notes.pitch, _LOWEST_KEY), axis=1)
            shift = tf.cast(draws[:, 0] * (2 * config.transpose + 1), tf.int32) - config.transpose
            shift = tf.clip_by_value(shift, tf.minimum(_LOWEST_KEY - lowest, 0), tf.maximum(_HIGHEST_KEY - highest, 0))
            pitch = tf.where(sounding, notes.pitch + shift[:, tf.newaxis], notes.pitch)
            notes = notes._replace(pitch=pitch)
        if config.stretch:
            # Faster and slower by the same ratio are equally likely.
            factor = tf.exp(tf.cast(2 * draws[:, 1:2] - 1, tf.float64) * np.log1p(config.stretch))
            stretched = [
                # A rest of half an hour must stay within int32.
                tf.cast(tf.minimum(tf.round(tf.cast(times, tf.float64) * factor), MAX_TIME_US), tf.int32)
                for times in (notes.step_us, notes.duration_us)
            ]
            notes = notes._replace(
                step_us=stretched[0], duration_us=tf.maximum(stretched[1], tf.minimum(notes.duration_us, 1))
            )
        return notes
