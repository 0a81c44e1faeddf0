"""MIDI files of a corpus, each with its piece and its split, as known from the listing and the metadata CSV."""

import dataclasses
import hashlib
import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence

from beam_preprocess.config import COMPOSER_COLUMN, DIRECTORY, PieceFrom
from beam_preprocess.corpus.listing import CorpusFile, list_input
from beam_preprocess.corpus.metadata import find_metadata, join_metadata
from sostenuto.data.manifest import SPLITS
from sostenuto.errors import UserError
from sostenuto.music.midi import EXTENSIONS
from sostenuto.text import counted

__all__ = ["Corpus", "CorpusFile", "find_corpus"]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The MIDI files of a corpus, each with its split.

    Attributes:
        archive: the path of the zip file that contains them, also gs://, or None.
        files: sorted by path.
        metadata: base name of the metadata CSV, or None.
        metadata_sha256: hex digest of the CSV, or None.
        unlisted: number of MIDI files left out because the CSV does not list them.
        other_formats: number of files left out because of their format, by extension.
    """

    archive: str | None
    files: list[CorpusFile]
    metadata: str | None
    metadata_sha256: str | None
    unlisted: int
    other_formats: dict[str, int]

    @property
    def straddling_pieces(self) -> list[str]:
        """Names of the pieces in more than one split, sorted; only a metadata CSV can cause that."""
        splits = Counter(piece for piece, _ in {(file.piece, file.split) for file in self.files})
        return sorted(piece for piece, count in splits.items() if count > 1)


def find_corpus(
    uri: str,
    *,
    metadata: str | None = None,
    split_fractions: Sequence[float] = (0.8, 0.1, 0.1),
    piece_from: PieceFrom = "path",
    composer_from: str = COMPOSER_COLUMN,
) -> Corpus:
    """Lists a corpus and assigns a split to each file.

    Args:
        uri: a directory, searched recursively; a glob such as "midi/**/*.mid"; a .zip file; or one MIDI file. Each may
            be local or gs://.
        metadata: as in `Config`, like the other arguments.
        split_fractions: fractions of train, validation and test.
        piece_from: the unit that stays in one split.
        composer_from: the column of the CSV that names the composer, or "directory".

    Raises:
        UserError: there is no MIDI file, the CSV is invalid, names missing files or lacks the column, or a split would
            be empty.
    """
    listing = list_input(uri)
    if not listing.roots:
        others = "".join(f", but {count} that end in {name}" for name, count in listing.other_formats.items())
        raise UserError(f"{uri}: holds no MIDI file{others}. Expected names that end in {' or '.join(EXTENSIONS)}")
    table = find_metadata(metadata, listing)
    if table is None:
        _require_no_column(composer_from, uri)
        files = _assign_splits(listing.files_below(listing.roots[-1]), split_fractions, piece_from)
    else:
        files = join_metadata(table, listing, COMPOSER_COLUMN if composer_from == DIRECTORY else composer_from)
    if composer_from == DIRECTORY:
        files = [_name_by_directory(file) for file in files]
    filled = {file.split for file in files}
    for split, fraction in zip(SPLITS, split_fractions, strict=True):
        if fraction > 0 and split not in filled:
            cause = f"{table.name} puts no file of the input into it" if table else _explain_too_few(files, piece_from)
            raise UserError(
                f"the {split} split would be empty: {cause}. Allow that by a fraction of 0 in --split_fractions"
            )
    return Corpus(
        archive=listing.archive,
        files=sorted(files, key=lambda file: file.path),
        metadata=posixpath.basename(table.name) if table else None,
        metadata_sha256=hashlib.sha256(table.data).hexdigest() if table else None,
        unlisted=len(listing.midi_names) - len(files),
        other_formats=listing.other_formats,
    )


def _require_no_column(composer_from: str, uri: str) -> None:
    """Raises a UserError if composers are wanted from a column, without a CSV."""
    if composer_from not in (COMPOSER_COLUMN, DIRECTORY):
        raise UserError(
            f"--composer_from={composer_from}: {uri} has no metadata CSV with such a column. Pass one with --metadata, "
            f"or --composer_from={DIRECTORY}"
        )


def _name_by_directory(file: CorpusFile) -> CorpusFile:
    """Returns a file whose composer is the name of its directory; "" at the root of the corpus."""
    return dataclasses.replace(file, composer=posixpath.basename(posixpath.dirname(file.path)))


def _explain_too_few(files: list[CorpusFile], piece_from: PieceFrom) -> str:
    """Returns why a split has no piece, without a CSV."""
    count = len({file.piece for file in files})
    pieces = counted(count, "piece" if piece_from == "directory" else "file")
    each = " (with --piece_from=directory, each directory is a piece)" if piece_from == "directory" else ""
    return f"{pieces}{each} {'is' if count == 1 else 'are'} too few for it"


def _assign_splits(files: list[CorpusFile], fractions: Sequence[float], piece_from: PieceFrom) -> list[CorpusFile]:
    """Returns files with their pieces and splits."""
    pieces = [file.path if piece_from == "path" else posixpath.dirname(file.path) or "." for file in files]
    splits = assign_splits(pieces, fractions)
    return [
        dataclasses.replace(file, piece=piece, split=splits[piece]) for file, piece in zip(files, pieces, strict=True)
    ]


def assign_splits(pieces: Iterable[str], fractions: Sequence[float]) -> dict[str, str]:
    """Returns a split for each piece: pieces ordered by SHA-256 and cut at the cumulative fractions."""
    ordered = sorted(set(pieces), key=lambda piece: (hashlib.sha256(piece.encode()).digest(), piece))
    total = sum(fractions)
    bounds = [round(len(ordered) * sum(fractions[: index + 1]) / total) for index in range(len(SPLITS))]
    counts = [high - low for low, high in zip([0, *bounds], bounds, strict=False)]
    # A small corpus fills all splits, too.
    for index, fraction in enumerate(fractions):
        largest = counts.index(max(counts))
        if fraction > 0 and counts[index] == 0 and counts[largest] > 1:
            counts[index], counts[largest] = 1, counts[largest] - 1
    names = [name for name, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    return dict(zip(ordered, names, strict=True))
