"""What a model's score is to be compared with: the scores of two models that only count, on any dataset.

`Histogram` knows how often each value of a field occurs in the train split, and nothing else. `Ngram` also knows the
few notes before, and the fields of the same note that come first: pitch, then step, then duration, as the density heads
do. Both are scored as `trainer.evaluation.scorer` scores: every note of a performance after its first, times as ticks
0 to 1000. The probabilities of all pitches, and of all ticks, sum to one after any history.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sostenuto.data.manifest import Manifest
from sostenuto.music.notes import MAX_TICK, PITCHES, ticks
from trainer.evaluation.statistics import with_total
from trainer.workdir.formats import Baseline, NatsPerNote, ScoredField

if TYPE_CHECKING:
    from trainer.data.note_table import NoteTable

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_VALUES: Final[dict[ScoredField, int]] = {"pitch": PITCHES, "step": MAX_TICK + 1, "duration": MAX_TICK + 1}
_ABSENT: Final = 255  # what a context holds of a note before the performance began
_BITS: Final = 8  # of each part of a context, and of a symbol, where several are packed into one number
_SIZES: Final = 64  # classes of contexts by how often they were counted: the lengths of that number in bits
_ITERATIONS: Final = 20
# A context that was always followed by one symbol must leave something for the others.
_MOST_CERTAIN: Final = 0.999


def score_baselines(manifest: Manifest, scored: "NoteTable") -> dict[Baseline, NatsPerNote] | None:
    """As `scores`, from the train and the validation split of a dataset; None where one of them has no second note.

    Args:
        manifest: the dataset.
        scored: the split to score, of this or of another dataset.

    Raises:
        UserError: a shard is damaged.
    """
    from trainer.data.note_table import load_table  # It imports TensorFlow, and counting does not need it.

    if any(manifest.notes(split) <= manifest.performances(split) for split in ("train", "validation")):
        return None
    return scores(load_table(manifest, "train"), load_table(manifest, "validation"), scored)


def scores(train: "NoteTable", validation: "NoteTable", scored: "NoteTable") -> dict[Baseline, NatsPerNote]:
    """Nats/note of the histogram and of the n-gram, by field and in total.

    Where `scored` is the validation split, the n-gram's few hundred weights were chosen on the very notes that it is
    scored on; where it is the train split, so were its counts, and the n-gram's figure says little.

    Args:
        train: the split that is counted.
        validation: the split that the n-gram's weights are chosen on. Each of the three needs a performance of two
            notes.
        scored: the split to score.

    Returns:
        For `histogram` and for `ngram`: `pitch`, `step`, `duration`, and `total`, their sum.
    """
    histogram = Histogram(train)
    models: dict[Baseline, Histogram | Ngram] = {
        "histogram": histogram,
        "ngram": Ngram(histogram, train, validation),
    }
    return {
        name: with_total({field: float(np.mean(nats)) for field, nats in model.nats(scored).items()})
        for name, model in models.items()
    }


class _Scored:
    """The scored notes of a split: every note of each performance but its first, in the order of the table."""

    def __init__(self, table: "NoteTable") -> None:
        place = np.arange(len(table.notes)) - np.repeat(table.offsets[:-1], table.lengths)
        self._rows = np.flatnonzero(place)
        self._place = place[self._rows]
        self._fields = {
            "pitch": table.notes["pitch"].astype(np.int64),
            "step": ticks(table.notes["step_us"]),
            "duration": ticks(table.notes["duration_us"]),
        }

    def of(self, field: str, back: int = 0) -> Ints:
        """A field of each scored note, or of the note so many before it: `[notes]`; -1 where there is none."""
        values = self._fields[field][np.maximum(self._rows - back, 0)]
        return np.where(self._place >= back, values, -1) if back else values


class Histogram:
    """Draws each field by how often its values occur in the train split, whatever came before.

    Half a note is added to each count (Krichevsky and Trofimov 1981, The performance of universal encoding), so that
    no value is impossible.

    Attributes:
        probabilities: by field, `[values]`.
    """

    def __init__(self, train: "NoteTable") -> None:
        notes = _Scored(train)
        self.probabilities: dict[ScoredField, Floats] = {}
        for field, values in _VALUES.items():
            counts = np.bincount(notes.of(field), minlength=values) + 0.5
            self.probabilities[field] = counts / counts.sum()

    def nats(self, table: "NoteTable") -> dict[ScoredField, Floats]:
        """The nats of each scored note, by field: `[notes]`."""
        notes = _Scored(table)
        return {field: -np.log(self.probabilities[field][notes.of(field)]) for field in _VALUES}


class Ngram:
    """Draws each field by what followed the same context in the train split, from contexts of rising detail.

    Each field has a chain of contexts, from the least detailed to the most. A context's own shares are mixed with what
    the chain says without it,

        p_k(x | c_k) = w(n_k) C(c_k, x) / n_k + (1 - w(n_k)) p_{k-1}(x | c_{k-1}),    n_k = C(c_k),

    where C counts in the train split, p_0 is the histogram, and the weight w depends on how often the context was
    counted: interpolated estimation (Jelinek and Mercer 1980, Interpolated estimation of Markov source parameters from
    sparse data). The weights of a context, one for each length in bits of n_k, maximize the likelihood of the
    validation split, by expectation maximization; a context that does not raise it is left out. So the order of
    the n-gram is chosen on the validation split too.

    What is counted of a pitch is its distance from the pitch before, modulo 128: music is alike in all keys, and for
    a given pitch before, distances and pitches are the same thing. What is counted of a time is its bin, five to a
    doubling; within a bin, ticks are drawn by the histogram.
    """

    def __init__(self, histogram: Histogram, train: "NoteTable", validation: "NoteTable") -> None:
        counted, held_out = _Scored(train), _Scored(validation)
        self._chains = {
            field: _Chain(_CONTEXTS[field], field, histogram.probabilities[field], counted, held_out)
            for field in _VALUES
        }

    def nats(self, table: "NoteTable") -> dict[ScoredField, Floats]:
        """The nats of each scored note, by field: `[notes]`."""
        notes = _Scored(table)
        return {field: chain.nats(notes) for field, chain in self._chains.items()}


def _classes(per_octave: int) -> Ints:
    """A class for each tick, `[ticks]`, so many to a doubling of the time; near 0 there is one to a tick."""
    return np.unique(np.floor(per_octave * np.log2(1 + np.arange(MAX_TICK + 1))), return_inverse=True)[1]


_FINE, _MEDIUM, _COARSE = _classes(5), _classes(3), _classes(1)

_Part = Callable[[_Scored], Ints]
_Context = tuple[_Part, ...]


def _interval(back: int) -> _Part:
    """By how much the pitch so many notes before differs from the one before that."""

    def part(notes: _Scored) -> Ints:
        pitch, before = notes.of("pitch", back), notes.of("pitch", back + 1)
        return np.where(before < 0, _ABSENT, (pitch - before) % PITCHES)

    return part


def _register(semitones: int, *, back: int = 0) -> _Part:
    """Where on the keyboard the note, or the one before it, lies."""
    return lambda notes: notes.of("pitch", back) // semitones


def _motion(notes: _Scored) -> Ints:
    """By how much the pitch differs from the one before, up to an octave."""
    return np.clip(notes.of("pitch") - notes.of("pitch", 1), -13, 13) + 13


def _time(field: str, back: int, classes: Ints) -> _Part:
    """The class of a time of the note so many before, or, with none back, of the note itself."""

    def part(notes: _Scored) -> Ints:
        tick = notes.of(field, back)
        return np.where(tick < 0, _ABSENT, classes[tick])

    return part


def _times(field: str, last: int, classes: Ints) -> _Context:
    """The classes of a time of so many notes before."""
    return tuple(_time(field, back, classes) for back in range(1, last + 1))


def _intervals(last: int) -> _Context:
    return tuple(_interval(back) for back in range(1, last + 1))


_OWN_STEP: Final = _time("step", 0, _MEDIUM)

# From the least detailed to the most, as they served on the validation split of MAESTRO.
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


class _Level(NamedTuple):
    """A context, what followed it in the train split, and how far that is believed.

    Attributes:
        parts: the context.
        counts: how often each of its values occurred, and each with what followed.
        weights: `[sizes]`, by the length in bits of how often a value of the context occurred.
    """

    parts: _Context
    counts: "_Counts"
    weights: Floats


class _Chain:
    """The contexts of one field."""

    def __init__(
        self, contexts: Sequence[_Context], field: str, histogram: Floats, counted: _Scored, held_out: _Scored
    ) -> None:
        self._field = field
        self._bins = np.arange(PITCHES) if field == "pitch" else _FINE
        self._histogram = histogram
        self._of_bin = np.bincount(self._bins, histogram).astype(np.float64)
        self._levels: list[_Level] = []
        symbols = self._symbols(counted)
        validated, reached = self._symbols(held_out), self._first(held_out)
        for parts in contexts:
            counts = _Counts(_packed(parts, counted), symbols)
            share, size = counts.of(_packed(parts, held_out), validated)
            weights = _weights(share, size, reached)
            mixed = _mixed(share, weights[size], reached)
            if np.sum(np.log(mixed)) > np.sum(np.log(reached)):
                self._levels.append(_Level(parts, counts, weights))
                reached = mixed

    def nats(self, notes: _Scored) -> Floats:
        """The nats of each scored note, `[notes]`."""
        symbols, probability = self._symbols(notes), self._first(notes)
        for parts, counts, weights in self._levels:
            share, size = counts.of(_packed(parts, notes), symbols)
            probability = _mixed(share, weights[size], probability)
        value = notes.of(self._field)
        within_bin = self._histogram[value] / self._of_bin[self._bins[value]]
        return -np.log(probability * within_bin)

    def _symbols(self, notes: _Scored) -> Ints:
        """What is counted of each note."""
        if self._field == "pitch":
            return _interval(0)(notes)
        return self._bins[notes.of(self._field)]

    def _first(self, notes: _Scored) -> Floats:
        """The probability of each note's bin without any context."""
        return self._of_bin[self._bins[notes.of(self._field)]]


