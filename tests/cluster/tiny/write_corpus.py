"""Writes a corpus, configs and a search space: `python write_corpus.py DIRECTORY FILES NOTES`. Runs in a pod."""

import json
import pathlib
import sys

import numpy as np

from sostenuto.music.midi import write_midi
from sostenuto.music.notes import Notes

TINY = {
    "preset": "base", "units": 8, "layers": 1, "head_units": 8, "pitch_embedding": 8, "time_embedding": 8,
    "velocity_embedding": 8, "seq_length": 16, "batch_size": 8, "warmup_steps": 2, "log_every": 10,
    "checkpoint_every": 200,
}  # fmt: skip
# Scores take longer than the training; only a search needs them.
RUN = {**TINY, "steps": 500, "evaluate_every": 0, "monitor": "loss"}
TRIAL = {**TINY, "evaluate_every": 100}
SPACE = "seq_length: 16\nunits: 8\nduration_weight: 1.0\nstep_weight: [1.0, 0.5, 2.0]\n"

store, files, notes = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
(store / "midi").mkdir(parents=True)
for index in range(files):
    random = np.random.default_rng(index)
    onsets = np.arange(notes) * 250_000
    pitches, velocities = random.integers(40, 80, notes), random.integers(40, 100, notes)
    write_midi(Notes.from_onsets(pitches, onsets, onsets + 200_000, velocities), store / "midi" / f"{index}.mid")
(store / "run.json").write_text(json.dumps(RUN))
(store / "trial.json").write_text(json.dumps(TRIAL))
(store / "space.yaml").write_text(SPACE)
