"""Writes a dataset: lists the corpus, plans the shards, runs the pipeline and verifies the result."""

import contextlib
import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from beam_preprocess.beam_options import DASK, DATAFLOW, check_runner, is_local, pipeline_options
from beam_preprocess.commit import (
    commit_dataset,
    hold_output,
    list_leftovers,
    prepare_output,
    remove_leftovers,
    remove_temporaries,
)
from beam_preprocess.config import Config
from beam_preprocess.corpus import Corpus, CorpusFile, find_corpus
from beam_preprocess.engines import dataflow, job_server
from beam_preprocess.engines.job_errors import JobFailedError, extract_user_error
from beam_preprocess.parser import PARSE_SECONDS, Parser
from beam_preprocess.plan import PLAN_NAME, DatasetPlan, ShardRange, assign_shards, make_plan, write_plan
from beam_preprocess.shard_writer import ShardReport, ShardWriter
from sostenuto import storage
from sostenuto.data.manifest import MANIFEST_NAME, SPLITS, Manifest
from sostenuto.errors import UserError
from sostenuto.progress import NOTICE, ProgressCounter, silenced
from sostenuto.storage.lease import Lease, Lock
from sostenuto.text import counted

if TYPE_CHECKING:
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions

logger = logging.getLogger(__name__)

# One core, a local disk, and MAESTRO's performances of about 3,000 notes.
FILES_PER_SECOND = 600

# FnApiRunner appends it to the message of an exception.
_STEP_SUFFIX = re.compile(r" \[while running '[^']*'\]")


@dataclasses.dataclass(frozen=True)
class _Job:
    """A config, its corpus, the files of each shard, and the plan."""

    config: Config
    corpus: Corpus
    shards: dict[str, list[CorpusFile]]
    plan: DatasetPlan


def preprocess(
    config: Config, *, beam_args: Sequence[str] = (), quiet: bool = False, wait: bool = True
) -> Manifest | None:
    """Writes a dataset, unless the output contains it already; None if a Dataflow job was only described or started.

    Raises a JobFailedError if a job elsewhere failed, or ended without a dataset.
    """
    return find_or_write(config, beam_args=beam_args, quiet=quiet, wait=wait)[0]


def find_or_write(
    config: Config, *, beam_args: Sequence[str] = (), quiet: bool = False, wait: bool = True
) -> tuple[Manifest | None, bool]:
    """Returns the result of `preprocess`, and whether the dataset is new."""
    with silenced(quiet):
        runner = check_runner(beam_args, config)
        is_dataflow = runner == DATAFLOW
        if not is_local(runner):
            # Workers have other working directories.
            config = dataclasses.replace(
                config, input=storage.absolute(config.input), output=storage.absolute(config.output)
            )
        if not wait and not is_dataflow:
            raise UserError("--no_wait: needs a job on Dataflow. Pass -- --runner=DataflowRunner")
        if storage.is_remote(config.input):
            logger.info(f"listing {config.input}")
        corpus = find_corpus(
            config.input,
            metadata=config.metadata,
            split_fractions=config.split_fractions,
            piece_from=config.piece_from,
            composer_from=config.composer_from,
        )
        shards = assign_shards(corpus.files, config.num_shards)
        job = _Job(config, corpus, shards, make_plan(config, corpus, shards))
        if manifest := _find_existing(job):
            _complete_existing(job)
            return manifest, False
        if is_dataflow:
            return _run_on_dataflow(job, beam_args, wait=wait), True
        with hold_output(config.output) as lease:
            # Another process may have written it since.
            if manifest := _find_existing(job):
                return manifest, False
            _run(job, beam_args, lease, runner)
            return _load_result(job.plan, job="the job"), True


def _find_existing(job: _Job) -> Manifest | None:
    """Returns the dataset if the output contains it and it is not to be rebuilt."""
    output = job.config.output
    if job.config.overwrite or not storage.exists(storage.join(output, MANIFEST_NAME)):
        return None
    with contextlib.suppress(JobFailedError):
        manifest = _load_result(job.plan, job="the job")
        logger.info(f"{output}: already contains this dataset. Pass --overwrite to rebuild it")
        return manifest
    return None


