"""From a config to a finished dataset: list, plan, run the pipeline, leave nothing half-written."""

import contextlib
import dataclasses
import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from beam_preprocess import dataflow, shard_writer
from beam_preprocess.beam_options import Target, pipeline_options
from beam_preprocess.config import Config
from beam_preprocess.corpus import Corpus, CorpusFile, find_corpus
from beam_preprocess.shards import ShardWriter
from sostenuto import storage
from sostenuto.data.manifest import MANIFEST_NAME, SPLITS, Manifest
from sostenuto.errors import UnavailableError, UserError
from sostenuto.progress import NOTICE, ProgressCounter, silenced

if TYPE_CHECKING:
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions

logger = logging.getLogger(__name__)

# What one core decodes and writes, from a local disk: MAESTRO's performances, some 3,000 notes each.
FILES_A_SECOND = 600

# Beam's runner in this process adds it to the message of whatever a step raises.
_RAISED_BY_STEP = re.compile(r" \[while running '[^']*'\]")


def preprocess(
    config: Config, *, beam_args: Sequence[str] = (), quiet: bool = False, wait: bool = True
) -> Manifest | None:
    """Writes the dataset that a config asks for.

    Args:
        config: what to read, what to write, and how.
        beam_args: options of the Beam pipeline, such as --runner=DataflowRunner; without a runner, FnApiRunner runs it
            in this process.
        quiet: shows no progress.
        wait: whether to wait for a job on Dataflow; a job elsewhere is always waited for.

    Returns:
        The manifest of the finished dataset; None for a job on Dataflow that was left to itself, or only described.

    Raises:
        UserError: the input, the output or an option cannot be used, too many files were refused, or Beam is not
            installed.
        JobFailedError: a job elsewhere failed, or is done and left no dataset.
    """
    with silenced(quiet):
        return _preprocess(config, beam_args, wait=wait)


def _preprocess(config: Config, beam_args: Sequence[str], *, wait: bool) -> Manifest | None:
    target = Target.of(beam_args)
    target.check(config)
    if not wait and not target.is_dataflow:
        raise UserError("--no_wait: only a job on Dataflow goes on by itself, expected -- --runner=DataflowRunner")
    if storage.is_remote(config.input):
        logger.info(f"listing {config.input}")
    corpus = find_corpus(
        config.input, metadata=config.metadata, split_fractions=config.split_fractions, piece_from=config.piece_from
    )
    shards = shard_writer.assign_shards(corpus.files, config.num_shards)
    work = _Work(config, corpus, shards, _plan(config, corpus, shards))
    if not config.overwrite and (manifest := _find_existing(work.plan)):
        logger.info(
            f"{config.output}: is the dataset of these files with these options already; --overwrite reads them anew"
        )
        return manifest
    if target.is_dataflow:
        return _preprocess_on_dataflow(work, beam_args, wait=wait)
    with (
        _output_directory(config),
        pipeline_options(beam_args) as options,
        ProgressCounter(total=len(corpus.files), unit="file", description="preprocess") as meter,
    ):
        from beam_preprocess import transforms

        transforms.on_file_done = meter.advance
        try:
            result = _pipeline(work, options, plan_directory=config.output).run()
            try:
                result.wait_until_finish()
            except (KeyboardInterrupt, SystemExit):
                # Nobody would find the job of a job server again.
                result.cancel()
                raise
        except UserError as error:
            kind = UnavailableError if isinstance(error, UnavailableError) else UserError
            raise kind(_RAISED_BY_STEP.sub("", str(error))) from error
        except RuntimeError as error:
            # Ctrl-C or SIGTERM within a step comes out of Beam as an error of that step.
            if isinstance(error.__context__, KeyboardInterrupt | SystemExit):
                raise error.__context__ from None
            if mistake := dataflow.extract_user_error(str(error)):
                raise UserError(mistake) from error
            raise
        finally:
            transforms.on_file_done = _nothing
    return _read_back(work.plan, job="the job")


@dataclasses.dataclass(frozen=True)
class _Work:
    """A config, and what follows from it and the input's listing."""

    config: Config
    corpus: Corpus
    shards: dict[str, list[CorpusFile]]
    plan: shard_writer.Plan


def _plan(config: Config, corpus: Corpus, shards: dict[str, list[CorpusFile]]) -> shard_writer.Plan:
    return shard_writer.Plan(
        output=config.output,
        shards={name: len(files) for name, files in shards.items()},
        source={
            "files": len(corpus.files),
            "paths_sha256": _digest(file.path for file in corpus.files),
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
            "licence": config.licence,
            "max_rejected_fraction": config.max_rejected_fraction,
        },
        max_rejected_fraction=config.max_rejected_fraction,
    )


def _digest(paths: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(paths).encode()).hexdigest()


def _find_existing(plan: shard_writer.Plan) -> Manifest | None:
    """Returns the manifest of a dataset that is there and that the plan would give again, unless files have changed."""
    if not storage.exists(storage.join(plan.output, MANIFEST_NAME)):
        return None
    try:
        return _read_back(plan, job="the job")
    except dataflow.JobFailedError:
        return None


