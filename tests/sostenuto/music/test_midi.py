import pickle
import struct
from io import BytesIO

import numpy as np
import pretty_midi
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sostenuto.errors import MidiDecodeError
from sostenuto.music import _decode, midi
from sostenuto.music.midi import Instrument, read_contents, read_midi, read_pedal, to_pretty_midi, write_midi
from sostenuto.music.notes import Notes, merge_overlapping_notes
from sostenuto.music.pedal import NO_PEDAL, apply_sustain
from tests.midi_files import END_OF_TRACK, melody, midi_bytes, off, on, pedal, program, random_notes, tempo, track


def rows(notes: Notes) -> list[tuple[int, int, int, int]]:
    """Returns (onset, pitch, offset, velocity) of each note, times in microseconds from the first onset."""
    return list(
        zip(*(array.tolist() for array in (notes.onset_us, notes.pitch, notes.offset_us, notes.velocity)), strict=True)
    )


def read(*tracks, sustain="ignore", **header) -> list[tuple[int, int, int, int]]:
    return rows(read_midi(midi_bytes(*tracks, **header), "x.mid", sustain=sustain).notes)


def reference(data: bytes) -> list[tuple[int, int, int, int]]:
    """Returns pretty_midi's notes of a file as `rows` does."""
    instruments = pretty_midi.PrettyMIDI(BytesIO(data)).instruments
    notes = [note for instrument in instruments if not instrument.is_drum for note in instrument.notes]
    onset, offset = (np.round(np.array([getattr(n, at) for n in notes]) * 1e6).astype(int) for at in ("start", "end"))
    return rows(Notes.from_onsets([n.pitch for n in notes], onset, offset, [n.velocity for n in notes]))


def assert_like_pretty_midi(data: bytes) -> None:
    """Fails unless both read the same notes, times within a microsecond."""
    ours, theirs = rows(read_midi(data, "x.mid").notes), reference(data)
    assert [(row[1], row[3]) for row in ours] == [(row[1], row[3]) for row in theirs]
    if ours:
        difference = np.abs(np.array(ours)[:, [0, 2]] - np.array(theirs)[:, [0, 2]])
        # An onset is counted from the first onset: two roundings.
        assert difference.max() <= 2


def test_a_note_is_read_with_its_times_and_velocity():
    assert read([on(500, 60, 90), off(250, 60), on(0, 64, 3), off(1000, 64)]) == [
        (0, 60, 250_000, 90),
        (250_000, 64, 1_250_000, 3),
    ]


def test_a_note_on_without_velocity_is_a_note_off():
    assert read([on(0, 60), on(100, 60, 0)]) == [(0, 60, 100_000, 64)]


def test_tracks_and_channels_are_merged_in_order():
    assert read([on(10, 62), off(10, 62)], [on(5, 60, channel=3), off(30, 60, channel=3)]) == [
        (0, 60, 30_000, 64),
        (5_000, 62, 15_000, 64),
    ]


def test_drums_are_left_out_and_counted():
    decoded = read_midi(midi_bytes([on(0, 36, channel=9), off(5, 36, channel=9), on(0, 60), off(5, 60)]), "x.mid")
    assert rows(decoded.notes) == [(0, 60, 5_000, 64)]
    assert (decoded.drums, decoded.zero_length) == (1, 0)


def test_notes_of_zero_length_are_dropped_and_counted():
    decoded = read_midi(midi_bytes([on(0, 60), off(0, 60), on(0, 62), off(7, 62)]), "x.mid")
    assert rows(decoded.notes) == [(0, 62, 7_000, 64)]
    assert decoded.zero_length == 1


def test_a_note_off_ends_every_earlier_note_of_its_pitch():
    assert read([on(0, 60, 1), on(100, 60, 2), off(100, 60), off(100, 60)]) == [
        (0, 60, 200_000, 1),
        (100_000, 60, 200_000, 2),
    ]


def test_a_note_off_spares_a_note_struck_at_the_same_tick():
    assert read([on(0, 60, 1), on(100, 60, 2), off(0, 60), off(100, 60)]) == [
        (0, 60, 100_000, 1),
        (100_000, 60, 200_000, 2),
    ]


