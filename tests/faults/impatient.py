"""A command that waits seconds for a bucket, not minutes.

Usage: python -m tests.faults.impatient SECONDS MODULE [the command's flags]
"""

import runpy
import sys

from sostenuto.storage import gcs_retry

if __name__ == "__main__":
    seconds = float(sys.argv[1])
    gcs_retry.RETRY_SECONDS, gcs_retry.WARN_SECONDS, gcs_retry.LAST_SECONDS = seconds, seconds / 4, seconds / 8
    gcs_retry.FIRST_RETRY_SECONDS, gcs_retry.LONGEST_PAUSE = seconds / 2, seconds / 20
    module = sys.argv[2]
    del sys.argv[1:3]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
