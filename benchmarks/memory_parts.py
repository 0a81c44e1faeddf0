"""The models of `memory.py`: `base` without parts of its memory."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import tensorflow as tf
from run_parts import SCORED, score, train

from sostenuto.data.manifest import Manifest
from trainer.data.alignments import AHEAD, ALIGNMENTS, PLACES
from trainer.data.matches import CONTEXTS, IS_TRANSPOSED, MATCHES
from trainer.data.note_table import load_table
from trainer.data.recall import CANDIDATES, TIMES, PitchRecall, TimeRecall
from trainer.data.recall_table import RecallTable
from trainer.distribution.devices import exact_float32
from trainer.model import next_note
from trainer.presets import preset

_CANDIDATE, _TIME = np.arange(CANDIDATES), np.arange(TIMES)
_AHEAD = AHEAD[(_CANDIDATE - MATCHES) % PLACES]  # of alignments' places; without a slip, the note after is played


@dataclasses.dataclass(frozen=True)
class Ablation:
    """What a model has of the memory.

    Attributes:
        pitches: which candidates it recalls, bool `[CANDIDATES]`.
        times: which places' times it recalls, bool `[TIMES]`.
        has_body: whether its body receives the candidates.
        options: fields of its config that differ from `base`.
    """

    pitches: np.ndarray = dataclasses.field(default_factory=lambda: np.ones(CANDIDATES, bool))
    times: np.ndarray = dataclasses.field(default_factory=lambda: np.ones(TIMES, bool))
    has_body: bool = True
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _without(matches: np.ndarray) -> Ablation:
    """Returns a memory without some of the matches, bool `[MATCHES]`."""
    is_kept = ~matches
    return Ablation(np.append(is_kept, [True] * (CANDIDATES - MATCHES)), np.append(is_kept, [True] * ALIGNMENTS))


ABLATIONS: Final[dict[str, Ablation]] = {
    "none": Ablation(options={"memory_units": 0}),
    "whole": Ablation(),
    "matches alone": Ablation(_CANDIDATE < MATCHES, _TIME < MATCHES),
    "alignments alone": Ablation(_CANDIDATE >= MATCHES, _TIME >= MATCHES),
    "one alignment": Ablation(_CANDIDATE < MATCHES + PLACES, _TIME < MATCHES + 1),
    "alignments without slips": Ablation((_CANDIDATE < MATCHES) | (_AHEAD == 1)),
    "no transposed matches": _without(IS_TRANSPOSED),
    "the most recent matches alone": _without(np.arange(MATCHES) >= CONTEXTS),
    "pitches alone": Ablation(times=np.zeros(TIMES, bool)),
    "heads alone": Ablation(has_body=False),
}


def measure(dataset: str, name: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Trains and scores one model, `base` with some options; returns its line.

    What the model lacks is removed from all models of this process.
    """
    ablation = ABLATIONS[name]
    remove(ablation)
    manifest = Manifest.load(dataset)
    model = train(manifest, preset("base").replace(**options, **ablation.options)).model
    with exact_float32():
        nats = score(model, load_table(manifest, "validation"))
    return (name, *(f"{nats[field]:.3f}" for field in SCORED))


def remove(ablation: Ablation) -> None:
    """Removes what a model lacks from what all models of this process recall."""
    recall = RecallTable.__call__

    def recall_less(self: RecallTable, rows: tf.Tensor, is_note: tf.Tensor) -> tuple[PitchRecall, TimeRecall]:
        pitches, times = recall(self, rows, is_note)
        return (
            PitchRecall(*(tf.where(ablation.pitches, part, 0) for part in pitches)),
            TimeRecall(*(tf.where(ablation.times, part, 0) for part in times)),
        )

    RecallTable.__call__ = recall_less  # type: ignore[method-assign]
    if not ablation.has_body:
        expected_keys = next_note.expected_keys
        next_note.expected_keys = lambda *arguments: tf.zeros_like(expected_keys(*arguments))
