"""Entry of every command: parses its flags, prints errors on one line, and ends with a documented exit code.

absl prints help with status 1 and a bad flag in two lines; scripts and Kubernetes policies need the other way round.
"""

import contextlib
import errno
import logging
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence

from absl import flags

import sostenuto
from sostenuto import extras
from sostenuto.cli import console, flag_types, help, program, suggestions
from sostenuto.errors import UnavailableError, UserError

logger = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_BUG = 1
EXIT_BAD_INPUT = 2
EXIT_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: the user is invited to try again

# The flags of all commands.
flag_types.group(help.COMMON)
QUIET = flags.DEFINE_bool("quiet", False, "Print only errors and warnings.")
LOG_JSON = flags.DEFINE_bool("log_json", False, "Print progress and errors as JSON lines, for Cloud Logging.")
flag_types.group("other")

_HELP = ("--help", "-help", "-h")
_HELP_JSON = "--help_json"
_VERSION = "--version"


def run(
    main: Callable[..., int | None],
    *,
    usage: str,
    argv: Sequence[str] | None = None,
    operands: bool = False,
    required: Sequence[flags.FlagHolder] = (),
    examples: Sequence[str] = (),
    sections: Mapping[str, Iterable[tuple[str, str]]] | None = None,
    explain_unknown: Callable[[str], str | None] = lambda name: None,
) -> None:
    """Parses the flags, calls `main` and exits the process with its status.

    Args:
        main: the command; returns an exit status (None means 0) and raises `UserError` for bad input.
        usage: the flags and operands of a call on one line, then what the command does.
        argv: the command line, program name first; `sys.argv` by default.
        operands: whether the command takes arguments that are no flags, such as paths; `main` is called with their
            list, and flags may stand before, between and behind them.
        required: the flags that must be given.
        examples: command lines for `--help`, without the name of the command; the first one is shown where a required
            flag is missing.
        sections: further tables for `--help`, by their title.
        explain_unknown: is called with the name of an unknown flag that resembles none; returns the error, or None.

    Raises:
        SystemExit: always.
    """
    argv = list(sys.argv if argv is None else argv)
    # As an exception, so that what is half-written is removed on the way out.
    signal.signal(signal.SIGTERM, _exit_by_signal)
    command = help.Command(usage, examples, [flag.name for flag in required], sections or {})
    try:
        try:
            _configure_early(argv)
            status = EXIT_OK
            if not _print_information(command, argv):
                operand_list = _parse(argv, command, operands=operands, explain_unknown=explain_unknown)
                console.configure(quiet=QUIET.value, log_json=LOG_JSON.value)
                status = (main(operand_list) if operands else main()) or EXIT_OK
        finally:
            # Here rather than at the interpreter's exit, which would print "Exception ignored" and end with 120.
            if sys.stdout is not None:
                sys.stdout.flush()
    except (UserError, flags.Error) as error:
        status = EXIT_TRY_AGAIN if isinstance(error, UnavailableError) else EXIT_BAD_INPUT
        _complain_finally(error, status)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
        _complain_finally("interrupted", status)
    except BrokenPipeError:
        _discard_output()
        status = 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            status = _report_bug()
        else:
            status = EXIT_BAD_INPUT
            _complain_finally(f"{error.filename or 'output'}: cannot be written ({error.strerror})", status)
            _discard_output()
    except ModuleNotFoundError as error:
        explained = extras.explain(error, program.main_module())
        if explained is None:
            status = _report_bug()
        else:
            status = EXIT_BAD_INPUT
            _complain_finally(explained, status)
    except Exception:
        status = _report_bug()
    raise SystemExit(status)


def print_error(error: object, status: int) -> None:
    """Prints in one line why the command ends.

    Args:
        error: what went wrong.
        status: the exit status that follows.
    """
    line = f"{program.name()}: {' '.join(str(error).split())}"
    logger.error(line, extra={"figures": {"exit_status": status}})


def show(text: str) -> None:
    """Prints a result on stdout, unless `--quiet` is given."""
    if not QUIET.value:
        print(text, flush=True)


def required(flag: flags.FlagHolder[str | None]) -> str:
    """Returns the value of a flag that must be given.

    Raises:
        UserError: it is missing.
    """
    if not flag.value:
        raise UserError(f"--{flag.name} is missing. See --help")
    return flag.value


def command_line(arguments: Sequence[str]) -> str:
    """Returns how this command is called with other arguments, to be pasted into a shell."""
    return f"{program.invocation()} {shlex.join(arguments)}"


def _print_information(command: help.Command, argv: Sequence[str]) -> bool:
    """Prints the help or the version; returns False if the command line asks for neither."""
    arguments = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    if any(argument in _HELP for argument in arguments):
        print(help.text(command, program.invocation()), end="")
    elif _HELP_JSON in arguments:
        print(help.as_json(help.describe_flags(command.required)))
    elif _VERSION in arguments:
        print(f"sostenuto {sostenuto.__version__}")
    else:
        return False
    return True


def _parse(
    argv: Sequence[str], command: help.Command, *, operands: bool, explain_unknown: Callable[[str], str | None]
) -> list[str]:
    """Parses the flags and returns the operands.

    Raises:
        UserError: a flag is unknown, missing or wrong, or there are operands that the command does not take.
    """
    flags.FLAGS.set_gnu_getopt(operands)
    suggestions.check_values(argv)
    try:
        operand_list = flags.FLAGS(argv)[1:]
    except (flags.Error, ValueError) as error:
        explained = None
        if isinstance(error, flags.UnrecognizedFlagError):
            near = suggestions.nearest(error.flagname, suggestions.flag_names())
            explained = None if near else explain_unknown(error.flagname)
        raise UserError(explained or suggestions.explain(error)) from error
    suggestions.check_finite()
    if operand_list and not operands:
        raise UserError(f"unexpected argument {operand_list[0]!r}. Every option is a flag, see --help")
    missing = [f"--{name}" for name in command.required if not flags.FLAGS[name].value]
    if missing:
        example = f"Example: {program.invocation()} {command.examples[0]}" if command.examples else "See --help"
        raise UserError(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. {example}")
    return operand_list


def _configure_early(argv: Sequence[str]) -> None:
    """Sets how a mistake in the flags is printed, even where it stands before the flags that say so."""
    own = flags.FlagValues()
    for flag in (QUIET, LOG_JSON):
        flags.DEFINE_bool(flag.name, False, "", flag_values=own)
    own.set_gnu_getopt()
    with contextlib.suppress(flags.Error, ValueError):
        own(argv, known_only=True)
    console.configure(quiet=bool(own[QUIET.name].value), log_json=bool(own[LOG_JSON.name].value))


def _complain_finally(error: object, status: int) -> None:
    """Prints why the command ends; if stderr cannot be written, the status remains."""
    try:
        print_error(error, status)
    except OSError:
        _discard_output()


def _report_bug() -> int:
    """Prints the traceback of the current exception; returns the exit status."""
    try:
        # In JSON, as one entry of the log, not one for each line of it.
        logger.critical(traceback.format_exc().rstrip(), extra={"figures": {"exit_status": EXIT_BUG}})
    except OSError:
        _discard_output()
    return EXIT_BUG


def _discard_output() -> None:
    """Sends further output to nowhere: Python would report what it cannot write when it exits, with another status."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(null, stream.fileno())


def _exit_by_signal(number: int, _: object) -> None:
    raise SystemExit(128 + number)
