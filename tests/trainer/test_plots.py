import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.colors import rgb_to_hsv, to_rgb

from notes.errors import UserError
from notes.representation import Notes
from notes.statistics import Histograms
from trainer import judging, plots


def melody(count, *, seed=0, velocity=80, gap_us=200_000):
    rng = np.random.default_rng(seed)
    onset_us = np.arange(count) * gap_us
    return Notes.from_onsets(
        pitch=rng.integers(40, 90, count),
        onset_us=onset_us,
        offset_us=onset_us + rng.integers(50_000, 800_000, count),
        velocity=np.full(count, velocity),
    )


def picture(path):
    """The pixels: [height, width, 3], 0..1."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    return matplotlib.image.imread(path)[:, :, :3]


def pixels_of(image, colour):
    """How many pixels have the hue of a colour, be they lighter or darker."""
    hue, saturation, _ = np.moveaxis(rgb_to_hsv(image), 2, 0)
    return int(((np.abs(hue - rgb_to_hsv(to_rgb(colour))[0]) < 0.02) & (saturation > 0.1)).sum())


def test_piano_roll_is_a_wide_picture_of_sane_size(tmp_path):
    plots.piano_roll(melody(150), tmp_path / "roll.png", title="A $title$ that is no formula_{")
    height, width, _ = picture(tmp_path / "roll.png").shape
    assert 1000 < width < 2500
    assert 200 < height < width
    assert [path.name for path in tmp_path.iterdir()] == ["roll.png"]


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


def test_distributions_show_the_corpus_range_whatever_was_generated(tmp_path):
    corpus = Histograms.from_notes(melody(500))
    slow = Histograms.from_notes(melody(500, gap_us=9_000_000))
    plots.distributions({"corpus": corpus}, tmp_path / "corpus.png")
    plots.distributions({"corpus": corpus, "generated": slow}, tmp_path / "slow.png")
    # The corpus' area is where it was, but for the generated line over it.
    before = pixels_of(picture(tmp_path / "corpus.png"), plots.BLUE)
    assert pixels_of(picture(tmp_path / "slow.png"), plots.BLUE) > 0.8 * before


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


def judged(played):
    """Two pieces of real music, and what was played in their place."""
    real = [melody(700, seed=1), melody(700, seed=2, velocity=40)]
    beginnings = judging.Music([notes[:640] for notes in real], ["a", "b"])
    return judging.judge(
        judging.Music(played or beginnings.notes, ["a", "b"]), beginnings, judging.Music(real, ["a", "b"]),
        [melody(50, seed=3)], first=128,
    )  # fmt: skip


def test_a_judgement_has_each_sets_colour_in_every_panel(tmp_path):
    plots.judgement(judged([melody(640, seed=4, gap_us=100_000)] * 2), tmp_path / "judged.png", title="A $title_{")
    image = picture(tmp_path / "judged.png")
    image = image[len(image) // 6 :]  # below the legend
    for row in np.array_split(image, 2, axis=0):
        for panel in np.array_split(row, 4, axis=1):
            for colour in (plots.BLUE, plots.ORANGE, plots.GREEN):
                assert pixels_of(panel, colour) > 20
    assert [path.name for path in tmp_path.iterdir()] == ["judged.png"]


def test_a_judgement_shows_what_was_played_over_what_is_real(tmp_path):
    plots.judgement(judged(None), tmp_path / "judged.png")
    image = picture(tmp_path / "judged.png")
    panels = image[image.shape[0] // 6 :]
    assert pixels_of(panels, plots.ORANGE) > 10 * pixels_of(panels, plots.GREEN)


@pytest.mark.parametrize("step_us", [0, 2_000_000_000])
def test_a_judgement_of_what_is_hardly_music_can_be_drawn(tmp_path, step_us):
    steps = np.full(640, step_us)
    steps[0] = 0
    stuck = Notes(np.full(640, 127), steps, np.full(640, 1), np.full(640, 1))
    plots.judgement(judged([stuck] * 2), tmp_path / "judged.png")
    assert pixels_of(picture(tmp_path / "judged.png"), plots.ORANGE) > 100


def report(train_step, nats, **others):
    return {"train_step": train_step, "loss": nats + 1, "learning_rate": 0.001, "pitch_nll": nats / 3,
            "step_nll": nats / 3, "duration_nll": nats / 3, **others}  # fmt: skip


def test_loss_curves_show_training_and_validation(tmp_path):
    training = [report(train_step, 9 + 50 / train_step) for train_step in range(10, 500, 10)]
    validation = {"val_nats": 9.6, "val_pitch_nll": 3.2, "val_step_nll": 3.2, "val_duration_nll": 3.2}
    plots.loss_curves(training, tmp_path / "training.png")
    plots.loss_curves([*training, report(500, 9.0, **validation)], tmp_path / "both.png")
    without, both = picture(tmp_path / "training.png"), picture(tmp_path / "both.png")
    assert pixels_of(without, plots.BLUE) > 500
    assert without.shape == both.shape
    for panel in range(4):
        quarter = slice(panel * both.shape[1] // 4, (panel + 1) * both.shape[1] // 4)
        assert pixels_of(both[:, quarter], plots.ORANGE) > pixels_of(without[:, quarter], plots.ORANGE)


def test_loss_curves_of_a_model_without_densities_show_the_loss_itself(tmp_path):
    plain = [{"train_step": step, "loss": 1 / step, "pitch_nll": 4 / step, "step_mse": 0.1} for step in range(1, 9)]
    plots.loss_curves(plain, tmp_path / "plain.png")
    plots.loss_curves([{**line, "loss": None} for line in plain], tmp_path / "pitch.png")
    assert picture(tmp_path / "plain.png").shape[1] > 1.8 * picture(tmp_path / "pitch.png").shape[1]


def test_loss_curves_take_the_later_report_of_a_train_step_that_was_run_again(tmp_path):
    plots.loss_curves([report(1, 9.0), report(2, 8.5), report(3, 8.0)], tmp_path / "straight.png")
    resumed = [report(1, 9.0), report(2, 8.8), report(3, 8.7), report(2, 8.5), report(3, 8.0)]
    plots.loss_curves(resumed, tmp_path / "resumed.png")
    assert (tmp_path / "straight.png").read_bytes() == (tmp_path / "resumed.png").read_bytes()


def test_loss_curves_leave_out_what_is_not_a_number(tmp_path):
    finite = [report(1, 9.0), report(3, 8.0)]
    plots.loss_curves(finite, tmp_path / "finite.png")
    plots.loss_curves([*finite, report(2, float("nan")), {"train_step": 4, "loss": None}], tmp_path / "nan.png")
    assert (tmp_path / "finite.png").read_bytes() == (tmp_path / "nan.png").read_bytes()


def test_loss_curves_of_a_single_report_can_be_drawn(tmp_path):
    plots.loss_curves([report(0, 9.0)], tmp_path / "loss.png")
    assert picture(tmp_path / "loss.png").shape[1] > 1000


@pytest.mark.parametrize("metrics", [[], [{"train_step": 1, "learning_rate": 0.1}]])
def test_loss_curves_without_a_loss_are_an_error(tmp_path, metrics):
    with pytest.raises(UserError, match="nothing to draw"):
        plots.loss_curves(metrics, tmp_path / "loss.png")
