"""Content of self-similarity pictures (NumPy only); `trainer.reporting.form_charts` draws them."""

import numpy as np
from numpy.typing import NDArray

from sostenuto.music.notes import Notes
from trainer.evaluation.repetition import find_repeats
from trainer.evaluation.structure import chroma, self_similarity, threshold
from trainer.workdir.form_formats import MAX_SECONDS, FormPicture

_LEVELS = 15  # the greatest hexadecimal digit


def picture_form(notes: Notes, primer_notes: int) -> FormPicture:
    """Returns what a picture of a piece shows, of its first ten minutes."""
    frames = chroma(notes)
    longest = frames.max(axis=1, keepdims=True)
    levels = np.round(_LEVELS * frames / np.maximum(longest, 1e-9)).astype(int)
    onset = np.round(notes.onset_us / 1e6, 2).tolist()
    repeats = [
        (onset[run.first], onset[run.last], onset[run.first - run.distance], onset[run.last - run.distance])
        for run in find_repeats(notes)
    ]
    return FormPicture(
        primer_seconds=onset[primer_notes] if primer_notes else 0.0,
        chroma=["".join(f"{level:x}" for level in frame) for frame in levels],
        repeats=[repeat for repeat in repeats if repeat[1] < MAX_SECONDS],
    )


def pictured_similarity(picture: FormPicture) -> NDArray[np.float64]:
    """Computes the matrix of a picture, `[seconds, seconds]`: 0 for no similarity, 1 for the greatest."""
    levels = np.array([[int(digit, 16) for digit in frame] for frame in picture.chroma], float)
    return np.maximum(threshold(self_similarity(levels)), 0)
