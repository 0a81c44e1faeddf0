"""Baselines that only count: a histogram and an n-gram, scored on the same notes as a model is.

After any history the probabilities of all pitches sum to one, and so do those of all ticks.
"""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from sostenuto.data.manifest import Manifest
from sostenuto.music.notes import MAX_TICK, PITCHES, ticks
from trainer.evaluation.statistics import with_total
from trainer.workdir.evaluation_formats import NatsPerNote
from trainer.workdir.formats import Baseline, ScoredField

if TYPE_CHECKING:
    from trainer.data.note_table import NoteTable

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_VALUES: Final[dict[ScoredField, int]] = {"pitch": PITCHES, "step": MAX_TICK + 1, "duration": MAX_TICK + 1}
_ABSENT: Final = 255  # stands in a context for a note before the first
_BITS: Final = 8  # of each part of a context, and of a symbol, if several are packed into one number
_SIZES: Final = 64  # classes of contexts by the bit length of their count
_ITERATIONS: Final = 20
_MAX_WEIGHT: Final = 0.999  # leaves probability to symbols that never followed a context


def score_baselines(manifest: Manifest, scored: "NoteTable") -> dict[Baseline, NatsPerNote] | None:
    """Scores both baselines of a dataset; None if its train or validation split has no second note.

    Args:
        manifest: the dataset, whose train split is counted and whose validation split chooses the weights.
        scored: the split to score, of this or another dataset.

    Raises:
        UserError: a shard is corrupt.
    """
    from trainer.data.note_table import load_table  # It imports TensorFlow.

    if any(manifest.notes(split) <= manifest.performances(split) for split in ("train", "validation")):
        return None
    return scores(load_table(manifest, "train"), load_table(manifest, "validation"), scored)


def scores(train: "NoteTable", validation: "NoteTable", scored: "NoteTable") -> dict[Baseline, NatsPerNote]:
    """Computes nats/note of both baselines; each of the three splits needs a performance of two notes.

    The n-gram's few hundred weights fit the validation split, so its score of that split is slightly too good. Its
    score of the train split means little: those notes were counted.
    """
    histogram = Histogram(train)
    models: dict[Baseline, Histogram | Ngram] = {"histogram": histogram, "ngram": Ngram(histogram, train, validation)}
    return {
        name: with_total({field: float(np.mean(nats)) for field, nats in model.nats(scored).items()})
        for name, model in models.items()
    }


class _ScoredNotes:
    """The scored notes of a split, in the order of the table: all but the first of each performance."""

    def __init__(self, table: "NoteTable") -> None:
        position = np.arange(len(table.notes)) - np.repeat(table.offsets[:-1], table.lengths)
        self._rows = np.flatnonzero(position)
        self._position = position[self._rows]
        self._fields = {
            "pitch": table.notes["pitch"].astype(np.int64),
            "step": ticks(table.notes["step_us"]),
            "duration": ticks(table.notes["duration_us"]),
        }

    def values(self, field: str, back: int = 0) -> Ints:
        """Returns a field of each scored note, or of the note `back` before it, `[notes]`; -1 where there is none."""
        values = self._fields[field][np.maximum(self._rows - back, 0)]
        return np.where(self._position >= back, values, -1) if back else values


class Histogram:
    """Baseline that draws each field by the counts of its values in the train split.

    Half a note is added to each count (Krichevsky and Trofimov 1981, The performance of universal encoding), so every
    value is possible.
    """

    def __init__(self, train: "NoteTable") -> None:
        notes = _ScoredNotes(train)
        counts = {field: np.bincount(notes.values(field), minlength=_VALUES[field]) + 0.5 for field in _VALUES}
        self.probabilities = {field: values / values.sum() for field, values in counts.items()}

    def nats(self, table: "NoteTable") -> dict[ScoredField, Floats]:
        """Computes the nats of each scored note by field, `[notes]`."""
        notes = _ScoredNotes(table)
        return {field: -np.log(self.probabilities[field][notes.values(field)]) for field in _VALUES}


