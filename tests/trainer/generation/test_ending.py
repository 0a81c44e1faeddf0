"""The end of generated pieces, and the composers in whose style they are played."""

import numpy as np
import pytest

from sostenuto.errors import UserError
from sostenuto.music.notes import Notes
from tests.factories import tiny_model
from trainer.generation.composers import keep_known
from trainer.generation.controls import Controls
from trainer.generation.sampler import NoteSampler

COMPOSERS = ("Franz Liszt", "Frédéric Chopin", "Johann Sebastian Bach", "Carl Philipp Emanuel Bach")
OPTIONS = {"temperature": 1.0, "seed": 3, "returns": 0.0, "end_odds": 1.0}


def ending_model(log_odds: float):
    """A model that ends with the same probability after each note."""
    model = tiny_model("density", layers=1, composers=COMPOSERS, memory_units=0, head_blocks=0)
    for variable in model.heads.end.weights:
        variable.assign(np.full(variable.shape, log_odds if variable.path.endswith("end/bias") else 0.0))
    return model


@pytest.fixture(scope="module")
def lively():
    """A sampler whose pieces have 20 notes on average."""
    return NoteSampler(ending_model(-np.log(19)))


def same(one: Notes, other: Notes, notes: int) -> bool:
    return one[:notes] == other[:notes]


def test_a_piece_ends_where_the_model_ends_it(lively):
    ended = lively.sample(Notes.empty(), num_notes=300, num_samples=40, **OPTIONS)
    lengths = np.array([len(notes) for notes in ended.notes])
    assert all(ended.has_ended)
    # Geometric lengths: their mean and their spread are about 20.
    assert 12 < lengths.mean() < 30
    assert 10 < lengths.std() < 32
    assert lengths.min() >= 1
    # Until then it is what a piece that never ends plays, whatever the others do.
    endless = lively.sample(Notes.empty(), num_notes=40, num_samples=40, **{**OPTIONS, "end_odds": 0.0})
    assert not any(endless.has_ended)
    for short, long in zip(ended.notes, endless.notes, strict=True):
        assert same(short, long, min(len(short), 40))
    cut = lively.sample(Notes.empty(), num_notes=10, num_samples=40, **OPTIONS)
    assert [len(notes) for notes in cut.notes] == np.minimum(lengths, 10).tolist()
    assert cut.has_ended == (lengths < 10).tolist()


def test_the_odds_of_an_end_have_a_factor(lively):
    def lengths(end_odds):
        options = {**OPTIONS, "num_notes": 400, "end_odds": end_odds}
        return np.array([len(notes) for notes in lively.sample(Notes.empty(), num_samples=40, **options).notes])

    # Odds of 1 in 19 become 1 in 76 and 4 in 19, and so pieces of 20 notes become those of 77 and 5.75.
    longer, plain, shorter = lengths(0.25), lengths(1.0), lengths(4.0)
    assert 50 < longer.mean() < 110
    assert 3.5 < shorter.mean() < 9
    # The same uniform numbers end pieces later with lower odds.
    assert (shorter <= plain).all()
    assert (plain <= longer).all()
    assert (lengths(0.0) == 400).all()
    # Nothing leads to an end either: the music is cut off.
    cut = lively.sample(Notes.empty(), num_notes=2000, seconds=10.0, **{**OPTIONS, "end_odds": 0.0})
    endless = lively.sample(Notes.empty(), num_notes=500, **{**OPTIONS, "end_odds": 0.0})
    assert len(cut.notes[0]) == np.searchsorted(endless.notes[0].onset_us, 10_000_000, side="right")


def test_a_continuation_has_a_note_at_least():
    primer = Notes([60, 62], [0, 250_000], [200_000, 200_000], [80, 80])
    played = NoteSampler(ending_model(30.0)).sample([primer, Notes.empty()], num_notes=5, **OPTIONS)
    assert [len(notes) for notes in played.notes] == [3, 1]
    assert played.has_ended == [True, True]


