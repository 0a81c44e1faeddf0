import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sostenuto.errors import UserError
from sostenuto.music.notes import Notes
from trainer.evaluation import distributions, form_picture, generation_metrics, structure
from trainer.evaluation.distributions import DISTRIBUTIONS
from trainer.evaluation.generation_metrics import Music
from trainer.workdir.evaluation_formats import Summary


def notes_of(pitch, *, step_us=200_000, duration_us=150_000, velocity=70) -> Notes:
    """Notes of these pitches one after the other; each other argument is one for all, or one for each."""
    count = len(pitch)
    steps = np.broadcast_to(step_us, count).copy()
    steps[:1] = 0
    return Notes(
        np.asarray(pitch, np.int64), steps, np.broadcast_to(duration_us, count), np.broadcast_to(velocity, count)
    )


def random_music(count, seed, *, keys=88) -> Notes:
    random = np.random.default_rng(seed)
    return notes_of(
        21 + random.integers(0, keys, count),
        step_us=random.integers(0, 900_000, count),
        duration_us=random.integers(10_000, 900_000, count),
        velocity=random.integers(20, 110, count),
    )


def counted(notes, figure, first=0) -> dict[int, int]:
    """The lower edge of each bin that something fell into, and how much."""
    counts = distributions.count_bins(notes, first)[figure]
    return {int(DISTRIBUTIONS[figure].edges[bin_]): int(counts[bin_]) for bin_ in np.flatnonzero(counts)}


# A chord of two, a note below while the upper one still sounds, and after a rest one more.
FOUR = notes_of(
    [60, 64, 55, 67],
    step_us=[0, 0, 300_000, 3_000_000],
    duration_us=[200_000, 500_000, 100_000, 1_000_000],
    velocity=[40, 43, 44, 127],
)


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        ("pitch", {55: 1, 60: 1, 64: 1, 67: 1}),
        ("pitch_class", {0: 1, 4: 1, 7: 2}),
        ("interval", {4: 1, -9: 1, 12: 1}),
        ("step", {0: 1, 28: 1, 256: 1}),
        ("duration", {10: 1, 20: 1, 48: 1, 96: 1}),
        ("velocity", {40: 2, 44: 1, 124: 1}),
        ("polyphony", {1: 1, 2: 3}),
        ("notes_per_second", {1: 1}),  # three in the first two seconds; the second window is not whole
    ],
)
def test_what_is_counted_of_four_notes(figure, expected):
    assert counted(FOUR, figure) == expected


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        ("pitch", {55: 1, 67: 1}),
        ("interval", {-9: 1, 12: 1}),
        ("step", {28: 1, 256: 1}),
        ("polyphony", {1: 1, 2: 1}),
        ("notes_per_second", {0: 1}),
    ],
)
def test_a_primer_sounds_into_the_figures_but_is_not_counted(figure, expected):
    assert counted(FOUR, figure, first=2) == expected


def test_values_beyond_the_bins_are_in_the_last():
    many = notes_of(np.full(200, 60), step_us=1_000, duration_us=2_000_000_000)
    assert counted(many, "polyphony") == {**dict.fromkeys(range(1, 20), 1), 20: 181}
    assert counted(many, "notes_per_second") == {39: 1}
    assert counted(many, "duration") == {896: 200}


def test_every_value_that_a_note_can_have_is_counted_once():
    notes = random_music(500, seed=1)
    for figure, counts in distributions.count_bins(notes).items():
        if figure != "notes_per_second":
            assert counts.sum() == 500 - (figure in ("interval", "step"))


@pytest.mark.parametrize("figure", ["step", "duration"])
def test_bins_of_time_hold_every_tick_and_grow_with_it(figure):
    edges = DISTRIBUTIONS[figure].edges
    assert edges[0] == 0
    assert edges[-1] > 1000
    assert (np.diff(np.diff(edges)) >= 0).all()
    assert (np.diff(edges) >= 1).all()
    assert (edges[2:] / edges[1:-1])[8:].max() <= 1.25