def _complete_existing(job: _Job) -> None:
    """Deletes what a run left that was killed after it had written dataset.json."""
    if list_leftovers(job.plan):
        # Another process may be deleting it, and a dataset may be read-only.
        with contextlib.suppress(UserError), hold_output(job.config.output) as lease:
            remove_leftovers(job.plan, lease)


def _run(job: _Job, beam_args: Sequence[str], lease: Lock | Lease, runner: str) -> None:
    """Runs the pipeline in this process, on a job server or on Dask, and waits for it."""
    output = job.config.output
    prepare_output(output, overwrite=job.config.overwrite)
    try:
        with (
            pipeline_options(beam_args) as options,
            ProgressCounter(total=len(job.corpus.files), unit="file", description="preprocess") as counter,
            _translate_errors(),
        ):
            if runner == DASK:
                _run_on_dask(job, options, lease, counter)
            elif is_local(runner):
                _build_pipeline(job, options, lease=lease, on_file_done=counter.advance).run().wait_until_finish()
            else:
                job_server.run(_build_pipeline(job, options, lease=lease))
    except BaseException:
        # Another process that holds the output has its own temporary files in it.
        with contextlib.suppress(UserError):
            lease.check_held(now=True)
            remove_temporaries(output)
        raise


def _run_on_dask(job: _Job, options: "PipelineOptions", lease: Lock | Lease, counter: ProgressCounter) -> None:
    """Has Dask's workers write the shards, and completes the dataset in this process."""
    from beam_preprocess.engines import dask_cluster
    from beam_preprocess.pipeline import WriteCorpus

    reports: list[ShardReport] = []
    with dask_cluster.connect(options) as cluster:
        cluster.wait_for_worker()
        logger.info(f"the Dask scheduler at {cluster.address} has {counted(cluster.count_workers(), 'worker')}")
        cluster.share_project()
        shards, writer = _write_plan(job, options)
        cluster.check_path(writer.plan_file)
        writer = dask_cluster.KeptWriter.of(writer)
        pipeline = _new_pipeline(options, dask_cluster.TaskRunner(cluster, tasks=len(shards)))
        _ = pipeline | WriteCorpus(shards, writer)
        results: Any = pipeline.run()
        try:
            for task_reports in results:
                reports += task_reports
                counter.advance(sum(job.plan.shards[report.name] for report in task_reports))
        except BaseException:
            results.cancel()
            raise
        finally:
            cluster.run_on_workers(dask_cluster.KeptWriter.close_all, writer.plan_file)
    commit_dataset(job.plan, reports, lease)


def _build_pipeline(
    job: _Job,
    options: "PipelineOptions",
    *,
    lease: Lock | Lease | None = None,
    on_file_done: Callable[[], None] = lambda: None,
) -> "apache_beam.Pipeline":
    """Writes the plan file where all workers can read it, and returns the pipeline."""
    from beam_preprocess.pipeline import PreprocessCorpus, WriteCorpus, resolve_num_processes

    processes = resolve_num_processes(options)
    pipeline = _new_pipeline(options)
    write_corpus = WriteCorpus(*_write_plan(job, options), processes, on_file_done)
    _ = pipeline | PreprocessCorpus(job.plan, write_corpus, lease=lease)
    return pipeline


def _new_pipeline(options: "PipelineOptions", runner: Any = None) -> "apache_beam.Pipeline":
    import apache_beam

    try:
        return apache_beam.Pipeline(runner, options)
    except ValueError as error:
        raise UserError(f"beam pipeline options: {error}") from error


def _write_plan(job: _Job, options: "PipelineOptions") -> tuple[list[ShardRange], ShardWriter]:
    """Writes the plan file; returns the shards' positions in it, and what writes a shard."""
    from apache_beam.options.pipeline_options import StandardOptions

    isolate_parsing = job.config.isolate_parsing
    if isolate_parsing is None:
        # On a cluster, the retries of a crashed worker cost most.
        isolate_parsing = options.view_as(StandardOptions).runner != "FnApiRunner"
    directory = job.plan.staging or job.plan.output
    plan_file = storage.temporary_name(storage.join(directory, PLAN_NAME))
    writer = ShardWriter(
        plan_file=plan_file,
        archive=job.corpus.archive,
        directory=directory,
        parser=Parser(job.config.sustain, seconds=PARSE_SECONDS if isolate_parsing else None),
    )
    return write_plan(plan_file, job.shards), writer


