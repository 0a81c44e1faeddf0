import os
import signal
import socket

import pytest

from sostenuto import storage
from sostenuto.errors import UserError
from tests.processes import run_python


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
