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
from sostenuto import extras
from sostenuto.errors import UserError
from sostenuto.progress import silenced

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

logger = logging.getLogger(__name__)


DATAFLOW, DASK = "dataflow", "dask"
_LOCAL = ("", "fnapi", "direct", "bundlebaseddirect", "prism")  # in this process or its children
_DASK_OPTIONS = ("dask_client_address", "dask_scheduler_file")
_CLOUD_OPTIONS = ("project", "region", "temp_location")


def check_runner(beam_args: Sequence[str], config: Config) -> str:
    """Returns the runner's name, as `runner_name`; raises a UserError if the runner lacks an option."""
    runner, options = runner_name(beam_args), _parse_known(beam_args)
    if runner == "portable" and not options.job_endpoint:
        raise UserError("--runner=PortableRunner: --job_endpoint is missing. Pass a job server's HOST:PORT")
    if runner == DASK and bool(options.dask_client_address) == bool(options.dask_scheduler_file):
        raise UserError(
            "--runner=dask: expected --dask_client_address=tcp://HOST:PORT or --dask_scheduler_file=FILE, one of them. "
            "On one machine leave out --runner and pass --direct_num_workers=0, which is faster"
        )
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


def is_local(runner: str) -> bool:
    """Returns whether a runner, given by its name, works on this machine only."""
    return runner in _LOCAL


def runner_name(beam_args: Sequence[str]) -> str:
    """Returns "dataflow" for DataflowRunner, and "" for the default runner, without the slow import of Beam."""
    return _parse_known(beam_args).runner.rpartition(".")[2].lower().removesuffix("runner")


def _parse_known(beam_args: Sequence[str]) -> argparse.Namespace:
    """Returns those options that this module checks."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False, exit_on_error=False)
    for name in ("runner", "job_endpoint", *_DASK_OPTIONS, *_CLOUD_OPTIONS):
        parser.add_argument(f"--{name}", default="")
    try:
        return parser.parse_known_args(list(beam_args))[0]
    except argparse.ArgumentError as error:
        raise UserError(f"beam pipeline options {' '.join(beam_args)}: {error}") from error


@contextlib.contextmanager
def pipeline_options(beam_args: Sequence[str]) -> Iterator["PipelineOptions"]:
    """Yields Beam's options, with the project packed for remote workers while the context is open."""
    runner = runner_name(beam_args)
    _import_beam()
    if runner == DASK:
        _import_dask()
    from apache_beam.options.pipeline_options import PortableOptions, SetupOptions, StandardOptions

    options, unknown = _parse_options(beam_args)
    standard = options.view_as(StandardOptions)
    # DirectRunner would download another runner if it can.
    standard.runner = standard.runner or "FnApiRunner"
    # Runners of other clusters have options that only they know.
    if unknown and runner in (*_LOCAL, DATAFLOW, DASK):
        raise UserError(f"unknown beam pipeline option --{min(unknown)}. See Beam's documentation of pipeline options")
    setup = options.view_as(SetupOptions)
    if setup.setup_file is not None:
        # Beam changes to its directory, which a bare file name lacks.
        setup.setup_file = os.path.abspath(setup.setup_file)
        if not os.path.isfile(setup.setup_file):
            raise UserError(f"--setup_file={setup.setup_file}: no such file")
    # What Beam logs of a failed step is in the exception that it raises, too.
    with tempfile.TemporaryDirectory(prefix="sostenuto-") as directory, _beam_log_level(logging.CRITICAL):
        # A pool of workers does not install packages; the project is already installed there.
        has_project = options.view_as(PortableOptions).environment_type in ("LOOPBACK", "EXTERNAL")
        if setup.setup_file is None and runner not in (*_LOCAL, DASK) and not has_project:
            setup.extra_packages = [*(setup.extra_packages or []), worker_package.pack(directory)]
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


def _import_dask() -> None:
    """Imports Beam's runner for Dask, whose options Beam knows only then."""
    try:
        import apache_beam.runners.dask.dask_runner  # noqa: F401
        import distributed  # noqa: F401
    except ImportError as error:
        raise UserError(f"--runner=dask: {error}. {extras.remedy('dask')}") from error


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
