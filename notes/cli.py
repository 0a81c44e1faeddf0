"""How every command parses its flags and ends: one line and status 2 for a mistake, 0 for `--help`.

absl prints help with status 1 and a bad flag in two lines; scripts and Kubernetes policies need the other way round.
Nothing but a command's own entry module imports this one.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence

from absl import flags

from notes.errors import UnavailableError, UserError

EXIT_OK = 0
EXIT_BAD_INPUT = 2
EXIT_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: the user is invited to try again


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
        print(flags.FLAGS.module_help(sys.modules["__main__"]).replace("\n__main__:", "flags:", 1))
        raise SystemExit(EXIT_OK)
    try:
        flags.FLAGS.set_gnu_getopt(operands)
        extra = flags.FLAGS(argv)[1:]
        if extra and not operands:
            raise UserError(f"unexpected argument {extra[0]!r}: every option is a flag, see --help")
        status = (main(extra) if operands else main()) or EXIT_OK
    except (UserError, flags.Error) as error:
        print(f"{program}: {' '.join(str(error).split())}", file=sys.stderr)
        status = EXIT_TRY_AGAIN if isinstance(error, UnavailableError) else EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        status = 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of our output left; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    raise SystemExit(status)


def required(flag: flags.FlagHolder[str | None]) -> str:
    """Returns the value of a flag that must be given.

    Raises:
        UserError: it is not.
    """
    if not flag.value:
        raise UserError(f"--{flag.name} is missing: see --help")
    return flag.value


def _exit_as_told(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _program_name() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return os.path.basename(sys.argv[0])
    return spec.name.removesuffix(".__main__")
