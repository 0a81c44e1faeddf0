"""The model's part: the next notes of a piece, early enough to be heard at their moments."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from play.piece import MODEL, Piece, PlayedNote, make_played
from play.settings import Settings
from sostenuto.errors import UserError
from sostenuto.music.notes import MAX_TIME_US
from trainer.generation.live import SAMPLED_NOTES, LiveSampler, LiveState, Stream
from trainer.generation.steering import SteeringState, start_live

LEAD_US: Final = 60_000  # A note is sampled at least this long before its moment.
BRANCHES: Final = 3

_LONGEST_WAIT_US: Final = 500_000
_BRANCH_US: Final = 8_000_000  # at most, of a branch
_BRANCH_NOTES: Final = 64
_MEAN_STEPS: Final = 32


class Improviser:
    """Samples the model's notes under a player's settings.

    Equal notes with the same seed and attempt are followed by equal notes.

    Args:
        sampler: of the model.
        settings: of the player.

    Attributes:
        sampler: of the model.
        attempt: a new number draws other notes.

    Raises:
        UserError: the settings do not suit the model.
    """

    def __init__(self, sampler: LiveSampler, settings: Settings) -> None:
        self.sampler = sampler
        self.attempt = 0
        self._branches: list[NDArray[np.int32]] = []  # to choose from
        self.set(settings)

    def set(self, settings: Settings) -> None:
        """Follows other settings after the next `listen`; raises UserError, and changes nothing, if they do not fit."""
        settings.check_composer(self.sampler)
        self._options = settings.make_options(self.sampler)
        self._seed, self._density = settings.seed, settings.density

    def begin(self, piece: Piece) -> None:
        """Begins another piece."""
        self.attempt = 0
        self.forget_branches()
        self.listen(piece)

    def listen(self, piece: Piece) -> None:
        """Starts the control of the density from the last notes of a piece."""
        self._steering = start_live(self._mean_step_us(piece))

    def play_on(self, piece: Piece, now_us: int, *, begins: bool = False) -> list[PlayedNote]:
        """Adds the next notes to a piece: at least one, at most `SAMPLED_NOTES`, none earlier than `LEAD_US` from now.

        With `begins`, the first one comes within half a second after that, so that nobody waits for an answer.
        """
        before, earliest_us = piece.state(), now_us + LEAD_US
        last_us = piece.notes[-1].onset_us if piece.notes else earliest_us
        # A note whose moment may have to change is sampled alone, and is sent soon.
        is_single = begins or last_us < earliest_us
        fields, state, steering = self._sample(piece, before, self._steering, 1 if is_single else SAMPLED_NOTES)
        onset_us = last_us + int(fields[1, 0]) if piece.notes else earliest_us
        moment_us = max(onset_us, earliest_us)
        if begins:
            moment_us = min(moment_us, earliest_us + _LONGEST_WAIT_US)
        if is_single and piece.notes and moment_us != onset_us:
            # The notes after it are sampled as it is heard.
            fields = fields.astype(np.int64)
            fields[1] = min(moment_us - last_us, MAX_TIME_US)
            state = self.sampler.read(before, fields)
        notes = place(fields, moment_us)
        self._steering = steering
        piece.append(notes, state)
        return notes

    def branch(self, piece: Piece) -> list[list[PlayedNote]]:
        """Returns ways to go on, each some seconds long, with times from its first onset."""
        self._branches = [self._sample_branch(piece) for _ in range(BRANCHES)]
        return [place(branch, 0) for branch in self._branches]

    def choose(self, branch: int) -> NDArray[np.int32]:
        """Returns the notes of a branch, `[fields, notes]`, and forgets all; raises UserError if it is not there."""
        if not 0 <= branch < len(self._branches):
            raise UserError(f"branch: got {branch}, but {len(self._branches)} are there. Ask for branches first")
        chosen = self._branches[branch]
        self.forget_branches()
        return chosen

    def forget_branches(self) -> None:
        """Forgets the ways to go on."""
        self._branches.clear()

    def _sample_branch(self, piece: Piece) -> NDArray[np.int32]:
        self.attempt += 1
        state, steering = piece.state(), start_live(self._mean_step_us(piece))
        parts = []
        for offset in range(0, _BRANCH_NOTES, SAMPLED_NOTES):
            fields, state, steering = self._sample(piece, state, steering, SAMPLED_NOTES, offset=offset)
            parts.append(fields)
        fields = np.concatenate(parts, axis=1)
        return fields[:, : 1 + int(np.searchsorted(np.cumsum(fields[1, 1:]), _BRANCH_US))]

    def _sample(
        self, piece: Piece, state: LiveState, steering: SteeringState, count: int, offset: int = 0
    ) -> tuple[NDArray[np.int32], LiveState, SteeringState]:
        position = piece.forgotten + len(piece.notes) + offset
        stream = Stream(self._seed, self.attempt)
        return self.sampler.sample(state, steering, self._options, stream, position=position, count=count)

    def _mean_step_us(self, piece: Piece) -> float:
        onsets = [note.onset_us for note in piece.notes[-_MEAN_STEPS:]]
        if len(onsets) > 1:
            return float(np.diff(onsets).mean())
        # Before there are notes, the density is as it is wanted.
        return 1e6 / self._density if self._density else 0.0


def place(fields: NDArray[np.integer], first_us: int) -> list[PlayedNote]:
    """Returns the model's notes, `[fields, notes]`, as played ones that begin at `first_us`."""
    pitch, step_us, duration_us, velocity = fields.astype(np.int64)
    return make_played(first_us + np.cumsum(step_us) - step_us[0], pitch, duration_us, velocity, MODEL)
