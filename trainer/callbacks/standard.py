"""Callbacks of the `sostenuto train` command and of other callers of `train`."""

from trainer.callbacks.audio_samples import AudioSamples
from trainer.callbacks.base import Callback
from trainer.callbacks.console import Console
from trainer.callbacks.finish import Exporter, PageWriter
from trainer.callbacks.metrics import MetricsWriter
from trainer.callbacks.profiler import Profiler
from trainer.callbacks.tensorboard import TensorBoardWriter


def report_writers() -> list[Callback]:
    """Returns the callbacks that report the metrics: metrics.jsonl, TensorBoard and the console."""
    return [MetricsWriter(), TensorBoardWriter(), Console()]


def command_callbacks(*, num_samples: int, profile: bool) -> list[Callback]:
    """Returns the callbacks of the command.

    Args:
        num_samples: samples to play at the end and for TensorBoard; 0 plays none.
        profile: writes a trace for TensorBoard.
    """
    tensorboard = TensorBoardWriter()
    callbacks: list[Callback] = [MetricsWriter(), tensorboard, Console(), Exporter()]
    if num_samples:
        callbacks.append(AudioSamples(tensorboard, num_samples))
    if profile:
        callbacks.append(Profiler(tensorboard))
    return [*callbacks, PageWriter()]
