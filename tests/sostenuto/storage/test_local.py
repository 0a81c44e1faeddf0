import errno
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from sostenuto import storage
from sostenuto.errors import UserError
from tests.factories import melody
from tests.processes import REPOSITORY, run_python


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "file"
    with storage.atomic_write(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b"whole")
    assert path.read_bytes() == b"halfwhole"
    assert os.listdir(tmp_path) == ["file"]


def test_a_failed_write_leaves_the_former_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    storage.write_bytes_atomic(path, b"former")
    with pytest.raises(ZeroDivisionError), storage.atomic_write(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"former"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_in_the_place_of_a_directory_leaves_nothing_behind(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="taken: cannot be written"):
        storage.write_bytes_atomic(tmp_path / "taken", b"data")
    assert os.listdir(tmp_path) == ["taken"]


def test_a_killed_write_leaves_only_a_temporary_name(tmp_path):
    program = """
import os, signal, sys
from sostenuto import storage
with storage.atomic_write(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    process = run_python("-c", program, str(tmp_path / "file"))
    assert process.returncode == -signal.SIGKILL
    (left,) = os.listdir(tmp_path)
    assert storage.TEMPORARY.sub("", left) == "file"
    assert left != "file"


def write_directory(path, text):
    with storage.atomic_directory(path) as unfinished:
        for name in ("a", "below/b"):
            file = pathlib.Path(unfinished, name)
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)


def texts(path):
    return {name: (path / name).read_text() for name in storage.list_files(path)}


@pytest.mark.parametrize("exchanges", [True, False], ids=["by an exchange", "by two renames"])
def test_a_directory_takes_the_place_of_another_one_whole(tmp_path, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    path = tmp_path / "directory"
    (tmp_path / "directory.tmp-0123456789ab" / "below").mkdir(parents=True)  # left by a killed process
    for text in ("old", "new"):
        write_directory(path, text)
        assert texts(path) == {"a": text, "below/b": text}
        assert os.listdir(tmp_path) == ["directory"]


@pytest.mark.parametrize("function", ["os.fsync", "os.rename"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")])
def test_a_directory_that_cannot_be_replaced_stays(tmp_path, monkeypatch, function, error):
    path = tmp_path / "directory"
    write_directory(path, "old")
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    rename, calls = os.rename, []

    def fail(*arguments):
        calls.append(arguments)
        if function == "os.fsync" or len(calls) == 2:  # the old directory is out of the way
            raise error
        rename(*arguments)

    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, UserError)):
        patch.setattr(function, fail)
        write_directory(path, "new")
    assert texts(path) == {"a": "old", "below/b": "old"}
    assert os.listdir(tmp_path) == ["directory"]


def test_a_killed_process_leaves_the_old_directory_or_the_new_one(tmp_path):
    """The kill comes at each rename and each write in turn."""
    program = """
import os, signal, sys
from sostenuto import storage
path, fatal, count = sys.argv[1], int(sys.argv[2]), 0

def strike(event, arguments):
    global count
    if event in ("os.rename", "os.rmdir", "os.remove", "os.mkdir") and os.path.dirname(path) in str(arguments):
        count += 1
        if count == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(strike)
with storage.atomic_directory(path) as unfinished:
    for name in ("a", "b"):
        with open(os.path.join(unfinished, name), "w") as file:
            file.write("new")
"""
    path = tmp_path / "directory"
    seen = set()
    for fatal in range(1, 20):
        with storage.atomic_directory(path) as unfinished:
            for name in ("a", "b"):
                pathlib.Path(unfinished, name).write_text("old")
        assert os.listdir(tmp_path) == ["directory"]
        process = run_python("-c", program, str(path), str(fatal))
        (text,) = set(texts(path).values())
        assert len(texts(path)) == 2
        seen.add(text)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, process.stderr
    assert seen == {"old", "new"}


def test_an_unfinished_directory_of_a_running_process_is_left_alone(tmp_path):
    path = tmp_path / "directory"
    program = (
        "import sys; from sostenuto import storage\n"
        "with storage.atomic_directory(sys.argv[1]) as unfinished:\n"
        "    open(unfinished + '/a', 'w').write('theirs'); print('begun', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"begun\n"
        with storage.atomic_directory(path) as unfinished:
            pathlib.Path(unfinished, "a").write_text("ours")
        assert texts(path) == {"a": "ours"}
        assert len(os.listdir(tmp_path)) == 2
        process.stdin.close()
        assert process.wait() == 0
    assert texts(path) == {"a": "theirs"}
    assert os.listdir(tmp_path) == ["directory"]


def test_a_file_in_the_place_of_a_directory_is_kept(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(UserError, match=r"taken: cannot be written \(Not a directory\)"):
        write_directory(tmp_path / "taken", "new")
    assert texts(tmp_path) == {"taken": "mine"}


def test_files_are_listed_to_any_depth_in_order(tmp_path):
    for name in ("b.mid", "a/z.mid", "a/b/c.mid", "A.MID"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    assert storage.list_files(tmp_path) == ["A.MID", "a/b/c.mid", "a/z.mid", "b.mid"]


def test_only_regular_files_and_links_are_listed(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link to fifo").symlink_to(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        assert storage.list_files(tmp_path) == ["dangling", "file", "link"]


@pytest.fixture(params=["fifo", "link to fifo", "device", "socket"])
def special(request, tmp_path):
    """A path whose reading or writing would block, or never end."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link to fifo").symlink_to(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        yield pathlib.Path("/dev/zero") if request.param == "device" else tmp_path / request.param


def test_a_file_that_may_never_end_is_neither_read_nor_replaced(special):
    before = os.lstat(special)
    for use in (
        storage.read_bytes,
        storage.lock,
        lambda path: storage.write_bytes_atomic(path, b"x"),
    ):
        with pytest.raises(UserError, match=rf"{special}: cannot be (read|written) \(.*\)$"):
            use(special)
    assert os.path.samestat(os.lstat(special), before)


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("sostenuto.inspect", ["{fifo}"]),
        ("sostenuto.inspect", ["{midi}", "--csv={fifo}"]),
        ("trainer", ["--config={fifo}", "--data=x", "--workdir=y"]),
        ("trainer.generate", ["--workdir=x", "--output={new}", "--primer={fifo}"]),
        ("beam_preprocess", ["--input={here}", "--output={new}", "--metadata={fifo}"]),
    ],
)
def test_no_command_waits_for_a_fifo(module, arguments, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "a.mid").write_bytes(melody([60, 62]))
    places = {"fifo": tmp_path / "fifo", "midi": tmp_path / "a.mid", "new": tmp_path / "new", "here": tmp_path}
    process = run_python("-m", module, *(argument.format(**places) for argument in arguments))
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith(f"{module}: {tmp_path / 'fifo'}: ")
    assert "expected a regular file" in process.stderr
    assert (tmp_path / "fifo").is_fifo()
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_done_is_said_with_the_path(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="absent"):
        storage.read_bytes(tmp_path / "absent")
    with pytest.raises(UserError, match="absent"):
        storage.list_files(tmp_path / "absent")
    with pytest.raises(UserError, match="file/below"):
        storage.make_directories(tmp_path / "file" / "below")
    with pytest.raises(UserError, match="absent/file"):
        storage.write_bytes_atomic(tmp_path / "absent" / "file", b"")


def test_removing_what_is_not_there_is_no_error(tmp_path):
    storage.remove(tmp_path / "absent")
