import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.colors import rgb_to_hsv, to_rgb

from sostenuto.errors import UserError
from sostenuto.music import plots
from sostenuto.music.histograms import Histograms
from sostenuto.music.notes import Notes
from tests.pictures import melody, picture, pixels_of


def test_piano_roll_is_a_wide_picture_of_sane_size(tmp_path):
    plots.piano_roll(melody(150), tmp_path / "roll.png", title="A $title$ that is no formula_{")
    height, width, _ = picture(tmp_path / "roll.png").shape
    assert 1000 < width < 2500
    assert 200 < height < width
    assert [path.name for path in tmp_path.iterdir()] == ["roll.png"]


def test_a_title_in_a_script_that_the_font_lacks_is_no_warning(tmp_path):
    plots.piano_roll(melody(5), tmp_path / "roll.png", title="月光")
    assert pixels_of(picture(tmp_path / "roll.png"), plots.NOTES_COLOUR) > 100


def test_primer_and_continuation_have_their_colours(tmp_path):
    notes = melody(60)
    plots.piano_roll(notes, tmp_path / "both.png", primer_notes=20)
    plots.piano_roll(notes, tmp_path / "continuation.png")
    plots.piano_roll(notes, tmp_path / "primer.png", primer_notes=60)
    both, continuation, primer = (picture(tmp_path / f"{name}.png") for name in ("both", "continuation", "primer"))
    assert pixels_of(both, plots.PRIMER_COLOUR) > 1000
    assert pixels_of(both, plots.NOTES_COLOUR) > pixels_of(both, plots.PRIMER_COLOUR)
    assert pixels_of(continuation, plots.PRIMER_COLOUR) == 0
    assert pixels_of(primer, plots.NOTES_COLOUR) == 0


