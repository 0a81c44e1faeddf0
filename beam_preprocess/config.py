"""The options of a preprocessing run, checked."""

import dataclasses
from typing import Literal, get_args

from sostenuto.data.manifest import SPLITS
from sostenuto.errors import UserError
from sostenuto.music.midi import Sustain

PieceFrom = Literal["path", "directory"]

PIECE_FROM = get_args(PieceFrom)
COMPOSER_COLUMN = "canonical_composer"
DIRECTORY = "directory"
SUSTAIN = get_args(Sustain)

MAX_LICENCE = 200  # characters


@dataclasses.dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        input: a directory, a glob, a .zip file or one MIDI file.
        output: the dataset's directory.
        metadata: path of a CSV with MAESTRO's columns; "none" for no CSV; None for the one in the input, if any.
        split_fractions: of train, validation and test among the pieces, without a CSV; 0 allows an empty split.
        piece_from: the unit that stays in one split, without a CSV: each file ("path"), or each "directory".
        composer_from: the source of the composer that a model learns: a column of the CSV, or the file's "directory".
        num_shards: files per split; 0 for one per 100 performances.
        sustain: "ignore" ends a note at its key's release, "extend" at the sustain pedal's.
        licence: of the corpus, such as "CC BY-NC-SA 4.0", for model cards; "" if unknown.
        max_rejected_fraction: maximum fraction of rejected files.
        overwrite: replaces a dataset in the output.
        isolate_parsing: rejects files that end a child process with time and memory limits; None for only with another
            runner than FnApiRunner.

    Raises:
        UserError: a value is out of range; the message names the flag.
    """

    input: str
    output: str
    metadata: str | None = None
    split_fractions: tuple[float, ...] = (0.8, 0.1, 0.1)
    piece_from: PieceFrom = "path"
    composer_from: str = COMPOSER_COLUMN
    num_shards: int = 0
    sustain: Sustain = "ignore"
    licence: str = ""
    max_rejected_fraction: float = 0.1
    overwrite: bool = False
    isolate_parsing: bool | None = None

    def __post_init__(self) -> None:
        """Checks every value."""
        fractions = self.split_fractions
        flag = f"--split_fractions={','.join(f'{fraction:g}' for fraction in fractions)}"
        if len(fractions) != len(SPLITS) or not all(0 <= fraction <= 1 for fraction in fractions):
            raise UserError(f"{flag}: expected three numbers from 0 to 1, for {', '.join(SPLITS)}, as in 0.8,0.1,0.1")
        if abs(sum(fractions) - 1) > 1e-6:
            raise UserError(f"{flag}: the numbers add up to {sum(fractions):g}, expected 1")
        for name, choices in (("piece_from", PIECE_FROM), ("sustain", SUSTAIN)):
            if getattr(self, name) not in choices:
                raise UserError(f"--{name}={getattr(self, name)}: expected {' or '.join(choices)}")
        if len(self.licence) > MAX_LICENCE or not self.licence.isprintable():
            raise UserError(f"--licence={self.licence!r}: expected one line of at most {MAX_LICENCE} characters")
        if not 0 <= self.num_shards <= 99_999:
            raise UserError(f"--num_shards={self.num_shards}: expected 0 (automatic) to 99999")
        if not 0 <= self.max_rejected_fraction <= 1:
            raise UserError(f"--max_rejected_fraction={self.max_rejected_fraction:g}: expected a number from 0 to 1")
