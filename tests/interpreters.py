"""Installs the project on other Pythons and runs it there: `python tests/interpreters.py 3.12 3.13`.

No lock takes part: each requirement is resolved to its newest fitting version, as for a user who installs the project
with pip. A release that breaks the project is noticed here first. The environments are temporary.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from checkout import copy_tracked

EXTRAS = "train,tune,beam"
MODULES = ("beam_preprocess", "trainer", "trainer.evaluate", "trainer.generate", "trainer.report", "tuning")
MODULES += ("sostenuto.inspect", "demo", "demo.chorales")

# The packages whose versions are printed.
REPORTED = ("apache-beam", "keras", "keras-tuner", "numpy", "protobuf", "pretty-midi", "symusic", "tensorflow")

# Ten files, since a small corpus needs one for each split.
CORPUS = """
import pathlib, pretty_midi
pathlib.Path("midi").mkdir()
for number in range(10):
    midi, piano = pretty_midi.PrettyMIDI(), pretty_midi.Instrument(program=0)
    for index in range(100):
        start = index * 0.25
        piano.notes.append(pretty_midi.Note(64, 40 + 7 * index * (number + 1) % 40, start, start + 0.2))
    midi.instruments.append(piano)
    midi.write(f"midi/{number}.mid")
"""
TINY = ["--units=8", "--head_units=8", "--seq_length=16", "--batch_size=4", "--warmup_steps=1", "--steps=3"]
TINY_SEARCH = ["--max_trials=2", "--train_steps=2", "--fix=units=8", "--fix=head_units=8", "--fix=batch_size=4"]


class CheckError(Exception):
    """A step that failed; the message is one line."""


def main() -> int:
    """Checks each version that the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="+", metavar="VERSION", help="version of Python, such as 3.13")
    parser.add_argument("--resolution", default="highest", choices=["highest", "lowest-direct"], help="see uv's --help")
    options = parser.parse_args()
    try:
        for version in options.versions:
            check(version, options.resolution)
    except CheckError as error:
        print(f"interpreters: {error}", file=sys.stderr)
        return 2
    return 0


def check(version: str, resolution: str) -> None:
    """Installs the project for one version of Python, runs every command, and prints the seconds of each part.

    Args:
        version: of Python.
        resolution: which versions of the requirements uv chooses.

    Raises:
        CheckError: a part failed.
    """
    with tempfile.TemporaryDirectory(prefix=f"sostenuto-{version}-") as name:
        directory = Path(name)
        source = copy_tracked(directory / "source")
        environment, work = directory / "environment", directory / "work"
        work.mkdir()
        install(version, environment, f"{source}[{EXTRAS}]", resolution)
        commands = Commands(version, environment / "bin", work)
        commands.ask_for_help()
        commands.make_music()


def install(version: str, environment: Path, project: str, resolution: str) -> None:
    """Makes an environment with the project and prints its main versions.

    Raises:
        CheckError: there is no such Python, no uv, or no versions fit together.
    """
    sibling = Path(sys.executable).with_name("uv")
    uv = str(sibling) if sibling.exists() else shutil.which("uv")
    if uv is None:
        raise CheckError("uv is not installed. Run make interpreters, or install uv")
    started = time.monotonic()
    create = [uv, "venv", "--quiet", "--no-python-downloads", f"--python={version}", str(environment)]
    # A launcher of pyenv starts only the version that is selected.
    run(create, Path.cwd(), f"Python {version}: no such interpreter. Install it", PYENV_VERSION=version)
    options = ["--quiet", f"--python={environment}", f"--resolution={resolution}"]
    run([uv, "pip", "install", *options, project], environment, f"the installation failed on Python {version}")
    listed = run([uv, "pip", "list", "--format=freeze", f"--python={environment}"], environment, "uv failed")
    print(f"{version}: installed with {EXTRAS} in {time.monotonic() - started:.0f} s", flush=True)
    print(f"{version}: {' '.join(line for line in listed.splitlines() if line.partition('==')[0] in REPORTED)}")


class Commands:
    """The commands of an environment, run in a directory outside of the checkout.

    Args:
        version: of its Python.
        programs: the environment's directory of programs.
        work: an empty directory.
    """

    def __init__(self, version: str, programs: Path, work: Path) -> None:
        self._version = version
        self._programs = programs
        self._work = work

    def ask_for_help(self) -> None:
        """Runs each command with `--help`."""
        started = time.monotonic()
        for module in MODULES:
            self._python("-m", module, "--help")
        run([str(self._programs / "sostenuto"), "--help"], self._work, f"sostenuto --help failed on {self._version}")
        self._report("help of all commands", started)

    def make_music(self) -> None:
        """Runs the whole path on a tiny corpus."""
        self._python("-c", CORPUS)
        self._make("dataset/dataset.json", "beam_preprocess", "--input=midi", "--output=dataset")
        # Samples take most of a tiny run, and trainer.report plays eight where there are none.
        self._make("run/result.json", "trainer", "--data=dataset", "--workdir=run", "--samples=1", *TINY)
        self._make("run/evaluation-test.json", "trainer.evaluate", "--workdir=run", "--data=dataset", "--split=test")
        self._make("run/report.html", "trainer.report", "--workdir=run")
        generate = ["--workdir=run", "--output=music", "--num_notes=20", "--num_samples=1", "--audio"]
        self._make("music/sample-000.wav", "trainer.generate", *generate)
        self._make("study/best_config.json", "tuning", "--data=dataset", "--workdir=study", *TINY_SEARCH)

    def _make(self, result: str, module: str, *arguments: str) -> None:
        """Runs a command and checks that it has written its last file."""
        started = time.monotonic()
        self._python("-m", module, *arguments)
        file = self._work / result
        if not file.exists() or not file.stat().st_size:
            raise CheckError(f"{module} on Python {self._version}: {result} is missing or empty")
        self._report(module, started)

    def _python(self, *arguments: str) -> str:
        program = str(self._programs / "python")
        return run([program, *arguments], self._work, f"{arguments[1]} failed on Python {self._version}")

    def _report(self, part: str, started: float) -> None:
        print(f"{self._version}: {part}: {time.monotonic() - started:.0f} s", flush=True)


def run(command: Sequence[str], directory: Path, failure: str, **environment: str) -> str:
    """Runs a program and returns its output; `environment` adds variables.

    Raises:
        CheckError: it ended with another status than 0; what it printed is on stderr.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    process = subprocess.run(
        command, cwd=directory, env={**inherited, **environment}, capture_output=True, text=True, check=False
    )
    if process.returncode:
        print(process.stdout, process.stderr, sep="", file=sys.stderr)
        raise CheckError(failure)
    return process.stdout


if __name__ == "__main__":
    raise SystemExit(main())
