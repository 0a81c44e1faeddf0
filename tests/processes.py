"""Running this project's commands as a user does: in a process of their own, from the repository's root."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def run_python(*arguments: str, check: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGUMENTS` with this interpreter and returns status and output; `environment` adds variables."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        check=check,
    )
