"""Training, evaluation and generation with a next-note model."""

import sostenuto.interrupt  # isort: skip

import sys

from sostenuto._exports import export as _export  # `trainer.export` is a module
from trainer.startup import QuietTensorFlow

_EXPORTS = {
    "Config": "trainer.config",
    "preset": "trainer.presets",
    "train": "trainer.engine.loop",
    "WorkerLostError": "trainer.distribution.faults",
    "RunResult": "trainer.workdir.formats",
    "load_config": "trainer.workdir.layout",
    "load_model": "trainer.workdir.load_model",
    "LoadedModel": "trainer.workdir.load_model",
    "NoteTensors": "trainer.data.note_tensors",
    "NoteTable": "trainer.data.note_table",
    "load_table": "trainer.data.note_table",
    "Batch": "trainer.data.windows",
    "WindowSampler": "trainer.data.windows",
    "NextNoteModel": "trainer.model.next_note",
    "ModelState": "trainer.model.next_note",
    "build_model": "trainer.model.next_note",
    "start_note": "trainer.model.next_note",
    "NoteScores": "trainer.evaluation.statistics",
    "Scorer": "trainer.evaluation.scorer",
    "score_baselines": "trainer.evaluation.baselines",
    "Controls": "trainer.generation.controls",
    "NoteSampler": "trainer.generation.sampler",
    "Samples": "trainer.generation.sampler",
    "export_model": "trainer.export",
}
__all__ = [*_EXPORTS]
__getattr__ = _export(__name__, _EXPORTS)

# Loads TensorFlow without its messages, whichever module imports it.
sys.meta_path.insert(0, QuietTensorFlow())
