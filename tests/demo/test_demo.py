"""The demo's driver."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import wave
import zipfile
from pathlib import Path
from typing import Any

import pytest

from demo.__main__ import Stage, command_line, compare, link_latest, list_stages, name_folder
from sostenuto.music.midi import read_midi
from tests.factories import evaluation, melody
from tests.processes import REPOSITORY, run_python


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    directory = tmp_path / "corpus"
    directory.mkdir()
    (directory / "a.mid").write_bytes(b"a")
    return directory


def test_a_corpus_keeps_its_folder_until_it_changes(corpus: Path) -> None:
    before = name_folder(corpus)
    assert before.startswith("corpus-")
    assert name_folder(corpus) == before
    (corpus / "b.mid").write_bytes(b"b")
    assert name_folder(corpus) != before


def test_a_zip_that_is_replaced_gets_another_folder(tmp_path: Path) -> None:
    path = tmp_path / "maestro.zip"
    folders = set()
    for content in ("a", "ab"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.mid", content)
        folders.add(name_folder(path))
    assert len(folders) == 2
    assert all(folder.startswith("maestro-") for folder in folders)


def test_two_corpora_of_one_name_have_two_folders(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "corpus"
    other.mkdir(parents=True)
    assert name_folder(other) != name_folder(corpus)


def test_a_stage_shows_its_command_and_runs_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.json"
    source.write_text("[1]")
    target = tmp_path / "out.json"
    Stage("Tidy", "json.tool", [str(source), str(target)], target).run()
    assert target.exists()
    assert f"-m json.tool {source} {target}" in capfd.readouterr().out


def test_a_stage_whose_result_is_there_does_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.json"
    target.write_text("mine")
    Stage("Tidy", "json.tool", ["--no-such-flag"], target).run()
    assert target.read_text() == "mine"
    assert "exists already" in capfd.readouterr().out


def test_a_stage_whose_result_is_older_than_what_it_shows_runs_again(tmp_path: Path) -> None:
    source, target = tmp_path / "in.json", tmp_path / "out.json"
    source.write_text("[1]")
    stage = Stage("Tidy", "json.tool", [str(source), str(target)], target, (source,))
    assert not stage.is_done
    stage.run()
    assert stage.is_done
    os.utime(source, ns=(target.stat().st_mtime_ns + 1,) * 2)
    assert not stage.is_done
    source.unlink()
    assert not stage.is_done


def test_the_last_corpus_has_a_folder_that_is_easy_to_name(tmp_path: Path) -> None:
    for name in ("one-01234567", "other-89abcdef"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "is").write_text(name)
        assert (link_latest(tmp_path / name) / "is").read_text() == name
    assert {path.name for path in tmp_path.iterdir()} == {"one-01234567", "other-89abcdef", "latest"}


def test_a_corpus_without_music_leaves_the_last_demo_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "README.md").write_text("no music")
    work = tmp_path / "work"
    (work / "music-01234567").mkdir(parents=True)
    link_latest(work / "music-01234567")
    command = [sys.executable, "-m", "demo", f"--corpus={tmp_path}/text", f"--work={work}"]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 2
    assert (work / "latest").readlink() == Path("music-01234567")
    assert {path.name for path in work.iterdir()} == {"music-01234567", "latest", "primer.mid"}


def test_a_quiet_stage_prints_nothing_and_passes_quiet_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "flags"
    (tmp_path / "quiet_stage.py").write_text("import sys; open(sys.argv[1], 'w').write(' '.join(sys.argv[2:]))")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    Stage("Note", "quiet_stage", [str(target)], target).run(quiet=True)
    assert target.read_text() == "--quiet"
    Stage("Note", "quiet_stage", [str(target)], target).run(quiet=True)
    assert capfd.readouterr() == ("", "")


def test_other_arguments_have_other_results(tmp_path: Path) -> None:
    def results(**changed: float) -> dict[str, Path]:
        arguments = {"max_minutes": 3, "num_notes": 400, "num_samples": 4, **changed}
        commands, *_ = list_stages(tmp_path / "corpus", tmp_path, **arguments)
        return {stage.title.split(":")[0]: stage.result for stage in commands}

    def changed_by(**arguments: float) -> set[str]:
        after = results(**arguments)
        return {title.split()[0] for title, result in results().items() if after[title] != result}

    assert changed_by() == set()
    assert changed_by(max_minutes=5) == {"Train", "Evaluate", "Generate", "Report"}
    assert changed_by(num_notes=20) == changed_by(num_samples=1) == {"Generate"}


def test_a_stage_that_fails_ends_the_demo_with_its_status(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as raised:
        Stage("Tidy", "json.tool", ["--no-such-flag"], tmp_path / "out.json").run()
    assert raised.value.code == 2


def test_the_compared_scores_name_their_train_steps_and_who_hardly_trained(tmp_path: Path) -> None:
    for name, total, train_step in (("run-3min", 7.5, 900), ("tutorial-0.75min", 16.4, 2)):
        (tmp_path / name).mkdir()
        document = {**evaluation(total=total, train_step=train_step), "dataset": "5e"}
        (tmp_path / name / "evaluation-test.json").write_text(json.dumps(document))
    base, tutorial = compare([tmp_path / "run-3min", tmp_path / "tutorial-0.75min", tmp_path / "none"])
    assert base.strip() == "run-3min: 7.500 after 900 train_steps"
    assert "16.400 after 2 train_steps; it hardly trained: train for more minutes" in tutorial


@pytest.mark.parametrize(
    ("flag", "words"),
    [("--num_notes=1000000000000", "1 to 100000"), ("--num_samples=0", "1 to 10000"), ("--max_minutes=1e9", "525,600")],
)
def test_a_size_beyond_its_maximum_is_one_line_before_anything_runs(tmp_path: Path, flag: str, words: str) -> None:
    process = run_python("-m", "demo", f"--work={tmp_path / 'work'}", flag)
    assert process.returncode == 2
    assert re.fullmatch(rf".*{re.escape(words)}.*\n", process.stderr)
    assert not (tmp_path / "work").exists()


def test_a_corpus_that_is_not_there_is_one_line_and_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "demo", f"--corpus={tmp_path}/nowhere", f"--work={tmp_path}/work"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "nowhere" in ended.stderr


def write_corpus(directory: Path) -> None:
    directory.mkdir()
    for number in range(10):
        (directory / f"{number}.mid").write_bytes(melody([60 + (number + note) % 12 for note in range(60)]))


def members_of_session(session: int) -> list[str]:
    """The command lines of a session's processes, those that have ended left out."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, own = (process / "stat").read_text().rpartition(") ")[2].split()[:4]
            if int(own) == session and state != "Z":
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.parametrize("installed", [False, True], ids=["checkout", "installed"])
def test_a_command_that_is_shown_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    scripts = tmp_path / "an environment" / "bin"
    scripts.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    if not installed:
        assert command_line("trainer", ["--x"], scripts).endswith(" -m trainer --x")
        return
    (scripts / "sostenuto").write_text("#!/bin/sh\n")
    (scripts / "sostenuto").chmod(0o755)
    assert command_line("trainer.evaluate", ["--x=a b"], scripts) == (
        "'an environment/bin/sostenuto' evaluate '--x=a b'"
    )
    monkeypatch.setenv("PATH", str(scripts), prepend=os.pathsep)
    assert command_line("trainer", [], scripts) == "sostenuto train"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("receivers", ["demo", "both"])