@pytest.mark.parametrize("tempo", [1.0, 2.0])
def test_with_seconds_a_piece_is_led_to_an_end_in_their_last_quarter(tempo):
    options = {**OPTIONS, "num_notes": 2000, "num_samples": 24, "seconds": 40.0}
    led = NoteSampler(ending_model(-6.0)).sample(Notes.empty(), **options, controls=Controls(tempo=tempo))
    spans = np.array([notes.onset_us[-1] / 1e6 for notes in led.notes])
    assert all(led.has_ended)
    assert spans.max() <= 40
    assert np.mean(spans >= 0.7 * 40) > 0.8  # A long rest may lead out of the last quarter.
    assert len(np.unique(np.round(spans, 1))) > 5


def test_seconds_cut_the_music_of_a_model_that_predicts_no_end():
    sampler = NoteSampler(tiny_model("density", layers=1, memory_units=0, head_blocks=0, end_weight=0.0))
    played = sampler.sample(Notes.empty(), num_notes=2000, num_samples=4, seconds=10.0, **OPTIONS)
    whole = sampler.sample(Notes.empty(), num_notes=500, num_samples=4, **OPTIONS)
    for short, long in zip(played.notes, whole.notes, strict=True):
        assert len(short) == np.searchsorted(long.onset_us, 10_000_000, side="right")
        assert same(short, long, len(short))


@pytest.mark.parametrize("seconds", [0, -1.0, 2e6, "10"])
def test_seconds_out_of_range_are_rejected(lively, seconds):
    with pytest.raises(UserError, match=r"seconds: got .* expected a number .*above 0"):
        lively.sample(Notes.empty(), num_notes=5, seconds=seconds, **OPTIONS)


def test_each_composer_is_played_in_its_own_way(lively):
    model = lively._model
    names = ["", *COMPOSERS[:2]]
    options = {**OPTIONS, "num_notes": 12, "end_odds": 0.0}
    played = lively.sample([Notes.empty()] * 3, composers=names, **options)
    assert len({tuple(notes.pitch) for notes in played.notes}) == 3
    for index, name in enumerate(names):
        # Sample i draws its own numbers, so each is compared with one of the same index.
        alone = lively.sample([Notes.empty()] * 3, composers=name, **options)
        assert alone.notes[index] == played.notes[index]
    plain = lively.sample([Notes.empty()] * 3, **options)
    assert plain.notes[0] == played.notes[0]
    assert model.composers == lively.composers == COMPOSERS


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("chopin", "Did you mean Frédéric Chopin?"),
        ("Frederic Chopin", "Did you mean Frédéric Chopin?"),
        ("Bach", "Did you mean Johann Sebastian Bach or Carl Philipp Emanuel Bach?"),
        ("Franz List", "Did you mean Franz Liszt?"),
        ("Xenakis", "Pass one of Franz Liszt, Frédéric Chopin, Johann Sebastian Bach, Carl Philipp Emanuel Bach"),
    ],
)
def test_an_unknown_composer_is_rejected_with_the_nearest_names(lively, name, hint):
    with pytest.raises(UserError) as error:
        lively.sample(Notes.empty(), num_notes=5, composers=name, **OPTIONS)
    assert str(error.value) == f"composer {name!r}: this model was not trained on music of that name. {hint}"


def test_a_composer_is_rejected_by_a_model_without_composers():
    sampler = NoteSampler(tiny_model("density", layers=1))
    with pytest.raises(UserError, match="composer 'Liszt': this model was trained without composers"):
        sampler.sample(Notes.empty(), num_notes=5, composers="Liszt", **OPTIONS)


def test_as_many_composers_as_primers_are_expected(lively):
    with pytest.raises(UserError, match="composers: got 2 names, expected one, or one for each of 1 primers"):
        lively.sample(Notes.empty(), num_notes=5, composers=["", ""], **OPTIONS)


def test_names_that_a_model_does_not_know_count_as_none():
    assert keep_known(["Franz Liszt", "Satie", ""], COMPOSERS) == ["Franz Liszt", "", ""]
