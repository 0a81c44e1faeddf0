"""From a config to a finished dataset: list, plan, run the pipeline, leave nothing half-written."""

import contextlib
import io
import logging
import os
import re
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from beam_preprocess import writer
from beam_preprocess.config import Config
from beam_preprocess.corpus import find_corpus
from beam_preprocess.shards import ShardWriter
from notes import storage
from notes.errors import UserError
from notes.manifest import Manifest
from notes.progress import Meter

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

# Beam's runner in this process adds it to the message of whatever a step raises.
_RAISED_BY_STEP = re.compile(r" \[while running '[^']*'\]")


def preprocess(config: Config, *, beam_args: Sequence[str] = (), quiet: bool = False) -> Manifest:
    """Writes the dataset that a config asks for.

    Args:
        config: what to read, what to write, and how.
        beam_args: options of the Beam pipeline, such as --runner=DataflowRunner; without a runner, FnApiRunner runs it
            in this process.
        quiet: shows no progress.

    Returns:
        The manifest of the finished dataset.

    Raises:
        UserError: the input, the output or an option cannot be used, too many files were refused, or Beam is not
            installed.
    """
    corpus = find_corpus(
        config.input, metadata=config.metadata, split_fractions=config.split_fractions, piece_from=config.piece_from
    )
    shards = writer.assign_shards(corpus.files, config.num_shards)
    plan = writer.Plan(
        output=config.output,
        shards={name: len(files) for name, files in shards.items()},
        source={
            "files": len(corpus.files),
            "unlisted": corpus.unlisted,
            "straddling_pieces": corpus.straddling_pieces,
            "metadata": corpus.metadata,
            "metadata_sha256": corpus.metadata_sha256,
        },
        options={
            "split_fractions": list(config.split_fractions),
            "piece_from": config.piece_from,
            "num_shards": config.num_shards,
            "sustain": config.sustain,
            "max_rejected_fraction": config.max_rejected_fraction,
        },
        max_rejected_fraction=config.max_rejected_fraction,
    )
    with (
        _output_directory(config),
        Meter(total=len(corpus.files), unit="file", description="preprocess", quiet=quiet) as meter,
    ):
        with _without_beams_warnings():
            beam = _import_beam()
            from beam_preprocess import pipeline, transforms
            from beam_preprocess.local_workers import take_processes
        options = _pipeline_options(beam_args)
        processes = take_processes(options)
        plan_file = storage.temporary_name(os.path.join(config.output, writer.PLAN_NAME))
        shard_writer = ShardWriter(
            plan_file=plan_file,
            archive=corpus.archive,
            output=config.output,
            sustain=config.sustain,
            isolate_parsing=_isolate_parsing(config, options),
        )
        transforms.on_file_done = meter.advance
        try:
            job = beam.Pipeline(options=options)
            ranges = writer.write_plan(plan_file, shards)
            pipeline.build(job, plan=plan, shards=ranges, writer=shard_writer, processes=processes)
            job.run().wait_until_finish()
        except UserError as error:
            raise UserError(_RAISED_BY_STEP.sub("", str(error))) from error
        except RuntimeError as error:
            # Ctrl-C or SIGTERM within a step comes out of Beam as an error of that step.
            if isinstance(error.__context__, KeyboardInterrupt | SystemExit):
                raise error.__context__ from None
            raise
        finally:
            transforms.on_file_done = lambda: None
    return Manifest.load(config.output)


@contextlib.contextmanager
def _output_directory(config: Config) -> Iterator[None]:
    """Prepares the output; after an error, nothing of this run is left in it."""
    was_there = storage.exists(config.output)
    writer.prepare_output(config.output, overwrite=config.overwrite)
    try:
        yield
    except BaseException:
        writer.remove_temporaries(config.output)
        if not was_there and not os.listdir(storage.local_path(config.output)):
            os.rmdir(storage.local_path(config.output))
        raise


def _import_beam() -> ModuleType:
    """Imports Beam only now: it takes seconds, and whoever mistyped a flag should not wait for it."""
    try:
        import apache_beam
    except ModuleNotFoundError as error:
        if error.name != "apache_beam":
            raise
        raise UserError(
            "Apache Beam is not installed, and preprocessing needs it: pip install 'sostenuto[beam]'"
        ) from error
    return apache_beam


@contextlib.contextmanager
def _without_beams_warnings() -> Iterator[None]:
    """Beam warns, as it is imported, of optional packages that are not installed."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _isolate_parsing(config: Config, options: "PipelineOptions") -> bool:
    """Returns whether files are parsed in child processes: by default on a cluster, where a retry costs most."""
    from apache_beam.options.pipeline_options import StandardOptions

    if config.isolate_parsing is None:
        return options.view_as(StandardOptions).runner != "FnApiRunner"
    return config.isolate_parsing


def _pipeline_options(beam_args: Sequence[str]) -> "PipelineOptions":
    """Returns Beam's options, with FnApiRunner where no runner is named.

    Plain DirectRunner would try to download another runner first, and so behave differently with and without a network.

    Raises:
        UserError: an option has a bad value, or the local runner does not know it.
    """
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

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
    if standard.runner == "FnApiRunner":
        # Runners of clusters have options of their own that only they know.
        if unknown:
            raise UserError(
                f"unknown beam pipeline option --{min(unknown)}: see Beam's documentation of pipeline options"
            )
        # Beam prints the tracebacks of failed steps; the error that reaches the caller has them too.
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    return options