@given(st.lists(st.integers(0, 50), min_size=3, max_size=3).filter(any), st.integers(1, 9))
def test_music_overlaps_with_itself_altogether_however_much_there_is_of_it(counts, times):
    counts = np.array(counts)
    assert distributions.overlap(counts, times * counts) == pytest.approx(1)
    assert distributions.divergence(counts, times * counts) == pytest.approx(0, abs=1e-12)


def test_overlap_and_divergence_of_known_histograms():
    half, quarter = np.array([5, 5, 0, 0]), np.array([1, 1, 1, 1])
    assert distributions.overlap(half, quarter) == pytest.approx(0.5)
    assert distributions.overlap(half, half[::-1]) == 0
    assert distributions.divergence(half, quarter) == pytest.approx(np.log(2), abs=0.01)
    # It is dear to play what held-out music lacks, and not infinitely so.
    assert 5 < distributions.divergence(half, half[::-1]) < 10
    assert distributions.divergence(quarter, half) > distributions.divergence(half, quarter)


def test_pitch_class_entropy():
    assert generation_metrics.pitch_class_entropy(notes_of([60, 72, 48])) == 0
    assert generation_metrics.pitch_class_entropy(notes_of([60, 62, 60, 62])) == pytest.approx(1)
    assert generation_metrics.pitch_class_entropy(notes_of(range(24, 96))) == pytest.approx(np.log2(12))


@pytest.mark.parametrize(
    ("pitch", "expected"),
    [
        (range(30, 90), 0),
        ([60], 0),
        ([60, 62, 62, 64], 1),
        ([60, 62, 64, 60, 62, 64, 65], 3),
        ([60, 62, 64, 60, 62, 65], 0),  # comes back, but not as a whole
        ([1, 2, 3, 4, 9, 9, 1, 2, 3, 4], 1),  # comes back, but not at once
        ([50, *[60, 62, 64, 65] * 10, 51], 20),
    ],
)
def test_the_longest_loop(pitch, expected):
    assert generation_metrics.longest_loop(notes_of(pitch)) == expected


def test_repeated_8grams():
    theme = list(range(40, 60))
    assert generation_metrics.repeated_8grams(notes_of(theme)) == 0
    assert generation_metrics.repeated_8grams(notes_of(theme[:7])) == 0
    # 33 sequences of 8; of the second theme's notes, 13 begin one that was there.
    assert generation_metrics.repeated_8grams(notes_of([*theme, *theme])) == pytest.approx(13 / 33)
    assert generation_metrics.repeated_8grams(notes_of([60] * 20)) == pytest.approx(12 / 13)


def with_run(notes, run, at) -> Notes:
    """The notes, `run` in the place of some of them."""
    end = at + len(run)
    fields = {
        field: np.concatenate([getattr(notes, field)[:at], getattr(run, field), getattr(notes, field)[end:]])
        for field in ("pitch", "step_us", "duration_us", "velocity")
    }
    fields["step_us"][at] = 5_000_000  # unlike the copy's first step, which does not belong to the run
    return Notes(**fields)


