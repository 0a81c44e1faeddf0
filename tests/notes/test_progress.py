import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

from notes import progress
from tests.processes import REPOSITORY, run_python

PROGRAM = """
from notes.progress import track
assert list(track(range(3), total=3, unit="file", description="counting")) == [0, 1, 2]
"""


def test_a_terminal_gets_a_bar():
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=REPOSITORY, stderr=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "counting" in shown
    assert "3/3" in shown
    assert "files" in shown


def test_elsewhere_a_short_job_prints_nothing():
    process = run_python("-c", PROGRAM, check=True)
    assert (process.stdout, process.stderr) == ("", "")


def test_elsewhere_a_long_job_prints_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    assert list(progress.track("ab", total=2, unit="file", description="reading")) == ["a", "b"]
    assert capsys.readouterr().err.splitlines() == ["reading: 1 of 2 files", "reading: 2 of 2 files"]


def test_quiet_is_quiet(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    assert list(progress.track("ab", total=None, unit="file", description="reading", quiet=True)) == ["a", "b"]
    assert capsys.readouterr() == ("", "")
