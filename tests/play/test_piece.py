"""The notes of a piece and the states after them: whatever is changed, a state is that of the notes as they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from play.piece import FILE, MAX_NOTES, MODEL, YOU, Piece, PlayedNote, to_notes
from tests.play.fake_sampler import FakeSampler

played = st.builds(
    PlayedNote,
    onset_us=st.integers(0, 2_000_000),
    pitch=st.integers(21, 108),
    duration_us=st.integers(1, 3_000_000),
    velocity=st.integers(1, 127),
    player=st.sampled_from([YOU, MODEL, FILE]),
)
changes = st.one_of(
    st.tuples(st.just("add"), played),
    st.tuples(st.just("remove"), st.integers(0, 100)),
    st.tuples(st.just("cut"), st.integers(0, 2_000_000), st.booleans()),
    st.tuples(st.just("remove_from"), st.integers(0, 2_000_000)),
    st.tuples(st.just("append"), st.integers(0, 400_000)),
    st.tuples(st.just("state"), st.none() | st.integers(0, 2_000_000)),
    st.tuples(st.just("composer"), st.sampled_from(["", "Ada"])),
)


def change(piece: Piece, sampler: FakeSampler, name: str, *arguments) -> None:
    match name, *arguments:
        case "add", note:
            piece.add(note)
        case "remove", index:
            if piece.notes:
                piece.remove(piece.notes[index % len(piece.notes)])
        case "cut", time_us, release:
            piece.cut(time_us, release=release)
        case "remove_from", time_us:
            piece.remove_from(time_us)
        case "append", step_us:
            last_us = piece.notes[-1].onset_us if piece.notes else 0
            note = PlayedNote(last_us + step_us, 60, 100_000, 80, MODEL)
            fields = np.array([[60], [step_us if piece.notes else 0], [100_000], [80]])
            piece.append([note], sampler.read(piece.state(), fields))
        case "state", time_us:
            piece.state(before_us=time_us)
        case "composer", name:
            piece.set_composer(name)


@given(st.lists(changes, max_size=40))
def test_a_state_is_that_of_the_notes(sequence):
    sampler = FakeSampler()
    piece, composer = Piece(sampler), ""
    for step in sequence:
        change(piece, sampler, *step)
        composer = step[1] if step[0] == "composer" else composer
        assert piece.notes == sorted(piece.notes)
        start = sampler.start(composer)
        expected = sampler.read(start, piece.fields(0, len(piece.notes))) if piece.notes else start
        assert piece.state() == expected


def test_a_state_is_read_once():
    sampler = FakeSampler()
    piece = Piece(sampler)
    for number in range(100):
        piece.add(PlayedNote(number * 1000, 60, 500, 80, YOU))
        piece.state()
    assert sampler.read_notes == 100
    piece.add(PlayedNote(98_500, 62, 500, 80, YOU))
    piece.state()
    assert sampler.read_notes == 102


def test_a_cut_leaves_the_player_alone():
    piece = Piece(FakeSampler())
    notes = [PlayedNote(time, 60 + time, 10_000_000, 80, player) for time in range(6) for player in (YOU, MODEL)]
    for note in notes:
        piece.add(note)
    piece.cut(2, release=True)
    assert [note[:1] + note[2:] for note in piece.notes if note.player == YOU] == [
        (time, 10_000_000, 80, YOU) for time in range(6)
    ]
    assert [(note.onset_us, note.duration_us) for note in piece.notes if note.player == MODEL] == [
        (0, 1000), (1, 1000), (2, 1000)
    ]  # fmt: skip


def test_the_oldest_notes_are_forgotten():
    sampler = FakeSampler()
    piece = Piece(sampler)
    piece.extend([PlayedNote(time, 60, 10, 80, FILE) for time in range(MAX_NOTES)])
    before = piece.state()
    piece.append([PlayedNote(MAX_NOTES, 61, 10, 80, MODEL)], sampler.read(before, np.array([[61], [1], [10], [80]])))
    assert len(piece.notes) <= MAX_NOTES
    assert piece.forgotten + len(piece.notes) == MAX_NOTES + 1
    assert piece.state() == sampler.read(before, np.array([[61], [1], [10], [80]]))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_notes_for_a_file(count):
    notes = to_notes([PlayedNote(5000 - time, 60 + time, 100, 80, YOU) for time in range(count)])
    assert notes.pitch.tolist() == [60 + time for time in reversed(range(count))]
    assert notes.step_us.tolist() == [0, 1, 1][:count]
