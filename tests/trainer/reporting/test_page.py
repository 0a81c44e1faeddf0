"""The page of a run: that it is whole, says what the workdir says, and tells what is missing."""

import base64
import dataclasses
import html
import io
import json
import math
import re
import shlex
import sys

import numpy as np
import pytest
import soundfile

from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from sostenuto.music.midi import read_midi, write_midi
from sostenuto.music.notes import Notes
from tests.pages import Page
from tests.processes import run_python
from tests.trainer.datasets import random_notes, write_dataset
from tests.trainer.workdirs import CONFIG, StandInPlayer, evaluation, judged, reports, write_run, write_samples
from trainer.generation import samples
from trainer.presets import preset
from trainer.reporting.load import load_report
from trainer.reporting.page import render, write
from trainer.workdir.formats import SampleEntry, SamplesIndex


@pytest.fixture(scope="module")
def full(dataset, tmp_path_factory):
    """A workdir with all that a page shows."""
    directory = tmp_path_factory.mktemp("runs") / "full"
    write_run(directory, dataset, evaluation_test=evaluation(), generated_test=judged())
    write_samples(directory, dataset)
    return directory


@pytest.fixture(scope="module")
def text(full):
    return render(load_report(str(full)))


def shown(directory) -> Page:
    return Page(render(load_report(str(directory))))


def rows(text: str, caption: str) -> list[list[str]]:
    """The rows of the table with that caption, the words of each cell."""
    tables = re.findall(r"<table.*?</table>", text, re.S)
    table = next(table for table in tables if caption in html.unescape(table))
    return [
        [
            " ".join(re.sub(r"<[^>]*>", " ", cell).split())
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)
        ]
        for row in re.findall(r"<tr.*?</tr>", table, re.S)
    ]


# The page as a file


def test_a_page_is_whole_needs_no_network_and_can_be_read_aloud(text):
    page = Page(text)
    assert "://" not in text
    for tag, found, _ in page.elements:
        for name in {"src", "href"} & found.keys():
            assert found[name].startswith("#" if tag == "a" and "download" not in found else "data:")
    anchors = {found["href"][1:] for found in page.all("a") if "download" not in found}
    assert anchors == {found["id"] for found in page.all("section") if "id" in found} - {"know"}
    assert "default-src 'none'" in text
    assert len(text) < 10e6
    drawings = [found for tag, found, around in page.elements if tag == "svg" and "svg" not in around]
    assert len(drawings) == 8 + 8 + 8  # rolls, curves, distributions
    assert all(found["role"] == "img" and found["aria-label"] for found in drawings)
    assert len({found["aria-label"] for found in drawings}) == len(drawings)
    assert len(page.all("table")) == len(page.all("caption")) > 4
    assert all(found["aria-label"] for found in page.all("audio"))
    assert not re.search(r"\b(nan|inf)\b", text)


def test_what_comes_from_elsewhere_is_escaped(dataset, tmp_path):
    evil = '</script><script>alert("x")</script>&\x00\x1b[31m'
    document = evaluation()
    document["by_composer"] = {evil: document["by_composer"]["Fanny Hensel"], **document["by_composer"]}
    page = shown(write_run(tmp_path / "w", dataset, evaluation_test=document))
    assert len(page.all("script")) == 1
    assert '</script><script>alert("x")</script>&\ufffd\ufffd[31m' in page.text


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
    # Two epochs of 5,000 targets at 1,000 a second.
    assert "0:00:10" in page.text
    assert rows(text, "The dataset's splits")[1][:3] == ["train", "4", "228"]
    changed = re.findall(r'<div class="changed"><dt>(\w+)</dt><dd>([^<]*)', text)
    assert ("units", "128") in changed
    assert ("dropout", "0.25") in changed
    assert "batch_size" not in dict(changed)


def test_the_scores_stand_beside_those_of_counting(text):
    assert rows(text, "and models that only count")[1:] == [
        ["this model", "7.500 7.400 to 7.600", *["2.500 2.400 to 2.600"] * 3],
        ["n-gram", "9.000", "3.000", "3.000", "3.000"],
        ["histogram", "10.500", "3.500", "3.500", "3.500"],
    ]
    assert [row[0] for row in rows(text, "by composer")[1:]] == ["Fanny Hensel", "Clara Schumann"]
    assert "1.50 nats/note better than the n-gram baseline" in Page(text).words


