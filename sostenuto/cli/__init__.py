"""Command line of every program: flags, help, error output and exit codes. Only entry modules import it."""

from sostenuto.cli.app import (
    EXIT_BAD_INPUT,
    EXIT_BUG,
    EXIT_GPU,
    EXIT_OK,
    EXIT_TRY_AGAIN,
    LOG_JSON,
    QUIET,
    command_line,
    print_error,
    print_result,
    require_flag,
    run,
)
from sostenuto.cli.flag_types import Path, Paths, Text, Texts, start_group
