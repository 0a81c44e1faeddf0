"""MIDI files as `read_midi` reads them, whichever of its readers does."""

import itertools
import pickle
import struct
from io import BytesIO

import numpy as np
import pretty_midi
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sostenuto.errors import MidiDecodeError
from sostenuto.music import _decode
from sostenuto.music.midi import read_midi
from sostenuto.music.notes import Notes
from tests.factories import END_OF_TRACK, melody, midi_bytes, off, on, pedal, program, tempo, track
from tests.sostenuto.music.rows import read, rows


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
        (b"<!doctype html>" + bytes(_decode.MAX_BYTES), "not_midi", "starts with b'<!do', expected b'MThd'"),
        (melody([60])[:10], "truncated", "ends at byte 10"),
        (melody([60, 62, 64])[:-9], "truncated", "within a chunk"),
        (midi_bytes([on(0, 60), off(9, 60)], declared_tracks=2), "truncated", "1 of 2 tracks"),
        (midi_bytes([on(0, 60), off(9, 60)], resolution=0), "damaged", "0 ticks per quarter note"),
        (midi_bytes([on(0, 200), off(9, 60)]), "damaged", "a data byte of more than 127 (byte 2 of a track"),
        (midi_bytes([on(0, 60)], *[[off(0, 60)]] * 300), "too_large", "declares 301 tracks"),
        (midi_bytes([on(0, 60)], *[[off(0, 60)]] * 300, declared_tracks=2), "too_large", "has 301 tracks"),
        (melody([60]) + bytes(_decode.MAX_BYTES), "too_large", "4,194,304 bytes"),
        (midi_bytes([on(0, 60), off(1, 60)] * (_decode.MAX_NOTES + 1)), "too_large", "250,000 notes"),
        (midi_bytes([pedal(1, 64)] * (_decode.MAX_EVENTS + 1)), "too_large", "1,000,000 events"),
        (midi_bytes([on(0, 60), (0, b"\x3c\x00" + b"\x81" * 10**6)]), "damaged", "a number of more than 4 bytes"),
        (midi_bytes([on(0, 60), off(9_000_000, 60)]), "damaged", "duration_us"),
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
        # A step or a duration beyond 2^31 µs, or a whole day, is no music; pretty_midi has no such bounds.
        assert "_us" in error.detail or "at most 24 allowed" in error.detail
        return
    if not len(ours.notes):
        assert not any(row[2] > row[0] for row in reference(data))
        return
    assert_like_pretty_midi(data)


@pytest.mark.parametrize("count", [2, 4, 6])
def test_every_short_sequence_of_one_pitch_is_read_as_pretty_midi_reads_it(count):
    for kinds in itertools.product([(kind, delta) for kind in (on, off) for delta in (0, 1)], repeat=count):
        data = midi_bytes([kind(delta, 60) for kind, delta in kinds])
        if any(row[2] > row[0] for row in reference(data)):
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


def test_plain_files_are_read_by_the_fast_reader(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("the slow reader was asked")

    monkeypatch.setattr(_decode, "_read_bodies", fail)
    repeated = [
        on(0, 60),
        off(10, 60),
        on(0, 60),
        off(10, 60),
        pedal(0, 1),
        tempo(0, 900_000),
        on(3, 61),
        off(3, 61),
        on(0, 62, channel=9),
    ]
    assert len(read(repeated)) == 3
    assert len(read_midi(melody(range(21, 109)), "x.mid").notes) == 88


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
