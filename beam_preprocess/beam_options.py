"""The options of Beam's pipeline: where it runs, what can be refused at once, and what its workers install."""

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
class Target:
    """The options of Beam that decide where a pipeline runs; None where they are not given.

    They are looked at before Beam is imported, which takes seconds.

    Attributes:
        runner: the runner's name in lower case, without "runner" at its end: "dataflow", "portable", "fnapi".
        project: of Google Cloud.
        region: of Google Cloud.
        temp_location: where Dataflow puts temporary files, and the packed project.
        job_endpoint: host:port of a portable job server.
    """

    runner: str | None
    project: str | None
    region: str | None
    temp_location: str | None
    job_endpoint: str | None

    @classmethod
    def of(cls, beam_args: Sequence[str]) -> "Target":
        """Reads the options from a command line of Beam's.

        Raises:
            UserError: one of them has no value.
        """
        parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False, exit_on_error=False)
        for field in dataclasses.fields(cls):
            parser.add_argument(f"--{field.name}")
        try:
            given, _ = parser.parse_known_args(list(beam_args))
        except argparse.ArgumentError as error:
            raise UserError(f"beam pipeline options {' '.join(beam_args)}: {error}") from error
        if given.runner is not None:
            given.runner = given.runner.rpartition(".")[2].lower().removesuffix("runner")
        return cls(**vars(given))

    @property
    def is_dataflow(self) -> bool:
        """Whether the pipeline runs on Dataflow."""
        return self.runner == "dataflow"

    @property
    def is_local(self) -> bool:
        """Whether the pipeline runs in this process or its children."""
        return self.runner in (None, "fnapi", "direct", "bundlebaseddirect", "prism")

    def check(self, config: Config) -> None:
        """Refuses what can never run.

        Raises:
            UserError: an option is missing, or Dataflow's workers could not reach the input or the output.
        """
        if self.runner == "portable" and not self.job_endpoint:
            raise UserError("--runner=PortableRunner: --job_endpoint is missing, expected a job server's HOST:PORT")
        if not self.is_dataflow:
            return
        for name in ("project", "region", "temp_location"):
            if not getattr(self, name):
                raise UserError(
                    f"--runner=DataflowRunner: --{name} is missing, expected after -- "
                    "--project=PROJECT --region=REGION --temp_location=gs://BUCKET/PATH"
                )
        paths = {"input": config.input, "output": config.output, "temp_location": self.temp_location}
        for name, path in paths.items():
            if not str(path).startswith("gs://"):
                raise UserError(f"--{name}={path}: Dataflow's workers cannot reach it, expected gs://BUCKET/PATH")


@contextlib.contextmanager
def pipeline_options(beam_args: Sequence[str]) -> Iterator["PipelineOptions"]:
    """Gives Beam's options, with FnApiRunner where no runner is named, and the project packed for workers elsewhere.

    Plain DirectRunner would try to download another runner first, and so behave differently with and without a network.
    The package is there until the context is left: a runner must have taken it by then.

    Raises:
        ModuleNotFoundError: Beam is not installed.
        UserError: an option has a bad value, or the runner would not know it.
    """
    _import_beam()
    from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions, SetupOptions, StandardOptions

    target = Target.of(beam_args)
    usage = io.StringIO()
    try:
        with contextlib.redirect_stderr(usage), _without_beams_warnings():
            options = PipelineOptions(list(beam_args))
            known = options.get_all_options()
            unknown = set(options.get_all_options(retain_unknown_options=True)) - set(known)
    except SystemExit as error:
        last_line = usage.getvalue().strip().rpartition("\n")[2]
        raise UserError(f"beam pipeline options {' '.join(beam_args)}: {last_line.partition('error: ')[2]}") from error
    standard = options.view_as(StandardOptions)
    if standard.runner is None:
        standard.runner = "FnApiRunner"
    # Runners of other clusters have options of their own that only they know.
    if unknown and (target.is_local or target.is_dataflow):
        raise UserError(f"unknown beam pipeline option --{min(unknown)}: see Beam's documentation of pipeline options")
    if target.is_local or target.is_dataflow:
        # Beam prints the tracebacks of failed steps; the error that reaches the caller has them too.
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    setup = options.view_as(SetupOptions)
    if setup.setup_file is not None:
        # Beam changes into its directory, and cannot where the name has none.
        setup.setup_file = os.path.abspath(setup.setup_file)
        if not os.path.isfile(setup.setup_file):
            raise UserError(f"--setup_file={setup.setup_file}: no such file")
    with tempfile.TemporaryDirectory(prefix="sostenuto-") as directory:
        in_this_process = target.is_local or options.view_as(PortableOptions).environment_type == "LOOPBACK"
        if setup.setup_file is None and not in_this_process:
            setup.setup_file = worker_package.stage_package(directory)
        yield options


def split_beam_options(arguments: Sequence[str], *, known: Container[str]) -> tuple[list[str], list[str]]:
    """Separates Beam's options from this command's own flags.

    Args:
        arguments: a command line without `--`.
        known: the names of this command's flags.

    Returns:
        The arguments that are none of Beam's options, and those that are; the latter are empty without Beam.
    """
    try:
        with silenced():
            _import_beam()
    except ModuleNotFoundError:
        return list(arguments), []
    from apache_beam.options.pipeline_options import PipelineOptions

    beams = set(PipelineOptions([]).get_all_options())
    ours: list[str] = []
    options: list[str] = []
    current = ours
    for argument in arguments:
        # A value that stands apart follows its flag.
        if argument.startswith("-"):
            name = argument.lstrip("-").partition("=")[0]
            current = options if name in beams and name not in known else ours
        current.append(argument)
    return ours, options


def _import_beam() -> None:
    """Imports Beam only now: it takes seconds, and whoever mistyped a flag should not wait for it."""
    if importlib.util.find_spec("apache_beam"):
        logger.info("loading Apache Beam")
    with _without_beams_warnings():
        import apache_beam  # noqa: F401


@contextlib.contextmanager
def _without_beams_warnings() -> Iterator[None]:
    """Beam warns, as it is imported, of optional packages that are not installed."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
