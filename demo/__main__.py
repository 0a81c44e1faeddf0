"""Demo of the whole pipeline, `make demo`: corpus, dataset, training, evaluation, music.

It runs the public commands and skips those whose result exists. A folder's name contains the arguments that shape its
results. A link `latest` names the folder of the last demo that ended.
"""

import contextlib
import hashlib
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from absl import flags

from demo import primer
from sostenuto import cli, progress
from sostenuto.cli.main import COMMANDS
from sostenuto.errors import UserError
from sostenuto.music.midi import write_midi
from sostenuto.text import counted
from trainer.config_fields import MAX_MINUTES, MAX_NOTES, MAX_SAMPLES

logger = logging.getLogger(__name__)

CHORALES = Path("corpora/bach-chorales")
LATEST = "latest"
PRIMER = "primer.mid"

# Minutes of the tutorial's training, in addition to those of the model: that small model converges early.
_TUTORIAL_FRACTION, _TUTORIAL_MINUTES = 1 / 4, 0.5  # the fraction, and a minimum: start-up takes a quarter of a minute
_SAVING_SECONDS = 2.0  # between Ctrl-C and the termination of a command that has not received it


@dataclass(frozen=True)
class Stage:
    """One command; it writes `result` last, and runs again if one of the files that the result shows is newer."""

    title: str
    module: str
    arguments: list[str]
    result: Path
    sources: tuple[Path, ...] = ()

    @property
    def is_done(self) -> bool:
        """True if the result exists and no source is newer."""
        if not self.result.exists():
            return False
        written = self.result.stat().st_mtime_ns
        return all(source.exists() and source.stat().st_mtime_ns <= written for source in self.sources)

    def run(self, *, quiet: bool = False) -> None:
        """Runs the command unless its result exists; exits with the command's status if it fails."""
        arguments = [*self.arguments, *["--quiet"] * quiet, *["--log_json"] * progress.has_json_lines()]
        is_done = self.is_done
        if not quiet:
            line = f"   exists already: {self.result}" if is_done else f"$ {command_line(self.module, arguments)}"
            print(f"\n== {self.title}\n{line}", flush=True)
        if is_done:
            return
        status = _run_command([sys.executable, "-m", self.module, *arguments])
        if status:
            logger.error(f"The command above ended with status {status}.")
            raise SystemExit(status if status > 0 else 128 - status)