def test_other_runs_stand_beside_it(full, dataset, tmp_path):
    seed = write_run(tmp_path / "tutorial", dataset, evaluation_test=evaluation(total=12), config=preset("tutorial"))
    elsewhere = {**evaluation(), "dataset": "another"}
    other = write_run(tmp_path / "other", dataset, evaluation_test=elsewhere)
    page = render(load_report(str(full), comparisons=[str(seed)]))
    assert [row[:2] for row in rows(page, "other runs and models that only count")[1:]] == [
        ["this model", "7.500 7.400 to 7.600"],
        ["tutorial, tutorial", "12.000 11.900 to 12.100"],
        ["n-gram", "9.000"],
        ["histogram", "10.500"],
    ]
    with pytest.raises(UserError, match=r"--compare_with=.*other: expected a score of a split and dataset .*\(test\)"):
        load_report(str(full), comparisons=[str(other)])


def series_of(page: Page, title: str) -> dict[str, dict]:
    """What a chart tells who points at it, by name."""
    chart = next(
        found for found in page.all("svg") if found.get("data-series") and found["aria-label"].startswith(title)
    )
    return {one["name"]: one for one in json.loads(chart["data-series"])}


def test_curves_tell_the_values_of_their_points(text):
    total = series_of(Page(text), "Total, nats/note")
    assert total["validation"]["at"] == ["train_step 50", "train_step 100", "train_step 150", "train_step 200"]
    assert total["validation"]["values"] == ["9.000", "8.500", "8.200", "8.100"]
    assert total["validation"]["y"] == sorted(total["validation"]["y"])  # less is lower down
    gaps = np.diff(total["validation"]["x"])
    assert gaps == pytest.approx(np.full(3, gaps[0]), abs=0.2)
    assert len(total["training"]["x"]) == 20
    assert [row[:2] for row in rows(text, "Validation scores")][1] == ["50", "9.000"]


def test_a_long_run_is_thinned_to_what_can_be_seen_and_keeps_its_end(dataset, tmp_path):
    lines = [{**reports()[index % 20], "train_step": index + 1} for index in range(3000)]
    training = series_of(shown(write_run(tmp_path / "w", dataset, lines=lines)), "Loss")["training"]
    assert 200 <= len(training["x"]) <= 400
    assert training["at"][-1] == "train_step 3,000"


def test_a_run_of_plain_times_has_their_errors_as_curves(dataset, tmp_path):
    lines = [{key: value for key, value in line.items() if "val" not in key} for line in reports()]
    for line in lines:
        line["step_mse"], line["duration_mse"] = line.pop("step_nll"), line.pop("duration_nll")
    page = shown(write_run(tmp_path / "w", dataset, lines=lines))
    assert series_of(page, "Step, squared error")["training"]["values"][-1] == "2.250"
    assert not [found for found in page.all("svg") if (found.get("aria-label") or "").startswith("Total")]


def test_distributions_show_the_shares_of_each_kind_of_music(text):
    document = judged()
    music = series_of(Page(text), "Distribution of pitch class")
    counts = np.array(document["counts"]["generated"]["pitch_class"])
    assert music["generated"]["values"] == [f"{share:.1%}" for share in counts / counts.sum()]
    assert music["generated"]["at"] == ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"]
    named = f"{document['copied_run']['generated']['max']:,}"
    assert rows(text, "Repetition and copies")[-1][2] == named


# What is missing


def test_missing_parts_leave_a_note_that_says_how_to_get_them(dataset, tmp_path):
    directory = write_run(tmp_path / "w", dataset, finished=False, lines=reports()[:12])
    page = shown(directory)
    assert f"sostenuto evaluate --workdir={directory} --data={dataset} --split=test" in page.words
    assert f"sostenuto report --workdir={directory}" in page.words
    assert "The run has not finished" in page.text
    assert "train_step 120 of 200" in page.text
    assert not page.all("audio")


