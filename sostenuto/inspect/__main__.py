"""Looks at MIDI files and datasets: `sostenuto inspect FILE.mid`."""

import contextlib
import glob
import io
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from absl import flags

from sostenuto import cli, storage
from sostenuto.errors import UnavailableError, UserError

if TYPE_CHECKING:
    from sostenuto.music.csv_export import NoteTable
    from sostenuto.music.histograms import Histograms
    from sostenuto.music.midi import MidiContents
    from sostenuto.music.notes import Notes

logger = logging.getLogger(__name__)

USAGE = """PATH ... [flags]

Shows what is in MIDI files or in a dataset. A PATH is a MIDI file, a directory of MIDI files, a glob in quotes, or the
directory of a dataset, here or in a bucket. Several MIDI files are shown by a line each, and summed up.
"""
EXAMPLES = ("my.mid --output=pictures", "my-midi --csv=notes.csv", "dataset")

cli.start_group("input and output")
_OUTPUT = flags.DEFINE(
    cli.Path("DIR"),
    "output",
    None,
    "Directory for pictures: distributions.png and, of a single MIDI file, piano-roll.png. Those of an earlier call "
    "are overwritten. (default: none are drawn)",
)
_CSV = flags.DEFINE(
    cli.Path("FILE"),
    "csv",
    None,
    "CSV file for all notes, for a spreadsheet or pandas; times in seconds. (default: none)",
)
_NOTES = flags.DEFINE_integer("notes", 10, "First notes of a MIDI file to list; 0 lists none.", lower_bound=0)
_ROLL_NOTES = flags.DEFINE_integer(
    "roll_notes", None, "First notes that the piano roll shows. (default: all)", lower_bound=1
)

ROLL_NAME = "piano-roll.png"
DISTRIBUTIONS_NAME = "distributions.png"

_HEADING_CELLS = 110  # of a picture


def main(paths: list[str]) -> None:
    """Shows what the paths name."""
    if not paths:
        raise UserError("no path is given, expected a MIDI file, a directory or a dataset: see --help")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # Not every terminal knows an ellipsis.
    if _OUTPUT.value:
        import sostenuto.music.plots  # noqa: F401  Fails before anything is read if Matplotlib is not installed.
    datasets = [path for path in paths if _is_dataset(path)]
    if datasets and len(paths) > 1:
        raise UserError(f"{datasets[0]}: is a dataset, and {len(paths)} paths are given: expected no path beside it")
    if datasets:
        _inspect_dataset(datasets[0])
    else:
        _inspect_midi(paths)


def _is_dataset(path: str) -> bool:
    from sostenuto.data.manifest import MANIFEST_NAME

    return storage.is_directory(path) and storage.exists(storage.join(path, MANIFEST_NAME))


def _inspect_dataset(directory: str) -> None:
    from sostenuto.data.manifest import SPLITS, Manifest
    from sostenuto.inspect.describe import Survey, dataset
    from sostenuto.progress import ProgressCounter

    manifest = Manifest.load(directory)
    survey = Survey()
    total = sum(map(manifest.performances, SPLITS))
    meter = ProgressCounter(total=total, unit="performance", description="reading")
    with _note_table("path", "split") as table, meter:
        for split in SPLITS:
            if not manifest.performances(split):
                continue
            for performance in manifest.read_performances(split):
                survey.add(performance)
                if table:
                    table.add(performance.notes, performance.path, split)
                meter.advance()
    _print(*dataset(manifest, survey, width=_width()))
    if _OUTPUT.value:
        _draw_distributions({split: manifest.histograms(split) for split in SPLITS}, title=directory)


def _inspect_midi(paths: Sequence[str]) -> None:
    found: list[str] = []
    failures: list[tuple[str, UserError]] = []
    for path in paths:
        try:
            found += _midi_paths(path)
        except UnavailableError:
            raise
        except UserError as error:
            failures.append((path, error))
    found = list(dict.fromkeys(found))  # Two globs may match one file.
    if len(found) + len(failures) > 1:
        _inspect_many(found, failures)
    elif failures:
        raise failures[0][1]
    else:
        _inspect_one(found[0])


def _midi_paths(path: str) -> list[str]:
    """Returns the files that a path stands for.

    Raises:
        UserError: none.
    """
    from sostenuto.music.midi import EXTENSIONS, is_midi_name

    if path.lower().endswith(".zip"):
        raise UserError(f"{path}: is an archive: unpack it, or make a dataset of it with sostenuto preprocess")
    if storage.is_directory(path):
        if storage.is_remote(path):
            logger.info(f"listing {path}")
        names = [name for name in storage.list_files(path) if is_midi_name(name)]
        if not names:
            raise UserError(
                f"{path}: is a directory without dataset.json and without names that end in {' or '.join(EXTENSIONS)}"
            )
        return [storage.join(path, name) for name in names]
    if storage.exists(path):
        return [path]
    matches = _glob(path) if glob.has_magic(path) else []
    if not matches:
        raise UserError(f"{path}: no such file, expected a MIDI file, a directory, a glob in quotes or a dataset")
    return matches


def _glob(pattern: str) -> list[str]:
    if not storage.is_remote(pattern):
        return sorted(filter(os.path.isfile, glob.glob(pattern, recursive=True)))
    logger.info(f"listing {pattern}")
    base = os.path.dirname(pattern[: min(pattern.find(magic) for magic in "*?[" if magic in pattern)])
    matches = storage.match_names(storage.list_files(base), pattern.removeprefix(base).lstrip("/"))
    return [storage.join(base, name) for name in matches]