def test_a_primer_is_drawn_by_the_identity_of_its_notes(tmp_path):
    notes = melody(60)
    plots.piano_roll(notes, tmp_path / "count.png", primer_notes=20)
    plots.piano_roll(notes, tmp_path / "mask.png", primer_notes=np.arange(60) < 20)
    plots.piano_roll(notes, tmp_path / "other.png", primer_notes=np.arange(60) >= 40)
    assert (tmp_path / "count.png").read_bytes() == (tmp_path / "mask.png").read_bytes()
    count, other = (picture(tmp_path / f"{name}.png") for name in ("count", "other"))
    assert pixels_of(count[:, : count.shape[1] // 4], plots.PRIMER_COLOUR) > 500
    assert pixels_of(other[:, : other.shape[1] // 4], plots.NOTES_COLOUR) > 500


def test_loud_notes_are_darker_than_soft_ones(tmp_path):
    lightness = []
    for velocity in (30, 80, 120):
        plots.piano_roll(melody(40, velocity=velocity), tmp_path / "roll.png")
        image = picture(tmp_path / "roll.png")
        image = image[image.shape[0] // 4 :]  # below the key of shades
        lightness.append(image[rgb_to_hsv(image)[:, :, 1] > 0.1].mean())
    assert lightness[0] > lightness[1] > lightness[2]


def test_piano_roll_of_the_first_notes_leaves_the_others_out(tmp_path):
    plots.piano_roll(melody(30), tmp_path / "all.png", max_notes=30)
    plots.piano_roll(melody(30), tmp_path / "more.png", max_notes=31)
    plots.piano_roll(melody(30), tmp_path / "some.png", max_notes=15, primer_notes=20)
    assert (tmp_path / "all.png").read_bytes() == (tmp_path / "more.png").read_bytes()
    assert pixels_of(picture(tmp_path / "some.png"), plots.NOTES_COLOUR) == 0


def test_long_performances_are_broken_into_rows(tmp_path):
    plots.piano_roll(melody(300), tmp_path / "minute.png")
    plots.piano_roll(melody(2000), tmp_path / "minutes.png")
    plots.piano_roll(melody(50, gap_us=300_000_000), tmp_path / "hours.png")
    minute, minutes, hours = (picture(tmp_path / f"{name}.png").shape for name in ("minute", "minutes", "hours"))
    assert minute[1] == minutes[1] == hours[1]
    assert 3 * minute[0] < minutes[0] < 8 * minute[0]
    assert hours[0] < 10 * minute[0]


@pytest.mark.parametrize("pitch", [0, 60, 127])
def test_a_single_note_anywhere_can_be_drawn(tmp_path, pitch):
    plots.piano_roll(Notes.from_onsets([pitch], [0], [1], [100]), tmp_path / "roll.png")
    assert pixels_of(picture(tmp_path / "roll.png"), plots.NOTES_COLOUR) > 100


def test_no_notes_is_an_error_that_leaves_no_file(tmp_path):
    with pytest.raises(UserError, match="no notes to draw"):
        plots.piano_roll(Notes.empty(), tmp_path / "roll.png")
    assert not list(tmp_path.iterdir())


def test_distributions_compare_sets_of_unequal_size(tmp_path):
    few = Histograms.from_notes(melody(500))
    many = sum((few for _ in range(9)), few)
    plots.distributions({"corpus": few, "generated": few}, tmp_path / "few.png", title="Few")
    plots.distributions({"corpus": few, "generated": many}, tmp_path / "many.png", title="Many")
    few_image, many_image = picture(tmp_path / "few.png"), picture(tmp_path / "many.png")
    panels = few_image.shape[0] // 4  # below the heading, which states the counts
    assert np.array_equal(few_image[panels:], many_image[panels:])
    assert not np.array_equal(few_image[:panels], many_image[:panels])
    assert pixels_of(few_image, plots.BLUE) > 1000
    assert pixels_of(few_image, plots.ORANGE) > 1000


def test_distributions_show_the_range_of_the_first_set(tmp_path):
    corpus = Histograms.from_notes(melody(500))
    slow = Histograms.from_notes(melody(500, gap_us=9_000_000))
    plots.distributions({"corpus": corpus}, tmp_path / "corpus.png")
    plots.distributions({"corpus": corpus, "generated": slow}, tmp_path / "slow.png")
    # The corpus' area is where it was, but for the generated line over it.
    before = pixels_of(picture(tmp_path / "corpus.png"), plots.BLUE)
    assert pixels_of(picture(tmp_path / "slow.png"), plots.BLUE) > 0.8 * before


@pytest.mark.parametrize("title", ["", "A title"])
def test_distributions_hide_no_bar_and_leave_no_band_empty(tmp_path, title):
    # All steps are equal, so that one bar fills the end of the panel in the middle.
    plots.distributions({"all": Histograms.from_notes(melody(500))}, tmp_path / "sheet.png", title=title)
    image = picture(tmp_path / "sheet.png")
    height, width, _ = image.shape
    blue = np.abs(rgb_to_hsv(image)[:, :, 0] - rgb_to_hsv(to_rgb(plots.BLUE))[0]) < 0.02
    highest = blue[:, 2 * width // 5 : 2 * width // 3].sum(axis=0)
    assert 0.6 * height < highest[highest > 0].min() == highest.max()
    has_ink = (image < 0.9).any(axis=(1, 2))
    assert np.diff(np.flatnonzero(np.concatenate([[True], has_ink, [True]]))).max() < 0.05 * height


@pytest.mark.parametrize("count", [0, 1])
def test_distributions_name_the_set_without_notes(tmp_path, count):
    with pytest.raises(UserError, match="generated has no two notes"):
        plots.distributions(
            {"corpus": Histograms.from_notes(melody(9)), "generated": Histograms.from_notes(melody(count))},
            tmp_path / "sheet.png",
        )
    assert not list(tmp_path.iterdir())


@given(
    arrays(np.int64, st.integers(1, 1001), elements=st.integers(0, 10**7)).filter(np.any),
    st.integers(1, 50),
)
def test_shares_add_up_to_one_and_keep_their_places(counts, bin_width):
    merged = plots.shares(counts, bin_width)
    assert merged.sum() == pytest.approx(1)
    middle = len(merged) // 2
    expected = counts[middle * bin_width : (middle + 1) * bin_width].sum() / counts.sum()
    assert merged[middle] == pytest.approx(expected)


def test_shares_of_nothing_are_refused():
    with pytest.raises(ValueError, match="no counts"):
        plots.shares(np.zeros(5, np.int64))