def test_a_dataset_that_was_moved_leaves_a_note(dataset, tmp_path):
    directory = write_run(tmp_path / "w", dataset)
    run = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps({**run, "data": "moved away"}))
    page = shown(directory).words
    assert "no longer at its place" in page
    assert "--data=DATASET" in page
    assert "moved away" not in page.partition("Listen")[0]


def test_a_line_that_a_kill_cut_short_is_left_out(dataset, tmp_path):
    directory = write_run(tmp_path / "w", dataset)
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"train_step": 21')
    assert load_report(str(directory)).records[-1].train_step == 200


@pytest.mark.parametrize("metrics", [None, ""])
def test_a_workdir_without_reports_is_refused(dataset, tmp_path, metrics):
    directory = write_run(tmp_path / "w", dataset)
    (directory / "metrics.jsonl").unlink()
    if metrics is not None:
        (directory / "metrics.jsonl").write_text(metrics)
    with pytest.raises(UserError, match=r"nothing was trained in it yet.*sostenuto train"):
        write(str(directory))
    assert not (directory / "report.html").exists()


def test_what_is_no_workdir_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no workdir"):
        write(str(tmp_path))


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
    notes = random_notes(600, 3)
    write_midi(notes, directory / "samples" / "sample-000.mid")
    seam = read_midi((directory / "samples" / "sample-000.mid").read_bytes(), "sample").notes.onset_us[300] / 1e6
    SamplesIndex(
        workdir=str(directory), train_step=200, primer="of/mine.mid", primer_notes=300, num_notes=300, num_samples=1,
        temperature=1.0, top_p=1.0, seed=0, sustain="ignore", pedal=True, notes_per_second=1.0,
        files=["sample-000.mid"], samples=[SampleEntry(midi="sample-000.mid", seconds=notes.seconds)],
    ).save(str(directory / "samples" / "samples.json"))  # fmt: skip
    (one,) = samples.load_samples(str(directory)).samples
    assert one.notes.onset_us[one.primer_notes] / 1e6 == pytest.approx(12, abs=0.5)
    assert seam > 20
    assert one.mp3 is None
    assert "have no sound yet" in shown(directory).text
    samples.add_sounds(str(directory), quiet=True)
    assert len(shown(directory).all("audio")) == 1
    listed = json.loads((directory / "samples" / "samples.json").read_text())["files"]
    assert listed == ["sample-000.mid", "sample-000.mp3"]


def test_without_the_library_that_compresses_samples_stay_silent(dataset, tmp_path, monkeypatch, capsys):
    directory = write_run(tmp_path / "w", dataset)
    monkeypatch.setitem(sys.modules, "soundfile", None)  # as if it were not installed
    samples.write_samples(StandInPlayer(), [], str(directory), train_step=200, sustain="ignore", quiet=False)
    line = capsys.readouterr().err.splitlines()[-1]
    assert "the samples have no sound" in line
    page = shown(directory)
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


# Warnings


def titles(directory) -> str:
    found = re.findall(r'<li class="warning"><b>⚠ (.*?)</b>', render(load_report(str(directory))))
    return "; ".join(found)


def collapsed(notes: Notes) -> Notes:
    """The same with all steps alike."""
    step_us = np.full(len(notes), 200_000)
    step_us[0] = 0
    return dataclasses.replace(notes, step_us=step_us)


def test_a_sound_run_has_no_warning(full):
    assert titles(full) == ""
    text = shown(full).words
    assert "Nothing looks wrong. The page looked for overfitting, copied music, repetition, a rhythm" in text
    assert "1.50 nats/note: pitch 0.50 ahead, step 0.50 ahead, duration 0.50 ahead." in text


def _copies(document):
    document["copied_run"]["generated"] = {"mean": 40.0, "max": 90}


def _repeats(document):
    document["repeated_8grams"]["generated"] = {"mean": 0.8, "max": 0.9}


def _collapses(document):
    ticks = document["counts"]["generated"]["step"]
    document["counts"]["generated"]["step"] = [sum(ticks) if index == 15 else 0 for index in range(len(ticks))]


