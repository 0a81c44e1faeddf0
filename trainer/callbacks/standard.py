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
    """Returns the callbacks of the command; `num_samples` 0 renders none, `profile` writes a trace."""
    tensorboard = TensorBoardWriter()
    samples = [AudioSamples(tensorboard, num_samples)] if num_samples else []
    profilers = [Profiler(tensorboard)] if profile else []
    return [MetricsWriter(), tensorboard, Console(), Exporter(), *samples, *profilers, PageWriter()]
