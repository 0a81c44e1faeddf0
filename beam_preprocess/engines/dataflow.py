"""Dataflow jobs: found by name, started, and watched until they end."""

import dataclasses
import hashlib
import json
import logging
import time
from typing import TYPE_CHECKING, Any

from beam_preprocess.config import Config
from beam_preprocess.engines.job_errors import JobFailedError, extract_user_error
from sostenuto import extras
from sostenuto.errors import UserError
from sostenuto.text import counted

if TYPE_CHECKING:
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions

logger = logging.getLogger(__name__)

# Seconds between two requests for a job's state: short at first, since an invalid job fails early.
FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0
LINE_SECONDS = 300.0  # between two lines about an unchanged state
# The message with the cause of a failure appears some time after the failure. Beam's own runner waits as long.
MESSAGE_SECONDS = 50.0


def job_name(config: Config) -> str:
    """Returns the name of a dataset's job: a restarted launcher finds the job instead of starting a second one."""
    fields = dataclasses.asdict(config)
    # They do not change the dataset.
    del fields["overwrite"], fields["isolate_parsing"]
    for name in ("input", "output"):
        fields[name] = fields[name].rstrip("/")
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    return f"sostenuto-preprocess-{digest[:12]}"


class Jobs:
    """The Dataflow jobs with the project, region and job name of Beam's options."""

    def __init__(self, options: "PipelineOptions") -> None:
        try:
            import google.auth
            from apache_beam.options.pipeline_options import GoogleCloudOptions
            from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient
            from google.cloud import dataflow
        except ImportError as error:
            raise UserError(f"--runner=DataflowRunner: {error}. {extras.remedy('gcp')}") from error
        self._api = dataflow
        ended = ("DONE", "FAILED", "CANCELLED", "UPDATED", "DRAINED")
        self._ended = [getattr(dataflow.JobState, f"JOB_STATE_{state}") for state in ended]
        self._cloud = options.view_as(GoogleCloudOptions)
        self.name = self._cloud.job_name
        if not self._cloud.no_auth:
            # Beam would retry for half a minute and continue without credentials.
            try:
                google.auth.default()
            except google.auth.exceptions.DefaultCredentialsError as error:
                raise UserError(
                    "no application-default credentials of Google Cloud. Run gcloud auth application-default login"
                ) from error
        self._client = DataflowApplicationClient(options)

    def find(self) -> Any | None:
        """Returns the active job, or else the last one that ended, or None."""
        from google.api_core.exceptions import ClientError

        # Beam's own search by name skips jobs that wait for workers, and does not end if there is no job.
        project, region, every = self._cloud.project, self._cloud.region, self._api.ListJobsRequest.Filter.ALL
        request = self._api.ListJobsRequest(project_id=project, location=region, name=self.name, filter=every)
        try:
            jobs = [job for job in self._client._jobs_client.list_jobs(request) if job.name == self.name]
        except ClientError as error:
            raise UserError(
                f"Dataflow of project {project} in {region} cannot be used ({error}). Enable its API, and grant the "
                "role roles/dataflow.developer"
            ) from error
        return max(jobs, key=lambda job: (self.is_active(job), job.create_time), default=None)

    def start(self, pipeline: "apache_beam.Pipeline") -> Any | None:
        """Starts a job, or finds another launcher's; None if the options only describe it, as --dry_run does."""
        from apache_beam.runners.dataflow.internal.apiclient import DataflowJobAlreadyExistsError
        from google.api_core.exceptions import ClientError, Conflict

        try:
            result: Any = pipeline.run()
        # The service reports a conflict or answers with the existing job.
        except (DataflowJobAlreadyExistsError, Conflict):
            return self.find()
        except (ClientError, OSError) as error:
            raise UserError(f"the Dataflow job {self.name} cannot be started: {error}") from error
        if not getattr(result, "has_job", False):
            logger.info(f"the Dataflow job {self.name} was described, and not started")
            return None
        return self._client.get_job(result.job_id())

    def is_active(self, job: Any) -> bool:
        """Returns whether a job runs or waits."""
        return job.current_state not in self._ended

    def console_url(self, job: Any) -> str:
        """Returns the URL of a job's page."""
        region, project = self._cloud.region, self._cloud.project
        return f"https://console.cloud.google.com/dataflow/jobs/{region}/{job.id}?project={project}"

    def watch_command(self, job: Any) -> str:
        """Returns the gcloud command that describes a job."""
        return f"gcloud dataflow jobs describe {job.id} --region={self._cloud.region} --project={self._cloud.project}"

    def wait(self, job: Any) -> None:
        """Waits until a job is done; raises its UserError, or else a JobFailedError, if it is not."""
        job = self._wait_until_ended(job)
        state = job.current_state.name
        if state == "JOB_STATE_DONE":
            return
        messages = self._list_errors(job) if state == "JOB_STATE_FAILED" else ""
        if error := extract_user_error(messages):
            raise error
        cause = f" ({messages.strip().splitlines()[-1]})" if messages.strip() else ""
        raise JobFailedError(f"the Dataflow job {self.name} ended as {state}{cause}: see {self.console_url(job)}")

    def _wait_until_ended(self, job: Any) -> Any:
        """Reports a job's states until it ends, and returns the ended job."""
        state = ""
        delay, start = FIRST_DELAY, time.monotonic()
        next_line = start
        while True:
            job = self._client.get_job(job.id)
            now = time.monotonic()
            if job.current_state.name != state or now >= next_line:
                minutes = counted(round((now - start) / 60), "minute")
                waited = f", waited {minutes}" if job.current_state.name == state else ""
                state, next_line = job.current_state.name, now + LINE_SECONDS
                logger.info(f"{self.name}: {state}{waited}", extra={"figures": {"job": job.id, "state": state}})
            if not self.is_active(job):
                return job
            time.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY)

    def _list_errors(self, job: Any) -> str:
        """Returns the error messages of a failed job, which may take a while to appear."""
        delay, deadline = FIRST_DELAY, time.monotonic() + MESSAGE_SECONDS
        while True:
            messages, _ = self._client.list_messages(job.id, minimum_importance="JOB_MESSAGE_ERROR")
            if messages or time.monotonic() > deadline:
                return "\n".join(message.message_text for message in messages)
            time.sleep(delay)
            delay *= 2