def _run_command(command: list[str]) -> int:
    """Runs a command and returns its status; the demo ends after a command has saved and printed why."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except (KeyboardInterrupt, SystemExit) as error:
            is_interrupt = isinstance(error, KeyboardInterrupt)
            try:
                if is_interrupt:  # a terminal sends Ctrl-C to the command as well
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_SAVING_SECONDS)
                process.terminate()
                process.wait()
            except KeyboardInterrupt:
                process.kill()
            raise SystemExit(128 + signal.SIGINT) if is_interrupt else error from None


def list_stages(
    corpus: Path, folder: Path, *, max_minutes: float, num_notes: int, num_samples: int
) -> tuple[list[Stage], Path, Path]:
    """Returns the commands from a corpus to music, the directory of the music, and the page of the run."""
    tutorial_minutes = round(min(max(max_minutes * _TUTORIAL_FRACTION, _TUTORIAL_MINUTES), max_minutes), 3)
    dataset, run = folder / "dataset", folder / f"run-{max_minutes:g}min"
    tutorial = folder / f"tutorial-{tutorial_minutes:g}min"
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
        _train("Train the tutorial's model to compare", "tutorial", dataset, tutorial, tutorial_minutes, "--samples=0"),
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


def command_line(module: str, arguments: list[str], scripts: Path = Path(sys.executable).parent) -> str:
    """Returns a command to paste into a shell: of the program `sostenuto` if the directory of this Python has one."""

    def shorten(script: Path) -> str:
        if shutil.which(script.name) == str(script):
            return script.name
        return os.path.relpath(script) if script.is_relative_to(Path.cwd()) else str(script)

    name = next((name for name, entry in COMMANDS.items() if entry.module == module), "")
    program = scripts / "sostenuto"
    if name and program.exists():
        return shlex.join([shorten(program), name, *arguments])
    return shlex.join([shorten(scripts / Path(sys.executable).name), "-m", module, *arguments])


def compare(workdirs: list[Path]) -> list[str]:
    """Returns a line for each evaluated workdir: its train_steps, its score, and a warning if it hardly trained."""
    from trainer.reporting.score_diagnostics import hardly_trained
    from trainer.workdir.evaluation_formats import Evaluation

    lines = []
    for workdir in workdirs:
        evaluation = Evaluation.load_if_exists(str(workdir / "evaluation-test.json"))
        if evaluation:
            line = f"  {workdir.name}: {evaluation.nats_per_note['total']:.3f} after "
            line += counted(evaluation.train_step, "train_step")
            is_short = hardly_trained(evaluation.train_step)
            lines.append(line + "; it hardly trained: train for more minutes" * is_short)
    return lines


def main() -> None:
    """Runs every stage and prints the paths of the music and the page."""
    quiet, work = cli.QUIET.value, Path(cli.require_flag(_WORK))
    if not 0 < _MAX_MINUTES.value <= MAX_MINUTES:
        raise UserError(f"--max_minutes={_MAX_MINUTES.value:g}: expected above 0 and at most {MAX_MINUTES:,}")
    corpus = Path(_CORPUS.value).expanduser() if _CORPUS.value else CHORALES
    if _CORPUS.value and not corpus.exists():
        raise UserError(f"{corpus}: no such directory or .zip; give one that holds MIDI files")
    cli.print_result("Each command is shown before it runs. Ctrl-C ends the demo; the same command resumes it.")
    if not _CORPUS.value:
        Stage("Corpus: Bach's chorales", "demo.chorales", [f"--output={corpus}"], corpus).run(quiet=quiet)
    folder = work / name_folder(corpus)
    folder.mkdir(parents=True, exist_ok=True)
    if not (work / PRIMER).exists():
        write_midi(primer.notes(), work / PRIMER)
    lengths = {"num_notes": _NUM_NOTES.value, "num_samples": _NUM_SAMPLES.value}
    stages, music, page = list_stages(corpus, folder, max_minutes=_MAX_MINUTES.value, **lengths)
    try:
        for stage in stages:
            stage.run(quiet=quiet)
    except SystemExit:
        with contextlib.suppress(OSError):
            folder.rmdir()  # if the first command has written nothing
        raise
    latest = link_latest(folder)
    if scores := compare([path.parent for path in stages[-1].sources if path.name == "evaluation-test.json"]):
        cli.print_result("\nThe models' scores on the test split, in nats/note; less is better:\n" + "\n".join(scores))
    page = latest / page.relative_to(folder)
    arguments = [f"--workdir={page.parent}", f"--primer={work / PRIMER}", "--num_notes=64", "--audio"]
    cli.print_result("\nThe music, as sound (.wav), notes (.mid) and piano roll (.png):")
    for file in sorted(music.glob("sample-*")):
        cli.print_result(f"  {latest / file.relative_to(folder)}")
    cli.print_result("\nLet the model continue the opening of a prelude by Bach for a few bars:")
    cli.print_result(f"  {command_line('trainer.generate', [*arguments, '--output=my-continuation'])}")
    cli.print_result("\nThe page, to open in a browser: curves, scores, and eight continuations with sound")
    cli.print_result(f"  {page}")
    cli.print_result("\nPlay with the model, in the browser:")
    cli.print_result(f"  {command_line('play', [f'--workdir={page.parent}'])}")


if __name__ == "__main__":
    cli.start_group("input and output")
    _CORPUS = flags.DEFINE(
        cli.Path("DIR|ZIP", False), "corpus", "", "MIDI files. (default: Bach's chorales, from music21)"
    )
    _WORK = flags.DEFINE(
        cli.Path("DIR", False), "work", "build/demo", "Directory for results, with a folder for each corpus."
    )
    cli.start_group("training and music")
    _MAX_MINUTES = flags.DEFINE_float("max_minutes", 3.0, f"Minutes to train at most, {MAX_MINUTES:,} or fewer.")
    _NUM_NOTES = flags.DEFINE_integer(
        "num_notes",
        400,
        f"Notes of each piece to generate, at most {MAX_NOTES:,}.",
        lower_bound=1,
        upper_bound=MAX_NOTES,
    )
    _NUM_SAMPLES = flags.DEFINE_integer(
        "num_samples", 4, f"Pieces to generate, at most {MAX_SAMPLES:,}.", lower_bound=1, upper_bound=MAX_SAMPLES
    )
    cli.run(
        main,
        usage="[--corpus=DIR|ZIP] [flags]\n\nRuns everything from a corpus to music: preprocess, train, evaluate, "
        "generate, report.",
        examples=("", "--corpus=my-midi --max_minutes=20"),
    )
