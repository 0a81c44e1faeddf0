"""Entry of every command: parses its flags, prints errors on one line, and exits with a status of exit-codes.md."""

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
from sostenuto import extras, storage
from sostenuto.cli.console import configure_console
from sostenuto.cli.flag_types import Text, start_group
from sostenuto.cli.help import COMMON, Command, describe_flags, format_help, to_json
from sostenuto.cli.suggestions import check_finite, check_values, explain, flag_names, nearest_name
from sostenuto.errors import GpuError, TemporaryError, UserError
from sostenuto.interrupt import begin_command
from sostenuto.program import command_invocation, command_name, main_module

logger = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_BUG = 1
EXIT_BAD_INPUT = 2
EXIT_GPU = os.EX_OSERR  # 71, for each GpuError: an orchestrator restarts it a few times, as another GPU may work
EXIT_TRY_AGAIN = os.EX_TEMPFAIL  # 75, for each TemporaryError; also `StopReason.exit_status` and `tuning.search`

# The flags of all commands.
start_group(COMMON)
QUIET = flags.DEFINE_bool("quiet", False, "Print only errors and warnings.")
LOG_JSON = flags.DEFINE_bool("log_json", False, "Print progress and errors as JSON lines, for Cloud Logging.")
_GCS_USER_PROJECT = flags.DEFINE(
    Text("PROJECT"),
    "gcs_user_project",
    None,
    "Google Cloud project that pays for requests to gs:// paths, for buckets whose owner does not. "
    "(default: the bucket's own)",
)
start_group("other")


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
    """Parses the flags, calls `main` with the operands if it takes any, and exits the process with its status.

    `usage` is the flags and operands of a call on one line, then the purpose. `sections` are further tables of `--help`
    by title. `explain_unknown` returns the error for an unknown flag that resembles none, or None.
    """
    command = Command(usage, examples, [flag.name for flag in required], sections or {})
    # As an exception, so that unfinished files are removed.
    signal.signal(signal.SIGTERM, _exit_by_signal)
    begin_command()
    try:
        arguments = list(sys.argv if argv is None else argv)
        status = _execute(main, command, arguments, operands=operands, explain_unknown=explain_unknown)
    except (Exception, KeyboardInterrupt) as error:
        status = _report(error)
    raise SystemExit(status)


def print_error(error: object, status: int) -> None:
    """Prints on one line why the command ends, with the exit status that follows."""
    line = f"{command_name()}: {' '.join(str(error).split())}"
    logger.error(line, extra={"figures": {"exit_status": status}})


def print_result(text: str) -> None:
    """Prints a result on stdout, unless `--quiet` is given."""
    if not QUIET.value:
        print(text, flush=True)


def require_flag(flag: flags.FlagHolder[str | None]) -> str:
    """Returns the value of a flag that must be given; raises UserError if it is missing."""
    if not flag.value:
        raise UserError(f"--{flag.name} is missing. See --help")
    return flag.value


def command_line(arguments: Sequence[str]) -> str:
    """Returns a call of this command with other arguments, to be pasted into a shell."""
    return f"{command_invocation()} {shlex.join(arguments)}"


def _execute(
    main: Callable[..., int | None],
    command: Command,
    argv: Sequence[str],
    *,
    operands: bool,
    explain_unknown: Callable[[str], str | None],
) -> int:
    """Runs the command or prints the requested information; returns the exit status."""
    try:
        _configure_early(argv)
        if _print_information(command, argv):
            return EXIT_OK
        operand_list = _parse(argv, command, operands=operands, explain_unknown=explain_unknown)
        configure_console(quiet=QUIET.value, log_json=LOG_JSON.value)
        storage.set_user_project(_GCS_USER_PROJECT.value)
        return (main(operand_list) if operands else main()) or EXIT_OK
    finally:
        # A failure at the interpreter's exit would print "Exception ignored" and end with status 120.
        if sys.stdout is not None:
            sys.stdout.flush()


def _report(error: BaseException) -> int:
    """Prints why the command ends with an exception; returns the exit status."""
    status, message = _explain_end(error)
    try:
        if status == EXIT_BUG:
            # One log entry, not one for each line of the traceback.
            logger.critical(traceback.format_exc().rstrip(), extra={"figures": {"exit_status": status}})
        elif message:
            print_error(message, status)
    except OSError:  # stderr cannot be written; the status remains
        _discard_output()
    if isinstance(error, OSError):
        _discard_output()
    return status


def _explain_end(error: BaseException) -> tuple[int, object]:
    """Returns the exit status for an exception and a message, if any; commands return other statuses themselves."""
    match error:
        case TemporaryError():
            return EXIT_TRY_AGAIN, error
        case GpuError():
            return EXIT_GPU, error
        case UserError() | flags.Error():
            return EXIT_BAD_INPUT, error
        case KeyboardInterrupt():
            return 128 + signal.SIGINT, "interrupted"
        case BrokenPipeError():
            return 128 + signal.SIGPIPE, None
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return EXIT_BAD_INPUT, f"{error.filename or 'output'}: cannot be written ({error.strerror})"
        case ModuleNotFoundError() if explained := extras.explain(error, main_module()):
            return EXIT_BAD_INPUT, explained
    return EXIT_BUG, None


def _print_information(command: Command, argv: Sequence[str]) -> bool:
    """Prints the help or the version; returns False if the command line asks for neither."""
    arguments = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    if {"--help", "-help", "-h"}.intersection(arguments):
        print(format_help(command, command_invocation()), end="")
    elif "--help_json" in arguments:
        print(to_json(describe_flags(command.required)))
    elif "--version" in arguments:
        print(f"sostenuto {sostenuto.__version__}")
    else:
        return False
    return True


def _parse(
    argv: Sequence[str], command: Command, *, operands: bool, explain_unknown: Callable[[str], str | None]
) -> list[str]:
    """Parses the flags and returns the operands; raises UserError for a mistake in them."""
    flags.FLAGS.set_gnu_getopt(operands)
    check_values(argv)
    try:
        operand_list = flags.FLAGS(argv)[1:]
    except (flags.Error, ValueError) as error:
        explained = None
        if isinstance(error, flags.UnrecognizedFlagError) and not nearest_name(error.flagname, flag_names()):
            explained = explain_unknown(error.flagname)
        raise UserError(explained or explain(error)) from error
    check_finite()
    if operand_list and not operands:
        raise UserError(f"unexpected argument {operand_list[0]!r}. Every option is a flag, see --help")
    missing = [f"--{name}" for name in command.required if not flags.FLAGS[name].value]
    if missing:
        example = f"Example: {command_invocation()} {command.examples[0]}" if command.examples else "See --help"
        raise UserError(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. {example}")
    return operand_list


def _configure_early(argv: Sequence[str]) -> None:
    """Configures the console before the flags are parsed, for errors in the flags themselves."""
    own = flags.FlagValues()
    for flag in (QUIET, LOG_JSON):
        flags.DEFINE_bool(flag.name, False, "", flag_values=own)
    own.set_gnu_getopt()
    with contextlib.suppress(flags.Error, ValueError):
        own(argv, known_only=True)
    configure_console(quiet=bool(own[QUIET.name].value), log_json=bool(own[LOG_JSON.name].value))


def _discard_output() -> None:
    """Redirects further output to /dev/null: a failure at the interpreter's exit would change the status."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(null, stream.fileno())


def _exit_by_signal(number: int, _: object) -> None:
    raise SystemExit(128 + number)
