"""A session on a clock that the tests set: whose turn it is, when notes come, and what is remembered."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from play.improviser import LEAD_US
from play.piece import FILE, MAX_NOTES, MODEL, YOU
from play.session import HORIZON_US, Session, Turn
from play.settings import Settings
from sostenuto.errors import UserError
from sostenuto.music.midi import read_midi, read_pedal
from sostenuto.music.notes import Notes
from tests.factories import regular_notes
from tests.play.fake_sampler import FakeSampler
from tests.play.listener import Listener


def begin(sustain="ignore", step_us=None, **changes) -> Listener:
    return Listener(Session(FakeSampler(step_us), Settings(**changes), sustain))


def pitches(notes) -> list[int]:
    return [note.pitch for note in notes]


def test_after_a_pause_the_model_answers_and_goes_on_until_a_key():
    listener = begin(pause=0.6)
    listener.play(60, 62, 64)
    released_us = listener.now_us
    listener.wait(0.5)
    assert not listener.scheduled
    listener.wait(20)
    assert listener.turns == [Turn(True, 600_000)]
    assert listener.scheduled[0].onset_us == released_us + 600_000
    assert listener.late == []
    assert len(listener.heard()) > 50
    sounding = max(listener.heard(), key=lambda note: note.onset_us)
    listener.press(72)
    assert listener.turns[1:] == [Turn(False)]
    assert listener.scheduled[-1].onset_us <= listener.now_us
    listener.wait(10)
    assert listener.in_piece()[-1].onset_us == sounding.onset_us
    assert listener.in_piece()[-1].duration_us <= sounding.duration_us
    listener.release(72)
    listener.wait(0.7)
    assert listener.turns[2:] == [Turn(True, 600_000)]
    assert pitches(listener.own()) == [60, 62, 64, 72]


def test_while_a_key_is_down_there_is_no_pause():
    listener = begin()
    listener.press(60)
    listener.play(64)
    listener.wait(10)
    assert listener.turns == []
    listener.release(60)
    listener.wait(1)
    assert listener.turns == [Turn(True, 500_000)]
    assert [(note.pitch, note.duration_us) for note in listener.own()] == [(60, 10_100_000), (64, 100_000)]


def test_notes_are_sent_ahead_but_not_far():
    listener = begin(step_us=50_000)
    listener.play(60)
    for _ in range(100):
        listener.wait(0.1)
        if listener.scheduled:
            assert listener.now_us + 1_000_000 < listener.scheduled[-1].onset_us
            assert listener.scheduled[-1].onset_us <= listener.now_us + HORIZON_US + 8 * 50_000
    assert listener.late == []


def test_a_server_that_was_held_up_goes_on_from_now():
    listener = begin(step_us=100_000)
    listener.play(60)
    listener.wait(1)
    listener.now_us += 60_000_000
    listener.wait(1)
    assert listener.late == []
    resumed = [note for note in listener.scheduled if note.onset_us > 60_000_000]
    assert resumed[0].onset_us >= 61_000_000
    assert len(resumed) < 50


def test_together_the_model_plays_on():
    listener = begin(mode="together", step_us=100_000)
    listener.play(60)
    listener.wait(3)
    before = listener.heard()
    listener.press(72)
    assert listener.session.is_model
    assert [note for note in listener.scheduled if note.onset_us > listener.now_us] == []
    listener.wait(0.5)
    listener.release(72)
    listener.wait(3)
    assert listener.heard()[: len(before)] == before
    assert len(listener.heard()) > len(before) + 20
    assert listener.late == []
    assert listener.turns == [Turn(True, 500_000)]
    assert [(note.pitch, note.duration_us) for note in listener.own()] == [(60, 100_000), (72, 500_000)]
    assert listener.in_piece() == listener.heard()


def test_listening_the_model_plays_when_it_is_asked():
    listener = begin(mode="listen")
    listener.play(60)
    listener.wait(30)
    assert listener.turns == []
    listener.receive(listener.session.go_on(listener.now_us))
    assert [turn.is_model for turn in listener.turns] == [True]
    assert listener.scheduled[0].onset_us == listener.now_us + LEAD_US
    listener.wait(1)
    listener.request("stop")
    heard = listener.heard()
    listener.wait(10)
    assert listener.heard() == heard
    assert listener.in_piece() == heard


def test_what_was_played_before_the_mode_changed_is_not_answered():
    listener = begin(mode="listen")
    listener.play(60)
    listener.wait(120)
    listener.receive(listener.session.change(listener.now_us, {"mode": "answer"}))
    listener.wait(10)
    assert listener.turns == []
    listener.play(62)
    listener.wait(1)
    assert listener.turns == [Turn(True, 500_000)]


def test_the_model_starts_from_silence():
    listener = begin()
    listener.receive(listener.session.go_on(1000))
    listener.wait(5)
    assert listener.turns == [Turn(True)]
    assert listener.scheduled[0].onset_us == 1000 + LEAD_US
    assert listener.session.piece.fields(0, 1)[1] == 0


def test_the_pedal_hands_over():
    listener = begin(hand_over="pedal")
    listener.play(60, 62)
    listener.wait(10)
    assert listener.turns == []
    listener.receive(listener.session.pedal(listener.now_us, True))
    assert listener.turns == [Turn(True, LEAD_US)]
    listener.receive(listener.session.pedal(listener.now_us, False))
    listener.wait(1)
    assert listener.session.is_model


def test_a_pedal_that_is_lifted_slowly_hands_over_once():
    listener = begin(hand_over="pedal")
    listener.receive(listener.session.pedal(listener.now_us, True))
    listener.wait(1)
    listener.play(60)
    for _ in range(3):
        listener.receive(listener.session.pedal(listener.now_us, True))
    assert [turn.is_model for turn in listener.turns] == [True, False]


def test_an_answer_that_was_asked_for_has_no_latency():
    listener = begin(mode="listen")
    listener.play(60)
    listener.wait(10)
    listener.receive(listener.session.go_on(listener.now_us))
    assert listener.turns == [Turn(True)]


def test_a_rest_of_an_hour_is_played_on_from_and_saved():
    listener = begin(mode="listen")
    listener.play(60)
    listener.wait(3_600)
    listener.receive(listener.session.go_on(listener.now_us))
    listener.wait(1)
    listener.request("stop")
    listener.receive(listener.session.pedal(listener.now_us, True))
    listener.play(62)
    listener.wait(7_200)
    listener.receive(listener.session.pedal(listener.now_us, False))
    listener.press(64)
    listener.wait(3_600)
    listener.receive(listener.session.save(listener.now_us))
    notes = read_midi(listener.file, "saved").notes
    assert pitches(listener.own()) == [60, 62]
    assert {60, 62, 64} <= {*notes.pitch.tolist()}
    assert notes.step_us.max() == pytest.approx(1.8e9, abs=1000)
    (_, until_us), *_ = read_pedal(listener.file, "saved")
    assert until_us == pytest.approx(notes.onset_us[-1], abs=50)


def test_a_lost_connection_stops_the_model_and_releases_the_keys():
    listener = begin()
    listener.play(60)
    listener.wait(2)
    listener.press(62)
    listener.wait(1)
    listener.receive(listener.session.resume(listener.now_us))
    assert pitches(listener.own()) == [60, 62]
    assert listener.own()[-1].duration_us == 1_000_000
    assert [note for note in listener.music if note.player == YOU] == listener.own()
    listener.wait(60)
    assert not listener.session.is_model
    listener.play(64)
    listener.wait(2)
    assert listener.session.is_model


def test_undo_takes_back_turn_by_turn_and_the_next_answer_is_another():
    listener = begin()
    listener.play(60, 62)
    listener.wait(3)
    first = listener.heard()
    listener.request("undo")
    assert listener.in_piece() == []
    assert pitches(listener.music) == [60, 62]
    listener.wait(10)
    assert listener.in_piece() == []
    listener.receive(listener.session.go_on(listener.now_us))
    listener.wait(3)
    assert pitches(listener.in_piece()) != pitches(first)
    listener.request("undo")
    listener.request("undo")
    assert listener.session.piece.notes == []
    listener.request("undo")
    assert listener.music == []


def test_equal_playing_with_an_equal_seed_gets_equal_answers():
    answers = []
    for seed in (1, 1, 2):
        listener = begin(seed=seed)
        listener.play(60, 62)
        listener.wait(3)
        answers.append(listener.heard())
    assert answers[0] == answers[1] != answers[2]


def test_of_three_branches_one_is_chosen():
    listener = begin(step_us=200_000)
    listener.play(60, 62)
    listener.request("branch")
    assert [len(branch) for branch in listener.branches] == [40] * 3
    assert len({tuple(pitches(branch)) for branch in listener.branches}) == 3
    assert {branch[0].onset_us for branch in listener.branches} == {0}
    listener.wait(30)
    assert not listener.session.is_model
    listener.request("choose", 1)
    chosen_us = listener.now_us + LEAD_US
    listener.wait(9)
    listened = listener.heard()
    assert pitches(listened[:40]) == pitches(listener.branches[1])
    assert listened[0].onset_us == chosen_us
    assert len(listened) > 40
    assert listener.in_piece() == listened
    with pytest.raises(UserError, match="branch: got 0"):
        listener.session.choose(listener.now_us, 0)
    listener.request("undo")
    assert pitches(listener.music) == [60, 62]


def test_no_branch_is_chosen():
    listener = begin()
    listener.request("branch")
    listener.request("choose", -1)
    listener.wait(5)
    assert listener.session.piece.notes == []
    listener.receive(listener.session.branch(listener.now_us))
    with pytest.raises(UserError, match="branch: got 3"):
        listener.session.choose(listener.now_us, 3)


def test_a_file_is_replayed_and_continued():
    notes = regular_notes(400, seed=1)
    listener = begin()
    listener.play(60)
    listener.request("load", notes)
    sent = [note for note in listener.scheduled if note.player == FILE]
    assert len(listener.music) + len(sent) == 400
    assert pitches(listener.music + sent) == notes.pitch.tolist()
    assert sent[0].onset_us > listener.now_us
    assert sent[-1].onset_us - sent[0].onset_us <= 10_000_000
    listener.wait(15)
    model = [note for note in listener.heard() if note.player == MODEL]
    assert model[0].onset_us >= sent[-1].onset_us
    assert listener.late == []
    listener.request("undo")
    assert {note.player for note in listener.session.piece.notes} == {FILE}
    assert len(listener.session.piece.notes) == 400
    listener.request("undo")
    assert listener.session.piece.notes == []


def test_a_file_without_notes_leaves_the_piece():
    listener = begin()
    listener.play(60)
    listener.wait(2)
    with pytest.raises(UserError, match="no notes"):
        listener.session.load(listener.now_us, Notes.empty())
    assert listener.session.is_model
    assert listener.in_piece() == listener.heard()


@pytest.mark.parametrize(("changes", "seconds"), [({"seed": 7}, 0.3), ({"composer": "Ada", "seed": 7}, 1.6)])
def test_settings_are_heard_soon_and_what_was_heard_stays(changes, seconds):
    listener = begin(step_us=100_000)
    listener.play(60)
    listener.wait(3)
    before = listener.heard()
    listener.receive(listener.session.change(listener.now_us, changes))
    assert listener.scheduled[-1].onset_us < listener.now_us + seconds * 1e6
    listener.wait(2)
    assert listener.heard()[: len(before)] == before
    assert listener.in_piece() == listener.heard()
    assert listener.session.piece.state().composer == changes.get("composer", "")
    assert listener.late == []


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0}, {"temperature": True}, {"top_p": float("nan")}, {"mode": "x"}, {"mode": ["answer"]},
        {"composer": "Eve"}, {"composer": 3}, {"key": "H minor"}, {"seed": 1.5}, {"seed": -1}, {"unknown": 1},
        {"pause": "1"}, {"density": 1e9},
    ],
)  # fmt: skip
def test_wrong_settings_change_nothing(changes):
    listener = begin()
    with pytest.raises(UserError) as error:
        listener.session.change(0, {"temperature": 0.5, **changes})
    assert next(iter(changes)) in str(error.value)
    assert listener.session.settings == Settings()


def test_a_file_holds_what_was_played():
    listener = begin(step_us=300_000)
    with pytest.raises(UserError, match="nothing was played"):
        listener.session.save(0)
    listener.wait(3)
    listener.receive(listener.session.pedal(listener.now_us, True))
    listener.play(60, 64)
    listener.receive(listener.session.pedal(listener.now_us, False))
    listener.wait(2)
    listener.press(67)
    listener.wait(0.25)
    listener.receive(listener.session.save(listener.now_us))
    expected = sorted([*listener.own(), *listener.heard()])
    notes = read_midi(listener.file, "saved").notes
    assert [*pitches(expected), 67] == notes.pitch.tolist()
    first_us = expected[0].onset_us
    onsets = [note.onset_us - first_us for note in expected]
    assert abs(notes.onset_us[:-1] - onsets).max() <= 20
    assert notes.velocity.tolist() == [note.velocity for note in expected] + [80]
    assert abs(notes.duration_us[-1] - 250_000) <= 20
    assert abs(read_pedal(listener.file, "saved") - [[0, 200_000]]).max() <= 20


def test_with_sustain_notes_last_as_long_as_the_pedal():
    listener = begin(sustain="extend", mode="listen")
    listener.receive(listener.session.pedal(listener.now_us, True))
    listener.play(60, 64, 60)
    listener.wait(1)
    listener.receive(listener.session.pedal(listener.now_us, False))
    assert [(note.pitch, note.duration_us) for note in listener.own()] == [
        (60, 200_000), (64, 1_200_000), (60, 1_100_000)
    ]  # fmt: skip


def test_clear_begins_anew():
    listener = begin()
    listener.play(60, 62)
    listener.wait(3)
    first = [note.onset_us - listener.scheduled[0].onset_us for note in listener.heard()]
    listener.receive(listener.session.clear())
    assert listener.session.piece.notes == []
    start_us = listener.now_us
    listener.scheduled.clear()
    listener.play(60, 62)
    listener.wait(3)
    assert [note.onset_us - listener.scheduled[0].onset_us for note in listener.heard()] == first
    assert listener.own()[0].onset_us >= start_us


actions = st.one_of(
    st.tuples(st.just("press"), st.integers(40, 44)),
    st.tuples(st.just("release"), st.integers(40, 44)),
    st.tuples(st.just("wait"), st.floats(0, 2)),
    st.tuples(st.just("pedal"), st.booleans()),
    st.tuples(st.sampled_from(["go_on", "stop", "undo", "branch", "choose"])),
    st.tuples(st.just("change"), st.fixed_dictionaries({"mode": st.sampled_from(["answer", "together", "listen"])})),
    st.tuples(st.just("change"), st.fixed_dictionaries({"seed": st.integers(0, 3)})),
)


@settings(max_examples=200)
@given(st.lists(actions, max_size=30), st.sampled_from(["ignore", "extend"]))
def test_the_session_remembers_what_the_player_heard(sequence, sustain):
    listener = begin(sustain=sustain)
    for name, *arguments in sequence:
        match name:
            case "press" | "release" | "wait":
                getattr(listener, name)(*arguments)
            case "pedal" | "change":
                listener.receive(getattr(listener.session, name)(listener.now_us, *arguments))
            case "go_on":
                listener.receive(listener.session.go_on(listener.now_us))
            case "choose":
                if listener.branches:
                    listener.request("choose", 2)
                    listener.branches = []
            case _:
                listener.request(name)
        if name in ("undo", "choose"):
            listener.scheduled = [note for note in listener.scheduled if note in listener.session.piece.notes]
        assert listener.late == []
        assert listener.session.piece.notes == sorted(listener.session.piece.notes)
        assert [note[:2] for note in listener.in_piece()] == [note[:2] for note in listener.heard()]


def test_an_hour_of_playing_takes_no_more_memory_than_its_notes():
    listener = begin(step_us=50_000)
    for _ in range(60):
        listener.play(60, 62, 64)
        listener.wait(59.7)
        # A page forgets, too.
        listener.scheduled = listener.scheduled[-100:]
        listener.turns.clear()
        assert len(listener.session.piece.notes) <= MAX_NOTES
        assert len(listener.session.piece._states) <= 48
    piece = listener.session.piece
    assert piece.forgotten + len(piece.notes) > 70_000
    assert sum(note.player == YOU for note in piece.notes) > 90
    assert listener.late == []


def test_nobody_waits_long_for_an_answer():
    listener = begin(step_us=9_000_000)
    listener.play(60)
    listener.wait(20)
    (turn,) = listener.turns
    assert turn.latency_us == 1_000_000
    onsets = [note.onset_us for note in listener.scheduled]
    assert {after - before for before, after in itertools.pairwise(onsets)} == {9_000_000}
    piece, sampler = listener.session.piece, FakeSampler()
    assert piece.state() == sampler.read(sampler.start(), piece.fields(0, len(piece.notes)))
