"""The page of a run: structure, escaping, contents, notes for missing parts, samples."""

import base64
import dataclasses
import io
import json
import re
import shlex
import sys

import pytest
import soundfile

from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from sostenuto.music.midi import read_midi, write_midi
from tests.factories import (
    StandInPlayer,
    comparison,
    evaluation,
    regular_notes,
    reports,
    write_dataset,
    write_run,
    write_samples,
)
from tests.pages import Page
from tests.processes import run_python
from tests.trainer.report_pages import read_page, rows
from trainer.generation import samples
from trainer.presets import preset
from trainer.reporting.load import load_report
from trainer.reporting.page import render, write
from trainer.workdir.samples_index import SampleEntry, SamplesIndex

# The page as a file


def test_a_page_is_whole_needs_no_network_and_can_be_read_aloud(text):
    page = Page(text)
    assert "://" not in text
    for tag, found, _ in page.elements:
        for name in {"src", "href"} & found.keys():
            assert found[name].startswith("#" if tag == "a" and "download" not in found else "data:")
    anchors = {found["href"][1:] for found in page.all("a") if "download" not in found}
    assert anchors == {found["id"] for found in page.all("section") if "id" in found}
    assert "default-src 'none'" in text
    assert len(text) < 10e6
    drawings = [found for tag, found, around in page.elements if tag == "svg" and "svg" not in around]
    assert len(drawings) == 8 + 8 + 8 + 2 + 2  # rolls, curves, distributions, form, self-similarity
    assert all(found["role"] == "img" and found["aria-label"] for found in drawings)
    assert len({found["aria-label"] for found in drawings}) == len(drawings)
    assert len(page.all("table")) == len(page.all("caption")) > 4
    assert all(found["aria-label"] for found in page.all("audio"))
    assert not re.search(r"\b(nan|inf)\b", text)


def test_names_from_elsewhere_are_escaped(dataset, tmp_path):
    evil = '</script><script>alert("x")</script>&\x00\x1b[31m\'>'
    document = evaluation()
    document["by_composer"] = {evil: document["by_composer"]["Fanny Hensel"], **document["by_composer"]}
    music = comparison()
    music["by_composer"][evil] = music["by_composer"].pop("Ada")
    directory = write_run(tmp_path / "w", dataset, evaluation_test=document, generated_test=music)
    write_samples(directory, dataset)
    run = json.loads((directory / "run.json").read_text())
    run |= {"device": evil, "versions": {evil: evil}, "data": evil}
    (directory / "run.json").write_text(json.dumps(run))
    report = load_report(str(directory), named=f"runs/{evil.replace('/', '|')}")
    sample = report.samples.samples[0]._replace(name=evil, primer=evil)
    report = dataclasses.replace(
        report,
        samples=dataclasses.replace(report.samples, samples=[sample]),
        comparisons=[(evil, report.evaluations)],
        result=dataclasses.replace(report.result, reason=evil),
    )
    text = render(report)
    page = Page(text)
    shown = evil.replace("\x00", "\ufffd").replace("\x1b", "\ufffd")
    assert len(page.all("script")) == 1
    assert (
        page.text.count(shown) == 10
    )  # composer three times, other run, device, two in versions, dataset, primer, reason
    assert page.text.count(shown.replace("/", "|")) >= 2  # title and headline
    assert [link["download"] for link in page.all("a") if "download" in link] == [f"{shown}.mid"]
    assert "\x00" not in text
    assert "\x1b" not in text


def test_a_page_is_written_without_tensorflow(full):
    program = (
        f"import sys; from trainer.reporting import page; page.write({str(full)!r}); print('tensorflow' in sys.modules)"
    )
    process = run_python("-c", program)
    assert (process.stdout.strip(), process.stderr) == ("False", "")
    assert (full / "report.html").read_text().startswith("<!DOCTYPE html>")


# What it says


