"""Looks at MIDI files and datasets: `sostenuto inspect FILE.mid`."""

import contextlib
import io
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from absl import flags

from sostenuto import cli, storage
from sostenuto.errors import UnavailableError, UserError
from sostenuto.progress import ProgressCounter, track
from sostenuto.text import counted

# NumPy and the readers of MIDI are imported by the functions below: `--help` need not wait for them.
if TYPE_CHECKING:
    from sostenuto.music.csv_export import NoteTable
    from sostenuto.music.histograms import Histograms
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

_TITLE_CELLS = 110  # of a picture


def main(paths: list[str]) -> None:
    """Shows the MIDI files or the dataset at the paths."""
    if not paths:
        raise UserError("no path is given, expected a MIDI file, a directory or a dataset: see --help")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # Some terminals lack the ellipsis.
    if _OUTPUT.value:
        import sostenuto.music.plots  # noqa: F401  Fails before anything is read if Matplotlib is not installed.
    datasets = [path for path in paths if _is_dataset(path)]
    if datasets and len(paths) > 1:
        raise UserError(f"{datasets[0]}: is a dataset, got {len(paths)} paths, expected this one alone")
    if datasets:
        _inspect_dataset(datasets[0])
    else:
        _inspect_midi(paths)


def _is_dataset(path: str) -> bool:
    from sostenuto.data.manifest import MANIFEST_NAME

    return storage.is_directory(path) and storage.exists(storage.join(path, MANIFEST_NAME))


def _inspect_dataset(directory: str) -> None:
    from sostenuto.data.manifest import SPLITS, Manifest
    from sostenuto.inspect.dataset import Survey, describe_dataset

    manifest = Manifest.load(directory)
    survey = Survey()
    total = sum(map(manifest.performances, SPLITS))
    counter = ProgressCounter(total=total, unit="performance", description="reading")
    with _note_table("path", "split") as table, counter:
        for split in filter(manifest.performances, SPLITS):
            for performance in manifest.read_performances(split):
                survey.add(performance)
                if table:
                    table.add(performance.notes, performance.path, split)
                counter.advance()
    _print(*describe_dataset(manifest, survey, width=_terminal_width()))
    if _OUTPUT.value:
        _draw_distributions({split: manifest.histograms(split) for split in SPLITS}, title=directory)


def _inspect_midi(paths: Sequence[str]) -> None:
    from sostenuto.inspect.files import find_midi_files

    files: list[str] = []
    failures: list[tuple[str, UserError]] = []
    for path in paths:
        try:
            files += find_midi_files(path)
        except UnavailableError:
            raise
        except UserError as error:
            failures.append((path, error))
    files = list(dict.fromkeys(files))  # Two globs may match one file.
    if len(files) + len(failures) > 1:
        _inspect_many(files, failures)
    elif failures:
        raise failures[0][1]
    else:
        _inspect_one(files[0])


def _inspect_one(path: str) -> None:
    from sostenuto.inspect.describe import describe_file
    from sostenuto.inspect.files import read_files
    from sostenuto.music.histograms import Histograms

    (contents,) = read_files([path])
    if isinstance(contents, UserError):
        raise contents
    notes = contents.decoded.notes
    with _note_table() as table:
        if table:
            table.add(notes)
    _print(*describe_file(path, contents, rows=_NOTES.value, width=_terminal_width()))
    if _OUTPUT.value:
        title = os.path.basename(path)
        _draw_piano_roll(notes, title=title)
        _draw_distributions({"all": Histograms.from_notes(notes)}, title=title)


def _inspect_many(paths: Sequence[str], failures: Sequence[tuple[str, UserError]]) -> None:
    from sostenuto.inspect.describe import Rejected, describe_files, summarize
    from sostenuto.inspect.files import common_directory, read_files
    from sostenuto.music.histograms import Histograms

    rejected = [Rejected.from_error(path, error) for path, error in failures]
    base = common_directory(paths or [file.path for file in rejected])
    summaries, histograms = [], Histograms.zeros()
    with _note_table("path") as table:
        readings = track(read_files(paths), total=len(paths), unit="file", description="reading")
        for path, contents in zip(paths, readings, strict=True):
            if isinstance(contents, UserError):
                rejected.append(Rejected.from_error(path, contents))
                continue
            notes = contents.decoded.notes
            summaries.append(summarize(path, contents))
            histograms += Histograms.from_notes(notes)
            if table:
                table.add(notes, path)
        _print(*describe_files(base, summaries, rejected, histograms, width=_terminal_width()))
        if not summaries:
            raise UserError(f"none of the {counted(len(rejected), 'file')} can be read")
    if _OUTPUT.value:
        _draw_distributions({"all": histograms}, title=counted(len(summaries), "MIDI file"))


@contextlib.contextmanager
def _note_table(*described_by: str) -> Iterator["NoteTable | None"]:
    """Opens the CSV file of `--csv`; yields None without the flag."""
    if not _CSV.value:
        yield None
        return
    from sostenuto.music.csv_export import NoteTable

    storage.make_directories(os.path.dirname(_CSV.value) or ".")
    with storage.atomic_write(_CSV.value) as file:
        yield NoteTable(file, described_by=described_by)


def _draw_piano_roll(notes: "Notes", *, title: str) -> None:
    from sostenuto.music.plots import piano_roll

    if len(notes):
        _draw(ROLL_NAME, lambda path, title: piano_roll(notes, path, title=title, max_notes=_ROLL_NOTES.value), title)
    else:
        _print("no notes, so no piano roll")


def _draw_distributions(histograms: "Mapping[str, Histograms]", *, title: str) -> None:
    from sostenuto.music.plots import distributions

    # Without two notes in a row there is no step.
    drawn = {name: histogram for name, histogram in histograms.items() if histogram.step.any()}
    if drawn:
        _draw(DISTRIBUTIONS_NAME, lambda path, title: distributions(drawn, path, title=title), title)
    else:
        _print("no two notes in a row, so no distributions")


def _draw(name: str, draw: Callable[[str, str], None], title: str) -> None:
    """Draws a picture with a function of its path and title."""
    from sostenuto.text import printable, shorten

    directory = cli.require_flag(_OUTPUT)
    storage.make_directories(directory)
    path = storage.join(directory, name)
    logger.info(f"drawing {path}")
    draw(path, shorten(printable(title), _TITLE_CELLS))
    _print(f"drawn: {path}")


def _terminal_width() -> int | None:
    """Returns the width of the terminal; None for other output, which is not shortened."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() or os.environ.get("COLUMNS") else None


def _print(*lines: str) -> None:
    cli.print_result("\n".join(lines))


if __name__ == "__main__":
    cli.run(main, usage=USAGE, operands=True, examples=EXAMPLES)