def test_overlapping_notes_of_one_pitch_on_two_channels_keep_their_own_ends():
    assert read([on(0, 60, 1), on(10, 60, 2, channel=1), off(10, 60), off(10, 60, channel=1)]) == [
        (0, 60, 20_000, 1),
        (10_000, 60, 30_000, 2),
    ]


@pytest.mark.parametrize("before", [[], [on(0, 60), off(0, 60)]])
def test_a_note_that_never_ends_is_dropped(before):
    assert read([*before, on(0, 60, 1), on(10, 62, 2), off(10, 62)]) == [(0, 62, 10_000, 2)]


def test_a_note_off_without_a_note_is_ignored():
    assert read([off(0, 60), on(10, 60), off(10, 60), off(10, 60)]) == [(0, 60, 10_000, 64)]


def test_smpte_division_is_rejected():
    with pytest.raises(MidiDecodeError, match="SMPTE") as caught:
        read([on(0, 60), off(10, 60)], resolution=0xE728)
    assert caught.value.reason == "smpte"


def test_tempo_changes_apply_from_their_tick_on():
    events = [on(0, 60), tempo(500, 1_000_000), off(250, 60), on(0, 62), tempo(250, 250_000), off(500, 62)]
    assert read(events) == [(0, 60, 1_000_000, 64), (1_000_000, 62, 1_750_000, 64)]


def test_of_several_tempos_at_a_tick_the_last_holds():
    events = [
        on(0, 60),
        tempo(500, 1),
        *[tempo(0, number) for number in range(2, 60)],
        tempo(0, 1_000_000),
        off(500, 60),
    ]
    assert read(events) == [(0, 60, 1_500_000, 64)]


def test_tempo_changes_count_on_the_first_track_only():
    assert read([tempo(0, 1_000_000)], [tempo(0, 250_000), on(0, 60), off(500, 60)]) == [(0, 60, 1_000_000, 64)]


def test_times_do_not_drift_over_half_an_hour_of_odd_tempos():
    events = [on(0, 60)]
    for index in range(10_000):
        events.append(tempo(300, 333_333 - index % 2))
    events.append(off(0, 60))
    exact = sum((500_000 if index == 0 else 333_333 - (index - 1) % 2) * 300 for index in range(10_000)) / 600
    ((_, _, offset, _),) = read(events, resolution=600)
    assert abs(offset - exact) <= 0.5


def test_what_follows_an_end_of_track_is_read():
    assert read([on(0, 60), off(10, 60), END_OF_TRACK, on(0, 62), off(10, 62)]) == [
        (0, 60, 10_000, 64),
        (10_000, 62, 20_000, 64),
    ]


def test_a_track_may_lack_its_end():
    assert read(track([on(0, 60), off(10, 60)], end=False)) == [(0, 60, 10_000, 64)]


def test_chunks_of_another_kind_and_bytes_behind_the_last_track_are_skipped():
    alien = b"XFIH" + struct.pack(">I", 3) + b"abc"
    data = midi_bytes(alien, track([on(0, 60), off(10, 60)]), declared_tracks=1) + b"trailing bytes"
    assert rows(read_midi(data, "x.mid").notes) == [(0, 60, 10_000, 64)]


def test_a_file_without_notes_gives_no_notes():
    decoded = read_midi(midi_bytes([tempo(0, 400_000)]), "x.mid")
    assert (len(decoded.notes), decoded.zero_length) == (0, 0)
    assert read() == []


