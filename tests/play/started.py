"""Starts `sostenuto play` with the given arguments, and ends it as soon as players can enter; for the pages' test."""

import subprocess
import sys


def main() -> int:
    """Returns 0 if players could enter."""
    command = [sys.executable, "-m", "play", *sys.argv[1:], "--port=0", "--nobrowser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        process.terminate()
        return 0 if line.startswith("play at ") else 1


if __name__ == "__main__":
    sys.exit(main())