def test_it_says_what_was_trained_on_what(text, dataset):
    page = Page(text)
    manifest = Manifest.load(dataset)
    for words in (manifest.sha256, "2 x Thinking Machine on each of 2 hosts", "tensorflow 2.21.0", "4,321 parameters"):
        assert words in page.text
    assert f"<dt>fingerprint</dt><dd>{manifest.sha256}</dd>" in text
    # Two epochs of 5,000 targets at 1,000 a second.
    assert "0:00:10" in page.text
    assert rows(text, "The dataset's splits")[1][:3] == ["train", "4", "228"]
    changed = re.findall(r'<div class="changed"><dt>(\w+)</dt><dd>([^<]*)', text)
    assert ("units", "128") in changed
    assert ("dropout", "0.25") in changed
    assert "batch_size" not in dict(changed)


@pytest.mark.parametrize(("epoch", "shown"), [(2.0, "2.0 epochs"), (9.96, "10.0 epochs"), (2080.04, "2,080 epochs")])
def test_many_epochs_are_a_whole_number(epoch, shown, dataset, tmp_path):
    lines = [*reports()[:-1], {**reports()[-1], "epoch": epoch}]
    assert shown in Page(render(load_report(str(write_run(tmp_path / "w", dataset, lines=lines))))).words


def test_a_page_writes_shares_and_hours_as_the_terminal_does(text, dataset):
    assert "95% confidence interval" in Page(text).words
    hours = Manifest.load(dataset).splits["train"].seconds / 3600
    assert rows(text, "The dataset's splits")[1][3] == f"{hours:.2f}"


def test_the_scores_stand_next_to_those_of_counting(text):
    assert rows(text, "this model and the baselines")[1:] == [
        ["this model 200 train_steps", "7.500 7.400 to 7.600", *["2.500 2.400 to 2.600"] * 3],
        ["n-gram", "9.000", "3.000", "3.000", "3.000"],
        ["histogram", "10.500", "3.500", "3.500", "3.500"],
    ]
    assert [row[0] for row in rows(text, "by composer")[1:]] == ["Fanny Hensel", "Clara Schumann"]
    assert "against n-gram 1.50 nats/note better" in Page(text).words


def test_other_runs_stand_next_to_it(full, dataset, tmp_path):
    seed = write_run(
        tmp_path / "tutorial", dataset, evaluation_test=evaluation(total=12, train_step=2), config=preset("tutorial")
    )
    elsewhere = {**evaluation(), "dataset": "another"}
    other = write_run(tmp_path / "other", dataset, evaluation_test=elsewhere)
    page = render(load_report(str(full), comparisons=[str(seed)]))
    assert [row[:2] for row in rows(page, "other runs and the baselines")[1:]] == [
        ["this model 200 train_steps", "7.500 7.400 to 7.600"],
        ["tutorial, tutorial 2 train_steps", "12.000 11.900 to 12.100"],
        ["n-gram", "9.000"],
        ["histogram", "10.500"],
    ]
    assert "The compared run tutorial, tutorial hardly trained. Its score on the test split" in Page(page).words
    with pytest.raises(UserError, match=r"--compare_with=.*other: expected a score of a split and dataset .*\(test\)"):
        load_report(str(full), comparisons=[str(other)])


def test_one_performance_has_no_interval(dataset, tmp_path):
    document = {**evaluation(), "confidence_95": None}
    text = render(load_report(str(write_run(tmp_path / "w", dataset, evaluation_test=document))))
    assert "nats/note, one performance: no interval" in Page(text).words
    (own,) = [row for row in rows(text, "and the baselines") if row[0].startswith("this model")]
    assert own[1:] == ["7.500 one performance: no interval", "2.500", "2.500", "2.500"]