@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        (b"", "not_midi", "is empty"),
        (b"Notes for Monday:\n- practise", "not_midi", "expected b'MThd'"),
        (melody([60])[:10], "truncated", "ends at byte 10"),
        (melody([60, 62, 64])[:-9], "truncated", "within a chunk"),
        (midi_bytes([on(0, 60), off(9, 60)], declared_tracks=2), "truncated", "1 of its 2 tracks"),
        (midi_bytes([on(0, 60), off(9, 60)], resolution=0), "damaged", "0 ticks per quarter note"),
        (midi_bytes([tempo(0, 0), on(0, 60), off(9, 60)]), "damaged", "ZeroDivisionError"),
        (midi_bytes([on(0, 200), off(9, 60)]), "damaged", "0..127"),
        (midi_bytes([on(0, 60), off(20_000_000, 60)]), "damaged", "largest tick"),
        (midi_bytes([on(0, 60)], *[[off(0, 60)]] * 300), "too_large", "301 tracks"),
        (melody([60]) + bytes(midi.MAX_BYTES), "too_large", "4,194,304 bytes"),
        (midi_bytes([on(0, 60), off(1, 60)] * (_decode.MAX_NOTES + 1)), "too_large", "250,001 notes"),
        (midi_bytes([pedal(1, 64)] * (_decode.MAX_EVENTS + 1)), "too_large", "1,000,002 events"),
        (
            midi_bytes(
                *[[event for number in range(128) for event in (program(0, number), on(0, 60), off(1, 60))]] * 9
            ),
            "too_large",
            "1,152 program changes",
        ),
        (midi_bytes([(0, b"\x81" * 10**6)]), "damaged", "a number of more than 4 bytes"),
        (midi_bytes([on(0, 60), tempo(0, 16_000_000), off(9_000_000, 60)]), "damaged", "duration_us"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_read_is_rejected_with_a_reason(data, reason, detail):
    with pytest.raises(MidiDecodeError) as caught:
        read_midi(data, "dir/x.mid")
    assert caught.value.reason == reason
    assert detail in caught.value.detail
    assert str(caught.value).startswith("dir/x.mid: ")
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


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


def test_the_pedal_means_the_same_where_pretty_midi_must_read():
    # The overlap of pitch 50 is what symusic and pretty_midi understand differently.
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


events = st.lists(
    st.one_of(
        st.builds(on, st.integers(0, 60), st.integers(60, 63), st.integers(0, 127), st.integers(8, 10)),
        st.builds(off, st.integers(0, 60), st.integers(60, 63), st.integers(8, 10)),
        st.builds(pedal, st.integers(0, 60), st.integers(0, 127), st.integers(8, 10)),
        st.builds(program, st.integers(0, 60), st.integers(0, 3), st.integers(8, 10)),
        st.builds(tempo, st.integers(0, 60), st.integers(1, 2**24 - 1)),
    ),
    max_size=40,
)


@given(st.lists(events, min_size=1, max_size=3), st.sampled_from([1, 96, 384, 480, 960, 32767]))
@example([[on(0, 60), on(10, 60), off(5, 60)]], 480)
@example([[on(0, 60), program(1, 5), on(10, 60), off(5, 60), off(5, 60)]], 480)
@settings(max_examples=300)
@pytest.mark.filterwarnings("ignore:Tempo, Key or Time signature:RuntimeWarning")  # pretty_midi's, called directly here
def test_any_sequence_of_events_is_read_as_pretty_midi_reads_it(tracks, resolution):
    data = midi_bytes(*tracks, resolution=resolution)
    try:
        ours = read_midi(data, "x.mid")
    except MidiDecodeError as error:
        # A step or a duration beyond 2^31 µs is no music; pretty_midi has no such bound.
        assert "_us" in error.detail
        return
    if not len(ours.notes):
        assert not any(row[2] > row[0] for row in reference(data))
        return
    assert_like_pretty_midi(data)


@given(st.data())
@settings(max_examples=300)
def test_mutated_bytes_are_read_or_rejected_and_nothing_else(data):
    sound = bytearray(melody([60, 64, 67, 72] * 5))
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(0, len(sound) - 1))
        match data.draw(st.sampled_from(["set", "cut", "double"])):
            case "set":
                sound[position] = data.draw(st.integers(0, 255))
            case "cut":
                del sound[position : position + data.draw(st.integers(1, 8))]
            case "double":
                sound[position:position] = sound[position : position + 8]
        if not sound:
            break
    try:
        decoded = read_midi(bytes(sound), "x.mid", sustain="extend")
    except MidiDecodeError as error:
        assert error.reason in ("not_midi", "too_large", "truncated", "smpte", "damaged")
        assert "\n" not in str(error)
    else:
        assert np.all(decoded.notes.duration_us > 0)


def test_unambiguous_files_are_read_without_pretty_midi(monkeypatch):
    def fail(*_):
        raise AssertionError("pretty_midi was asked")

    monkeypatch.setattr(pretty_midi, "PrettyMIDI", fail)
    repeated = [
        on(0, 60),
        off(10, 60),
        on(0, 60),
        off(10, 60),
        pedal(0, 1),
        tempo(0, 9),
        on(3, 61),
        on(0, 62, channel=9),
    ]
    assert len(read(repeated)) == 2
    assert len(read_midi(melody(range(21, 109)), "x.mid").notes) == 88