class Ngram:
    """Baseline that draws each field by what followed the same context in the train split.

    Each field has a chain of contexts, from the least detailed to the most. The frequencies after a context are mixed
    with the probability of the chain without it,

        p_k(x | c_k) = w(n_k) C(c_k, x) / n_k + (1 - w(n_k)) p_{k-1}(x | c_{k-1}),    n_k = C(c_k),

    where C counts in the train split, p_0 is the histogram, and the weight w depends on the context's count:
    interpolated estimation (Jelinek and Mercer 1980, Interpolated estimation of Markov source parameters from sparse
    data). The weights, one for each bit length of n_k, maximize the likelihood of the validation split; a context that
    does not raise it is left out.

    Pitches are counted as intervals from the previous pitch, modulo 128: music is alike in all keys, and after a given
    pitch, intervals and pitches are equivalent. Times are counted in bins, five to a doubling; within a bin the
    histogram distributes the ticks.
    """

    def __init__(self, histogram: Histogram, train: "NoteTable", validation: "NoteTable") -> None:
        train_notes, validation_notes = _ScoredNotes(train), _ScoredNotes(validation)
        self._chains = {
            field: _Chain(field, histogram.probabilities[field], train_notes, validation_notes) for field in _VALUES
        }

    def nats(self, table: "NoteTable") -> dict[ScoredField, Floats]:
        """Computes the nats of each scored note by field, `[notes]`."""
        notes = _ScoredNotes(table)
        return {field: chain.nats(notes) for field, chain in self._chains.items()}


def _classes(per_octave: int) -> Ints:
    """Assigns a class to each tick, `[ticks]`: `per_octave` to a doubling of the time, but no class below one tick."""
    return np.unique(np.floor(per_octave * np.log2(1 + np.arange(MAX_TICK + 1))), return_inverse=True)[1]


_FINE, _MEDIUM, _COARSE = _classes(5), _classes(3), _classes(1)

_Part = Callable[[_ScoredNotes], Ints]
_Context = tuple[_Part, ...]


def _interval(back: int) -> _Part:
    """Returns the interval of the pitch `back` notes before from the pitch before that."""

    def part(notes: _ScoredNotes) -> Ints:
        pitch, before = notes.values("pitch", back), notes.values("pitch", back + 1)
        return np.where(before < 0, _ABSENT, (pitch - before) % PITCHES)

    return part


def _register(semitones: int, *, back: int = 0) -> _Part:
    """Returns the region of the keyboard of the note, or of the note `back` before."""
    return lambda notes: notes.values("pitch", back) // semitones


def _motion(notes: _ScoredNotes) -> Ints:
    """Returns the interval from the previous pitch, clipped beyond an octave."""
    return np.clip(notes.values("pitch") - notes.values("pitch", 1), -13, 13) + 13


def _time(field: str, back: int, classes: Ints) -> _Part:
    """Returns the class of a time of the note, or of the note `back` before."""
    return lambda notes: np.where((tick := notes.values(field, back)) < 0, _ABSENT, classes[tick])


def _times(field: str, last: int, classes: Ints) -> _Context:
    """Returns the classes of a time of the `last` preceding notes."""
    return tuple(_time(field, back, classes) for back in range(1, last + 1))


def _intervals(last: int) -> _Context:
    """Returns the intervals of the `last` preceding notes."""
    return tuple(_interval(back) for back in range(1, last + 1))


_OWN_STEP: Final = _time("step", 0, _MEDIUM)

# From the least detailed to the most, chosen on the validation split of MAESTRO.
_CONTEXTS: Final[dict[ScoredField, Sequence[_Context]]] = {
    "pitch": (
        (_register(6, back=1),),
        (_register(6, back=1), *_times("step", 1, _COARSE)),
        (_register(12, back=1), *_intervals(1)),
        (_register(12, back=1), *_intervals(1), *_times("step", 1, _COARSE)),
        _intervals(2),
        (*_intervals(2), *_times("step", 2, _COARSE)),
        _intervals(3),
        _intervals(4),
        _intervals(5),
    ),
    "step": (
        (_motion,),
        (_motion, *_times("duration", 1, _FINE)),
        (_motion, *_times("duration", 1, _FINE), *_times("step", 1, _MEDIUM)),
        (_motion, *_times("duration", 1, _MEDIUM), *_times("step", 2, _MEDIUM)),
        (_motion, *_times("step", 3, _MEDIUM)),
        (_motion, *_times("step", 4, _MEDIUM)),
        _times("step", 5, _MEDIUM),
        _times("step", 6, _MEDIUM),
    ),
    "duration": (
        (_register(6),),
        (_register(12), *_times("duration", 1, _FINE)),
        (_motion, _OWN_STEP, *_times("duration", 1, _FINE)),
        (_motion, _OWN_STEP, *_times("duration", 2, _MEDIUM)),
        (_OWN_STEP, *_times("step", 1, _MEDIUM), *_times("duration", 2, _MEDIUM)),
        (_OWN_STEP, *_times("duration", 3, _MEDIUM)),
    ),
}