def test_an_interrupted_demo_terminates_its_command(tmp_path: Path, number: int, status: int, receivers: str) -> None:
    """The signal comes to the demo alone, as from `kill`, or to both, as Ctrl-C; the command's line is the only one."""
    command = """
import signal, sys, time
def end(*_): sys.exit("saved")
signal.signal(signal.SIGINT, end if sys.argv[1] == "both" else signal.SIG_IGN)
signal.signal(signal.SIGTERM, end)
print("waiting", flush=True)
time.sleep(600)
"""
    (tmp_path / "waits.py").write_text(command)
    program = "from pathlib import Path; from demo.__main__ import Stage; from sostenuto import cli; "
    program += f"cli.run(lambda: Stage('Wait', 'waits', [{receivers!r}], Path('never')).run(), usage='')"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=environment, cwd=tmp_path,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        while "waiting" not in process.stdout.readline():
            assert process.poll() is None
        if receivers == "both":
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        assert process.wait(60) == status
        assert members_of_session(process.pid) == []
        assert process.stderr.read() == "saved\n"


def test_from_a_corpus_to_music_through_interruptions_and_a_second_run_reuses_all_of_it(tmp_path: Path) -> None:
    """In another directory than the repository's, as where the package is installed."""
    write_corpus(tmp_path / "corpus")
    short = ["--max_minutes=0.05", "--num_notes=20", "--num_samples=1"]
    command = [sys.executable, "-m", "demo", "--corpus=corpus", *short]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    options: dict[str, Any] = {"cwd": tmp_path, "env": environment, "text": True}
    for _ in range(3):
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, **options
        ) as process:
            time.sleep(random.uniform(0.5, 15.0))
            # As a terminal does it: to the demo and to its command.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            said = process.communicate(timeout=120)[1]
            assert process.returncode in (0, 130, -signal.SIGINT), said
            assert members_of_session(process.pid) == []

    first = subprocess.run(command, capture_output=True, timeout=600, **options)
    assert first.returncode == 0, first.stderr
    listed = [line.strip() for line in first.stdout.partition("The music")[2].splitlines() if line[:2] == "  "]
    music = "build/demo/latest/run-0.05min/music-1x20/sample-000"
    assert {f"{music}.mid", f"{music}.wav", f"{music}.png"} <= set(listed)
    # Notes that meet on one key are joined, so that there may be fewer than 20.
    assert 10 <= len(read_midi((tmp_path / f"{music}.mid").read_bytes(), "music").notes) <= 20
    with wave.open(str(tmp_path / f"{music}.wav")) as sound:
        assert sound.getnframes() > 0
    page = first.stdout.splitlines()[-4].strip()
    primer = "build/demo/primer.mid"
    (hint,) = (line for line in listed if f"--primer={primer}" in line)
    assert f"--workdir={page.rpartition('/')[0]}" in hint
    assert "--num_notes=64 --audio --output=my-continuation" in hint
    assert " --output=my-continuation" not in (REPOSITORY / "README.md").read_text()
    assert len(read_midi((tmp_path / primer).read_bytes(), primer).notes) == 64
    assert page == "build/demo/latest/run-0.05min/report.html"
    text = (tmp_path / page).read_text()
    assert text.count("<audio") == text.count("data:audio/mpeg") == 8
    assert "tutorial, tutorial-" in text
    assert len(text) < 10e6
    (tutorial,) = (tmp_path / "build/demo/latest").glob("tutorial-*min")
    assert (tutorial / "result.json").exists()
    assert not (tutorial / "samples").exists()

    started = time.monotonic()
    second = subprocess.run(command, capture_output=True, timeout=60, **options)
    assert second.returncode == 0, second.stderr
    assert time.monotonic() - started < 10
    assert [line for line in second.stdout.splitlines() if line[:2] == "$ "] == []
    assert second.stdout.partition("The music")[2] == first.stdout.partition("The music")[2]


def test_a_stage_names_the_commands_in_their_order(tmp_path: Path) -> None:
    commands, *_ = list_stages(tmp_path / "corpus", tmp_path, max_minutes=3, num_notes=400, num_samples=4)
    jobs = ["beam_preprocess", *["trainer", "trainer.evaluate"] * 2, "trainer.generate", "trainer.report"]
    assert [stage.module for stage in commands] == jobs
