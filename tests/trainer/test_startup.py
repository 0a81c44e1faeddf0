"""TensorFlow as this package loads it: without its messages, and ended by a signal at any moment."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.processes import REPOSITORY, run_python

MESSAGE = re.compile(r"^[IWEF]\d{4} |oneDNN", re.MULTILINE)
COMMAND = """
import trainer
from sostenuto.cli import app

def main():
    trainer.NoteSampler
    print("loaded", flush=True)
    input()

if __name__ == "__main__":
    app.run(main, usage="")
"""


@pytest.mark.parametrize(
    "program",
    ["import trainer; trainer.NoteSampler", "from trainer.model.next_note import build_model", "import trainer, keras"],
)
def test_the_python_api_loads_tensorflow_without_a_word(program):
    process = run_python("-c", f"{program}; import tensorflow; tensorflow.constant(1) + 1", check=True)
    assert (process.stdout, process.stderr) == ("", "")


def test_a_user_may_ask_for_all_messages():
    program = "import os, trainer; trainer.NoteSampler; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    for level, has_messages in (("0", True), ("2", False)):
        process = run_python("-c", program, check=True, TF_CPP_MIN_LOG_LEVEL=level)
        assert (bool(MESSAGE.search(process.stderr)), process.stdout) == (has_messages, f"{level}\n")


@pytest.mark.parametrize(("own", "expected"), [({}, ":4096:8"), ({"CUBLAS_WORKSPACE_CONFIG": ":16:8"}, ":16:8")])
def test_cublas_has_workspaces_of_one_size_before_tensorflow_is_loaded(tmp_path, own, expected):
    """With several sizes, the same product may be another in its last bits."""
    (tmp_path / "tensorflow.py").write_text("import os\nprint(os.environ['CUBLAS_WORKSPACE_CONFIG'])\n")
    path = f"{REPOSITORY}{os.pathsep}{tmp_path}"
    process = run_python("-c", "import trainer, tensorflow", check=True, PYTHONPATH=path, **own)
    assert process.stdout == f"{expected}\n"


def test_messages_are_shown_if_tensorflow_cannot_be_loaded(tmp_path):
    (tmp_path / "tensorflow.py").write_text("import os\nos.write(2, b'no library\\n')\nraise ImportError('broken')\n")
    process = run_python("-c", "import trainer, tensorflow", PYTHONPATH=f"{REPOSITORY}{os.pathsep}{tmp_path}")
    assert process.returncode == 1
    assert process.stderr.startswith("no library\nTraceback ")
    assert process.stderr.endswith("ImportError: broken\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_module_that_catches_every_exception_does_not_keep_a_signal(tmp_path, number):
    (tmp_path / "command.py").write_text(COMMAND.replace("trainer.NoteSampler", "import tensorflow"))
    (tmp_path / "tensorflow.py").write_text(f"""
import os, signal, warnings
try:
    os.kill(os.getpid(), signal.{number.name})
except BaseException:
    os.write(2, b"noise")
""")
    path = os.pathsep.join([str(REPOSITORY), str(tmp_path)])
    process = run_python("-m", "command", PYTHONPATH=path)
    lines = ["loading TensorFlow", "command: interrupted"][: 1 + (number == signal.SIGINT)]
    assert (process.returncode, process.stdout, process.stderr.splitlines()) == (128 + number, "", lines)


def test_ctrl_c_while_tensorflow_loads_ends_with_one_line(tmp_path):
    (tmp_path / "command.py").write_text(COMMAND)
    path = os.pathsep.join([str(REPOSITORY), str(tmp_path)])

    def start():
        return subprocess.Popen(
            [sys.executable, "-m", "command"],
            cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": path}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def wait_for(stream, line):
        assert stream.readline() == f"{line}\n"
        return time.monotonic()

    with start() as process:
        begun = wait_for(process.stderr, "loading TensorFlow")
        seconds = wait_for(process.stdout, "loaded") - begun
        process.communicate("\n")
    for moment in range(5):
        with start() as process:
            wait_for(process.stderr, "loading TensorFlow")
            time.sleep(seconds * moment / 5)
            process.send_signal(signal.SIGINT)
            _, shown = process.communicate()
        assert shown == "command: interrupted\n"
        # An interrupted library of C may have told Python to end by the signal, which a shell shows as 130 too.
        assert process.returncode in (130, -signal.SIGINT)
