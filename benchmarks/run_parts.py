"""Training and scoring of one model by the trainer's own loop, for benchmarks that compare models."""

import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

from sostenuto import progress
from sostenuto.data.manifest import Manifest
from trainer.config import Config
from trainer.data.note_table import NoteTable
from trainer.engine.loop import TrainingLoop
from trainer.engine.setup import RunSetup, build_setup
from trainer.engine.timing import RunTimer
from trainer.evaluation.scorer import Scorer
from trainer.evaluation.statistics import FIELDS, compute_metrics, sum_scores
from trainer.model.next_note import NextNoteModel
from trainer.workdir.evaluation_formats import NatsPerNote
from trainer.workdir.remote import open_workdir

SCORED = ("total", *FIELDS)
LANES = 16  # performances scored at once


class Trained(NamedTuple):
    """A trained model, and the notes that it was trained on per second."""

    model: NextNoteModel
    notes_per_second: float


def train(manifest: Manifest, config: Config, change: Callable[[RunSetup], RunSetup] | None = None) -> Trained:
    """Trains with the trainer's loop, without reports; the model has the weights that validation found best.

    Args:
        manifest: of the dataset.
        config: of the run.
        change: returns the setup to train instead of that of the config.
    """
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as directory,
        progress.silenced(),
        open_workdir(directory, max_to_keep=config.max_to_keep) as workdir,
    ):
        setup = build_setup(config, manifest, None)
        if change is not None:
            setup = change(setup)
        timer = RunTimer(time.monotonic, started, config, play_seconds=0.0, score_steps=setup.score_steps)
        TrainingLoop(setup, workdir, (), timer, stop=None, stop_at=None).run()
    assert timer.seconds_per_step
    return Trained(setup.state.model, config.windows_per_train_step * config.seq_length / timer.seconds_per_step)


def score(model: NextNoteModel, performances: NoteTable) -> NatsPerNote:
    """Returns nats/note, by field."""
    return compute_metrics(sum_scores(Scorer(model, lanes=LANES).score(performances))).nats_per_note