def _inspect_one(path: str) -> None:
    from sostenuto.inspect import describe
    from sostenuto.music.histograms import Histograms
    from sostenuto.music.midi import read_contents

    data = _bytes_or_error(path)
    if isinstance(data, UserError):
        raise data
    contents = read_contents(data, path)
    with _note_table() as table:
        if table:
            table.add(contents.decoded.notes)
    _print(*describe.midi_file(path, contents, rows=_NOTES.value, width=_width()))
    if _OUTPUT.value:
        title = os.path.basename(path)
        _draw_piano_roll(contents.decoded.notes, title=title)
        _draw_distributions({"all": Histograms.from_notes(contents.decoded.notes)}, title=title)


def _inspect_many(paths: Sequence[str], failures: Sequence[tuple[str, UserError]]) -> None:
    from sostenuto.inspect import describe
    from sostenuto.music.histograms import Histograms
    from sostenuto.progress import track

    rejected = [describe.Rejected.of(path, error) for path, error in failures]
    base = _common_directory(paths or [file.path for file in rejected])
    summaries, histograms = [], Histograms.zeros()
    with _note_table("path") as table:
        readings = track(_contents(paths), total=len(paths), unit="file", description="reading")
        for path, found in zip(paths, readings, strict=True):
            if isinstance(found, UserError):
                rejected.append(describe.Rejected.of(path, found))
                continue
            notes = found.decoded.notes
            summaries.append(describe.summarize(path, found))
            histograms += Histograms.from_notes(notes)
            if table:
                table.add(notes, path)
        if not summaries:
            _print(*describe.midi_files(base, summaries, rejected, histograms, width=_width()))
            raise UserError(f"none of the {len(rejected):,} files can be read")
    _print(*describe.midi_files(base, summaries, rejected, histograms, width=_width()))
    if _OUTPUT.value:
        _draw_distributions({"all": histograms}, title=f"{len(summaries):,} MIDI files")


def _contents(paths: Iterable[str]) -> Iterator["MidiContents | UserError"]:
    """Yields what each file holds, or why it cannot be read."""
    from sostenuto.music.midi import MAX_BYTES, read_contents

    paths = list(paths)
    ahead: Iterator[bytes | UserError] = map(_bytes_or_error, paths)
    if any(map(storage.is_remote, paths)):
        ahead = storage.concurrently(_bytes_or_error, paths, bytes_each=MAX_BYTES)
    for path, data in zip(paths, ahead, strict=True):
        try:
            yield data if isinstance(data, UserError) else read_contents(data, path)
        except UserError as error:
            yield error


def _bytes_or_error(path: str) -> bytes | UserError:
    from sostenuto.music.midi import MAX_BYTES

    try:
        return storage.read_bytes(path, limit=MAX_BYTES + 1)
    except UnavailableError:
        raise
    except UserError as error:
        return error


def _common_directory(paths: Sequence[str]) -> str:
    """Returns the deepest directory that holds all the paths; "" where that says nothing."""
    common = []
    for names in zip(*(path.split("/")[:-1] for path in paths), strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return "" if common in (["gs:"], ["gs:", ""]) else "/".join(common)


@contextlib.contextmanager
def _note_table(*described_by: str) -> Iterator["NoteTable | None"]:
    """Opens the CSV, if one is asked for."""
    if not _CSV.value:
        yield None
        return
    from sostenuto.music.csv_export import NoteTable

    storage.make_directories(os.path.dirname(_CSV.value) or ".")
    with storage.atomic_write(_CSV.value) as file:
        yield NoteTable(file, described_by=described_by)


def _draw_piano_roll(notes: "Notes", *, title: str) -> None:
    from sostenuto.music import plots

    if not len(notes):
        _print("no notes, so no piano roll")
        return
    _draw(ROLL_NAME, lambda path: plots.piano_roll(notes, path, title=_heading(title), max_notes=_ROLL_NOTES.value))


def _draw_distributions(histograms: "Mapping[str, Histograms]", *, title: str) -> None:
    from sostenuto.music import plots

    # Without two notes in a row there is no step.
    drawn = {name: histogram for name, histogram in histograms.items() if histogram.step.any()}
    if not drawn:
        _print("no two notes in a row, so no distributions")
        return
    _draw(DISTRIBUTIONS_NAME, lambda path: plots.distributions(drawn, path, title=_heading(title)))


def _draw(name: str, draw: Callable[[str], None]) -> None:
    directory = cli.require_flag(_OUTPUT)
    storage.make_directories(directory)
    path = storage.join(directory, name)
    logger.info(f"drawing {path}")
    draw(path)
    _print(f"drawn: {path}")


def _heading(title: str) -> str:
    from sostenuto.text import printable, shorten

    return shorten(printable(title), _HEADING_CELLS)


def _width() -> int | None:
    """Returns the width of the terminal; None where nobody's terminal is written to, so that nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() or os.environ.get("COLUMNS") else None


def _print(*lines: str) -> None:
    cli.print_result("\n".join(lines))


if __name__ == "__main__":
    cli.run(main, usage=USAGE, operands=True, examples=EXAMPLES)