def _pipeline(work: _Work, options: "PipelineOptions", *, plan_directory: str) -> "apache_beam.Pipeline":
    """Writes the list of files where all workers can read it, and returns the pipeline, ready to run.

    Raises:
        UserError: the runner finds an option wrong or missing, or the list cannot be written.
    """
    import apache_beam

    from beam_preprocess import pipeline
    from beam_preprocess.local_workers import resolve_num_processes

    config = work.config
    processes = resolve_num_processes(options)
    plan_file = storage.temporary_name(storage.join(plan_directory, shard_writer.PLAN_NAME))
    writer = ShardWriter(
        plan_file=plan_file,
        archive=work.corpus.archive,
        output=config.output,
        sustain=config.sustain,
        isolate_parsing=_isolate_parsing(config, options),
    )
    try:
        job = apache_beam.Pipeline(options=options)
    except ValueError as error:
        raise UserError(f"beam pipeline options: {error}") from error
    ranges = shard_writer.write_plan(plan_file, work.shards)
    pipeline.build(job, plan=work.plan, shards=ranges, writer=writer, processes=processes)
    return job


def _preprocess_on_dataflow(work: _Work, beam_args: Sequence[str], *, wait: bool) -> Manifest | None:
    """Starts the job on Dataflow that writes the dataset, unless there is one, waits for it, and reads back."""
    config = work.config
    with pipeline_options(beam_args) as options:
        from apache_beam.options.pipeline_options import GoogleCloudOptions

        cloud = options.view_as(GoogleCloudOptions)
        cloud.job_name = cloud.job_name or dataflow.job_name(config)
        jobs = dataflow.Jobs(options)
        job = jobs.find()
        if job is None or not jobs.is_active(job):
            shard_writer.prepare_output(config.output, overwrite=config.overwrite)
            logger.info(_estimate(work))
            # Not in the output: another launcher that starts now clears away what it takes for left there.
            job = jobs.start(_pipeline(work, options, plan_directory=cloud.temp_location))
        if job is None:
            return None
    logger.info(f"the Dataflow job {jobs.name}: {jobs.console(job)}", extra={"figures": {"job": job.id}})
    if not wait:
        logger.info(f"it goes on by itself, and writes {MANIFEST_NAME} last; watch it with: {jobs.how_to_watch(job)}")
        return None
    try:
        jobs.wait(job)
    except (KeyboardInterrupt, SystemExit):
        logger.log(NOTICE, "the job goes on by itself: the same command waits for it again")
        raise
    except (UserError, dataflow.JobFailedError):
        shard_writer.remove_temporaries(config.output)
        raise
    return _read_back(work.plan, job=f"the Dataflow job {jobs.name}")


def _estimate(work: _Work) -> str:
    """Returns what is known of the work before it is begun."""
    files = len(work.corpus.files)
    of_splits = Counter(name.partition("-")[0] for name in work.shards)
    splits = ", ".join(f"{of_splits[split]} {split}" for split in SPLITS)
    minutes = files / FILES_A_SECOND / 60
    return (
        f"{files:,} files into {len(work.shards):,} shards ({splits}), so as many may be written at a time: "
        f"{minutes:,.1f} minutes of one core, and on top the time to reach the files and to start workers"
    )


def _read_back(plan: shard_writer.Plan, *, job: str) -> Manifest:
    """Returns the manifest that a run left; that a runner calls its job done is no proof that there is one.

    Raises:
        JobFailedError: there is none, or not that of the plan, or a shard is missing.
    """
    try:
        manifest = Manifest.load(plan.output)
        files = set(storage.list_files(plan.output))
    except UserError as error:
        raise dataflow.JobFailedError(f"{job} is done, but {error}") from error
    document = manifest.document
    shards = [shard["file"] for split in SPLITS for shard in document["splits"][split]["shards"]]
    accounted = sum(map(manifest.performances, SPLITS)) + sum(document["rejected"].values())
    planned = (plan.source, plan.options, list(plan.shards), plan.source["files"])
    if (document["source"], document["options"], shards, accounted) != planned:
        raise dataflow.JobFailedError(
            f"{job} is done, but {plan.output} holds another dataset than the one asked for: has the input changed?"
        )
    if missing := [name for name in plan.shards if name not in files]:
        raise dataflow.JobFailedError(f"{job} is done, but {plan.output} lacks {missing[0]}")
    return manifest


def _nothing(*_: object) -> None:
    return None


@contextlib.contextmanager
def _output_directory(config: Config) -> Iterator[None]:
    """Prepares the output; after an error, nothing of this run is left in it."""
    was_there = storage.exists(config.output)
    shard_writer.prepare_output(config.output, overwrite=config.overwrite)
    try:
        yield
    except BaseException:
        shard_writer.remove_temporaries(config.output)
        if not was_there:
            # Nothing to remove in a bucket; and not where others have put something there meanwhile.
            with contextlib.suppress(OSError):
                os.rmdir(config.output)
        raise


def _isolate_parsing(config: Config, options: "PipelineOptions") -> bool:
    """Returns whether files are parsed in child processes: by default on a cluster, where a retry costs most."""
    from apache_beam.options.pipeline_options import StandardOptions

    if config.isolate_parsing is None:
        return options.view_as(StandardOptions).runner != "FnApiRunner"
    return config.isolate_parsing
