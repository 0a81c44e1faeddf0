"""Diagnostics of a run and their advice."""

import math
import sys

import numpy as np
import pytest

from sostenuto.data.manifest import Manifest
from sostenuto.music.notes import Notes
from tests.factories import (
    CONFIG,
    StandInPlayer,
    comparison,
    evaluation,
    regular_notes,
    reports,
    write_dataset,
    write_run,
)
from tests.trainer.report_pages import advice, read_page, titles
from trainer.generation import samples
from trainer.presets import preset
from trainer.reporting.load import load_report


def test_a_sound_run_has_no_warning(full):
    assert titles(full) == ""
    text = read_page(full).words
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
def test_faults_of_the_music_are_reported(dataset, tmp_path, change, title):
    document = comparison()
    change(document)
    found = titles(write_run(tmp_path / "w", dataset, generated_test=document))
    assert title in found
    assert ";" not in found


def test_overfitting_is_reported_but_not_a_score_that_wavers(dataset, tmp_path):
    rising = write_run(tmp_path / "rising", dataset, lines=reports((8.5, 8.1, 8.4, 8.9)))
    assert "Overfitting" in titles(rising)
    assert "best at train_step 100, 8.100 nats/note, and 8.900 at 200" in read_page(rising).text
    assert titles(write_run(tmp_path / "wavers", dataset, lines=reports((9.0, 8.5, 8.1, 8.11)))) == ""


def test_a_model_no_better_than_counting_and_weights_of_another_time_are_reported(dataset, tmp_path):
    directory = write_run(tmp_path / "w", dataset, evaluation_test=evaluation(total=9.5, ngram=9.4, train_step=150))
    found = titles(directory)
    assert "The n-gram is about level with this model" in found
    assert "against n-gram 0.10 nats/note worse" in read_page(directory).words
    assert "The evaluation (test split) is of other weights" in found


def test_a_rhythm_that_has_collapsed_is_heard_in_the_samples_alone(dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    varied, alike = write_run(tmp_path / "varied", dataset), write_run(tmp_path / "alike", dataset)
    primers = [samples.Primer(regular_notes(60, seed), "") for seed in range(8)]
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


def test_a_run_that_was_never_scored_is_reported(dataset, tmp_path):
    directory = write_run(tmp_path / "w", dataset, lines=reports(()), config=CONFIG.replace(evaluate_every=0))
    assert "The validation split was never scored" in titles(directory)
    assert math.isfinite(len(read_page(directory).text))


# Advice that can work


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


def test_a_model_that_counting_leaves_behind_is_trained_for_longer_only_while_it_improves(tmp_path):
    data = write_dataset(tmp_path / "data", {"train": [900] * 8, "validation": [50] * 2, "test": [50] * 2})
    behind = of_fields(3.3, 1.2, 1.1)
    falling = write_run(tmp_path / "falling", data, lines=reports((9.0, 8.0, 7.0, 6.0)), evaluation_test=behind)
    told = advice(falling, "The n-gram is ahead of this model, by 0.60 nats/note")
    assert "--steps=400: over the last quarter of this one the validation score still fell, from 7.000 to 6.000" in told
    flat = write_run(tmp_path / "flat", data, lines=reports((9.0, 6.0, 6.0, 6.0)), evaluation_test=behind)
    told = advice(flat, "The n-gram is ahead")
    assert "longer" not in told
    assert "--units=256" in told
    tutorial = write_run(
        tmp_path / "tutorial",
        data,
        lines=reports(()),
        evaluation_test=behind,
        config=preset("tutorial").replace(steps=200),
    )
    assert "--preset=base" in advice(tutorial, "The n-gram is ahead")


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
    page = read_page(write_run(tmp_path / "w", dataset, evaluation_test=of_fields(*scores)))
    assert words in page.text


def test_a_run_of_two_train_steps_is_told_to_train_longer(dataset, tmp_path):
    directory = write_run(
        tmp_path / "w", dataset, lines=[{**reports()[0], "train_step": 2}],
        evaluation_test=evaluation(total=16.4, train_step=2),
    )  # fmt: skip
    found = advice(directory, "Even the histogram is ahead of this model, by 5.90 nats/note")
    assert "It was trained for 2 train_steps only: train longer." in found
    assert "--learning_rate" not in found
    assert "occurs, has 10.500." in found
    page = read_page(directory)
    assert page.all("a")[0]["href"] == "#know"
    assert [path for path in page.all("path") if path["class"] == "train thin dot"]


def test_on_the_train_split_counting_is_no_measure(dataset, tmp_path):
    document = {**of_fields(9, 9, 9), "split": "train"}
    assert titles(write_run(tmp_path / "w", dataset, evaluation_train=document)) == ""


@pytest.mark.parametrize(
    ("total", "words"), [(3.5, "is about level"), (3.6, "n-gram is ahead of this model"), (3.4, "ahead of the n-gram")]
)
def test_without_an_interval_the_scores_alone_are_compared(dataset, tmp_path, total, words):
    document = {**evaluation(total=total, ngram=3.5), "confidence_95": None}
    directory = write_run(tmp_path / "w", dataset, evaluation_test=document)
    assert words in read_page(directory).words
    if total >= 3.5:
        assert "nats/note (one performance: no interval)" in advice(directory, "The n-gram is")


def test_music_is_compared_only_where_pieces_are_long_enough(dataset, tmp_path):
    short = write_run(tmp_path / "short", dataset)
    told = advice(short, "cannot be compared with real music")
    assert "two pieces of 640 notes" in told
    assert "--generated" not in read_page(short).text
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
    assert "overfitting" not in read_page(directory).text


def test_a_regression_model_is_not_sent_to_score_while_it_trains(dataset, tmp_path):
    config = preset("tutorial").replace(steps=200)
    directory = write_run(tmp_path / "w", dataset, lines=reports(()), config=config)
    assert titles(directory) == ""
    assert "--evaluate_every" not in read_page(directory).text.partition("Listen")[0]


def test_without_splits_to_score_the_page_advises_to_preprocess_again(tmp_path):
    data = write_dataset(tmp_path / "data", {"train": [50]})
    directory = write_run(tmp_path / "w", data, lines=reports(()), config=CONFIG)
    page = read_page(directory).words
    assert "--split_fractions=0.8,0.1,0.1" in advice(directory, "Not evaluated yet")
    assert "--split_fractions=0.8,0.1,0.1" in advice(directory, "The validation split was never scored")
    assert "sostenuto evaluate" not in page


def test_a_run_that_has_not_come_to_its_first_score_is_not_blamed(dataset, tmp_path):
    directory = write_run(tmp_path / "w", dataset, lines=reports(())[:5], finished=False, config=CONFIG)
    assert titles(directory) == "The run has not finished."
    assert "scored at train_step 500 first" in advice(directory, "not finished")


def test_music_gets_no_advice_to_play_as_it_was_played(dataset, tmp_path):
    document, flat = comparison(), reports((8.2, 8.1, 8.1, 8.1))
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
        tmp_path / "w", dataset, evaluation_test=other, generated_test={**comparison(), "dataset": "5e" * 32}
    )
    run = load_report(str(directory))
    assert (run.evaluations, run.generated) == ({}, {})
    page = read_page(directory).words
    assert "7.500" not in page
    told = advice(directory, "evaluation-test.json is of another dataset")
    assert f"fingerprint 5e5e5e5e5e5e…, the run's {Manifest.load(dataset).sha256[:12]}…" in told
    assert f"sostenuto evaluate --workdir={directory} --data={dataset} --split=test" in told
    assert "--generated" in advice(directory, "generated-test.json is of another dataset")