def test_numbers_have_the_digits_that_they_need(dataset, tmp_path):
    for epoch, words in ((2080.04, "2,080 epochs"), (2.04, "2.0 epochs")):
        lines = [*reports()[:-1], {**reports()[-1], "epoch": epoch}]
        assert words in read_page(write_run(tmp_path / words, dataset, lines=lines)).words
    assert re.fullmatch(r"\d+\.\d\d", rows(render(load_report(str(tmp_path / words))), "splits")[1][3])


# What is missing


def test_a_missing_part_is_announced_once(dataset, tmp_path):
    page = read_page(write_run(tmp_path / "w", dataset))
    assert page.words.count("real music") == 1
    assert page.words.count("sostenuto evaluate") == 1
    anchors = {found["href"][1:] for found in page.all("a") if "download" not in found}
    assert anchors == {"know", "listen", "curves", "run"} == {found["id"] for found in page.all("section")}


def test_missing_parts_leave_a_note_that_says_how_to_get_them(dataset, tmp_path):
    directory = write_run(tmp_path / "w", dataset, finished=False, lines=reports()[:12])
    page = read_page(directory)
    assert f"sostenuto evaluate --workdir={directory} --data={dataset} --split=test" in page.words
    assert f"sostenuto report --workdir={directory}" in page.words
    assert "The run has not finished" in page.text
    assert "train_step 120 of 200" in page.text
    assert not page.all("audio")


def test_a_dataset_that_was_moved_leaves_a_note(dataset, tmp_path):
    directory = write_run(tmp_path / "w", dataset)
    run = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps({**run, "data": "moved away"}))
    page = read_page(directory).words
    assert "no longer at its place" in page
    assert "--data=DATASET" in page
    assert "moved away" not in page.partition("Listen")[0]


def test_a_command_can_be_pasted_into_a_shell(dataset, tmp_path):
    directory = write_run(tmp_path / "it's mine", dataset)
    command = re.search(r"sostenuto evaluate .*?--split=test", read_page(directory).words).group()
    assert shlex.split(command)[2] == f"--workdir={directory}"


# Samples


def test_samples_continue_as_many_pieces_as_there_are(tmp_path):
    many = Manifest.load(write_dataset(tmp_path / "many", {"train": [10], "validation": [60] * 20}))
    assert len({tuple(primer.notes.pitch) for primer in samples.select_primers(many)}) == 8
    few = Manifest.load(write_dataset(tmp_path / "few", {"train": [10], "validation": [400, 30, 50]}))
    primers = samples.select_primers(few)
    assert len(primers) == 8
    assert len({tuple(primer.notes.pitch) for primer in primers}) == 3
    assert all(primer.notes.onset_us[-1] < 12e6 for primer in primers)
    assert primers[1].name == "Clara Schumann"
    none = Manifest.load(write_dataset(tmp_path / "none", {"train": [10]}))
    assert samples.select_primers(none) == []


def test_each_sample_is_shown_and_heard_with_its_primer(full, text):
    page = Page(text)
    document = json.loads((full / "samples" / "samples.json").read_text())
    assert len(document["samples"]) == 8
    found = samples.load_samples(str(full))
    players = page.all("audio")
    assert len(players) == 8
    for one, player in zip(found.samples, players, strict=True):
        assert 0 < one.primer_notes < len(one.notes)
        assert one.notes.seconds <= 64
        mp3 = base64.b64decode(player["src"].partition("base64,")[2])
        assert mp3 == one.mp3
        assert soundfile.info(io.BytesIO(mp3)).duration == pytest.approx(one.notes.seconds + 2, abs=8)
        assert soundfile.info(io.BytesIO(mp3)).format == "MP3"
    captions = re.findall(r"<figcaption><b>Sample \d</b> after [^<]*; from \d+ s, (\d+) notes by the model<", text)
    assert list(map(int, captions)) == [len(one.notes) - one.primer_notes for one in found.samples]
    rolls = re.findall(r'<div class="roll">.*?class="times"', text, re.S)
    for one, roll in zip(found.samples, rolls, strict=True):
        bars = {
            kind: sum(d.count("z") for d in re.findall(rf'd="([^"]*)" class="{kind} v\d"', roll))
            for kind in ("primer", "played")
        }
        assert bars == {"primer": one.primer_notes, "played": len(one.notes) - one.primer_notes}


