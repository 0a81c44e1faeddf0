"""Options of the Beam pipeline, and the package for its remote workers."""

import argparse
import contextlib
import dataclasses
import importlib.util
import io
import logging
import os
import tempfile
from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING

from beam_preprocess import worker_package
from beam_preprocess.config import Config
from sostenuto.errors import UserError
from sostenuto.progress import silenced

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RunnerOptions:
    """Beam options that decide where a pipeline runs, None if not passed; parsed without the slow import of Beam.

    Attributes:
        runner: the runner's name in lower case without the suffix "runner": "dataflow", "portable", "fnapi".
        project: Google Cloud project.
        region: Google Cloud region.
        temp_location: directory for the temporary files and the package of a Dataflow job.
        job_endpoint: HOST:PORT of a portable job server.
    """

    runner: str | None
    project: str | None
    region: str | None
    temp_location: str | None
    job_endpoint: str | None

    @classmethod
    def parse(cls, beam_args: Sequence[str]) -> "RunnerOptions":
        """Returns the options of a command line.

        Raises:
            UserError: an option has no value.
        """
        parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False, exit_on_error=False)
        for field in dataclasses.fields(cls):
            parser.add_argument(f"--{field.name}")
        try:
            values, _ = parser.parse_known_args(list(beam_args))
        except argparse.ArgumentError as error:
            raise UserError(f"beam pipeline options {' '.join(beam_args)}: {error}") from error
        if values.runner is not None:
            values.runner = values.runner.rpartition(".")[2].lower().removesuffix("runner")
        return cls(**vars(values))

    @property
    def is_dataflow(self) -> bool:
        """Whether the pipeline runs on Dataflow."""
        return self.runner == "dataflow"

    @property
    def is_local(self) -> bool:
        """Whether the pipeline runs in this process or its children."""
        return self.runner in (None, "fnapi", "direct", "bundlebaseddirect", "prism")

    def check(self, config: Config) -> None:
        """Checks the options that a runner requires.

        Raises:
            UserError: an option is missing, or Dataflow's workers cannot access the input or the output.
        """
        if self.runner == "portable" and not self.job_endpoint:
            raise UserError("--runner=PortableRunner: --job_endpoint is missing. Pass a job server's HOST:PORT")
        if not self.is_dataflow:
            return
        for name in ("project", "region", "temp_location"):
            if not getattr(self, name):
                raise UserError(
                    f"--runner=DataflowRunner: --{name} is missing. Pass after -- "
                    "--project=PROJECT --region=REGION --temp_location=gs://BUCKET/PATH"
                )
        paths = {"input": config.input, "output": config.output, "temp_location": self.temp_location}
        for name, path in paths.items():
            if not str(path).startswith("gs://"):
                raise UserError(f"--{name}={path}: Dataflow's workers cannot reach it. Expected gs://BUCKET/PATH")


@contextlib.contextmanager
def pipeline_options(beam_args: Sequence[str]) -> Iterator["PipelineOptions"]:
    """Yields Beam's options, with the project packed for remote workers while the context is open.

    The default runner is FnApiRunner: DirectRunner would download another runner if it can.

    Raises:
        ModuleNotFoundError: Beam is not installed.
        UserError: an option is invalid or unknown to the runner.
    """
    _import_beam()
    from apache_beam.options.pipeline_options import PortableOptions, SetupOptions, StandardOptions

    runner = RunnerOptions.parse(beam_args)
    # Runners of other clusters have options that only they know.
    options = _parse_options(beam_args, allow_unknown=not (runner.is_local or runner.is_dataflow))
    standard = options.view_as(StandardOptions)
    if standard.runner is None:
        standard.runner = "FnApiRunner"
    if runner.is_local or runner.is_dataflow:
        # Beam logs the tracebacks of failed steps, which the exception contains too.
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    setup = options.view_as(SetupOptions)
    if setup.setup_file is not None:
        # Beam changes to its directory, which a bare file name lacks.
        setup.setup_file = os.path.abspath(setup.setup_file)
        if not os.path.isfile(setup.setup_file):
            raise UserError(f"--setup_file={setup.setup_file}: no such file")
    with tempfile.TemporaryDirectory(prefix="sostenuto-") as directory:
        in_this_process = runner.is_local or options.view_as(PortableOptions).environment_type == "LOOPBACK"
        if setup.setup_file is None and not in_this_process:
            setup.setup_file = worker_package.stage_package(directory)
        yield options


def _parse_options(beam_args: Sequence[str], *, allow_unknown: bool) -> "PipelineOptions":
    """Returns Beam's options; replaces Beam's exit and warnings about unknown options by a UserError."""
    from apache_beam.options.pipeline_options import PipelineOptions

    usage = io.StringIO()
    try:
        with contextlib.redirect_stderr(usage), _suppress_warnings():
            options = PipelineOptions(list(beam_args))
            known = options.get_all_options()
            unknown = set(options.get_all_options(retain_unknown_options=True)) - set(known)
    except SystemExit as error:
        last_line = usage.getvalue().strip().rpartition("\n")[2]
        raise UserError(f"beam pipeline options {' '.join(beam_args)}: {last_line.partition('error: ')[2]}") from error
    if unknown and not allow_unknown:
        raise UserError(f"unknown beam pipeline option --{min(unknown)}. See Beam's documentation of pipeline options")
    return options


def split_beam_options(arguments: Sequence[str], *, known: Container[str]) -> tuple[list[str], list[str]]:
    """Splits a command line without `--` into other arguments and Beam's options, none if Beam is not installed.

    `known` names this command's flags, which take precedence.
    """
    try:
        with silenced():
            _import_beam()
    except ModuleNotFoundError:
        return list(arguments), []
    from apache_beam.options.pipeline_options import PipelineOptions

    beam_names = set(PipelineOptions([]).get_all_options())
    flags: list[str] = []
    options: list[str] = []
    current = flags
    for argument in arguments:
        # A value in an argument of its own follows its flag.
        if argument.startswith("-"):
            name = argument.lstrip("-").partition("=")[0]
            current = options if name in beam_names and name not in known else flags
        current.append(argument)
    return flags, options


def _import_beam() -> None:
    """Imports Beam, which takes seconds, only after this command's flags were checked."""
    if importlib.util.find_spec("apache_beam"):
        logger.info("loading Apache Beam")
    with _suppress_warnings():
        import apache_beam  # noqa: F401


@contextlib.contextmanager
def _suppress_warnings() -> Iterator[None]:
    """Suppresses log warnings, such as Beam's about optional packages that are not installed."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
