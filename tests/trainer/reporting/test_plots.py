import numpy as np
import pytest

from sostenuto.errors import UserError
from sostenuto.music.notes import Notes
from sostenuto.music.plots import BLUE, GREEN, ORANGE
from tests.pictures import melody, picture, pixels_of
from trainer.evaluation import generation_metrics
from trainer.reporting import plots


def judged(played):
    """Two pieces of real music, and what was played in their place."""
    real = [melody(700, seed=1), melody(700, seed=2, velocity=40)]
    beginnings = generation_metrics.Music([notes[:640] for notes in real], ["a", "b"])
    return generation_metrics.judge(
        generation_metrics.Music(played or beginnings.notes, ["a", "b"]),
        beginnings,
        generation_metrics.Music(real, ["a", "b"]),
        [melody(50, seed=3)],
        first=128,
    )


def test_a_judgement_has_each_sets_colour_in_every_panel(tmp_path):
    plots.judgement(judged([melody(640, seed=4, gap_us=100_000)] * 2), tmp_path / "judged.png", title="A $title_{")
    image = picture(tmp_path / "judged.png")
    image = image[len(image) // 6 :]  # below the legend
    for row in np.array_split(image, 2, axis=0):
        for panel in np.array_split(row, 4, axis=1):
            for colour in (BLUE, ORANGE, GREEN):
                assert pixels_of(panel, colour) > 20
    assert [path.name for path in tmp_path.iterdir()] == ["judged.png"]


def test_a_judgement_shows_what_was_played_over_what_is_real(tmp_path):
    plots.judgement(judged(None), tmp_path / "judged.png")
    image = picture(tmp_path / "judged.png")
    panels = image[image.shape[0] // 6 :]
    assert pixels_of(panels, ORANGE) > 10 * pixels_of(panels, GREEN)


@pytest.mark.parametrize("step_us", [0, 2_000_000_000])
def test_a_judgement_of_what_is_hardly_music_can_be_drawn(tmp_path, step_us):
    steps = np.full(640, step_us)
    steps[0] = 0
    stuck = Notes(np.full(640, 127), steps, np.full(640, 1), np.full(640, 1))
    plots.judgement(judged([stuck] * 2), tmp_path / "judged.png")
    assert pixels_of(picture(tmp_path / "judged.png"), ORANGE) > 100


def report(train_step, nats, **others):
    return {"train_step": train_step, "loss": nats + 1, "learning_rate": 0.001, "pitch_nll": nats / 3,
            "step_nll": nats / 3, "duration_nll": nats / 3, **others}  # fmt: skip


def test_loss_curves_show_training_and_validation(tmp_path):
    training = [report(train_step, 9 + 50 / train_step) for train_step in range(10, 500, 10)]
    validation = {"val_nats": 9.6, "val_pitch_nll": 3.2, "val_step_nll": 3.2, "val_duration_nll": 3.2}
    plots.loss_curves(training, tmp_path / "training.png")
    plots.loss_curves([*training, report(500, 9.0, **validation)], tmp_path / "both.png")
    without, both = picture(tmp_path / "training.png"), picture(tmp_path / "both.png")
    assert pixels_of(without, BLUE) > 500
    assert without.shape == both.shape
    for panel in range(4):
        quarter = slice(panel * both.shape[1] // 4, (panel + 1) * both.shape[1] // 4)
        assert pixels_of(both[:, quarter], ORANGE) > pixels_of(without[:, quarter], ORANGE)


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
