"""Waits for a dataset: `sostenuto wait --data=DIR`."""

import contextlib
import sys

from absl import flags

from sostenuto import cli
from sostenuto.errors import UserError

MAX_MINUTES = 60 * 24 * 30

USAGE = """--data=DIR [flags] [-- ARGUMENTS]

Waits until a directory has a dataset that another job writes with `sostenuto preprocess --announce`. Every minute a
line tells what it waits for. It ends with status 2 and the reason if preprocessing failed, or gives no sign of life.

Until then Python runs with the ARGUMENTS, again whenever it ends: `-- -m distributed.cli.dask_worker ADDRESS`.
"""
EXAMPLES = (
    "--data=gs://my-bucket/dataset --minutes=30",
    "--data=dataset -- -m distributed.cli.dask_worker tcp://scheduler:8786",
)

cli.start_group("what to wait for")
_DATA = flags.DEFINE(cli.Path("DIR"), "data", None, "Directory of the dataset.")
_MINUTES = flags.DEFINE_float(
    "minutes", 120.0, "Longest time without a dataset or a sign of life.", lower_bound=0, upper_bound=MAX_MINUTES
)


def main(arguments: list[str]) -> None:
    """Waits. With arguments it also keeps Python running with them until the end."""
    from sostenuto.data.preparation import wait
    from sostenuto.wait.process import kept_running

    minutes = _MINUTES.value
    if not minutes > 0:
        raise UserError(f"--minutes={minutes:g}: expected more than 0")
    with kept_running([sys.executable, *arguments]) if arguments else contextlib.nullcontext():
        wait(cli.require_flag(_DATA), minutes=minutes)


if __name__ == "__main__":
    separator = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    own, others = sys.argv[:separator], sys.argv[separator + 1 :]
    cli.run(lambda: main(others), usage=USAGE, argv=own, required=(_DATA,), examples=EXAMPLES)
