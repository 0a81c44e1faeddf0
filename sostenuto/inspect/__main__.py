"""Looks at MIDI files and datasets: `sostenuto inspect FILE.mid`."""

import contextlib
import functools
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
    from sostenuto.music.histograms import Histograms

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

_TITLE_CELLS = 110  # of a picture


def main(paths: list[str]) -> None:
    """Shows the MIDI files or the dataset at the paths."""
    from sostenuto.data.manifest import MANIFEST_NAME

    if not paths:
        raise UserError("no path is given, expected a MIDI file, a directory or a dataset: see --help")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # Some terminals lack the ellipsis.
    if _OUTPUT.value:
        import sostenuto.music.plots  # noqa: F401  Fails before anything is read if Matplotlib is not installed.
    for path in paths:
        if storage.is_directory(path) and storage.exists(storage.join(path, MANIFEST_NAME)):
            if len(paths) > 1:
                raise UserError(f"{path}: is a dataset, got {len(paths)} paths, expected this one alone")
            _inspect_dataset(path)
            break
    else:
        _inspect_midi(paths)


def _inspect_dataset(directory: str) -> None:
    from sostenuto.data.manifest import SPLITS, Manifest
    from sostenuto.inspect.dataset import Survey, describe_dataset

    manifest = Manifest.load(directory)
    survey = Survey()
    total = sum(map(manifest.performances, SPLITS))
    counter = ProgressCounter(total=total, unit="performance", description="reading")
    with _note_table("path", "split") as add_notes, counter:
        for split in filter(manifest.performances, SPLITS):
            for performance in manifest.read_performances(split):
                survey.add(performance)
                add_notes(performance.notes, performance.path, split)
                counter.advance()
    _print(*describe_dataset(manifest, survey, width=_terminal_width()))
    if _OUTPUT.value:
        _draw_distributions({split: manifest.histograms(split) for split in SPLITS}, directory)


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
    match files, failures:
        case [path], []:
            _inspect_one(path)
        case [], [failure]:
            raise failure[1]
        case _:
            _inspect_many(files, failures)


def _inspect_one(path: str) -> None:
    from sostenuto.inspect.describe import describe_file
    from sostenuto.inspect.files import read_files
    from sostenuto.music.histograms import Histograms

    (contents,) = read_files([path])
    if isinstance(contents, UserError):
        raise contents
    notes = contents.decoded.notes
    with _note_table() as add_notes:
        add_notes(notes)
    _print(*describe_file(path, contents, rows=_NOTES.value, width=_terminal_width()))
    if _OUTPUT.value:
        from sostenuto.music.plots import piano_roll

        title = os.path.basename(path)
        if len(notes):
            _draw("piano-roll.png", functools.partial(piano_roll, notes, max_notes=_ROLL_NOTES.value), title)
        else:
            _print("no notes, so no piano roll")
        _draw_distributions({"all": Histograms.from_notes(notes)}, title)


def _inspect_many(paths: Sequence[str], failures: list[tuple[str, UserError]]) -> None:
    from sostenuto.inspect.describe import describe_files, summarize
    from sostenuto.inspect.files import common_directory, read_files
    from sostenuto.music.histograms import Histograms

    base = common_directory(paths or [path for path, _ in failures])
    summaries, histograms = [], Histograms.zeros()
    with _note_table("path") as add_notes:
        readings = track(read_files(paths), total=len(paths), unit="file", description="reading")
        for path, contents in zip(paths, readings, strict=True):
            if isinstance(contents, UserError):
                failures.append((path, contents))
                continue
            notes = contents.decoded.notes
            summaries.append(summarize(path, contents))
            histograms += Histograms.from_notes(notes)
            add_notes(notes, path)
        _print(*describe_files(base, summaries, failures, histograms, width=_terminal_width()))
        if not summaries:
            raise UserError(f"none of the {counted(len(failures), 'file')} can be read")
    if _OUTPUT.value:
        _draw_distributions({"all": histograms}, counted(len(summaries), "MIDI file"))


@contextlib.contextmanager
def _note_table(*described_by: str) -> Iterator[Callable[..., None]]:
    """Yields a function that adds notes to the CSV file of `--csv`, if there is one."""
    from sostenuto.music.csv_export import NoteTable

    if not _CSV.value:
        yield lambda *_: None
        return
    storage.make_directories(os.path.dirname(_CSV.value) or ".")
    with storage.atomic_write(_CSV.value) as file:
        yield NoteTable(file, described_by=described_by).add


def _draw_distributions(histograms: "Mapping[str, Histograms]", title: str) -> None:
    from sostenuto.music.plots import distributions

    # Without two notes in a row there is no step.
    drawn = {name: histogram for name, histogram in histograms.items() if histogram.step.any()}
    if drawn:
        _draw("distributions.png", functools.partial(distributions, drawn), title)
    else:
        _print("no two notes in a row, so no distributions")


def _draw(name: str, draw: Callable[..., None], title: str) -> None:
    """Draws a picture with a function of its path and title."""
    from sostenuto.text import printable, shorten

    directory = cli.require_flag(_OUTPUT)
    storage.make_directories(directory)
    path = storage.join(directory, name)
    logger.info(f"drawing {path}")
    draw(path=path, title=shorten(printable(title), _TITLE_CELLS))
    _print(f"drawn: {path}")


def _terminal_width() -> int | None:
    """Returns the width of the terminal; None for other output, which is not shortened."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() or os.environ.get("COLUMNS") else None


def _print(*lines: str) -> None:
    cli.print_result("\n".join(lines))


if __name__ == "__main__":
    cli.run(main, usage=USAGE, operands=True, examples=EXAMPLES)
