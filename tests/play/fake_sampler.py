"""A sampler without a model, whose state is all that it has read: so a wrong state is seen."""

import zlib
from typing import NamedTuple

import numpy as np

from sostenuto.errors import UserError
from sostenuto.music.notes import MAX_TIME_US
from trainer.generation.live import SAMPLED_NOTES


class FakeState(NamedTuple):
    """The composer, the number of notes that were read, and a code of them."""

    composer: str
    count: int
    code: int


class FakeSampler:
    """Has the methods of `LiveSampler`; `step_us` is the step of its notes, or drawn from 0 to 0.4 s."""

    composers = ("Ada", "Bach")
    pitch_range = (21, 108)
    has_density = True

    def __init__(self, step_us: int | None = None) -> None:
        self.step_us = step_us
        self.read_notes = 0

    def make_options(self, temperature, top_p, controls=None):
        return temperature, top_p, controls

    def start(self, composer=""):
        if composer and composer not in self.composers:
            raise UserError(f"composer {composer!r}: unknown")
        return FakeState(composer, 0, 0)

    def read(self, state, notes):
        assert (notes[1] >= 0).all()
        assert (notes <= MAX_TIME_US).all()
        assert (notes[2] > 0).all()
        code = state.code
        for note in notes.T.tolist():
            code = zlib.crc32(repr((code, note)).encode())
        self.read_notes += notes.shape[1]
        return FakeState(state.composer, state.count + notes.shape[1], code)

    def sample(self, state, steering, options, stream, *, position, count):
        assert 0 < count <= SAMPLED_NOTES
        random = np.random.default_rng([state.code, stream.seed, stream.attempt, position])
        step = random.integers(0, 400_000, count) if self.step_us is None else np.full(count, self.step_us)
        notes = np.stack(
            [random.integers(21, 109, count), step, random.integers(1, 900_000, count), random.integers(1, 128, count)]
        ).astype(np.int32)
        return notes, self.read(state, notes), steering