def moves(notes):
    """Intervals and classes of steps, one by one."""
    bounds = (40, 80, 160, 320, 640, 1280)
    ticks = [(int(step) + 5000) // 10_000 * 10 for step in notes.step_us]
    classes = [sum(milliseconds >= bound for bound in bounds) for milliseconds in ticks]
    pitch = notes.pitch.astype(int)
    return [(pitch[index] - pitch[index - 1], classes[index]) for index in range(1, len(notes))]


def longest_common(excerpt, train) -> int:
    """By trying all places and lengths."""
    own, longest = moves(excerpt), 0
    for performance in train:
        other = moves(performance)
        for start in range(len(own)):
            for place in range(len(other)):
                length = 0
                while (
                    start + length < len(own)
                    and place + length < len(other)
                    and own[start + length] == other[place + length]
                ):
                    length += 1
                longest = max(longest, length)
    return longest + 1 if longest else 0


def test_a_copied_run_is_found_with_its_length():
    train = [random_music(300, seed) for seed in range(5)]
    fresh = random_music(200, seed=10)
    copy = train[3][100:140]
    transposed = Notes(copy.pitch - (int(copy.pitch.min()) - 3), copy.step_us, copy.duration_us, copy.velocity)
    excerpts = [
        fresh,
        with_run(fresh, copy, 50),
        with_run(fresh, transposed, 160),
        with_run(fresh, notes_of(copy.pitch, step_us=5_000_000), 50),
    ]
    none, plain, moved, other_rhythm = generation_metrics.copied_runs(excerpts, train)
    assert none <= 4
    # A note before or after it may fit by chance.
    assert 40 <= plain <= 42
    assert 40 <= moved <= 42
    assert other_rhythm <= 4


def test_copied_runs_are_those_that_trying_everything_finds():
    train = [random_music(count, seed, keys=2) for seed, count in enumerate([40, 1, 25, 60])]
    excerpts = [random_music(count, 50 + count, keys=2) for count in (30, 7, 1, 45, 2)]
    expected = [longest_common(excerpt, train) for excerpt in excerpts]
    assert len(set(expected)) > 3
    assert generation_metrics.copied_runs(excerpts, train).tolist() == expected


def test_a_run_ends_with_the_performance_and_with_the_excerpt():
    whole = random_music(100, seed=3)
    halves = [whole[:50], whole[50:]]
    assert generation_metrics.copied_runs([whole], halves).tolist() == [50]
    assert generation_metrics.copied_runs(halves, [whole]).tolist() == [50, 50]


def test_the_longest_runs_of_a_million_notes_are_found_in_seconds():
    train = [random_music(10_000, seed, keys=40) for seed in range(100)]
    excerpt = with_run(random_music(512, seed=500, keys=40), train[77][4000:4300], 100)
    (longest,) = generation_metrics.copied_runs([excerpt], train)
    assert 300 <= longest <= 302


@pytest.fixture(scope="module")
def held_out():
    """Six pieces, two performances of each; the pieces are unlike each other."""
    pieces = [f"piece {number}" for number in range(6) for _ in range(2)]
    return Music([random_music(700, seed, keys=20 + 5 * (seed // 2)) for seed in range(12)], pieces)


def beginnings(music, count):
    return Music([notes[:640] for notes in music.notes[:count]], music.pieces[:count])


@pytest.mark.parametrize("primers", [1, 2, 12])
def test_equal_music_has_equal_metrics(held_out, primers):
    real = beginnings(held_out, primers)
    metrics = generation_metrics.compare_generated(real, real, held_out, [random_music(100, seed=99)], first=128)
    assert metrics.distributions.keys() == DISTRIBUTIONS.keys()
    for by_name in metrics.distributions.values():
        assert by_name["generated"] == by_name["real"]
        assert 0 < by_name["real"].overlap < 1
        assert by_name["real"].kl > 0
    for name in ("mean_overlap", *generation_metrics.PER_CONTINUATION):
        assert getattr(metrics, name)["generated"] == getattr(metrics, name)["real"]
    assert sum(metrics.counts["generated"]["pitch"]) == 512 * primers
    assert sum(metrics.counts["held_out"]["pitch"]) == 12 * 700


def test_music_unlike_any_other_has_worse_metrics(held_out):
    real = beginnings(held_out, 12)
    loops = Music([notes_of([60, 61, 62, 63] * 160, step_us=3_000, velocity=127) for _ in range(12)], real.pieces)
    metrics = generation_metrics.compare_generated(loops, real, held_out, [random_music(100, seed=99)], first=128)
    for by_name in metrics.distributions.values():
        assert by_name["generated"].overlap < by_name["real"].overlap
        assert by_name["generated"].kl > by_name["real"].kl
    assert metrics.mean_overlap["generated"] < 0.3
    assert metrics.longest_loop["generated"] == Summary(256, 256)
    assert metrics.repeated_8grams["generated"].mean > 0.9
    assert metrics.pitch_class_entropy["generated"].max == pytest.approx(2)


def test_continuations_are_not_compared_with_their_own_piece():
    """Two pieces that share no pitch: each is found in the other's place only."""
    low, high = notes_of([40] * 700), notes_of([90] * 700)
    held_out = [distributions.count_bins(notes) for notes in (low, low, high)]
    compared = distributions.measure_distances(
        [distributions.count_bins(low[:640], 128)], ["low"], held_out, ["low", "low", "high"]
    )
    assert compared["pitch"].overlap == 0
    compared = distributions.measure_distances(
        [distributions.count_bins(high[:640], 128)], ["low"], held_out, ["low", "low", "high"]
    )
    assert compared["pitch"].overlap == 1


def test_pieces_take_turns_in_being_continued():
    lengths = [640, 900, 639, 5000, 640, 10]
    pieces = ["b", "a", "c", "a", "d", "d"]
    assert generation_metrics.select_performances(lengths, pieces, 640) == [1, 0, 4, 3]
    assert generation_metrics.select_performances(lengths, pieces, 639) == [1, 0, 2, 4, 3]


@pytest.mark.parametrize(("lengths", "pieces"), [([], []), ([700, 639], ["a", "b"]), ([700, 700], ["a", "a"])])
def test_too_few_performances_to_compare_are_a_user_error(lengths, pieces):
    with pytest.raises(UserError, match="of the split with 640 notes or more, expected at least 2"):
        generation_metrics.select_performances(lengths, pieces, 640)


@pytest.mark.parametrize(
    ("lengths", "pieces", "primer_notes", "expected"),
    [
        ([2176, 2176], "ab", 128, 2048),
        ([2176, 2175], "ab", 128, 512),
        ([2176, 2176], "aa", 128, 512),
        ([2048, 2048], "ab", 0, 2048),
        ([10, 20], "ab", 128, 512),
    ],
)
def test_continuations_are_long_where_two_pieces_are(lengths, pieces, primer_notes, expected):
    assert generation_metrics.choose_num_notes(lengths, pieces, primer_notes) == expected


def test_music_from_silence_is_compared_from_its_first_note(held_out):
    real = beginnings(held_out, 2)
    metrics = generation_metrics.compare_generated(real, real, held_out, [random_music(100, seed=99)], first=0)
    assert sum(metrics.counts["generated"]["pitch"]) == 640 * 2
    assert metrics.pictures["generated"].primer_seconds == 0


def test_form_is_told_by_distance_and_length_for_both(held_out):
    real = beginnings(held_out, 3)
    loops = Music([notes_of(list(range(60, 80)) * 32) for _ in range(3)], real.pieces)
    metrics = generation_metrics.compare_generated(loops, real, held_out, [random_music(100, seed=99)], first=128)
    assert metrics.repeated_notes["1-32"] == {"generated": Summary(1, 1), "real": Summary(0, 0)}
    assert metrics.repeated_notes["33-128"] == {"generated": Summary(0, 0), "real": Summary(0, 0)}
    assert all(by_kind["generated"].mean > by_kind["real"].mean for by_kind in metrics.structure.values())


def test_the_pictured_piece_is_the_one_whose_performer_repeats_as_much_as_most(held_out):
    real = beginnings(held_out, 3)
    theme = random_music(100, seed=42)
    whole, once = (
        with_run(with_run(real.notes[0], theme, 200), theme, 400),
        with_run(with_run(real.notes[1], theme[:30], 200), theme[:30], 400),
    )
    music = Music([whole, once, real.notes[2]], real.pieces)
    metrics = generation_metrics.compare_generated(real, music, held_out, [random_music(100, seed=99)], first=128)
    assert metrics.pictured == 1
    picture = metrics.pictures["real"]
    onset = once.onset_us / 1e6
    assert picture.repeats == [pytest.approx((onset[400], onset[429], onset[200], onset[229]), abs=0.01)]
    assert picture.primer_seconds == pytest.approx(onset[128], abs=0.01)
    assert len(picture.chroma) == np.ceil(once.seconds)
    assert metrics.pictures["generated"].repeats == []


def test_a_picture_is_close_to_the_matrix_of_the_indicators(held_out):
    notes = held_out.notes[0]
    shown = form_picture.pictured_similarity(form_picture.picture_form(notes, 0))
    exact = np.maximum(structure.threshold(structure.self_similarity(structure.chroma(notes))), 0)
    assert shown.shape == exact.shape
    assert np.abs(shown - exact).mean() < 0.02
