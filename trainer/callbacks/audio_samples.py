"""Music that the model plays during training and at its end."""

import functools
import os
import tempfile

import tensorflow as tf

from sostenuto import storage
from sostenuto.music import audio
from sostenuto.music.histograms import Histograms
from sostenuto.music.notes import Notes
from sostenuto.music.pedal import NO_PEDAL, infer_pedal
from sostenuto.music.plots import distributions, piano_roll
from sostenuto.progress import phase
from trainer.callbacks.base import Callback
from trainer.callbacks.tensorboard import TensorBoardWriter
from trainer.checkpoints.manager import model_variables, restore
from trainer.engine.schedule import Event
from trainer.generation import samples
from trainer.generation.sampler import NoteSampler
from trainer.generation.sampling_flags import DEFAULT_TEMPERATURE
from trainer.workdir.formats import MetricsRecord, RunResult
from trainer.workdir.load_model import find_weights

_PLAYED_NOTES = 128  # of each sample for TensorBoard
_SOUND_SECONDS = 10  # of the first sample; TensorBoard keeps sound uncompressed, half a megabyte for that


class AudioSamples(Callback):
    """Renders `count` samples, above 0, for TensorBoard during training and for the workdir at its end."""

    play_seconds = 3.0

    def __init__(self, tensorboard: TensorBoardWriter, count: int) -> None:
        self._tensorboard, self._count = tensorboard, count

    def on_step(self, train_step: int, events: Event, metrics: MetricsRecord | None) -> None:
        """Renders samples for TensorBoard, unless a signal arrived."""
        if Event.PLAY in events and not self.run.shutdown.received:
            with self.run.setup.state.scored_weights(), phase("rendering samples for TensorBoard"):
                self._play(train_step)

    def on_finish(self, result: RunResult) -> None:
        """Writes continuations of the validation split by the best weights; raises ShutdownRequested on a signal."""
        model, directory = self.run.setup.state.model, self.run.workdir.directory
        with self.run.shutdown.cancellable():
            best = find_weights(directory, self.run.workdir.name)
            restore(best, model_variables(model))
            primers = samples.select_primers(self.run.setup.manifest, self._count)
            if not primers and model.config.positions == "last":
                return  # Such a model cannot start from silence.
            samples.write_samples(
                self._sampler, primers, directory, train_step=best.train_step, sustain=self._sustain,
                count=self._count, quiet=False,
            )  # fmt: skip

    @property
    def _sustain(self) -> str:
        return self.run.setup.manifest.options.get("sustain", "ignore")

    @functools.cached_property
    def _sampler(self) -> NoteSampler:
        return NoteSampler(self.run.setup.state.model)

    def _play(self, train_step: int) -> None:
        """Shows samples in TensorBoard: a piano roll, its sound, and their distributions over the corpus'."""
        played = self._sampler.sample(
            Notes.empty(),
            num_notes=_PLAYED_NOTES,
            num_samples=self._count,
            temperature=DEFAULT_TEMPERATURE,
            end_odds=0.0,
            seed=train_step,
        )
        notes = played.notes[0]
        generated = sum(map(Histograms.from_notes, played.notes), start=Histograms.zeros())
        with tempfile.TemporaryDirectory() as directory, self._tensorboard.training_summaries():
            roll, sheet = (os.path.join(directory, name) for name in ("roll.png", "sheet.png"))
            piano_roll(notes, roll, title=f"train_step {train_step:,}")
            distributions({"corpus": self.run.setup.manifest.histograms("train"), "generated": generated}, sheet)
            for name, path in (("piano roll", roll), ("distributions", sheet)):
                image = tf.io.decode_png(storage.read_bytes(path), channels=3)
                tf.summary.image(name, image[tf.newaxis], step=train_step)
            pedal = infer_pedal(notes) if self._sustain == "ignore" else NO_PEDAL
            sound, _ = audio.render(*audio.truncate(notes, pedal, _SOUND_SECONDS))
            mono = audio.downsample(sound).mean(axis=1, keepdims=True)
            tf.summary.audio("sound", mono[tf.newaxis], audio.SAMPLE_RATE // 2, step=train_step)
