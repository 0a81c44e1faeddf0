"""Demo of the whole pipeline, `make demo`: corpus, dataset, training, evaluation, music.

It runs the public commands, prints each before it starts, and skips those whose result exists. A folder's name contains
the arguments that shape its results, so that other arguments get other folders. A link `latest` names the last corpus.
"""

import contextlib
import hashlib
import logging
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from absl import flags

from demo import primer
from sostenuto import cli, progress
from sostenuto.errors import UserError
from sostenuto.music.midi import write_midi

logger = logging.getLogger(__name__)

CHORALES = Path("corpora/bach-chorales")
LATEST = "latest"
PRIMER = "primer.mid"

_TUTORIAL_TITLE = "Train the well-known tutorial's model, to compare"
_TUTORIAL_FRACTION = 1 / 4  # of the minutes of training, in addition to them: that small model converges early
_SAVING_SECONDS = 2.0  # between Ctrl-C and the termination of a command, which may not have received it


@dataclass(frozen=True)
class Stage:
    """One command of the demo.

    Attributes:
        title: the purpose of the command.
        module: the command.
        arguments: its flags.
        result: the file that it writes last.
        sources: files that the result shows; the command runs again if one of them is newer.
    """

    title: str
    module: str
    arguments: list[str]
    result: Path
    sources: tuple[Path, ...] = ()

    @property
    def is_done(self) -> bool:
        """True if the result exists and is newer than its sources."""
        if not self.result.exists():
            return False
        written = self.result.stat().st_mtime_ns
        return all(source.exists() and source.stat().st_mtime_ns <= written for source in self.sources)

    def run(self, *, quiet: bool = False) -> None:
        """Runs the command, unless its result exists.

        Args:
            quiet: prints nothing, and passes `--quiet` to the command.

        Raises:
            SystemExit: with the command's own status, if it fails.
        """
        console_flags = ["--quiet"] * quiet + ["--log_json"] * progress.has_json_lines()
        command = [_python(), "-m", self.module, *self.arguments, *console_flags]
        is_done = self.is_done
        if not quiet:
            print(f"\n== {self.title}", flush=True)
            print(f"   exists already: {self.result}" if is_done else f"$ {shlex.join(command)}", flush=True)
        if is_done:
            return
        with subprocess.Popen(command) as process, _terminated_with_the_demo(process):
            status = process.wait()
        if status:
            logger.error(f"The command above ended with status {status}.")
            raise SystemExit(status if status > 0 else 128 - status)


@contextlib.contextmanager
def _terminated_with_the_demo(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Terminates a command when the demo is interrupted or terminated, and waits until it has saved."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        logger.log(progress.NOTICE, "The demo ends here. The same command, such as `make demo`, resumes it.")
        try:
            # A terminal sends Ctrl-C to the command as well.
            if isinstance(error, KeyboardInterrupt):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_SAVING_SECONDS)
            if process.poll() is None:
                process.terminate()
            process.wait()
        except KeyboardInterrupt:
            process.kill()
        raise


def list_stages(
    corpus: Path, work: Path, *, max_minutes: float, num_notes: int, num_samples: int
) -> tuple[list[Stage], Path, Path]:
    """Lists the commands from a corpus to music.

    Args:
        corpus: a directory or .zip of MIDI files.
        work: the folder of this corpus.
        max_minutes: the time to train.
        num_notes: notes of each generated piece.
        num_samples: pieces to generate.

    Returns:
        The commands, the directory of the generated pieces, and the page of the run.
    """
    tutorial_minutes = round(max_minutes * _TUTORIAL_FRACTION, 3)
    dataset, run = work / "dataset", work / f"run-{max_minutes:g}min"
    tutorial = work / f"tutorial-{tutorial_minutes:g}min"
    music, page = run / f"music-{num_samples}x{num_notes}", run / "report.html"
    preprocess = [f"--input={corpus}", f"--output={dataset}", *(["--overwrite"] if dataset.exists() else [])]
    lengths = [f"--num_notes={num_notes}", f"--num_samples={num_samples}"]
    generate = [f"--workdir={run}", f"--output={music}", *lengths, "--seed=0", "--audio"]
    report = [f"--workdir={run}", f"--compare_with={tutorial}"]
    shown = (run / "evaluation-test.json", run / "samples" / "samples.json", tutorial / "evaluation-test.json")
    stages = [
        Stage("Preprocess: MIDI files to a dataset", "beam_preprocess", preprocess, dataset / "dataset.json"),
        _train("Train", "base", dataset, run, max_minutes),
        _evaluate("Evaluate: nats per note on performances that training never saw", dataset, run),
        _train(_TUTORIAL_TITLE, "tutorial", dataset, tutorial, tutorial_minutes, "--samples=0"),
        _evaluate("Evaluate it on the same performances", dataset, tutorial),
        Stage("Generate: music from silence", "trainer.generate", generate, music / "samples.json"),
        Stage("Report: one page with curves and music", "trainer.report", report, page, shown),
    ]
    return stages, music, page


