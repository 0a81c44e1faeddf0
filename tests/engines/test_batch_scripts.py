"""The batch scripts without Slurm: form, port, and what an exit status leads to. test_slurm.py runs them."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.processes import REPOSITORY
from trainer.distribution.cluster import resolve

SCRIPTS = sorted((REPOSITORY / "slurm").glob("*.sbatch"))

# Programs of Slurm: each notes its call, and srun runs the task.
_STANDINS = {
    "srun": 'while [ "$1" != bash ]; do shift; done; exec "$@"',
    "squeue": "echo $STATE",
    "scontrol": "",
    "scancel": "",
}


@pytest.fixture
def run(tmp_path: Path):
    """A function that runs a line of bash after job.sh; returns its status and the calls of Slurm's programs."""
    calls = tmp_path / "calls"
    for name, body in _STANDINS.items():
        program = tmp_path / name
        program.write_text(f'#!/bin/bash\n[ {name} = srun ] || echo {name} "$*" >> {calls}\n{body}\n')
        program.chmod(0o755)

    def run(line: str, *, state: str = "RUNNING", restarts: str = "") -> tuple[int, list[str]]:
        calls.write_text("")
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "STATE": state, "SLURM_JOB_ID": "7"}
        if restarts:
            environment["SLURM_RESTART_COUNT"] = restarts
        process = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"source slurm/job.sh\n{line}"],
            cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return process.returncode, calls.read_text().splitlines()

    return run


ASKED = "squeue --noheader --format=%T --jobs=7"
REQUEUED = [ASKED, "scontrol requeue 7"]


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"),
    [
        *((status, "", True) for status in (71, 75, 134, 137, 139, 143)),
        *((status, "3", False) for status in (71, 134, 137, 139)),
        *((status, "99", True) for status in (75, 143)),
        *((status, "100", False) for status in (75, 143)),
    ],
)
def test_a_failure_that_may_pass_requeues_the_job_a_number_of_times(run, status, restarts, requeued):
    assert run(f"end_job {status}", restarts=restarts) == (status, REQUEUED if requeued else [ASKED])


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PENDING", ""])
def test_a_job_that_slurm_ends_or_requeues_is_left_alone(run, state):
    assert run("end_job 143", state=state) == (143, [ASKED])


@pytest.mark.parametrize(("status", "of_job"), [(0, 0), (1, 1), (2, 2), (201, 1), (202, 2), (227, 227), (130, 130)])
def test_any_other_status_ends_the_job(run, status, of_job):
    assert run(f"end_job {status}") == (of_job, [])


@pytest.mark.parametrize("status", [0, 71, 75, 134, 137, 139, 143])
def test_a_task_has_the_status_of_its_command(run, status):
    assert run(f"python=(bash); start_step -- -c 'exit {status}'") == (status, [])


@pytest.mark.parametrize("status", [1, 2, 126, 127, 130, 255])
def test_a_task_that_fails_for_good_ends_the_others_and_its_status_counts_most(run, status):
    of_task, calls = run(f"python=(bash); start_step -- -c 'exit {status}'")
    assert of_task == (200 + status if status < 55 else 255)
    assert of_task > 143
    assert calls == ["scancel --signal=TERM 7"]


@pytest.mark.parametrize("job", [1, 4711, 1_000_000])
def test_the_port_of_a_search_is_the_first_of_the_job(job):
    (formula,) = re.findall(r"\$\(\((.*SLURM_JOB_ID.*?)\)\)\"", (REPOSITORY / "slurm" / "tune.sbatch").read_text())
    command = ["bash", "-c", f"echo $(({formula}))"]
    port = subprocess.run(command, env={"SLURM_JOB_ID": str(job)}, capture_output=True, text=True, check=True).stdout
    task = {
        "SLURM_JOB_ID": str(job), "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "n[1-2]",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_PROCID": "0", "SLURM_NODEID": "0", "SLURM_LOCALID": "0",
    }  # fmt: skip
    cluster = resolve(None, None, task)
    assert cluster is not None
    assert cluster.workers[0] == f"n1:{port.strip()}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_that_is_submitted_elsewhere_says_so(script, tmp_path):
    process = subprocess.run(["bash", str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1] == "submit this from the project's directory"


def test_shellcheck_finds_nothing():
    if not shutil.which("shellcheck"):
        pytest.skip("no shellcheck (Debian: apt install shellcheck)")
    command = ["shellcheck", "--external-sources", *(str(script.relative_to(REPOSITORY)) for script in SCRIPTS)]
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert process.stdout + process.stderr == ""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_a_page(script):
    assert len(script.read_text().splitlines()) <= 50