@pytest.mark.parametrize(
    ("change", "title"),
    [(_copies, "copies its training music"), (_repeats, "repeats itself"), (_collapses, "steps are nearly all alike")],
)
def test_what_is_wrong_with_the_music_is_told(dataset, tmp_path, change, title):
    document = judged()
    change(document)
    found = titles(write_run(tmp_path / "w", dataset, generated_test=document))
    assert title in found
    assert ";" not in found


def test_overfitting_is_told_but_not_a_score_that_wavers(dataset, tmp_path):
    rising = write_run(tmp_path / "rising", dataset, lines=reports((8.5, 8.1, 8.4, 8.9)))
    assert "Overfitting" in titles(rising)
    assert "best at train_step 100, 8.100 nats/note, and 8.900 at 200" in shown(rising).text
    assert titles(write_run(tmp_path / "wavers", dataset, lines=reports((9.0, 8.5, 8.1, 8.11)))) == ""


def test_a_model_that_counting_equals_and_weights_of_another_time_are_told(dataset, tmp_path):
    directory = write_run(tmp_path / "w", dataset, evaluation_test=evaluation(total=9.5, ngram=9.4, train_step=150))
    found = titles(directory)
    assert "Counting is about level with this model" in found
    assert "0.10 nats/note worse than the n-gram baseline" in shown(directory).words
    assert "The evaluation (test split) is of other weights" in found


