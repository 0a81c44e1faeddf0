"""Options of the Beam pipeline, and the package for its remote workers."""

import argparse
import contextlib
import importlib.util
import io
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from beam_preprocess import worker_package
from beam_preprocess.config import Config
from sostenuto.errors import UserError
from sostenuto.progress import silenced

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

logger = logging.getLogger(__name__)


DATAFLOW = "dataflow"
_LOCAL = ("", "fnapi", "direct", "bundlebaseddirect", "prism")  # in this process or its children
_CLOUD_OPTIONS = ("project", "region", "temp_location")


def check_runner(beam_args: Sequence[str], config: Config) -> str:
    """Returns the runner's name without the slow import of Beam, or raises a UserError if it lacks an option."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False, exit_on_error=False)
    for name in ("runner", "job_endpoint", *_CLOUD_OPTIONS):
        parser.add_argument(f"--{name}", default="")
    try:
        options, _ = parser.parse_known_args(list(beam_args))
    except argparse.ArgumentError as error:
        raise UserError(f"beam pipeline options {' '.join(beam_args)}: {error}") from error
    runner = runner_name(options.runner)
    if runner == "portable" and not options.job_endpoint:
        raise UserError("--runner=PortableRunner: --job_endpoint is missing. Pass a job server's HOST:PORT")
    if runner != DATAFLOW:
        return runner
    for name in _CLOUD_OPTIONS:
        if not getattr(options, name):
            raise UserError(
                f"--runner=DataflowRunner: --{name} is missing. Pass after -- "
                "--project=PROJECT --region=REGION --temp_location=gs://BUCKET/PATH"
            )
    paths = {"input": config.input, "output": config.output, "temp_location": options.temp_location}
    for name, path in paths.items():
        if not path.startswith("gs://"):
            raise UserError(f"--{name}={path}: Dataflow's workers cannot reach it. Expected gs://BUCKET/PATH")
    return runner


def runner_name(runner: str | None) -> str:
    """Returns "dataflow" for DataflowRunner, and "" for the default runner."""
    return (runner or "").rpartition(".")[2].lower().removesuffix("runner")


@contextlib.contextmanager
def pipeline_options(beam_args: Sequence[str]) -> Iterator["PipelineOptions"]:
    """Yields Beam's options, with the project packed for remote workers while the context is open."""
    _import_beam()
    from apache_beam.options.pipeline_options import PortableOptions, SetupOptions, StandardOptions

    options, unknown = _parse_options(beam_args)
    standard = options.view_as(StandardOptions)
    runner = runner_name(standard.runner)
    # DirectRunner would download another runner if it can.
    standard.runner = standard.runner or "FnApiRunner"
    # Runners of other clusters have options that only they know.
    if unknown and runner in (*_LOCAL, DATAFLOW):
        raise UserError(f"unknown beam pipeline option --{min(unknown)}. See Beam's documentation of pipeline options")
    setup = options.view_as(SetupOptions)
    if setup.setup_file is not None:
        # Beam changes to its directory, which a bare file name lacks.
        setup.setup_file = os.path.abspath(setup.setup_file)
        if not os.path.isfile(setup.setup_file):
            raise UserError(f"--setup_file={setup.setup_file}: no such file")
    # On a runner that we know, the exception of a failed step contains the traceback that Beam logs.
    level = logging.CRITICAL if runner in (*_LOCAL, DATAFLOW) else logging.NOTSET
    with tempfile.TemporaryDirectory(prefix="sostenuto-") as directory, _beam_log_level(level):
        in_this_process = runner in _LOCAL or options.view_as(PortableOptions).environment_type == "LOOPBACK"
        if setup.setup_file is None and not in_this_process:
            setup.setup_file = worker_package.stage_package(directory)
        yield options


def _parse_options(beam_args: Sequence[str]) -> tuple["PipelineOptions", set[str]]:
    """Returns Beam's options and the unknown names; replaces Beam's exit by a UserError, and hides its warnings."""
    from apache_beam.options.pipeline_options import PipelineOptions

    usage = io.StringIO()
    try:
        with contextlib.redirect_stderr(usage), _beam_log_level(logging.ERROR):
            options = PipelineOptions(list(beam_args))
            names = set(options.get_all_options(retain_unknown_options=True))
            return options, names.difference(options.get_all_options())
    except SystemExit as error:
        last_line = usage.getvalue().strip().rpartition("\n")[2]
        raise UserError(f"beam pipeline options {' '.join(beam_args)}: {last_line.partition('error: ')[2]}") from error


def option_names() -> set[str]:
    """Returns the names of Beam's options; none if Beam is not installed."""
    try:
        with silenced():
            _import_beam()
    except ModuleNotFoundError:
        return set()
    from apache_beam.options.pipeline_options import PipelineOptions

    return set(PipelineOptions([]).get_all_options())


def _import_beam() -> None:
    """Imports Beam, which takes seconds, only after this command's flags were checked."""
    if importlib.util.find_spec("apache_beam"):
        logger.info("loading Apache Beam")
    with _beam_log_level(logging.ERROR):
        import apache_beam  # noqa: F401


@contextlib.contextmanager
def _beam_log_level(level: int) -> Iterator[None]:
    """Sets the level of Beam's messages: without its warnings about optional packages that are not installed."""

    def is_shown(record: logging.LogRecord) -> bool:
        return record.levelno >= level or "apache_beam" not in record.pathname

    beam, root = logging.getLogger("apache_beam"), logging.getLogger()
    former = beam.level
    beam.setLevel(max(level, former))
    root.addFilter(is_shown)  # Beam logs some of them without a logger of its own.
    try:
        yield
    finally:
        root.removeFilter(is_shown)
        beam.setLevel(former)
