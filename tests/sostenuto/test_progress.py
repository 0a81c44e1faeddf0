import json
import logging
import re
import threading

import pytest

from sostenuto import progress
from tests.factories import melody
from tests.processes import on_terminal, run_python

PROGRAM = """
import logging
from sostenuto.cli import console
from sostenuto.progress import track
console.configure_console()
for number in track(range(3), total=3, unit="file", description="counting"):
    logging.getLogger("__main__").info(f"number {number}")
"""


logger = logging.getLogger("sostenuto.test")


@pytest.mark.parametrize("columns", [100, 0], ids=["a terminal", "a terminal without a size"])
def test_a_terminal_gets_a_bar_with_lines_above_it(columns):
    shown = on_terminal("-c", PROGRAM, columns=columns)
    assert re.search(r"\rcounting: 100%.* 3/3 .*files", shown)
    assert [line.rpartition("\r")[2] for line in shown.split("\r\n")[:3]] == ["number 0", "number 1", "number 2"]


@pytest.mark.parametrize(
    ("rate", "shown"),
    [(0, "? files/s"), (0.8, "1.25 s/file"), (3.21, "3.2 files/s"), (2.3e6, "2,300,000 files/s")],
)
def test_a_speed_below_one_a_second_is_shown_as_seconds_each(rate, shown):
    assert progress._speed(rate, "file") == shown


def test_the_times_of_a_bar_have_one_format():
    shown = on_terminal("-c", PROGRAM)
    assert re.search(r" \d/3 \[00:00, (00:00|\?) left, .* files/s\]", shown)
    assert "<" not in shown


def colours(shown: str) -> set[str]:
    return set(re.findall(r"\x1b\[[\d;]*m", shown))


def test_no_color_removes_the_colours_of_a_bar():
    """Of itself it has none."""
    assert not colours(on_terminal("-c", PROGRAM, NO_COLOR=""))
    assert colours(on_terminal("-c", PROGRAM, TQDM_COLOUR="green", NO_COLOR=""))
    assert not colours(on_terminal("-c", PROGRAM, TQDM_COLOUR="green", NO_COLOR="1"))
    assert "\x1b" not in run_python("-c", PROGRAM, TQDM_COLOUR="green", check=True).stderr


def test_a_command_shows_a_bar_only_on_a_terminal_and_without_log_json(tmp_path):
    paths = [str(tmp_path / f"{number}.mid") for number in range(2)]
    for path in paths:
        with open(path, "wb") as file:
            file.write(melody([60, 64]))
    inspect = ["-m", "sostenuto.inspect", *paths]
    assert re.search(r"\rreading: 100%.* 2/2 .*files", on_terminal(*inspect))
    assert on_terminal(*inspect, "--quiet") == on_terminal(*inspect, "--log_json") == ""
    assert run_python(*inspect, check=True).stderr == ""
    (line,) = map(json.loads, on_terminal(*inspect, "--log_json", f"--output={tmp_path}").split("\r\n")[:-1])
    assert line["message"] == f"drawing {tmp_path / 'distributions.png'}"


def test_a_short_job_logs_nothing_without_a_terminal():
    program = PROGRAM[: PROGRAM.rindex("logging")] + "pass"
    process = run_python("-c", program, check=True)
    assert (process.stdout, process.stderr) == ("", "")


def test_a_program_without_our_console_shows_no_progress():
    program = PROGRAM.replace("console.configure_console()", "")
    assert on_terminal("-c", program) == run_python("-c", program, check=True).stderr == ""


def test_a_long_job_logs_a_line_early_and_then_every_ten_seconds(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for second in progress.track(range(30), total=30, unit="file", description="reading"):
        now[0] = second + 1
    assert capsys.readouterr().err.splitlines() == [
        "reading: 2 of 30 files", "reading: 12 of 30 files", "reading: 22 of 30 files"
    ]  # fmt: skip


def test_a_quiet_loop_shows_nothing(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    assert list(progress.track("ab", total=None, unit="file", description="reading", quiet=True)) == ["a", "b"]
    assert capsys.readouterr() == ("", "")


def test_a_silenced_thread_still_warns_and_other_threads_log(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with progress.silenced():
        with progress.silenced(False):
            logger.info("not shown")
            logger.log(progress.NOTICE, "not shown either")
        assert list(progress.track("ab", total=2, unit="file", description="reading")) == ["a", "b"]
        logger.warning("damaged")
        thread = threading.Thread(target=logger.info, args=["elsewhere"])
        thread.start()
        thread.join()
    logger.info("again")
    assert capsys.readouterr().err.splitlines() == ["damaged", "elsewhere", "again"]


def test_quiet_calls_are_quiet_for_a_programs_own_handlers_too(caplog):
    """Its own lines, and those of other libraries, it gets as always."""
    caplog.set_level(logging.INFO)
    own = logging.getLogger("a.program")
    with progress.silenced():
        logger.info("not shown")
        own.info("of the program")
        logger.warning("damaged")
    logger.info("again")
    assert caplog.messages == ["of the program", "damaged", "again"]
