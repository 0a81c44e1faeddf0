"""Training windows, drawn by a stateless shuffle and augmented: a batch depends on config and train_step alone."""

import logging
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from sostenuto.errors import UserError
from sostenuto.music.notes import MAX_TIME_US, PITCHES
from sostenuto.text import counted
from trainer.config import Config
from trainer.data import random
from trainer.data.note_table import NoteTable
from trainer.data.note_tensors import START_PITCH, NoteTensors
from trainer.data.recall import NO_RECALL, PitchRecall, Recall, TimeRecall
from trainer.data.recall_table import RecallTable

logger = logging.getLogger(__name__)

# A config beyond these limits is a mistake: it trains on padding, or many times on the same windows in a train_step.
_MAX_LENGTHS_PER_WINDOW = 5  # of the longest performance
_MAX_EPOCHS_PER_TRAIN_STEP = 10

_LOWEST_KEY, _HIGHEST_KEY = 21, 108  # A0 and C8, the ends of a piano's keyboard
_NUMBERS_PER_WINDOW = 4  # of augmentation


class Batch(NamedTuple):
    """Windows of one replica.

    Attributes:
        inputs: `[windows, seq_length]`, the note before each target; `START_PITCH` at a performance's start.
        targets: `[windows, positions]`; positions is seq_length, or 1 if only the last is a target.
        mask: bool `[windows, positions]`, False on the padding of short windows.
        is_end: bool `[windows, positions]`, True where the performance has ended instead of going on with a note; False
            everywhere if the model predicts no end.
        position: int64 `[windows]`, number of notes of the performance before the first input.
        composer: int64 `[windows]`, 1 + the index of the composer in `WindowSampler.composers`; 0 for an unknown one,
            and for the windows that hide it (`Config.composer_pieces`).
        recall: pitches at each input, and times for each target; `NO_RECALL` without memory.
        windows: int64 `[windows]`, index of each window in its epoch.
        first_example: int64 `[]`, example index of the first window (`trainer.data.random`).
    """

    inputs: NoteTensors
    targets: NoteTensors
    mask: tf.Tensor
    is_end: tf.Tensor
    position: tf.Tensor
    composer: tf.Tensor
    recall: Recall
    windows: tf.Tensor
    first_example: tf.Tensor


class _Location(NamedTuple):
    """Windows of an epoch, int64 `[windows]` each.

    `first` counts from the start of the performance; `count` includes the end of a performance.
    """

    window: tf.Tensor
    performance: tf.Tensor
    first: tf.Tensor
    count: tf.Tensor


