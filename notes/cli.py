"""How every command parses its flags, speaks and ends: one line and status 2 for a mistake, 0 for `--help`.

absl prints help with status 1 and a bad flag in two lines; scripts and Kubernetes policies need the other way round.
Nothing but a command's own entry module imports this one.
"""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

from absl import flags

from notes import progress
from notes.errors import UnavailableError, UserError

EXIT_OK = 0
EXIT_BUG = 1
EXIT_BAD_INPUT = 2
EXIT_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: the user is invited to try again

# The flags of all commands.
QUIET = flags.DEFINE_bool("quiet", False, "print nothing but errors")
LOG_JSON = flags.DEFINE_bool("log_json", False, "print progress and errors as lines of JSON, for Cloud Logging")


def run(
    main: Callable[..., int | None], *, usage: str, argv: Sequence[str] | None = None, operands: bool = False
) -> None:
    """Parses the flags, calls `main` and exits the process with its status.

    Args:
        main: the command; returns an exit status (None means 0) and raises `UserError` for bad input.
        usage: the text above the flags in `--help`.
        argv: the command line, program name first; `sys.argv` by default.
        operands: whether the command takes arguments that are no flags, such as paths; `main` is called with their
            list, and flags may stand before, between and behind them.

    Raises:
        SystemExit: always.
    """
    argv = list(sys.argv if argv is None else argv)
    # As an exception, so that what is half-written is removed on the way out.
    signal.signal(signal.SIGTERM, _exit_as_told)
    program = _program_name()
    if any(argument in ("--help", "-help", "-h", "--h", "--helpfull") for argument in argv[1:]):
        print(f"usage: python -m {program} {usage.strip()}\n")
        for flag in (QUIET, LOG_JSON):
            # Where absl looks for the flags that __main__ itself defined.
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[flag.name])
        print(flags.FLAGS.module_help(sys.modules["__main__"]).replace("\n__main__:", "flags:", 1))
        raise SystemExit(EXIT_OK)
    try:
        _configure_early(argv)
        flags.FLAGS.set_gnu_getopt(operands)
        extra = flags.FLAGS(argv)[1:]
        if extra and not operands:
            raise UserError(f"unexpected argument {extra[0]!r}: every option is a flag, see --help")
        progress.configure(quiet=QUIET.value, log_json=LOG_JSON.value)
        status = (main(extra) if operands else main()) or EXIT_OK
    except (UserError, flags.Error) as error:
        status = EXIT_TRY_AGAIN if isinstance(error, UnavailableError) else EXIT_BAD_INPUT
        complain(error, status)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
        complain("interrupted", status)
    except BrokenPipeError:
        # The reader of our output left; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    except Exception:
        if not progress.is_json():
            raise
        # As one entry of the log, not one for each line of it.
        progress.say(traceback.format_exc().rstrip(), severity="CRITICAL", exit_status=EXIT_BUG)
        status = EXIT_BUG
    raise SystemExit(status)


def complain(error: object, status: int) -> None:
    """Says in one line why the command ends.

    Args:
        error: what went wrong.
        status: the exit status that follows.
    """
    line = f"{_program_name()}: {' '.join(str(error).split())}"
    progress.say(line, severity="ERROR", exit_status=status)


def show(text: str) -> None:
    """Prints a result on stdout, unless `--quiet` is given."""
    if not QUIET.value:
        print(text, flush=True)


def required(flag: flags.FlagHolder[str | None]) -> str:
    """Returns the value of a flag that must be given.

    Raises:
        UserError: it is not.
    """
    if not flag.value:
        raise UserError(f"--{flag.name} is missing: see --help")
    return flag.value


def _configure_early(argv: Sequence[str]) -> None:
    """Sets how to speak of a mistake in the flags, even where it stands before those that say so."""
    own = flags.FlagValues()
    for flag in (QUIET, LOG_JSON):
        flags.DEFINE_bool(flag.name, False, "", flag_values=own)
    own.set_gnu_getopt()
    with contextlib.suppress(flags.Error):
        own(argv, known_only=True)
    progress.configure(quiet=bool(own[QUIET.name].value), log_json=bool(own[LOG_JSON.name].value))


def _exit_as_told(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _program_name() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return os.path.basename(sys.argv[0])
    return spec.name.removesuffix(".__main__")
