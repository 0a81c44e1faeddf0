"""The command `sostenuto`: runs the module of a command by its name, as `python -m` would."""

import runpy
import sys
from typing import NamedTuple

from sostenuto.cli.app import run
from sostenuto.cli.completion import SHELLS, completion_script
from sostenuto.cli.suggestions import did_you_mean
from sostenuto.errors import UserError
from sostenuto.program import set_invocation


class Entry(NamedTuple):
    """A command: its module and its purpose."""

    module: str
    summary: str


COMMANDS = {
    "preprocess": Entry("beam_preprocess", "Write a corpus of MIDI files as a dataset."),
    "train": Entry("trainer", "Train a model on a dataset."),
    "evaluate": Entry("trainer.evaluate", "Score a trained model, or compare its music with real music."),
    "generate": Entry("trainer.generate", "Generate music with a trained model."),
    "play": Entry("play", "Play with a trained model, in the browser or through MIDI ports."),
    "report": Entry("trainer.report", "Write the report page of a training run."),
    "tune": Entry("tuning", "Search for better hyperparameters."),
    "wait": Entry("sostenuto.wait", "Wait for a dataset that another job writes."),
    "inspect": Entry("sostenuto.inspect", "Show what MIDI files or a dataset contain."),
    "demo": Entry("demo", "Run everything on a small corpus: preprocess, train, evaluate, generate, report."),
}
COMPLETION = "completion"
HELP = "help"

_USAGE = """COMMAND [flags]

Turns a corpus of piano MIDI into a trained model that plays. Each command answers --help.
"""
_EXAMPLES = (
    "preprocess --input=maestro-v3.0.0-midi.zip --output=dataset",
    "train --data=dataset --workdir=run",
    "generate --workdir=run --output=music",
)


def main() -> None:
    """Runs the command that the first argument names, and exits the process with its status."""
    if sys.argv[1:2] == [HELP]:
        sys.argv[1:] = [*sys.argv[2:3], "--help"]
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in COMMANDS:
        _run_command(name)
    rows = [(name, entry.summary) for name, entry in COMMANDS.items()]
    rows.append((f"{COMPLETION} {'|'.join(SHELLS)}", "Print a script that completes commands and flags."))
    rows.append((f"{HELP} [COMMAND]", "Show the commands, or the flags of one."))
    run(
        _other_than_command,
        usage=_USAGE,
        # Flags behind an unknown command are its own.
        argv=[sys.argv[0], name, *(sys.argv[2:] if name == COMPLETION else [])],
        operands=True,
        examples=_EXAMPLES,
        sections={"commands": rows},
    )


def _run_command(name: str) -> None:
    """Runs a command's module as `__main__`, so that its child processes find the module by the same name."""
    module = COMMANDS[name].module
    set_invocation(module, f"sostenuto {name}")
    sys.argv = [sys.argv[0], *sys.argv[2:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _other_than_command(operands: list[str]) -> None:
    """Prints a script for completion; raises UserError for an unknown command or shell."""
    if not operands:
        raise UserError("no command is given. See --help")
    name, *arguments = operands
    if name != COMPLETION:
        known = [*COMMANDS, COMPLETION, HELP]
        near = did_you_mean(name, known) or f". Expected one of {', '.join(known)}"
        raise UserError(f"{name}: unknown command{near}")
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        raise UserError(f"{COMPLETION}: expected {' or '.join(SHELLS)}, got {' '.join(arguments)!r}")
    print(completion_script(arguments[0], {name: entry.module for name, entry in COMMANDS.items()}))


if __name__ == "__main__":
    main()
