import json
import logging
import os
import warnings

import pytest

from sostenuto import progress
from sostenuto.cli import console
from tests.processes import REPOSITORY, run_python

logger = logging.getLogger("sostenuto.test")
stranger = logging.getLogger("stranger.module")


@pytest.fixture
def in_json():
    console.configure_console(log_json=True)
    yield
    console.configure_console()


def test_progress_in_json_has_its_figures_as_fields(capsys, monkeypatch, in_json):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    assert list(progress.track("ab", total=2, unit="file", description="reading")) == ["a", "b"]
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert second.pop("time") >= first["time"]
    assert second == {"severity": "INFO", "message": "reading: 2 of 2 files", "done": 2, "total": 2, "unit": "file"}


def test_json_is_one_line_for_any_message(capsys, in_json):
    figures = {"loss": float("nan"), "best": float("inf")}
    logger.warning("two\nlines, “quoted”, 100%", extra={"figures": figures})
    (line,) = capsys.readouterr().err.splitlines()
    assert "NaN" not in line
    entry = json.loads(line)
    assert (entry["message"], entry["severity"]) == ("two\nlines, “quoted”, 100%", "WARNING")
    assert (entry["loss"], entry["best"]) == (None, None)


def test_a_notice_has_its_severity_and_is_hidden_by_quiet(capsys, in_json):
    logger.log(progress.NOTICE, "saved")
    assert json.loads(capsys.readouterr().err)["severity"] == "NOTICE"
    console.configure_console(quiet=True, log_json=True)
    logger.log(progress.NOTICE, "saved")
    assert capsys.readouterr().err == ""


def test_warnings_of_other_libraries_are_json_too(capsys, in_json):
    stranger.info("not shown")
    stranger.warning("retrying in %d s", 3)
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError:
        stranger.exception("failed")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)  # pytest and `catch_warnings` replace what shows them
        logging.captureWarnings(True)
        warnings.warn("deprecated", stacklevel=1)
    retry, failure, warning = map(json.loads, capsys.readouterr().err.splitlines())
    assert (retry["severity"], retry["message"], retry["logger"]) == ("WARNING", "retrying in 3 s", "stranger.module")
    assert failure["severity"] == "ERROR"
    assert failure["message"].startswith("failed\nTraceback ")
    assert failure["message"].endswith("ZeroDivisionError: by zero")
    assert warning["logger"] == "py.warnings"
    assert "UserWarning: deprecated" in warning["message"]


def test_people_see_warnings_of_other_libraries_with_their_origin(capsys):
    logger.info("ours")
    stranger.info("not shown")
    stranger.warning("retrying")
    assert capsys.readouterr().err.splitlines() == ["ours", "WARNING:stranger.module:retrying"]


def test_a_handler_that_another_library_added_prints_no_line_twice():
    program = """
import logging
logging.basicConfig()
from sostenuto.cli import console
console.configure_console()
logging.getLogger("sostenuto").info("once")
logging.getLogger("other").warning("once")
"""
    assert run_python("-c", program, check=True).stderr == "once\nWARNING:other:once\n"


def test_lines_of_tensorflow_are_json(tmp_path):
    (tmp_path / "command.py").write_text("""
import warnings
from sostenuto.cli.app import run
import trainer

def main():
    import tensorflow as tf
    from absl import logging
    tf.get_logger().info("not shown")
    tf.get_logger().warning("retracing")
    logging.warning("legacy")
    warnings.warn("deprecated", stacklevel=1)

if __name__ == "__main__":
    run(main, usage="")
""")
    path = os.pathsep.join([str(REPOSITORY), str(tmp_path)])
    lines = run_python("-m", "command", "--log_json", check=True, PYTHONPATH=path).stderr.splitlines()
    entries = [(entry["severity"], entry.get("logger")) for entry in map(json.loads, lines)]
    expected = [("WARNING", name) for name in ("tensorflow", "absl", "py.warnings")]
    assert entries == [("INFO", None), *expected]
    lines = run_python("-m", "command", check=True, PYTHONPATH=path).stderr.splitlines()
    assert lines[:3] == ["loading TensorFlow", "WARNING:tensorflow:retracing", "WARNING:absl:legacy"]
