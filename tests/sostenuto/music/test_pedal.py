from io import BytesIO

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sostenuto.music.midi import read_midi, read_pedal, to_pretty_midi
from sostenuto.music.pedal import NO_PEDAL, apply_sustain
from tests.factories import midi_bytes, off, on, pedal, random_notes, tempo
from tests.sostenuto.music.rows import read, rows, written_and_read


def test_the_pedal_holds_a_note_until_it_is_released():
    events = [pedal(0, 127), on(0, 60), off(100, 60), pedal(300, 0), on(0, 62), off(50, 62)]
    assert read(events, sustain="ignore") == [(0, 60, 100_000, 64), (400_000, 62, 450_000, 64)]
    assert read(events, sustain="extend") == [(0, 60, 400_000, 64), (400_000, 62, 450_000, 64)]


def test_a_note_held_by_the_pedal_ends_where_its_pitch_is_struck_again():
    events = [pedal(0, 64), on(0, 60), off(100, 60), on(100, 60), off(100, 60), pedal(100, 63)]
    assert read(events, sustain="extend") == [(0, 60, 200_000, 64), (200_000, 60, 400_000, 64)]


def test_a_pedal_never_released_is_released_at_the_last_note_off():
    events = [pedal(0, 127), on(0, 60), off(100, 60), on(0, 62), off(500, 62)]
    assert read(events, sustain="extend") == [(0, 60, 600_000, 64), (100_000, 62, 600_000, 64)]


def test_a_pedal_below_the_middle_or_pressed_after_the_note_does_nothing():
    events = [pedal(0, 63), on(0, 60), off(100, 60), pedal(1, 127), on(0, 62), off(500, 62), pedal(0, 0)]
    assert read(events, sustain="extend")[0] == (0, 60, 100_000, 64)


def test_a_half_pedal_between_presses_keeps_holding():
    events = [pedal(0, 127), on(0, 60), off(100, 60), pedal(100, 80), pedal(100, 10), on(0, 62), off(1, 62)]
    assert read(events, sustain="extend")[0] == (0, 60, 300_000, 64)


def test_the_pedal_of_one_channel_leaves_the_others_alone():
    events = [pedal(0, 127), on(0, 60), on(0, 64, channel=1), off(100, 60), off(0, 64, channel=1), pedal(300, 0)]
    assert read(events, sustain="extend") == [(0, 60, 400_000, 64), (0, 64, 100_000, 64)]


def test_the_pedal_means_the_same_where_the_slow_reader_must_read():
    # The overlap of pitch 50 is what symusic and we understand differently.
    plain = [pedal(0, 127), on(0, 60), off(100, 60), pedal(300, 0), on(0, 62), off(50, 62)]
    doubtful = [*plain, on(0, 50), on(10, 50), off(10, 50), off(10, 50)]
    assert read(doubtful, sustain="extend")[:2] == read(plain, sustain="extend")


@given(st.integers(0, 2**32), st.integers(1, 300))
@settings(max_examples=30)
def test_extending_never_shortens_and_never_overlaps_the_next_of_a_pitch(seed, count):
    rng = np.random.default_rng(seed)
    events = []
    for _ in range(count):
        kind, pitch = rng.integers(0, 3), int(rng.integers(60, 64))
        delta = int(rng.integers(0, 40))
        events.append([on(delta, pitch), off(delta, pitch), pedal(delta, int(rng.integers(0, 128)))][kind])
    data = midi_bytes(events)
    ignored, extended = (read_midi(data, "x", sustain=sustain).notes for sustain in ("ignore", "extend"))
    assert sorted(zip(ignored.onset_us, ignored.pitch, strict=True)) == sorted(
        zip(extended.onset_us, extended.pitch, strict=True)
    )
    for pitch in range(60, 64):
        mine = extended.pitch == pitch
        onset, offset = extended.onset_us[mine], extended.offset_us[mine]
        before = np.sort(ignored.offset_us[ignored.pitch == pitch])
        assert np.all(np.sort(offset) >= before)
        later = np.searchsorted(onset, onset, side="right")
        has_next = later < len(onset)
        lengthened = offset > ignored.offset_us[ignored.pitch == pitch]
        clipped = has_next & lengthened
        assert np.all(offset[clipped] <= onset[later[clipped]])


def spans(*tracks) -> list[list[int]]:
    return read_pedal(midi_bytes(*tracks), "x.mid").tolist()


def test_the_pedal_is_read_in_the_time_of_the_notes():
    # A second of silence first, which is not music: time begins with the first onset.
    events = [on(1000, 60), pedal(200, 64), pedal(100, 90), pedal(100, 63), pedal(50, 20), off(50, 60), pedal(100, 127)]
    assert spans(events) == [[200_000, 400_000]]
    assert spans([pedal(0, 127), *events]) == [[0, 400_000]]
    assert spans([on(0, 60), off(10, 60)]) == []
    assert spans([]) == []


def test_a_pedal_that_is_never_let_up_comes_up_with_the_last_key():
    assert spans([on(0, 60), pedal(10, 127), off(90, 60)]) == [[10_000, 100_000]]
    assert spans([on(0, 60), off(90, 60), pedal(10, 127)]) == []


def test_of_two_pedals_one_is_enough():
    left = [on(0, 40), pedal(100, 127), pedal(100, 0), pedal(300, 127), pedal(100, 0), off(0, 40)]
    right = [on(0, 70, channel=1), pedal(150, 127, 1), pedal(100, 0, 1), off(400, 70, channel=1)]
    assert spans(left, right) == [[100_000, 250_000], [500_000, 600_000]]


def test_the_pedal_is_read_alike_where_the_slow_reader_must_read():
    events = [on(0, 60), pedal(10, 127), off(90, 60), pedal(50, 0)]
    # A tempo after the first track is what symusic and we understand differently.
    assert spans(events) == spans(events, [tempo(0, 500_000)]) == [[10_000, 150_000]]


@given(st.integers(0, 500), st.lists(st.integers(20, 400_000), max_size=30))
def test_notes_and_their_pedal_are_written_and_read_as_they_were(seed, gaps):
    notes = random_notes(seed, 30)
    times = np.cumsum(gaps[: len(gaps) // 2 * 2], dtype=np.int64) * 20  # MIDI ticks of 20 microseconds
    pressed = times[times < notes.seconds * 1e6 // 2]
    pressed = pressed[: len(pressed) // 2 * 2].reshape(-1, 2)
    buffer = BytesIO()
    to_pretty_midi(notes, pressed).write(buffer)
    assert rows(read_midi(buffer.getvalue(), "x.mid").notes) == rows(written_and_read(notes))
    np.testing.assert_array_equal(read_pedal(buffer.getvalue(), "x.mid"), pressed)


@given(st.integers(0, 500))
def test_notes_under_a_pedal_sound_as_long_as_extending_says(seed):
    notes = written_and_read(random_notes(seed, 40))
    pressed = np.arange(10, dtype=np.int64).reshape(-1, 2) * 900_000 + 100_000
    pressed = pressed[pressed[:, 1] < notes.seconds * 1e6]
    buffer = BytesIO()
    to_pretty_midi(notes, pressed).write(buffer)
    extended = read_midi(buffer.getvalue(), "x.mid", sustain="extend").notes
    assert rows(apply_sustain(notes, pressed)) == rows(extended)
    assert rows(apply_sustain(notes, NO_PEDAL)) == rows(notes)
