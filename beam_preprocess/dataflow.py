"""Jobs of Google's Dataflow service: found by name, watched, and told of when they fail.

A job's name follows from what it makes. So a launcher that is started again finds the job that the first one started,
and waits for it instead of starting a second one that writes to the same place.
"""

import dataclasses
import hashlib
import json
import logging
import re
import time
from typing import TYPE_CHECKING, Any

from beam_preprocess.config import Config
from sostenuto import extras
from sostenuto.errors import UserError

if TYPE_CHECKING:
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions

logger = logging.getLogger(__name__)

# Seconds between two looks at a job: soon at first, since a mistake shows early.
FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0
# Between two lines that say that a job still goes on.
LINE_SECONDS = 300.0
# A job has failed some time before the message appears that says why; Beam's own runner waits as long.
MESSAGE_SECONDS = 50.0

# How a UserError of a worker looks in the text in which a runner elsewhere reports it.
_USERS_MISTAKE = re.compile(r"sostenuto\.errors\.UserError: (.+?)(?: \[while running [^\n]*)?$", re.MULTILINE)


class JobFailedError(Exception):
    """A job did not do what it should have; the message is one line, and says where to look."""


def job_name(config: Config) -> str:
    """Returns the name of the job that makes a dataset, the same whenever the same dataset is asked for."""
    asked = dataclasses.asdict(config)
    # These change nothing of the dataset.
    del asked["overwrite"], asked["isolate_parsing"]
    for name in ("input", "output"):
        asked[name] = asked[name].rstrip("/")
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    return f"sostenuto-preprocess-{digest[:12]}"


def extract_user_error(text: str) -> str | None:
    """Returns the message of the UserError that a worker raised, if a runner's report of a failure tells of one."""
    found = _USERS_MISTAKE.search(text)
    return found[1] if found else None


class Jobs:
    """The jobs of one name, in the project and region that Beam's options name.

    Args:
        options: Beam's options, with a job name.

    Raises:
        UserError: Beam was installed without its parts for Google Cloud, or there are no credentials.
    """

    def __init__(self, options: "PipelineOptions") -> None:
        try:
            import google.auth
            from apache_beam.options.pipeline_options import GoogleCloudOptions
            from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient
            from google.cloud import dataflow
        except ImportError as error:
            raise UserError(f"--runner=DataflowRunner: {error}. {extras.remedy('gcp')}") from error
        self._api = dataflow
        self._cloud = options.view_as(GoogleCloudOptions)
        self.name = self._cloud.job_name
        if not self._cloud.no_auth:
            # Beam itself would try for half a minute, and then go on without any.
            try:
                google.auth.default()
            except google.auth.exceptions.DefaultCredentialsError as error:
                raise UserError(
                    "no credentials of Google Cloud, expected application-default ones: "
                    "gcloud auth application-default login"
                ) from error
        self._client = DataflowApplicationClient(options)

    def find(self) -> Any | None:
        """Returns the active job of the name, or else the last that ended, or None.

        Raises:
            UserError: Dataflow refuses to say.
        """
        from google.api_core.exceptions import ClientError

        # Beam's own search by name overlooks jobs that wait for workers, and never ends where there is none.
        request = self._api.ListJobsRequest(
            project_id=self._cloud.project,
            location=self._cloud.region,
            name=self.name,
            filter=self._api.ListJobsRequest.Filter.ALL,
        )
        try:
            jobs = [job for job in self._client._jobs_client.list_jobs(request) if job.name == self.name]
        except ClientError as error:
            raise UserError(
                f"Dataflow of project {self._cloud.project} in {self._cloud.region} cannot be used ({error}): enable "
                "its API, and have the role roles/dataflow.developer"
            ) from error
        return max(jobs, key=lambda job: (self.is_active(job), job.create_time), default=None)

    def start(self, pipeline: "apache_beam.Pipeline") -> Any | None:
        """Starts a job, or finds the one that another launcher has started in the meantime.

        Returns:
            The job; None where the options ask only to describe it (--dry_run, --template_location).

        Raises:
            UserError: Dataflow refuses it, or the place for its files.
        """
        from apache_beam.runners.dataflow.internal.apiclient import DataflowJobAlreadyExistsError
        from google.api_core.exceptions import ClientError, Conflict

        try:
            result: Any = pipeline.run()
        # The service either says that there is a conflict, or answers with the job that there is.
        except (DataflowJobAlreadyExistsError, Conflict):
            return self.find()
        except (ClientError, OSError) as error:
            raise UserError(f"the Dataflow job {self.name} cannot be started: {error}") from error
        if not getattr(result, "has_job", False):
            logger.info(f"the Dataflow job {self.name} was described, and not started")
            return None
        return self._client.get_job(result.job_id())

    def is_active(self, job: Any) -> bool:
        """Returns whether a job still works, or waits to."""
        state = self._api.JobState
        return job.current_state not in (
            state.JOB_STATE_DONE,
            state.JOB_STATE_FAILED,
            state.JOB_STATE_CANCELLED,
            state.JOB_STATE_UPDATED,
            state.JOB_STATE_DRAINED,
        )

    def _is_done(self, job: Any) -> bool:
        """Returns whether Dataflow holds that a job has done all its work."""
        return job.current_state == self._api.JobState.JOB_STATE_DONE

    def console(self, job: Any) -> str:
        """Returns the address of a job's page."""
        region, project = self._cloud.region, self._cloud.project
        return f"https://console.cloud.google.com/dataflow/jobs/{region}/{job.id}?project={project}"

    def how_to_watch(self, job: Any) -> str:
        """Returns the command that tells of a job."""
        return f"gcloud dataflow jobs describe {job.id} --region={self._cloud.region} --project={self._cloud.project}"

    def wait(self, job: Any) -> None:
        """Waits until a job is done.

        Raises:
            UserError: it failed through the user's mistake.
            JobFailedError: it ended in any other way.
        """
        said, delay, begun = None, FIRST_DELAY, time.monotonic()
        next_line = begun + LINE_SECONDS
        while True:
            job = self._client.get_job(job.id)
            state = job.current_state
            if state != said:
                logger.info(f"{self.name}: {state.name}", extra={"figures": {"job": job.id, "state": state.name}})
                said = state
            elif time.monotonic() >= next_line:
                next_line = time.monotonic() + LINE_SECONDS
                minutes = round((time.monotonic() - begun) / 60)
                logger.info(
                    f"{self.name}: {state.name}, waited {minutes:,} minutes",
                    extra={"figures": {"job": job.id, "state": state.name}},
                )
            if not self.is_active(job):
                break
            time.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY)
        if self._is_done(job):
            return
        errors = self._errors(job) if state == self._api.JobState.JOB_STATE_FAILED else ""
        if mistake := extract_user_error(errors):
            raise UserError(mistake)
        cause = f" ({errors.strip().splitlines()[-1]})" if errors.strip() else ""
        raise JobFailedError(f"the Dataflow job {self.name} ended as {state.name}{cause}: see {self.console(job)}")

    def _errors(self, job: Any) -> str:
        """Returns what a failed job says of its failure; that may take a while to appear."""
        delay, deadline = FIRST_DELAY, time.monotonic() + MESSAGE_SECONDS
        while True:
            messages, _ = self._client.list_messages(job.id, minimum_importance="JOB_MESSAGE_ERROR")
            if messages or time.monotonic() > deadline:
                return "\n".join(message.message_text for message in messages)
            time.sleep(delay)
            delay *= 2