def _mixed(share: Floats, weight: Floats, probability: Floats) -> Floats:
    return probability + weight * (share - probability)


def _weights(share: Floats, size: Ints, probability: Floats) -> Floats:
    """The weight of a context by its size: `[sizes]`.

    Each iteration sets a weight to the mean posterior probability that a note of that size was drawn from the context
    (Dempster, Laird and Rubin 1977, Maximum likelihood from incomplete data via the EM algorithm).

    Args:
        share: of the notes after each validation note's context, those that were the same as it: `[notes]`.
        size: the length in bits of how often that context was counted, `[notes]`.
        probability: of each validation note without this context, `[notes]`.
    """
    notes = np.bincount(size, minlength=_SIZES)
    weights = np.full(_SIZES, 0.5)  # it stays so where no validation note tells
    for _ in range(_ITERATIONS):
        from_context = weights[size] * share
        posterior = from_context / (from_context + (1 - weights[size]) * probability)
        weights = np.where(notes, np.bincount(size, posterior, minlength=_SIZES) / np.maximum(notes, 1), weights)
    weights = np.minimum(weights, _MOST_CERTAIN)
    weights[0] = 0  # A context that never occurred says nothing.
    return weights


def _packed(parts: _Context, notes: _Scored) -> Ints:
    """A context of each scored note as one number, with room for a symbol below: `[notes]`."""
    packed = parts[0](notes)
    for part in parts[1:]:
        packed = packed << _BITS | part(notes)
    return packed << _BITS


class _Counts:
    """How often each value of a context occurs, and how often each symbol follows it."""

    def __init__(self, contexts: Ints, symbols: Ints) -> None:
        self._pairs, self._of_pair = np.unique(contexts | symbols, return_counts=True)
        own = self._pairs >> _BITS << _BITS
        first = np.flatnonzero(np.diff(own, prepend=-1))
        self._contexts, self._of_context = own[first], np.add.reduceat(self._of_pair, first)

    def of(self, contexts: Ints, symbols: Ints) -> tuple[Floats, Ints]:
        """Which share of what follows each context is the symbol, and the length in bits of the context's count."""
        total = _looked_up(self._contexts, self._of_context, contexts)
        share = _looked_up(self._pairs, self._of_pair, contexts | symbols) / np.maximum(total, 1)
        return share, np.frexp(total)[1].astype(np.int64)


def _looked_up(keys: Ints, values: Ints, wanted: Ints) -> Ints:
    """The value of each wanted key, 0 where it is not among the sorted keys."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found = values[place]
    found[keys[place] != wanted] = 0
    return found