def test_a_rhythm_that_has_collapsed_is_heard_in_the_samples_alone(dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    varied, alike = write_run(tmp_path / "varied", dataset), write_run(tmp_path / "alike", dataset)
    primers = [samples.Primer(random_notes(60, seed), "") for seed in range(8)]
    samples.write_samples(StandInPlayer(), primers, str(varied), train_step=200, sustain="ignore")
    assert titles(varied) == ""

    class Collapsed(StandInPlayer):
        def sample(self, primers, **options):
            played = super().sample(primers, **options)
            return played._replace(notes=[
                Notes(
                    notes.pitch,
                    np.append(notes.step_us[: len(primer.pitch)], np.full(len(notes) - len(primer.pitch), 150_000)),
                    notes.duration_us, notes.velocity,
                )
                for primer, notes in zip(primers, played.notes, strict=True)
            ])  # fmt: skip

    samples.write_samples(Collapsed(), primers, str(alike), train_step=200, sustain="ignore")
    assert "The rhythm has collapsed: steps" in titles(alike)


def test_a_run_that_was_never_scored_is_told(dataset, tmp_path):
    directory = write_run(tmp_path / "w", dataset, lines=reports(()), config=CONFIG.replace(evaluate_every=0))
    assert "The validation split was never scored" in titles(directory)
    assert math.isfinite(len(shown(directory).text))


# Advice that can work


def strict(directory, **lengths):
    """A dataset in strict time: all notes last 0.8 s, and follow each other after 0.4 s."""
    data = write_dataset(directory, lengths or {"train": [200] * 4, "validation": [50] * 2, "test": [50] * 2})
    document = json.loads((data / "dataset.json").read_text())
    for split in document["statistics"].values():
        for field, tick in (("step", 40), ("duration", 80)):
            counts = split["histograms"][field]
            split["histograms"][field] = [0] * tick + [sum(counts)]
    (data / "dataset.json").write_text(json.dumps(document))
    return data


def of_fields(pitch, step, duration, *, counting=(3.0, 1.0, 1.0)):
    """An evaluation of a model of these scores and an n-gram of those."""

    def nats(*values):
        return {**dict(zip(("pitch", "step", "duration"), values, strict=True)), "total": sum(values)}

    own = nats(pitch, step, duration)
    return {
        **evaluation(),
        "nats_per_note": own,
        "confidence_95": {name: [value - 0.2, value + 0.2] for name, value in own.items()},
        "baselines": {"ngram": nats(*counting), "histogram": nats(5, 3, 3)},
    }


def advice(directory, title: str) -> str:
    """The text of the warning, or of the note of a missing part, with that title."""
    page = render(load_report(str(directory)))
    (found,) = [item for item in re.findall(r"<li[^>]*>(.*?)</li>", page, re.S) if title in item]
    without_code = re.sub(r"</?(?:code|span)[^>]*>", "", found)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", without_code)).split())


def test_where_the_grid_is_at_fault_no_one_is_sent_to_train_for_longer(tmp_path):
    data = strict(tmp_path / "data")
    directory = write_run(tmp_path / "w", data, evaluation_test=of_fields(2.4, 1.8, 2.6))
    told = advice(directory, "Counting is")
    assert "Counting is far ahead of this model, by 1.80 nats/note" in told
    assert "pitch 0.60 ahead, step 0.80 behind, duration 1.60 behind" in told
    # The bins of 0.4 s and 0.8 s have 2 and 5 ticks.
    assert "costs it 2.30 nats/note on this corpus (step 0.69, duration 1.61), however long" in told
    assert "by pitch" in told
    assert "longer" not in told.partition("however long")[2]
    assert "--learning_rate" not in told


def test_a_model_that_counting_leaves_behind_is_trained_for_longer_only_while_it_improves(tmp_path):
    """Of played music, whose times the bins lose nothing of."""
    data = write_dataset(tmp_path / "data", {"train": [900] * 8, "validation": [50] * 2, "test": [50] * 2})
    document = json.loads((data / "dataset.json").read_text())
    for field in ("step", "duration"):
        document["statistics"]["train"]["histograms"][field] = [50] * 200
    (data / "dataset.json").write_text(json.dumps(document))
    behind = of_fields(3.3, 1.2, 1.1)
    falling = write_run(tmp_path / "falling", data, lines=reports((9.0, 8.0, 7.0, 6.0)), evaluation_test=behind)
    told = advice(falling, "Counting is ahead of this model, by 0.60 nats/note")
    assert "--steps=400: over the last quarter of this one the validation score still fell, from 7.000 to 6.000" in told
    assert "bin" not in told
    flat = write_run(tmp_path / "flat", data, lines=reports((9.0, 6.0, 6.0, 6.0)), evaluation_test=behind)
    told = advice(flat, "Counting is ahead")
    assert "longer" not in told
    assert "--units=256" in told
    tutorial = write_run(
        tmp_path / "tutorial",
        data,
        lines=reports(()),
        evaluation_test=behind,
        config=preset("tutorial").replace(steps=200),
    )
    assert "--preset=base" in advice(tutorial, "Counting is ahead")


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ((2.0, 0.8, 0.9), "The model is far ahead of the n-gram, by 1.30 nats/note: pitch 1.00 ahead, step 0.20"),
        ((3.1, 1.0, 0.95), "about level, 0.05 nats/note apart: pitch 0.10 behind, step level, duration 0.05 ahead."),
        ((3.1, 1.4, 1.0), "The model is behind the n-gram, by 0.50 nats/note: pitch 0.10 behind, step 0.40 behind"),
        ((11.0, 4.0, 5.0), "The model is far behind the n-gram, by 15.00 nats/note"),
    ],
)
def test_words_fit_the_size_of_the_difference(dataset, tmp_path, scores, words):
    page = shown(write_run(tmp_path / "w", dataset, evaluation_test=of_fields(*scores)))
    assert words in page.text


def test_on_the_train_split_counting_is_no_measure(dataset, tmp_path):
    document = {**of_fields(9, 9, 9), "split": "train"}
    assert titles(write_run(tmp_path / "w", dataset, evaluation_train=document)) == ""


def test_music_is_compared_only_where_pieces_are_long_enough(dataset, tmp_path):
    short = write_run(tmp_path / "short", dataset)
    told = advice(short, "cannot be compared with real music")
    assert "two pieces of 640 notes" in told
    assert "--generated" not in shown(short).text
    data = write_dataset(tmp_path / "data", {"train": [10], "validation": [640, 700], "test": [640, 639]})
    enough = write_run(tmp_path / "enough", data)
    assert "--split=validation --generated" in advice(enough, "not compared with real music yet")