def written_and_read(notes: Notes) -> Notes:
    buffer = BytesIO()
    to_pretty_midi(notes).write(buffer)
    return read_midi(buffer.getvalue(), "x.mid").notes


@pytest.mark.parametrize(("stretch", "half_tick"), [(1, 10), (6, 50), (60, 250)])
def test_notes_survive_a_file_to_half_a_tick(tmp_path, stretch, half_tick):
    notes = random_notes(3, 300)
    notes = Notes(notes.pitch, notes.step_us * stretch, notes.duration_us, notes.velocity)
    write_midi(notes, tmp_path / "x.mid")
    decoded = read_midi((tmp_path / "x.mid").read_bytes(), "x.mid").notes
    assert len(decoded) == len(notes)
    # Rounding may bring two notes to one tick and so change their order: compare pitch by pitch.
    for pitch in np.unique(notes.pitch):
        before, after = notes.pitch == pitch, decoded.pitch == pitch
        assert np.abs(notes.onset_us[before] - decoded.onset_us[after]).max() <= half_tick
        assert np.abs(notes.offset_us[before] - decoded.offset_us[after]).max() <= half_tick
        assert notes.velocity[before].tolist() == decoded.velocity[after].tolist()
    assert {path.name for path in tmp_path.iterdir()} == {"x.mid"}


def test_the_shortest_note_survives_a_file(tmp_path):
    write_midi(Notes.from_onsets([60], [0], [1], [1]), tmp_path / "x.mid")
    assert rows(read_midi((tmp_path / "x.mid").read_bytes(), "x.mid").notes) == [(0, 60, 20, 1)]


def joined(notes: Notes) -> Notes:
    return Notes.from_onsets(*merge_overlapping_notes(notes.pitch, notes.onset_us, notes.offset_us, notes.velocity))


# (pitch, onset, duration, velocity); few pitches and short times, so that notes of one pitch meet often.
NOTES = st.lists(
    st.tuples(st.integers(60, 62), st.integers(0, 60), st.integers(1, 60), st.integers(1, 127)), min_size=1, max_size=20
)


@example([(60, 0, 40, 64), (60, 30, 30, 64)])
@example([(60, 0, 40, 1), (60, 0, 20, 127)])
@given(NOTES)
def test_notes_that_meet_on_one_key_are_written_as_the_rule_joins_them(listed):
    # Times in 90 ms, which MIDI ticks of 20 µs hold exactly.
    pitch, onset, duration, velocity = (np.array(values) for values in zip(*listed, strict=True))
    notes = Notes.from_onsets(pitch, onset * 90_000, (onset + duration) * 90_000, velocity)
    assert rows(written_and_read(notes)) == rows(joined(notes))


