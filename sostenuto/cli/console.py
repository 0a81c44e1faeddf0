"""Log output of a command on stderr: plain lines for people, JSON lines for Cloud Logging."""

import datetime
import json
import logging
import math
import sys
from typing import Any

from sostenuto import progress
from sostenuto.extras import EXTRAS

_OWN_LOGGERS = ("__main__", *EXTRAS)  # an entry module runs as `__main__`


def configure_console(*, quiet: bool = False, log_json: bool = False) -> None:
    """Configures the root logger of this process; `quiet` hides bars and lines below WARNING."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        # `logging.warning` of another library may have added a StreamHandler, which would print each line twice.
        if isinstance(handler, ConsoleHandler) or type(handler) is logging.StreamHandler:
            root.removeHandler(handler)
    console = ConsoleHandler()
    console.setFormatter(JsonFormatter() if log_json else LineFormatter(logging.BASIC_FORMAT))
    console.addFilter(_is_shown)
    root.addHandler(console)
    for name in _OWN_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING if quiet else logging.INFO)
    # For people, Python's warnings keep their usual form.
    logging.captureWarnings(log_json)
    progress.set_json_lines(log_json)


class ConsoleHandler(logging.Handler):
    """Prints records on stderr, above bars; a failure to write ends the command, with its own exit status."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record; raises OSError if stderr cannot be written."""
        line = self.format(record)
        if not progress.has_json_lines() and (bars := sys.modules.get("tqdm")):
            bars.tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)


class LineFormatter(logging.Formatter):
    """Bare messages of this project; those of other libraries with their level and logger."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the text of a record."""
        return record.getMessage() if _is_own(record) and not record.exc_info else super().format(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in the fields of Google Cloud Logging."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the JSON object of a record, with the fields of `extra={"figures": …}`."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        entry: dict[str, Any] = {
            "time": time.replace("+00:00", "Z"),
            "severity": record.levelname,
            "message": super().format(record).rstrip(),
        }
        if not _is_own(record):
            entry["logger"] = record.name
        for name, value in getattr(record, "figures", {}).items():
            # JSON has no infinity, and the score of a diverging run may be one.
            entry[name] = None if isinstance(value, float) and not math.isfinite(value) else value
        return json.dumps(entry)


def _is_own(record: logging.LogRecord) -> bool:
    """Returns whether a record comes from this project."""
    return record.name.partition(".")[0] in _OWN_LOGGERS


def _is_shown(record: logging.LogRecord) -> bool:
    """Returns whether a record is a warning, or progress of this project."""
    return record.levelno >= logging.WARNING or _is_own(record)
