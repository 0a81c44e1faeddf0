import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sostenuto.errors import MidiDecodeError
from sostenuto.music.midi import (
    Instrument,
    as_written,
    read_contents,
    read_midi,
    read_pedal,
    to_pretty_midi,
    write_midi,
)
from sostenuto.music.notes import Notes, merge_overlapping_notes
from tests.factories import melody, midi_bytes, off, on, pedal, program, random_notes, tempo
from tests.sostenuto.music.rows import rows, written_and_read


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
    assert rows(written_and_read(notes)) == rows(joined(notes)) == rows(as_written(notes))


@example([(60, 0, 1, 64), (60, 9, 5, 64)])  # Two onsets of a pitch that round to one MIDI tick.
@given(NOTES)
def test_times_between_midi_ticks_are_rounded_and_then_joined(listed):
    pitch, onset, duration, velocity = (np.array(values) for values in zip(*listed, strict=True))
    notes = Notes.from_onsets(pitch, onset, onset + duration, velocity)
    start = (notes.onset_us + 10) // 20 * 20
    end = np.maximum((notes.offset_us + 10) // 20 * 20, start + 20)
    assert rows(written_and_read(notes)) == rows(joined(Notes.from_onsets(notes.pitch, start, end, notes.velocity)))
    assert as_written(notes) == as_written(as_written(notes)) == written_and_read(notes)


def test_a_written_file_is_one_acoustic_grand_piano():
    instruments = to_pretty_midi(random_notes(0)).instruments
    assert [(instrument.program, instrument.is_drum) for instrument in instruments] == [(0, False)]
    assert to_pretty_midi(Notes.empty()).instruments[0].notes == []


# Overlapping notes of one pitch that do not end together: symusic's reading of them is not ours.
IN_DOUBT = [on(0, 20, channel=3), on(10, 20, channel=3), off(10, 20, channel=3)]


@pytest.mark.parametrize("in_doubt", [False, True], ids=["fast", "slow"])
def test_contents_hold_instruments_tempos_and_pedal_with_both_readers(in_doubt):
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


@pytest.mark.parametrize("in_doubt", [False, True], ids=["fast", "slow"])
def test_the_default_tempo_holds_until_the_first_tempo(in_doubt):
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