@example([(60, 0, 1, 64), (60, 9, 5, 64)])  # Two onsets of a pitch that round to one MIDI tick.
@given(NOTES)
def test_times_between_midi_ticks_are_rounded_and_then_joined(listed):
    pitch, onset, duration, velocity = (np.array(values) for values in zip(*listed, strict=True))
    notes = Notes.from_onsets(pitch, onset, onset + duration, velocity)
    start = (notes.onset_us + 10) // 20 * 20
    end = np.maximum((notes.offset_us + 10) // 20 * 20, start + 20)
    assert rows(written_and_read(notes)) == rows(joined(Notes.from_onsets(notes.pitch, start, end, notes.velocity)))


def test_a_written_file_is_one_acoustic_grand_piano():
    instruments = to_pretty_midi(random_notes(0)).instruments
    assert [(instrument.program, instrument.is_drum) for instrument in instruments] == [(0, False)]
    assert to_pretty_midi(Notes.empty()).instruments[0].notes == []


def test_every_note_of_the_corpus_agrees_with_pretty_midi(corpus):
    files = sorted(path for path in corpus.rglob("*") if path.suffix.lower() in (".mid", ".midi"))
    assert files
    for path in files:
        data = path.read_bytes()
        instruments = pretty_midi.PrettyMIDI(BytesIO(data)).instruments
        theirs = [note for instrument in instruments if not instrument.is_drum for note in instrument.notes]
        theirs = sorted((note.start, note.pitch, note.end, note.velocity) for note in theirs)
        ours = read_midi(data, str(path)).notes
        expected = np.array(theirs)
        assert len(ours) == len(theirs), path
        # In microseconds from the first onset, as ours.
        expected[:, [0, 2]] = (expected[:, [0, 2]] - expected[0, 0]) * 1e6
        assert np.array_equal(ours.pitch, expected[:, 1]), path
        assert np.array_equal(ours.velocity, expected[:, 3]), path
        assert np.abs(ours.onset_us - expected[:, 0]).max() <= 1.000001, path
        assert np.abs(ours.offset_us - expected[:, 2]).max() <= 1.000001, path


# The pedal.


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


def test_the_pedal_is_read_alike_where_pretty_midi_must_read():
    events = [on(0, 60), pedal(10, 127), off(90, 60), pedal(50, 0)]
    # A tempo after the first track is what symusic and pretty_midi understand differently.
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


# Overlapping notes of one pitch that do not end together: only pretty_midi's reading of them is ours.
IN_DOUBT = [on(0, 20, channel=3), on(10, 20, channel=3), off(10, 20, channel=3)]


@pytest.mark.parametrize("in_doubt", [False, True], ids=["symusic", "pretty_midi"])
def test_contents_hold_instruments_tempos_and_pedal_whoever_reads(in_doubt):
    data = midi_bytes(
        [
            *(IN_DOUBT if in_doubt else []),
            *(tempo(0, 500_000), program(0, 0), program(0, 40, channel=1)),
            *(on(1000, 60), off(100, 60), on(0, 62), off(100, 62), on(0, 64, channel=1), off(100, 64, channel=1)),
            *(on(0, 36, channel=9), off(50, 36, channel=9), tempo(150, 250_000), pedal(0, 90), pedal(100, 20)),
            *(tempo(0, 250_000), pedal(100, 0), on(0, 65), off(100, 65)),
        ],
        [on(1200, 48, channel=2), on(0, 50, channel=2), off(0, 50, channel=2), off(5, 48, channel=2)],
    )  # fmt: skip
    contents = read_contents(data, "song.mid")
    assert contents.decoded.notes == read_midi(data, "song.mid").notes
    pianos = 6 if in_doubt else 4
    assert contents.instruments == [Instrument(0, pianos), Instrument(40, 1), Instrument(None, 1)]
    assert sum(one.notes for one in contents.instruments) == len(contents.decoded.notes) + contents.decoded.drums
    start = 20_000 if in_doubt else 0
    assert contents.first_onset_us == (0 if in_doubt else 1_000_000)
    assert contents.tempos.tolist() == [[0, 500_000], [1_500_000 + start, 250_000]]
    assert np.array_equal(contents.pedal, read_pedal(data, "song.mid"))
    assert len(contents.pedal) == 1
    assert contents.pedal_changes == 3


@pytest.mark.parametrize("in_doubt", [False, True], ids=["symusic", "pretty_midi"])
def test_without_a_tempo_it_is_midis_own_until_there_is_one(in_doubt):
    doubt = IN_DOUBT if in_doubt else []
    assert read_contents(midi_bytes([*doubt, on(0, 60), off(100, 60)]), "x").tempos.tolist() == [[0, 500_000]]
    later = read_contents(midi_bytes([*doubt, on(0, 60), off(100, 60), tempo(0, 600_000)]), "x").tempos
    assert later.tolist() == [[0, 500_000], [120_000 if in_doubt else 100_000, 600_000]]


def test_contents_of_a_file_that_plays_nothing():
    contents = read_contents(midi_bytes([program(0, 12)]), "silent.mid")
    assert (len(contents.decoded.notes), contents.instruments, contents.first_onset_us) == (0, [], 0)
    assert (contents.pedal.shape, contents.pedal_changes) == ((0, 2), 0)


def test_contents_of_a_broken_file_are_rejected_as_its_notes_are():
    with pytest.raises(MidiDecodeError, match=r"cut\.mid: ends at byte 20"):
        read_contents(melody([60, 62])[:20], "cut.mid")