class WindowSampler:
    """The windows of a split, drawn by a stateless shuffle.

    If every position is a target, an epoch cuts each performance of n targets into ceil(n / seq_length) windows that
    do not overlap. Each epoch draws a new length for the first window, which moves all borders. So each epoch has the
    same number of windows and has every target once. The targets are the notes and, if the model predicts it, the end.
    If only the last position is a target, a window starts at every note that has seq_length notes after it.

    Attributes:
        composers: the names of the composers of the split, sorted; none if the model is not to know them.
        per_epoch: windows in an epoch.
        targets_per_epoch: target notes in an epoch.
        pitch_range: the lowest and the highest pitch of the split, before any transposition.
        longest: notes of the longest performance.
    """

    def __init__(self, table: NoteTable, config: Config) -> None:
        self._config = config
        lengths = table.lengths
        is_every = config.positions == "every"
        # With its end, a performance has one target more.
        targets = lengths + (config.has_ending & (lengths > 0))
        counts = -(-targets // config.seq_length) if is_every else np.maximum(lengths - config.seq_length, 0)
        self.per_epoch = int(counts.sum())
        self.targets_per_epoch = int(lengths.sum()) if is_every else self.per_epoch
        self.longest = int(lengths.max(initial=0))
        longest = counted(self.longest, "note")
        self._problem = f"--seq_length={config.seq_length}: the longest training performance has {longest}"
        if not self.per_epoch:
            # A window of a last-position model has its target after it.
            remedy = f"Give at most {self.longest - 1}" if self.longest > 1 else "Add longer performances"
            raise UserError(f"{self._problem}. {remedy}")
        self.pitch_range = int(table.notes["pitch"].min()), int(table.notes["pitch"].max())
        with tf.device("CPU:0"):
            # A graph captures eager tensors by reference; it would copy NumPy arrays.
            self._columns = NoteTensors(*(tf.constant(table.notes[field]) for field in NoteTensors._fields))
            self._offsets = tf.constant(table.offsets[:-1])
            self._lengths, self._targets = tf.constant(lengths), tf.constant(targets)
            self._first_window = tf.constant(np.cumsum(counts) - counts)
            self.composers = tuple(sorted({*table.composers} - {""})) if config.has_composers else ()
            self._composer_ids = tf.constant(table.composer_ids(self.composers))
            hidden = config.composer_pieces / (config.composer_pieces + table.composer_pieces())
            self._hidden_fraction = tf.constant(hidden, tf.float32)
        self._recall_table = RecallTable(table, self._columns) if config.has_memory else None

    def require_fit(self) -> None:
        """Checks that windows and batches suit the size of the corpus; warns if windows are a little too long.

        Raises:
            UserError: a train_step would train mostly on padding, or many times on the same windows.
        """
        config = self._config
        if config.seq_length > _MAX_LENGTHS_PER_WINDOW * self.longest:
            raise UserError(f"{self._problem}. Give at most {self.longest}")
        windows, limit = config.windows_per_train_step, _MAX_EPOCHS_PER_TRAIN_STEP * self.per_epoch
        if windows > limit:
            flag, other = "batch_size", config.accumulation_steps
            if config.batch_size <= limit:
                flag, other = "accumulation_steps", config.batch_size
            raise UserError(
                f"--{flag}={windows // other}: an epoch has {counted(self.per_epoch, 'window')}, got {windows:,} a "
                f"train_step. Give at most {max(limit // other, 1)}, or a dataset of more music"
            )
        if config.seq_length > self.longest:
            logger.warning(f"{self._problem}, so part of each window is empty. Give {self.longest} to train faster")

    def batch(self, first_example: tf.Tensor, windows: int) -> Batch:
        """Returns augmented windows from example index `first_example` on, an int64 `[]` (`trainer.data.random`)."""
        with tf.device("CPU:0"):
            location = self._locate(first_example + tf.range(windows, dtype=tf.int64))
            rows, is_note, is_end = self._rows(location)
            played = self._gather(rows, is_note)
            notes, factor = _augment(self._config, played, is_note, first_example)
            inputs = notes.map(lambda field: field[:, :-1])
            mask = is_note[:, 1:]
            # Zero is a valid value of every field, so a masked loss is finite too.
            targets = notes.map(lambda field: tf.where(mask, field[:, 1:], 0))
            if self._config.positions == "last":
                targets, mask = targets.map(lambda field: field[:, -1:]), mask[:, -1:]
            recall = NO_RECALL
            if self._recall_table:
                recalled = self._recall_table(rows, is_note)
                pitches, times = _augment_recall(recalled, notes.pitch - played.pitch, factor)
                recall = Recall(pitches, TimeRecall(*(part[:, -mask.shape[1] :] for part in times)))
            position = tf.maximum(location.first - 1, 0)
            composer = self._draw_composers(location.performance, first_example)
            is_end = is_end[:, -mask.shape[1] :]
        return Batch(
            inputs, targets, mask, is_end, position, composer, recall, location.window, tf.identity(first_example)
        )

    def place(self, example_index: int) -> tuple[int, int, int]:
        """Returns the performance of an example's window, and the indices of its first and last target in it."""
        with tf.device("CPU:0"):
            location = self._locate(tf.constant([example_index], tf.int64))
            _, performance, first, count = (int(value[0]) for value in location)
            last_note = int(self._lengths[performance]) - 1
        if self._config.positions == "last":
            first, count = first + count - 1, 1
        return performance, min(first, last_note), min(first + count - 1, last_note)

    def _locate(self, examples: tf.Tensor) -> _Location:
        """Returns the window of each example."""
        seed, epoch = self._config.seed, examples // self.per_epoch
        window = random.permute_index(
            seed, random.Purpose.WINDOW, epoch, examples % self.per_epoch, size=self.per_epoch
        )
        performance = tf.searchsorted(self._first_window, window, side="right", out_type=tf.int64) - 1
        number = window - tf.gather(self._first_window, performance)
        return _Location(window, performance, *self._span(performance, number, epoch))

    def _span(self, performance: tf.Tensor, number: tf.Tensor, epoch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the first target and the number of targets of each performance's `number`-th window."""
        seq_length = self._config.seq_length
        if self._config.positions == "last":
            return number + 1, tf.fill(tf.shape(number), tf.constant(seq_length, tf.int64))
        length = tf.gather(self._targets, performance)
        tail = (length - 1) % seq_length + 1
        phase = random.permute_index(self._config.seed, random.Purpose.PHASE, epoch, performance, size=2**31)
        head = tail + phase % (seq_length - tail + 1)
        first = tf.where(number == 0, tf.zeros_like(head), head + (number - 1) * seq_length)
        last = tf.minimum(head + number * seq_length, length)
        return first, last - first

    def _rows(self, location: _Location) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the rows of notes `first - 1` to `first + seq_length - 1`, where they exist, and where the end is."""
        position = tf.range(-1, self._config.seq_length, dtype=tf.int64)
        number, is_inside = location.first[:, tf.newaxis] + position, position < location.count[:, tf.newaxis]
        length = tf.gather(self._lengths, location.performance)[:, tf.newaxis]
        is_note = (number >= 0) & (number < length) & is_inside
        rows = tf.gather(self._offsets, location.performance)[:, tf.newaxis] + number
        return tf.where(is_note, rows, tf.zeros_like(rows)), is_note, (number == length) & is_inside

    def _draw_composers(self, performance: tf.Tensor, first_example: tf.Tensor) -> tf.Tensor:
        """Returns the composer of each window's performance, or 0 where it is hidden."""
        windows = tf.shape(performance)[0]
        uniform = random.uniform_rows(self._config.seed, random.Purpose.COMPOSER, first_example, windows, 1)
        is_known = uniform[:, 0] >= tf.gather(self._hidden_fraction, performance)
        return tf.where(is_known, tf.gather(self._composer_ids, performance), 0)

    def _gather(self, rows: tf.Tensor, is_note: tf.Tensor) -> NoteTensors:
        """Returns the notes of rows."""
        notes = [
            tf.where(is_note, tf.cast(tf.gather(column, rows), tf.int32), default)
            for column, default in zip(self._columns, NoteTensors(START_PITCH, 0, 0, 0), strict=True)
        ]
        return NoteTensors(*notes)


def _augment(
    config: Config, notes: NoteTensors, is_note: tf.Tensor, first_example: tf.Tensor
) -> tuple[NoteTensors, tf.Tensor | None]:
    """Transposes windows `[windows, notes]` within the keyboard and stretches time, each by its own amounts.

    `is_note` is False for the start marker and padding; the first window has example index `first_example`, int64.
    """
    windows = tf.shape(notes.pitch)[0]
    uniform = random.uniform_rows(config.seed, random.Purpose.AUGMENT, first_example, windows, _NUMBERS_PER_WINDOW)
    if config.transpose:
        notes = notes._replace(pitch=_transpose(notes.pitch, is_note, uniform[:, 0], config.transpose))
    factor = None
    if config.stretch:
        # A ratio and its inverse are equally likely.
        factor = tf.exp(tf.cast(2 * uniform[:, 1:2] - 1, tf.float64) * np.log1p(config.stretch))
        notes = notes._replace(
            step_us=_stretch(notes.step_us, factor),
            # A note must not become shorter than 1 us.
            duration_us=tf.maximum(_stretch(notes.duration_us, factor), tf.minimum(notes.duration_us, 1)),
        )
    return notes, factor


def _augment_recall(
    recall: tuple[PitchRecall, TimeRecall], transposed: tf.Tensor, factor: tf.Tensor | None
) -> tuple[PitchRecall, TimeRecall]:
    """Changes what is recalled as the windows: pitches by semitones `[windows, notes]`, times by the factor."""
    pitches, times = recall
    pitch = pitches.pitch + tf.cast(transposed[:, :-1, tf.newaxis], tf.int64)
    is_valid = (pitch >= 0) & (pitch < PITCHES)
    pitches = PitchRecall(*(tf.where(is_valid, part, 0) for part in pitches._replace(pitch=pitch)))
    if factor is None:
        return pitches, times
    step_us, duration_us = (tf.cast(_stretch(field, factor[..., tf.newaxis]), tf.int64) for field in times[:2])
    return pitches, times._replace(step_us=step_us, duration_us=duration_us)


def _transpose(pitch: tf.Tensor, is_note: tf.Tensor, uniform: tf.Tensor, semitones: int) -> tf.Tensor:
    """Shifts each window by up to `semitones`, clipped so that no note leaves the keyboard."""
    lowest = tf.reduce_min(tf.where(is_note, pitch, _HIGHEST_KEY), axis=1)
    highest = tf.reduce_max(tf.where(is_note, pitch, _LOWEST_KEY), axis=1)
    shift = tf.cast(uniform * (2 * semitones + 1), tf.int32) - semitones
    shift = tf.clip_by_value(shift, tf.minimum(_LOWEST_KEY - lowest, 0), tf.maximum(_HIGHEST_KEY - highest, 0))
    return tf.where(is_note, pitch + shift[:, tf.newaxis], pitch)


def _stretch(times_us: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    # The limit keeps a stretched rest of half an hour within int32.
    return tf.cast(tf.minimum(tf.round(tf.cast(times_us, tf.float64) * factor), MAX_TIME_US), tf.int32)