class _Chain:
    """The contexts of one field, each with the counts of what followed it, and its weights by size, `[sizes]`."""

    def __init__(self, field: ScoredField, histogram: Floats, train: _ScoredNotes, validation: _ScoredNotes) -> None:
        self._field = field
        self._bins = np.arange(PITCHES) if field == "pitch" else _FINE
        self._histogram = histogram
        self._bin_probability = np.bincount(self._bins, histogram).astype(np.float64)
        self._levels: list[tuple[_Context, _Counts, Floats]] = []
        train_symbols, symbols = self._symbols(train), self._symbols(validation)
        probability = self._prior(validation)
        for parts in _CONTEXTS[field]:
            counts = _Counts(_pack(parts, train), train_symbols)
            share, size = counts.look_up(_pack(parts, validation), symbols)
            weights = _fit_weights(share, size, probability)
            mixed = _mix(share, weights[size], probability)
            if np.sum(np.log(mixed)) > np.sum(np.log(probability)):
                self._levels.append((parts, counts, weights))
                probability = mixed

    def nats(self, notes: _ScoredNotes) -> Floats:
        """Computes the nats of each scored note, `[notes]`."""
        symbols, probability = self._symbols(notes), self._prior(notes)
        for parts, counts, weights in self._levels:
            share, size = counts.look_up(_pack(parts, notes), symbols)
            probability = _mix(share, weights[size], probability)
        value = notes.values(self._field)
        within_bin = self._histogram[value] / self._bin_probability[self._bins[value]]
        return -np.log(probability * within_bin)

    def _symbols(self, notes: _ScoredNotes) -> Ints:
        """Returns the counted symbol of each note: an interval, or the bin of a time."""
        if self._field == "pitch":
            return _interval(0)(notes)
        return self._bins[notes.values(self._field)]

    def _prior(self, notes: _ScoredNotes) -> Floats:
        """Returns the probability of each note's bin without a context."""
        return self._bin_probability[self._bins[notes.values(self._field)]]


def _mix(share: Floats, weight: Floats, probability: Floats) -> Floats:
    """Returns the weighted mean of the share after a context and the probability without it."""
    return probability + weight * (share - probability)


def _fit_weights(share: Floats, size: Ints, probability: Floats) -> Floats:
    """Fits the weight of a context by its size, `[sizes]`, on validation notes.

    Each iteration sets a weight to the mean posterior probability that a note of that size was drawn from the context
    (Dempster, Laird and Rubin 1977, Maximum likelihood from incomplete data via the EM algorithm).
    """
    notes = np.bincount(size, minlength=_SIZES)
    weights = np.full(_SIZES, 0.5)  # kept where no validation note has the size
    for _ in range(_ITERATIONS):
        from_context = weights[size] * share
        posterior = from_context / (from_context + (1 - weights[size]) * probability)
        weights = np.where(notes, np.bincount(size, posterior, minlength=_SIZES) / np.maximum(notes, 1), weights)
    weights = np.minimum(weights, _MAX_WEIGHT)
    weights[0] = 0  # of a context that never occurred
    return weights


def _pack(parts: _Context, notes: _ScoredNotes) -> Ints:
    """Packs the context of each scored note into one number, with room for a symbol below: `[notes]`."""
    return functools.reduce(lambda packed, part: packed << _BITS | part(notes), parts[1:], parts[0](notes)) << _BITS


class _Counts:
    """Counts of the values of a context, and of the symbols after each."""

    def __init__(self, contexts: Ints, symbols: Ints) -> None:
        self._pairs, self._pair_counts = np.unique(contexts | symbols, return_counts=True)
        pair_contexts = self._pairs >> _BITS << _BITS
        first = np.flatnonzero(np.diff(pair_contexts, prepend=-1))
        self._contexts, self._context_counts = pair_contexts[first], np.add.reduceat(self._pair_counts, first)

    def look_up(self, contexts: Ints, symbols: Ints) -> tuple[Floats, Ints]:
        """Returns the frequency of each symbol after its context, and the bit length of the context's count."""
        total = _look_up(self._contexts, self._context_counts, contexts)
        share = _look_up(self._pairs, self._pair_counts, contexts | symbols) / np.maximum(total, 1)
        return share, np.frexp(total)[1].astype(np.int64)


def _look_up(keys: Ints, values: Ints, queries: Ints) -> Ints:
    """Returns the value of each query, 0 if it is not among the sorted keys."""
    index = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    return np.where(keys[index] == queries, values[index], 0)
