"""What a run tells while it goes: metrics.jsonl, TensorBoard, and a person at the terminal or the log."""

import contextlib
import dataclasses
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from sostenuto import progress, storage
from sostenuto.data.manifest import Manifest
from sostenuto.data.tfrecord import write_records
from sostenuto.errors import UserError
from sostenuto.music import audio
from sostenuto.music.histograms import Histograms
from sostenuto.music.notes import Notes
from sostenuto.music.pedal import NO_PEDAL, infer_pedal
from sostenuto.music.plots import distributions, piano_roll
from sostenuto.text import duration
from trainer.config import Config
from trainer.generation import samples
from trainer.generation.sampler import NoteSampler
from trainer.model.next_note import NextNoteModel
from trainer.presets import preset
from trainer.workdir.formats import MetricsRecord
from trainer.workdir.layout import METRICS_NAME, SUMMARIES_NAME

if TYPE_CHECKING:
    import tqdm

logger = logging.getLogger(__name__)

_SHOWN_HYPERPARAMETERS = ("preset", "seq_length", "units", "layers", "dropout", "batch_size", "learning_rate")

_PLAYED_NOTES = 128  # of each sample that is played for TensorBoard
_HEARD_SECONDS = 10  # of the first sample; TensorBoard keeps all sound as it is, half a megabyte for that


class NoReports:
    """Tells nothing: what a worker that is not the chief has instead of `Reports`, whose methods these are."""

    summaries = ""

    def __enter__(self) -> "NoReports":
        """Returns the reports."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends them."""

    def start(self, planned: int | None, train_step: int) -> None:
        """Shows how many train_steps there will be; None where that is still being measured."""

    def end_training(self) -> None:
        """Ends the bar of train_steps."""

    def say(self, line: str, *, level: int = logging.INFO, **figures: Any) -> None:
        """Logs a line."""

    def say_once(self, line: str) -> None:
        """Says a line the first time, where no bar shows the same."""

    @contextlib.contextmanager
    def phase(self, activity: str) -> Iterator[None]:
        """Shows what is done besides training while it is done."""
        yield

    def count(self, train_steps: int, seconds: float, seconds_left: float | None) -> None:
        """Takes in one call of train_steps."""

    def write(self, report: dict[str, Any], targets: float, seconds_left: float | None) -> None:
        """Writes a report."""

    def play(self, model: NextNoteModel, train_step: int, manifest: Manifest) -> None:
        """Lets TensorBoard show what the model plays."""

    def leave_samples(self, model: NextNoteModel, train_step: int, manifest: Manifest) -> None:
        """Lets the model play the samples of the workdir."""

    def sync(self) -> None:
        """Waits until the reports are on the disk."""