def _train(title: str, preset: str, dataset: Path, workdir: Path, minutes: float, *more: str) -> Stage:
    arguments = [f"--data={dataset}", f"--workdir={workdir}", f"--preset={preset}", f"--max_minutes={minutes:g}"]
    return Stage(f"{title}: at most {minutes:g} min", "trainer", [*arguments, *more], workdir / "result.json")


def _evaluate(title: str, dataset: Path, workdir: Path) -> Stage:
    arguments = [f"--workdir={workdir}", f"--data={dataset}", "--split=test"]
    return Stage(title, "trainer.evaluate", arguments, workdir / "evaluation-test.json")


def name_folder(corpus: Path) -> str:
    """Returns the folder name of a corpus: its name, and a hash of its path and of its files' sizes and times."""
    corpus = corpus.resolve()
    content = hashlib.sha256(os.fsencode(corpus))
    for file in [corpus, *sorted(corpus.rglob("*"))]:
        if file.is_file():
            state = file.stat()
            content.update(os.fsencode(f"{file}\0{state.st_size}\0{state.st_mtime_ns}\n"))
    return f"{corpus.stem if corpus.is_file() else corpus.name}-{content.hexdigest()[:8]}"


def link_latest(folder: Path) -> Path:
    """Points the link `latest` to a folder, atomically; returns the link."""
    latest = folder.parent / LATEST
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{LATEST}-") as directory:
        unfinished = Path(directory) / LATEST
        unfinished.symlink_to(folder.name)
        unfinished.replace(latest)
    return latest


def _python() -> str:
    """Returns the path of this interpreter, relative if it is below the current directory."""
    return os.path.relpath(sys.executable) if sys.executable.startswith(os.getcwd() + os.sep) else sys.executable


def main() -> None:
    """Runs every stage and prints the paths of the music and the page."""
    quiet, work = cli.QUIET.value, Path(cli.require_flag(_WORK))
    if _CORPUS.value:
        corpus = Path(_CORPUS.value).expanduser()
        if not corpus.exists():
            raise UserError(f"{corpus}: no such directory or .zip; give one that holds MIDI files")
    else:
        corpus = CHORALES
        Stage("Corpus: Bach's chorales", "demo.chorales", [f"--output={corpus}"], corpus).run(quiet=quiet)
    folder = work / name_folder(corpus)
    folder.mkdir(parents=True, exist_ok=True)
    latest = link_latest(folder)
    if not (work / PRIMER).exists():
        write_midi(primer.notes(), work / PRIMER)
    stages, music, page = list_stages(
        corpus,
        folder,
        max_minutes=_MAX_MINUTES.value,
        num_notes=_NUM_NOTES.value,
        num_samples=_NUM_SAMPLES.value,
    )
    for stage in stages:
        stage.run(quiet=quiet)
    files = [file for file in sorted(music.iterdir()) if file.suffix in (".mid", ".wav", ".png")]
    page = latest / page.relative_to(folder)
    arguments = [f"--workdir={page.parent}", "--output=music", f"--primer={work / PRIMER}"]
    cli.print_result("\nThe music:")
    cli.print_result("".join(f"  {latest / file.relative_to(folder)}\n" for file in files))
    cli.print_result(f"Let the model continue a few bars:\n  {shlex.join(['sostenuto', 'generate', *arguments])}\n")
    title = "The page, to open in a browser: curves, scores, and eight continuations with sound"
    cli.print_result(f"{title}\n  {page}")


if __name__ == "__main__":
    cli.start_group("input and output")
    _CORPUS = flags.DEFINE(
        cli.Path("DIR|ZIP", False), "corpus", "", "MIDI files. (default: Bach's chorales, from music21)"
    )
    _WORK = flags.DEFINE(
        cli.Path("DIR", False),
        "work",
        "build/demo",
        "Directory for datasets, runs and music: a folder for each corpus.",
    )
    cli.start_group("training and music")
    _MAX_MINUTES = flags.DEFINE_float("max_minutes", 3.0, "Minutes to train at most.")
    _NUM_NOTES = flags.DEFINE_integer("num_notes", 400, "Notes of each piece to generate.")
    _NUM_SAMPLES = flags.DEFINE_integer("num_samples", 4, "Pieces to generate.")
    cli.run(
        main,
        usage="[--corpus=DIR|ZIP] [flags]\n\nRuns everything from a corpus to music: preprocess, train, evaluate, "
        "generate, report.",
        examples=("", "--corpus=my-midi --max_minutes=20"),
    )