@contextlib.contextmanager
def _translate_errors() -> Iterator[None]:
    """Translates the errors of runners into the exceptions that steps raised."""
    try:
        yield
    except UserError as error:
        error.args = (_STEP_SUFFIX.sub("", str(error)),)
        raise
    except RuntimeError as error:
        # Beam turns SIGINT and SIGTERM within a step into an error of that step.
        if isinstance(error.__context__, KeyboardInterrupt | SystemExit):
            raise error.__context__ from None
        if user_error := extract_user_error(str(error)):
            raise user_error from error
        raise


def _run_on_dataflow(job: _Job, beam_args: Sequence[str], *, wait: bool) -> Manifest | None:
    """Starts the dataset's job on Dataflow, unless it is active already, and waits for it."""
    config, staging = job.config, ""
    with pipeline_options(beam_args) as options:
        from apache_beam.options.pipeline_options import GoogleCloudOptions

        cloud = options.view_as(GoogleCloudOptions)
        cloud.job_name = cloud.job_name or dataflow.job_name(config)
        jobs = dataflow.Jobs(options)
        dataflow_job = jobs.find()
        if dataflow_job is None or not jobs.is_active(dataflow_job):
            with hold_output(config.output):
                prepare_output(config.output, overwrite=config.overwrite)
            logger.info(_describe(job))
            # Unfinished files are not in the output, where another process would remove them: the launcher may end
            # before the job, which holds the output only while it completes the dataset.
            staging = storage.temporary_name(storage.join(cloud.temp_location, "preprocess"))
            plan = dataclasses.replace(job.plan, staging=staging)
            dataflow_job = jobs.start(_build_pipeline(dataclasses.replace(job, plan=plan), options))
        if dataflow_job is None:
            return None
    logger.info(
        f"the Dataflow job {jobs.name}: {jobs.console_url(dataflow_job)}", extra={"figures": {"job": dataflow_job.id}}
    )
    if not wait:
        logger.info(f"the job writes {MANIFEST_NAME} last. To watch it, run: {jobs.watch_command(dataflow_job)}")
        return None
    try:
        jobs.wait(dataflow_job)
    except (KeyboardInterrupt, SystemExit):
        logger.log(NOTICE, "the job continues. To wait for it, run the same command again")
        raise
    except (UserError, JobFailedError):
        if staging:
            storage.remove_directory(staging)
        raise
    return _load_result(job.plan, job=f"the Dataflow job {jobs.name}")


def _describe(job: _Job) -> str:
    """Returns the size of a job: files, shards and an estimate of its time."""
    files = len(job.corpus.files)
    counts = Counter(name.partition("-")[0] for name in job.shards)
    splits = ", ".join(f"{counts[split]} {split}" for split in SPLITS)
    return (
        f"{counted(files, 'file')} into {counted(len(job.shards), 'shard')} ({splits}), at most one worker per shard: "
        f"about {files / FILES_PER_SECOND / 60:,.1f} minutes of one core, plus the time to fetch files and to start "
        "workers"
    )


def _load_result(plan: DatasetPlan, *, job: str) -> Manifest:
    """Returns the manifest of a dataset if it has the plan and all shards; a runner may report success without one."""
    try:
        manifest = Manifest.load(plan.output)
        sizes = storage.sizes(plan.output)
    except UserError as error:
        raise JobFailedError(f"{job} is done, but {error}") from error
    shards = {shard.file: shard.bytes for split in SPLITS for shard in manifest.splits[split].shards}
    total = sum(map(manifest.performances, SPLITS)) + sum(manifest.rejected.values())
    planned = (plan.source, plan.options, list(plan.shards), plan.source["files"])
    if (manifest.source, manifest.options, list(shards), total) != planned:
        raise JobFailedError(
            f"{job} is done, but {plan.output} contains another dataset than planned. Check whether the input changed"
        )
    for name, size in shards.items():
        if name not in sizes:
            raise JobFailedError(f"{job} is done, but {plan.output} lacks {name}")
        if sizes[name] != size:
            raise JobFailedError(
                f"{job} is done, but {storage.join(plan.output, name)} has {sizes[name]:,} bytes, expected {size:,}"
            )
    return manifest
