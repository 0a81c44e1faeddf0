"""The whole path in one command, `make demo`: corpus, dataset, training, evaluation, music.

It only runs the commands that a user runs, prints each before it starts it, and skips those whose result exists.
Arguments that shape a result are part of its folder's name, so that another argument never meets a result that is not
its own. The folder of the last corpus is also named `latest`.
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

_TUTORIAL_SHARE = 1 / 4  # of the minutes of training, on top of them: that model is small and learns all it can soon
_SAVING_SECONDS = 2.0  # after Ctrl-C, until a command that goes on is terminated: it may not have received it


@dataclass(frozen=True)
class Stage:
    """One command of the demo.

    Attributes:
        title: what the command is for.
        module: the command.
        arguments: its flags.
        result: the file that it writes last.
        sources: files that the result shows: it is written again when one of them is newer.
    """

    title: str
    module: str
    arguments: list[str]
    result: Path
    sources: tuple[Path, ...] = ()

    @property
    def is_done(self) -> bool:
        """True if the result exists and is newer than what it shows."""
        if not self.result.exists():
            return False
        written = self.result.stat().st_mtime_ns
        return all(source.exists() and source.stat().st_mtime_ns <= written for source in self.sources)

    def run(self, *, quiet: bool = False) -> None:
        """Runs the command, unless its result is there.

        Args:
            quiet: prints nothing, and tells the command so.

        Raises:
            SystemExit: with the command's own status, if it fails.
        """
        manner = [*(["--quiet"] if quiet else []), *(["--log_json"] if progress.has_json_lines() else [])]
        command = [_python(), "-m", self.module, *self.arguments, *manner]
        is_done = self.is_done
        if not quiet:
            print(f"\n== {self.title}", flush=True)
            print(f"   exists already: {self.result}" if is_done else f"$ {shlex.join(command)}", flush=True)
        if is_done:
            return
        with subprocess.Popen(command) as process, _ended_with_the_demo(process):
            status = process.wait()
        if status:
            logger.error(f"The command above ended with status {status}.")
            raise SystemExit(status if status > 0 else 128 - status)


@contextlib.contextmanager
def _ended_with_the_demo(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ends a command when the demo is interrupted or terminated, and waits until it has saved what it has."""
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


@dataclass(frozen=True)
class Results:
    """Where the demo leaves what a user looks for.

    Attributes:
        music: the directory of the generated pieces.
        page: the page of the run.
    """

    music: Path
    page: Path


def stages(
    corpus: Path, work: Path, *, max_minutes: float, num_notes: int, num_samples: int
) -> tuple[list[Stage], Results]:
    """Lists the commands that lead from a corpus to music, and says what they leave.

    Args:
        corpus: a directory or .zip of MIDI files.
        work: the folder of this corpus.
        max_minutes: how long to train.
        num_notes: notes of each piece to generate.
        num_samples: pieces to generate.
    """
    dataset, run = work / "dataset", work / f"run-{max_minutes:g}min"
    seed_minutes = round(max_minutes * _TUTORIAL_SHARE, 3)
    tutorial = work / f"tutorial-{seed_minutes:g}min"
    music = run / f"music-{num_samples}x{num_notes}"
    unfinished = ["--overwrite"] if dataset.exists() else []
    commands = [
        Stage(
            "Preprocess: MIDI files to a dataset",
            "beam_preprocess",
            [f"--input={corpus}", f"--output={dataset}", *unfinished],
            dataset / "dataset.json",
        ),
        *_train_and_evaluate(
            "base",
            dataset,
            run,
            max_minutes,
            f"Train: {max_minutes:g} minutes at most",
            "Evaluate: nats per note on performances that training never saw",
        ),
        *_train_and_evaluate(
            "tutorial",
            dataset,
            tutorial,
            seed_minutes,
            f"Train the well-known tutorial's model, to compare: {seed_minutes:g} minutes at most",
            "Evaluate it on the same performances",
            "--samples=0",
        ),
        Stage(
            "Generate: music from silence",
            "trainer.generate",
            [
                f"--workdir={run}",
                f"--output={music}",
                f"--num_notes={num_notes}",
                f"--num_samples={num_samples}",
                "--seed=0",
                "--audio",
            ],
            music / "samples.json",
        ),
        Stage(
            "Report: one page to see and hear",
            "trainer.report",
            [f"--workdir={run}", f"--compare_with={tutorial}"],
            run / "report.html",
            (run / "evaluation-test.json", run / "samples" / "samples.json", tutorial / "evaluation-test.json"),
        ),
    ]
    return commands, Results(music, run / "report.html")