def test_music_that_generate_wrote_is_taken_and_shown_around_its_seam(dataset, tmp_path):
    directory = write_run(tmp_path / "w", dataset)
    (directory / "samples").mkdir()
    notes = regular_notes(600, 3)
    write_midi(notes, directory / "samples" / "sample-000.mid")
    seam = read_midi((directory / "samples" / "sample-000.mid").read_bytes(), "sample").notes.onset_us[300] / 1e6
    SamplesIndex(
        workdir=str(directory), train_step=200, primer="of/mine.mid", primer_notes=300, num_notes=300, num_samples=1,
        temperature=1.0, top_p=1.0, returns=2.0, end_odds=0.0, seed=0, sustain="ignore", pedal=True,
        notes_per_second=1.0,
        files=["sample-000.mid"], samples=[SampleEntry(midi="sample-000.mid", seconds=notes.seconds)],
    ).save(str(directory / "samples" / "samples.json"))  # fmt: skip
    (one,) = samples.load_samples(str(directory)).samples
    assert one.notes.onset_us[one.primer_notes] / 1e6 == pytest.approx(12, abs=0.5)
    assert seam > 20
    assert one.mp3 is None
    assert "have no sound yet" in read_page(directory).text
    samples.add_sounds(str(directory), quiet=True)
    assert len(read_page(directory).all("audio")) == 1
    listed = json.loads((directory / "samples" / "samples.json").read_text())["files"]
    assert listed == ["sample-000.mid", "sample-000.mp3"]


def test_without_the_library_that_compresses_samples_stay_silent(dataset, tmp_path, monkeypatch, capsys):
    directory = write_run(tmp_path / "w", dataset)
    monkeypatch.setitem(sys.modules, "soundfile", None)  # as if it were not installed
    samples.write_samples(StandInPlayer(), [], str(directory), train_step=200, sustain="ignore", quiet=False)
    line = capsys.readouterr().err.splitlines()[-1]
    assert "the samples have no sound" in line
    page = read_page(directory)
    assert "have no sound yet" in page.text
    assert "starts from silence" in page.text
    assert len([found for found in page.all("figure") if found.get("class") == "sample"]) == 8


def test_new_samples_take_the_place_of_the_former(dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    directory = write_run(tmp_path / "w", dataset)
    (directory / "samples").mkdir()
    for name in ("sample-008.mid", "sample-000.mp3", "mine.txt", "sample-009.mid"):
        (directory / "samples" / name).write_text("of an earlier call")
    former = {"samples": [], "files": ["sample-008.mid", "sample-000.mp3"]}
    (directory / "samples" / "samples.json").write_text(json.dumps(former))
    write_samples(directory, dataset)
    names = {path.name for path in (directory / "samples").iterdir()}
    kept = {"mine.txt", "sample-009.mid"}  # They are of no earlier call: samples.json did not list them.
    assert names == {"samples.json", *kept, *(f"sample-{index:03d}.mid" for index in range(8))}


def test_a_run_in_a_bucket_gets_its_page_there(dataset, tmp_path, gcs, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    local = write_run(tmp_path / "w", dataset, evaluation_test=evaluation())
    for path in local.iterdir():
        gcs.put(f"gs://bucket/runs/w/{path.name}", path.read_bytes())
    samples.write_samples(StandInPlayer(), [], "gs://bucket/runs/w", train_step=200, sustain="ignore")
    assert write("gs://bucket/runs/w") == "gs://bucket/runs/w/report.html"
    page = Page(gcs.get("gs://bucket/runs/w/report.html").decode())
    assert "--workdir=gs://bucket/runs/w --data=" in page.words
    assert len([found for found in page.all("figure") if found.get("class") == "sample"]) == 8