class Reports(NoReports):
    """Writes a run's reports; a context manager.

    Args:
        workdir: the run's workdir; reports of train_steps after `train_step` are removed from it, since a resumed run
            writes them again.
        train_step: the last one whose report is to stay.
        config: the run, for TensorBoard's table of hyperparameters.
        num_samples: how many samples to play, for TensorBoard and for the workdir.

    Attributes:
        summaries: the directory that TensorBoard reads.
    """

    def __init__(self, workdir: str, train_step: int, config: Config, num_samples: int) -> None:
        self.summaries = os.path.join(workdir, SUMMARIES_NAME)
        self._workdir = workdir
        self._path = os.path.join(workdir, METRICS_NAME)
        self._num_samples = num_samples
        self._bar: tqdm.tqdm | None = None
        self._said: set[str] = set()
        self._seconds = 0.0
        self._seconds_left: float | None = None
        self._figures: list[str] = []  # of the last report, behind the bar
        self._planned: int | None = None
        self._player: NoteSampler | None = None
        self._cut(train_step)
        self._cut_summaries(train_step)
        # TensorBoard draws the scalars of one name in one chart, a line a directory.
        self._writer, self._validation_writer = (
            tf.summary.create_file_writer(os.path.join(self.summaries, name)) for name in ("train", "validation")
        )
        self._write_hyperparameters(config)

    def __enter__(self) -> "Reports":
        """Returns the reports."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the bar's line and flushes what TensorBoard reads."""
        self.end_training()
        self._writer.close()
        self._validation_writer.close()

    def _cut(self, train_step: int) -> None:
        if not storage.exists(self._path):
            return
        before = storage.read_bytes(self._path)
        kept = "".join(f"{line}\n" for line in before.decode().splitlines() if _train_step_of(line) <= train_step)
        # A kill may have cut off no more than the last line's end.
        if kept.encode() != before:
            storage.write_bytes_atomic(self._path, kept.encode())

    def _cut_summaries(self, train_step: int) -> None:
        """Removes what TensorBoard would show of train_steps that will be done again."""
        from tensorboard.compat.proto.event_pb2 import Event

        for name in storage.list_files(self.summaries) if storage.is_directory(self.summaries) else ():
            if "tfevents" not in name:
                continue
            path = os.path.join(self.summaries, name)
            kept, is_cut = [], False
            try:
                for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
                    if Event.FromString(record).step <= train_step:
                        kept.append(record)
                    else:
                        is_cut = True
            except tf.errors.DataLossError:
                is_cut = True  # A kill left half of the last one.
            if is_cut:
                with storage.atomic_write(path) as file:
                    write_records(file, kept)

    def _write_hyperparameters(self, config: Config) -> None:
        """Writes a row of TensorBoard's table: the main hyperparameters, and those that differ from the preset's.

        The metrics of a row are the scalars of the directory that its hyperparameters are in: here the validation
        scores. No list of columns is written, since TensorBoard would take the list of one run for all runs.
        """
        from tensorboard.plugins.hparams import api

        start = dataclasses.asdict(preset(config.preset))
        row = {
            name: value
            for name, value in dataclasses.asdict(config).items()
            if name in _SHOWN_HYPERPARAMETERS or value != start[name]
        }
        with self._validation_writer.as_default():
            api.hparams(row)

    def start(self, planned: int | None, train_step: int) -> None:
        """Shows how many train_steps there will be; None where that is still being measured."""
        self._planned = planned
        if self._bar is not None:
            self._bar.total = planned
            self._bar.refresh()
            return
        # The time left is the run's own figure: the bar's would take scores for slow training.
        self._bar = progress.bar(
            total=planned,
            unit="train_step",
            description="training",
            initial=train_step,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )
        if self._bar is None and planned is not None:
            self.say(f"training to train_step {planned:,}", train_step=train_step, planned=planned)

    def end_training(self) -> None:
        """Ends the bar of train_steps."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def say(self, line: str, *, level: int = logging.INFO, **figures: Any) -> None:
        """Logs a line with its figures."""
        logger.log(level, line, extra={"figures": figures})

    def say_once(self, line: str) -> None:
        """Says a line the first time, where no bar shows the same."""
        if self._bar is None and line not in self._said:
            self.say(line)
        self._said.add(line)

    @contextlib.contextmanager
    def phase(self, activity: str) -> Iterator[None]:
        """Shows what is done besides training while it is done: by a bar of its own, in a log by a line once."""
        # Below the bar of train_steps it is removed when it is done.
        bar = progress.bar(total=None, unit="second", description=activity, leave=None, bar_format="{desc} [{elapsed}]")
        if bar is None:
            self.say_once(activity)
        try:
            yield
        finally:
            if bar is not None:
                bar.close()

    def count(self, train_steps: int, seconds: float, seconds_left: float | None) -> None:
        """Takes in one call of train_steps.

        Args:
            train_steps: how many.
            seconds: how long they took.
            seconds_left: how long the rest of the run takes, scores included; None where that is not known.
        """
        self._seconds += seconds
        if self._bar is not None:
            self._seconds_left = seconds_left
            self._show_on_bar()
            self._bar.update(train_steps)

    def _show_on_bar(self) -> None:
        """Puts the time left and the last report's figures behind the bar."""
        if self._bar is not None:
            left = [] if self._seconds_left is None else [f"{duration(self._seconds_left)} left"]
            self._bar.set_postfix_str(", ".join([*left, *self._figures]), refresh=False)

    def write(self, report: dict[str, Any], targets: float, seconds_left: float | None) -> None:
        """Appends a report to metrics.jsonl and TensorBoard, and shows it.

        Args:
            report: the fields of a `MetricsRecord` but for the speed.
            targets: notes trained on since the last report.
            seconds_left: how long the rest of the run takes, scores included; None where that is not known.

        Raises:
            UserError: it cannot be written.
        """
        record = MetricsRecord(**report, notes_per_second=targets / max(self._seconds, 1e-9))
        self._seconds = 0.0
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(record.to_line())
        except OSError as error:
            raise UserError(
                f"{self._path}: cannot be written ({error.strerror}): make room, then give the same command again"
            ) from error
        for writer, figures in zip((self._writer, self._validation_writer), _scalars(record.to_json()), strict=True):
            with writer.as_default():
                for name, value in figures.items():
                    tf.summary.scalar(name, value, step=record.train_step)
        self._show(record, seconds_left)

    def play(self, model: NextNoteModel, train_step: int, manifest: Manifest) -> None:
        """Lets TensorBoard show what the model plays: a piano roll, its sound, and its distributions over the corpus'.

        Args:
            model: what plays, from silence.
            train_step: where it is, and the seed.
            manifest: the dataset whose train split is the corpus.
        """
        played = (
            self._player_of(model)
            .sample(
                Notes.empty(), num_notes=_PLAYED_NOTES, num_samples=self._num_samples, temperature=1.0, seed=train_step
            )
            .notes
        )
        generated = sum(map(Histograms.from_notes, played), start=Histograms.zeros())
        with tempfile.TemporaryDirectory() as directory, self._writer.as_default():
            roll, sheet = (os.path.join(directory, name) for name in ("roll.png", "sheet.png"))
            piano_roll(played[0], roll, title=f"train_step {train_step:,}")
            distributions({"corpus": manifest.histograms("train"), "generated": generated}, sheet)
            for name, path in (("piano roll", roll), ("distributions", sheet)):
                image = tf.io.decode_png(storage.read_bytes(path), channels=3)
                tf.summary.image(name, image[tf.newaxis], step=train_step)
            pedal = infer_pedal(played[0]) if _sustain(manifest) == "ignore" else NO_PEDAL
            heard, _ = audio.render(*audio.truncate(played[0], pedal, _HEARD_SECONDS))
            mono = audio.downsample(heard).mean(axis=1, keepdims=True)
            tf.summary.audio("sound", mono[tf.newaxis], audio.SAMPLE_RATE // 2, step=train_step)

    def leave_samples(self, model: NextNoteModel, train_step: int, manifest: Manifest) -> None:
        """Lets the model play the samples of the workdir, continuations of the validation split.

        Args:
            model: what plays.
            train_step: where it is.
            manifest: the dataset.
        """
        primers = samples.select_primers(manifest, self._num_samples)
        if not primers and model.config.positions == "last":
            return  # It was never shown how a performance begins.
        samples.write_samples(
            self._player_of(model), primers, self._workdir, train_step=train_step, sustain=_sustain(manifest),
            count=self._num_samples, quiet=False,
        )  # fmt: skip

    def _player_of(self, model: NextNoteModel) -> NoteSampler:
        if self._player is None:
            self._player = NoteSampler(model)
        return self._player

    def sync(self) -> None:
        """Waits until the reports are on the disk, so that no checkpoint is there without those before it."""
        self._writer.flush()
        self._validation_writer.flush()
        if storage.exists(self._path):
            storage.sync(self._path)

    def _show(self, record: MetricsRecord, seconds_left: float | None) -> None:
        score = "" if record.val_nats is None else f", validation {record.val_nats:.3f} nats/note"
        if self._bar is not None:
            self._seconds_left = seconds_left
            self._figures = [f"loss {record.loss:.3f}", f"{record.notes_per_second:,.0f} notes/s"]
            self._show_on_bar()
            self._bar.refresh()
            if score:
                self.say(f"train_step {record.train_step:,}: train loss {record.loss:.3f}{score}")
            return
        left = "" if seconds_left is None else f", {duration(seconds_left)} left"
        self.say(
            f"train_step {record.train_step:,}: train loss {record.loss:.3f}{score}, "
            f"{record.notes_per_second:,.0f} notes/s{left}",
            **record.to_json(),
            planned=self._planned,
            seconds_left=seconds_left,
        )


def _scalars(report: dict[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Splits a report into the scalars of training and of validation, under the same names where both have a figure.

    Args:
        report: a line of metrics.jsonl.

    Returns:
        Both by name, without `train_step`. `nats` of training is the sum of the three losses that `nats` of validation
        consists of, where the model has densities.
    """
    training = {name: value for name, value in report.items() if not name.startswith("val_") and name != "train_step"}
    validation = {name.removeprefix("val_"): value for name, value in report.items() if name.startswith("val_")}
    parts = [report.get(f"{field}_nll") for field in ("pitch", "step", "duration")]
    if None not in parts:
        training["nats"] = sum(parts)
    return training, validation


def _sustain(manifest: Manifest) -> str:
    """How the dataset's durations were read."""
    return manifest.options.get("sustain", "ignore")


def _train_step_of(line: str) -> float:
    """The train_step of a line of metrics.jsonl; of one that a kill cut short, later than any."""
    try:
        return json.loads(line)["train_step"]
    except (ValueError, KeyError):
        return float("inf")