def _train_and_evaluate(
    preset: str,
    dataset: Path,
    workdir: Path,
    max_minutes: float,
    train_title: str,
    evaluate_title: str,
    *flags_of_training: str,
) -> list[Stage]:
    return [
        Stage(
            train_title,
            "trainer",
            [
                f"--data={dataset}",
                f"--workdir={workdir}",
                f"--preset={preset}",
                f"--max_minutes={max_minutes:g}",
                *flags_of_training,
            ],
            workdir / "result.json",
        ),
        Stage(
            evaluate_title,
            "trainer.evaluate",
            [f"--workdir={workdir}", f"--data={dataset}", "--split=test"],
            workdir / "evaluation-test.json",
        ),
    ]


def folder_of(corpus: Path) -> str:
    """Names the folder for a corpus: its name, and a hash of where it is and what lies in it.

    So another corpus, or the same one with a file more, never meets the dataset and the run of the former.
    """
    corpus = corpus.resolve()
    content = hashlib.sha256(os.fsencode(corpus))
    for file in [corpus, *sorted(corpus.rglob("*"))]:
        if file.is_file():
            state = file.stat()
            content.update(os.fsencode(f"{file}\0{state.st_size}\0{state.st_mtime_ns}\n"))
    return f"{corpus.stem if corpus.is_file() else corpus.name}-{content.hexdigest()[:8]}"


def link(folder: Path) -> Path:
    """Names a folder `latest` as well, atomically; returns the link."""
    latest = folder.parent / LATEST
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{LATEST}-") as directory:
        unfinished = Path(directory) / LATEST
        unfinished.symlink_to(folder.name)
        unfinished.replace(latest)
    return latest


def _python() -> str:
    """Names this interpreter as one would type it here."""
    return os.path.relpath(sys.executable) if sys.executable.startswith(os.getcwd() + os.sep) else sys.executable


def main(corpus_given: str, work: str, *, max_minutes: float, num_notes: int, num_samples: int, quiet: bool) -> None:
    """Runs every stage and prints where the music and the page are."""
    if corpus_given:
        corpus = Path(corpus_given).expanduser()
        if not corpus.exists():
            raise UserError(f"{corpus}: no such directory or .zip; give one that holds MIDI files")
    else:
        corpus = CHORALES
        Stage("Corpus: Bach's chorales", "demo.chorales", [f"--output={corpus}"], corpus).run(quiet=quiet)
    folder = Path(work) / folder_of(corpus)
    folder.mkdir(parents=True, exist_ok=True)
    latest = link(folder)
    primer_path = Path(work) / PRIMER
    if not primer_path.exists():
        write_midi(primer.notes(), primer_path)
    planned, results = stages(corpus, folder, max_minutes=max_minutes, num_notes=num_notes, num_samples=num_samples)
    for stage in planned:
        stage.run(quiet=quiet)
    if quiet:
        return
    print("\nThe music:")
    for file in sorted(results.music.iterdir()):
        if file.suffix in (".mid", ".wav", ".png"):
            print(f"  {latest / file.relative_to(folder)}")
    page = latest / results.page.relative_to(folder)
    flags = [f"--workdir={page.parent}", "--output=music", f"--primer={primer_path}"]
    print(f"\nLet the model continue a few bars:\n  {shlex.join(['sostenuto', 'generate', *flags])}")
    print(f"\nThe page, to open in a browser: curves, scores, and eight continuations to see and hear\n  {page}")


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
        lambda: main(
            _CORPUS.value,
            cli.require_flag(_WORK),
            max_minutes=_MAX_MINUTES.value,
            num_notes=_NUM_NOTES.value,
            num_samples=_NUM_SAMPLES.value,
            quiet=cli.QUIET.value,
        ),
        usage="[--corpus=DIR|ZIP] [flags]\n\nRuns everything from a corpus to music: preprocess, train, evaluate, "
        "generate, report.",
        examples=("", "--corpus=my-midi --max_minutes=20"),
    )
