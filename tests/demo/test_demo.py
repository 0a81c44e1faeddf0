"""The demo's driver."""

import subprocess
import sys
import wave
import zipfile
from pathlib import Path

import pytest

from demo.__main__ import Stage, folder_of, stages
from notes.midi import read_midi
from tests.midi_files import melody


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    directory = tmp_path / "corpus"
    directory.mkdir()
    (directory / "a.mid").write_bytes(b"a")
    return directory


def test_a_corpus_keeps_its_folder_until_it_changes(corpus: Path) -> None:
    before = folder_of(corpus)
    assert before.startswith("corpus-")
    assert folder_of(corpus) == before
    (corpus / "b.mid").write_bytes(b"b")
    assert folder_of(corpus) != before


def test_a_zip_that_is_replaced_gets_another_folder(tmp_path: Path) -> None:
    path = tmp_path / "maestro.zip"
    folders = set()
    for content in ("a", "ab"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.mid", content)
        folders.add(folder_of(path))
    assert len(folders) == 2
    assert all(folder.startswith("maestro-") for folder in folders)


def test_two_corpora_of_one_name_have_two_folders(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "corpus"
    other.mkdir(parents=True)
    assert folder_of(other) != folder_of(corpus)


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
    assert "is there already" in capfd.readouterr().out


def test_a_quiet_stage_says_nothing_and_asks_the_same_of_its_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "flags"
    (tmp_path / "quiet_stage.py").write_text("import sys; open(sys.argv[1], 'w').write(' '.join(sys.argv[2:]))")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    Stage("Note", "quiet_stage", [str(target)], target).run(quiet=True)
    assert target.read_text() == "--quiet"
    Stage("Note", "quiet_stage", [str(target)], target).run(quiet=True)
    assert capfd.readouterr() == ("", "")


def test_other_arguments_never_meet_a_result_that_is_not_theirs(tmp_path: Path) -> None:
    def results(**changed: float) -> dict[str, Path]:
        arguments = {"max_minutes": 3, "num_notes": 400, "num_samples": 4, **changed}
        commands, _ = stages(tmp_path / "corpus", tmp_path, **arguments)
        return {stage.title.split(":")[0]: stage.result for stage in commands}

    def changed_by(**arguments: float) -> set[str]:
        after = results(**arguments)
        return {title.split()[0] for title, result in results().items() if after[title] != result}

    assert changed_by() == set()
    assert changed_by(max_minutes=5) == {"Train", "Evaluate", "Generate"}
    assert changed_by(num_notes=20) == changed_by(num_samples=1) == {"Generate"}


def test_a_stage_that_fails_ends_the_demo_with_its_status(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as raised:
        Stage("Tidy", "json.tool", ["--no-such-flag"], tmp_path / "out.json").run()
    assert raised.value.code == 2


def test_a_corpus_that_is_not_there_is_one_line_and_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "demo", f"--corpus={tmp_path}/nowhere", f"--work={tmp_path}/work"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "nowhere" in ended.stderr


def test_from_a_corpus_to_music_and_a_second_run_reuses_all_of_it(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(10):
        (corpus / f"{number}.mid").write_bytes(melody([60 + (number + note) % 12 for note in range(60)]))
    command = [sys.executable, "-m", "demo", f"--corpus={corpus}", f"--work={tmp_path}/work"]
    short = ["--max_minutes=0.05", "--num_notes=20", "--num_samples=1"]
    first = subprocess.run([*command, *short], capture_output=True, text=True, timeout=600)
    assert first.returncode == 0, first.stderr
    commands = [line for line in first.stdout.splitlines() if line.startswith("$ ")]
    jobs = ["beam_preprocess", *["trainer", "trainer.evaluate"] * 2, "trainer.generate", "trainer.report"]
    assert [line.split()[3] for line in commands] == jobs
    listed = [Path(line.strip()) for line in first.stdout.partition("The music:")[2].splitlines() if line[:2] == "  "]
    assert {"sample-000.mid", "sample-000.wav", "sample-000.png"} <= {file.name for file in listed}
    (midi,) = [file for file in listed if file.suffix == ".mid"]
    # Notes that meet on one key are joined, so that there may be fewer than 20.
    assert 10 <= len(read_midi(midi.read_bytes(), midi.name).notes) <= 20
    (page,) = [file for file in listed if file.suffix == ".html"]
    text = page.read_text()
    assert text.count("<audio") == text.count("data:audio/mpeg") == 8
    assert "seed, tutorial-" in text
    assert len(text) < 10e6
    with wave.open(str(midi.with_suffix(".wav"))) as sound:
        assert sound.getnframes() > 0

    second = subprocess.run([*command, *short], capture_output=True, text=True, timeout=60)
    assert second.returncode == 0, second.stderr
    assert [line.split()[3] for line in second.stdout.splitlines() if line[:2] == "$ "] == ["trainer.report"]
    assert second.stdout.partition("The music:")[2] == first.stdout.partition("The music:")[2]