def test_overfitting_gets_no_advice_that_the_run_follows_already(dataset, tmp_path):
    rising = reports((8.5, 8.1, 8.4, 8.9))
    new = advice(write_run(tmp_path / "new", dataset, lines=rising, config=CONFIG.replace(dropout=0.0)), "Overfitting")
    for flag in ("--steps=100", "--patience=3", "--dropout=0.3", "--stretch=0.05", "--units=64"):
        assert flag in new
    assert "--transpose" not in new
    assert "--monitor" not in new
    config = CONFIG.replace(dropout=0.5, stretch=0.1, units=64, patience=3, monitor="val_nats")
    assert "--" not in advice(
        write_run(tmp_path / "done", dataset, lines=rising, config=config), "Overfitting"
    ).replace("--steps=100", "")
    config = CONFIG.replace(monitor="loss", patience=3)
    by_loss = advice(write_run(tmp_path / "by_loss", dataset, lines=rising, config=config), "Overfitting")
    assert "--monitor=val_nats --patience=3" in by_loss
    assert "weights of the lowest training loss" in by_loss


def test_one_score_is_no_sign_against_overfitting(dataset, tmp_path):
    directory = write_run(tmp_path / "w", dataset, lines=reports((8.1,)))
    assert "overfitting" not in shown(directory).text


def test_a_regression_model_is_not_sent_to_score_while_it_trains(dataset, tmp_path):
    config = preset("tutorial").replace(steps=200)
    directory = write_run(tmp_path / "w", dataset, lines=reports(()), config=config)
    assert titles(directory) == ""
    assert "--evaluate_every" not in shown(directory).text.partition("Listen")[0]


def test_without_splits_to_score_the_corpus_is_to_be_preprocessed_again(tmp_path):
    data = write_dataset(tmp_path / "data", {"train": [50]})
    directory = write_run(tmp_path / "w", data, lines=reports(()), config=CONFIG)
    page = shown(directory).words
    assert "--split_fractions=0.8,0.1,0.1" in advice(directory, "Not evaluated yet")
    assert "--split_fractions=0.8,0.1,0.1" in advice(directory, "The validation split was never scored")
    assert "sostenuto evaluate" not in page


def test_a_run_that_has_not_come_to_its_first_score_is_not_blamed(dataset, tmp_path):
    directory = write_run(tmp_path / "w", dataset, lines=reports(())[:5], finished=False, config=CONFIG)
    assert titles(directory) == "The run has not finished."
    assert "scored at train_step 500 first" in advice(directory, "not finished")


def test_music_gets_no_advice_to_play_as_it_was_played(dataset, tmp_path):
    document, flat = judged(), reports((8.2, 8.1, 8.1, 8.1))
    _repeats(document)
    _collapses(document)
    told = advice(write_run(tmp_path / "w", dataset, generated_test=document, lines=flat), "repeats itself")
    assert "--temperature above 1" in told
    assert "--top_p" not in told
    assert "--temperature=1," in advice(tmp_path / "w", "rhythm has collapsed")
    document["temperature"] |= {"pitch": 0.8, "step": 0.8}
    document["top_p"] |= {"pitch": 0.9}
    cold = write_run(tmp_path / "cold", dataset, generated_test=document)
    assert "--temperature above 0.8, or a --top_p above 0.9" in advice(cold, "repeats itself")
    assert "Play with --temperature=1." in advice(cold, "rhythm has collapsed")


def test_an_evaluation_of_another_dataset_is_left_out_with_a_note(dataset, tmp_path):
    other = {**evaluation(), "dataset": "5e" * 32}
    directory = write_run(
        tmp_path / "w", dataset, evaluation_test=other, generated_test={**judged(), "dataset": "5e" * 32}
    )
    run = load_report(str(directory))
    assert (run.evaluations, run.generated) == ({}, {})
    page = shown(directory).words
    assert "7.500" not in page
    told = advice(directory, "evaluation-test.json is of another dataset")
    assert f"sha256 5e5e5e5e5e5e…, the run's {Manifest.load(dataset).sha256[:12]}…" in told
    assert f"sostenuto evaluate --workdir={directory} --data={dataset} --split=test" in told
    assert "--generated" in advice(directory, "generated-test.json is of another dataset")


def test_a_command_can_be_pasted_into_a_shell(dataset, tmp_path):
    directory = write_run(tmp_path / "it's mine", dataset)
    command = re.search(r"sostenuto evaluate .*?--split=test", shown(directory).words).group()
    assert shlex.split(command)[2] == f"--workdir={directory}"
