"""Files that other readers lose notes of, or read wrongly without a word: each with what is right."""

import numpy as np
import pytest

from sostenuto.errors import MidiDecodeError
from sostenuto.inspect.describe import describe_file
from sostenuto.music import audio
from sostenuto.music.midi import read_contents, read_midi, read_pedal
from sostenuto.music.notes import MAX_TIME_US, Notes
from sostenuto.music.pedal import apply_sustain
from tests.factories import END_OF_TRACK, Event, midi_bytes, off, on, pedal, program, tempo, track
from tests.sostenuto.music.rows import read, rows

RESTRUCK = [on(0, 90), on(60, 90), off(60, 90), off(60, 90)]  # sends a file to the slow reader
SYSTEM_EXCLUSIVE = b"\xf0\x05\x7e\x7f\x09\x01\xf7"


def scale(start: int = 60, count: int = 8) -> list[Event]:
    """Notes of a quarter of a second, one after another."""
    return [event for pitch in range(start, start + count) for event in (on(0, pitch), off(125, pitch))]


def scale_rows(start: int = 60, count: int = 8, *, note_us: int = 125_000) -> list[tuple[int, int, int, int]]:
    return [(index * note_us, start + index, (index + 1) * note_us, 64) for index in range(count)]


def meta(kind: int, data: bytes) -> Event:
    return 0, bytes([0xFF, kind, len(data)]) + data


def rejection(data: bytes) -> tuple[str, str]:
    with pytest.raises(MidiDecodeError) as caught:
        read_midi(data, "x.mid")
    return caught.value.reason, caught.value.detail


def test_the_times_after_an_escaped_packet_are_right():
    events = []
    for pitch in range(60, 70):
        events += [on(0, pitch), off(125, pitch), (0, b"\xf7\x05\x7e\x7f\x09\x01\xf7")]
    assert read(events) == scale_rows(count=10)


@pytest.mark.parametrize("between", [SYSTEM_EXCLUSIVE, b"\xf7\x01\x00", b"\xff\x01\x02hi"])
def test_no_note_is_lost_after_a_system_exclusive_message_within_running_status(between):
    running = [(0, b"\x90\x3c\x40"), (125, b"\x3c\x00")]
    for pitch in range(61, 71):
        running += [(0, bytes([pitch, 64])), (125, bytes([pitch, 0]))]
    running.append((0, between))
    for pitch in range(71, 81):
        running += [(0, bytes([pitch, 64])), (125, bytes([pitch, 0]))]
    assert read(running) == scale_rows(count=21)


@pytest.mark.parametrize("data", [b"", b"\x07", b"\x07\xa1", b"\0\0\0"])
@pytest.mark.parametrize("further", [[], RESTRUCK])
def test_a_tempo_that_is_none_is_rejected_and_not_guessed(data, further):
    problem = "0 µs a quarter note" if len(data) == 3 else f"{len(data)} bytes, expected 3"
    assert rejection(midi_bytes([meta(0x51, data), *further, *scale()])) == ("damaged", f"has a tempo of {problem}")


def test_the_bytes_behind_a_tempo_are_ignored():
    # The standard lets metas grow.
    assert read([meta(0x51, b"\x07\xa1\x20\xff\x00"), *scale()]) == scale_rows()


@pytest.mark.parametrize(
    "irrelevant",
    [
        *(meta(0x59, b"\x08\x00"), meta(0x59, b""), meta(0x58, b"\x04"), meta(0x58, b"\x00\x02\x18\x08")),
        *(meta(0x54, b"\x00\x00"), meta(0x00, b"\x01"), meta(0x20, b""), meta(0x2F, b"\x00"), meta(0x7F, b"\xff\x51")),
        *((0, b"\xf0\x03\x7e\xff\xf7"), (0, b"\xf6"), (0, b"\xd0\x40"), (0, b"\xe0\x40\x00"), (0, b"\xb0\x07\x64")),
    ],
    ids=lambda event: event[1].hex(),
)
@pytest.mark.parametrize("further", [[], RESTRUCK], ids=["fast", "slow"])
@pytest.mark.parametrize("tracks", [1, 2])
def test_what_no_note_depends_on_costs_no_file(irrelevant, further, tracks):
    plain = read([*further, *scale()])
    assert read(*[[]] * (tracks - 1), [irrelevant, *further, *scale()]) == plain
    assert read(*[[]] * (tracks - 1), [*further, *scale(), irrelevant]) == plain


@pytest.mark.parametrize("further", [[], RESTRUCK])
def test_a_fine_resolution_does_not_make_a_file_too_long(further):
    events = []
    for index in range(400):
        events += [on(0, 60 + index % 12), off(32767, 60 + index % 12)]
    notes = read([*events, *further], resolution=32767)[:400]
    assert notes == [(index * 500_000, 60 + index % 12, (index + 1) * 500_000, 64) for index in range(400)]


@pytest.mark.parametrize("further", [[], RESTRUCK])
def test_the_length_of_a_file_is_bounded_in_hours_by_one_rule(further):
    def hours(midi_tick: int, *events: Event) -> bytes:
        steps = [on(*at) for _ in range(midi_tick // 1_000_000) for at in ((0, 60), (1_000_000, 60, 0))]
        return midi_bytes([*further, *steps, *events], resolution=500)

    # 10,000,000 MIDI ticks are two hours and 47 minutes here.
    assert len(read_midi(hours(10_000_000), "x.mid").notes) == 10 + len(further) // 2
    assert len(read_midi(hours(86_000_000), "x.mid").notes) == 86 + len(further) // 2
    assert rejection(hours(87_000_000)) == (
        "damaged",
        "has a note, pedal or tempo 24.2 hours after its start, at most 24 allowed",
    )
    late = [(2**28 - 1, END_OF_TRACK[1])]
    assert len(read_midi(hours(1_000_000, *late), "x.mid").notes) == 1 + len(further) // 2


def test_times_that_no_integer_holds_are_rejected():
    late = [tempo(0, 2**24 - 1), *[tempo(2**28 - 1, 2**24 - 1)] * 100_000, *scale()]
    reason, detail = rejection(midi_bytes(late, resolution=1))
    assert reason == "damaged"
    assert "at most 24 allowed" in detail


def test_tracks_that_the_header_does_not_declare_are_read():
    tracks = [[tempo(0, 400_000)], scale(), scale(72)]
    expected = sorted([*scale_rows(note_us=100_000), *scale_rows(72, note_us=100_000)])
    assert read(*tracks, declared_tracks=2) == read(*tracks) == expected
    assert read(*tracks, declared_tracks=0) == expected
    alien = b"XFIH\x00\x00\x00\x03abc"
    assert read(track(scale()), alien, track(scale(72)), declared_tracks=1) == read(scale(), scale(72))
    reason, detail = rejection(midi_bytes(scale(), scale(72), declared_tracks=1)[:-5])
    assert (reason, "within a chunk" in detail) == ("truncated", True)


def test_independent_sequences_are_not_played_at_once():
    reason, detail = rejection(midi_bytes(scale(), scale(72), midi_format=2))
    assert reason == "format_2"
    assert "2 independent sequences" in detail
    assert read(scale(), midi_format=2) == scale_rows()


@pytest.mark.parametrize("further", [[], [on(0, 90, channel=1), *RESTRUCK]])
def test_notes_that_never_end_are_counted(further):
    decoded = read_midi(midi_bytes([*further, *[on(240, 60 + index) for index in range(8)]]), "x.mid")
    assert (len(decoded.notes), decoded.unended) == (len(further) // 2, 8 + len(further) % 2)


def test_a_track_without_any_event_is_read():
    assert read(track([], end=False), scale()) == read(scale(), track([], end=False)) == scale_rows()


@pytest.mark.parametrize("further", [[], RESTRUCK])
def test_a_tempo_on_a_later_track_is_ignored_and_counted(further):
    for ignored in (tempo(0, 1_000_000), tempo(0, 0), meta(0x51, b"\x07")):
        contents = read_contents(midi_bytes([meta(3, b"x")], [*further, *scale(), ignored]), "x.mid")
        assert rows(contents.decoded.notes) == read([*further, *scale()])
        assert contents.ignored_tempos == 1
        assert contents.tempos.tolist() == [[0, 500_000]]


def test_what_is_left_out_of_a_file_is_shown():
    data = midi_bytes(
        [*scale(), on(0, 60), on(0, 61), on(0, 62), off(0, 62)],
        [tempo(0, 1_000_000), on(0, 36, channel=9), off(1, 36, channel=9)],
    )
    text = "\n".join(describe_file("x.mid", read_contents(data, "x.mid"), rows=0, width=None))
    assert "120 quarter notes a minute; 1 tempo change of later tracks ignored" in text
    assert "left out     1 note of zero length, 1 drum note, 2 notes without a note-off" in text


@pytest.mark.parametrize("between", [[], [on(0, 30), off(5, 30)]])
def test_a_change_of_program_takes_no_pedal_from_a_channel(between):
    changes = [program(0, 5), pedal(0, 127), *between, program(0, 40), on(0, 60), program(0, 7), off(100, 60)]
    data = midi_bytes([*changes, pedal(400, 0), on(0, 72), off(1, 72)])
    extended = rows(read_midi(data, "x.mid", sustain="extend").notes)
    start = len(between) and 5_000
    assert (start, 60, start + 500_000, 64) in extended
    assert read_pedal(data, "x.mid").tolist() == [[0, start + 500_000]]
    counts = {instrument.program: instrument.notes for instrument in read_contents(data, "x.mid").instruments}
    assert counts == ({5: 1, 7: 2} if between else {7: 2})


def test_a_pedal_of_an_hour_is_read_and_played():
    hour = 3_600_000_000
    notes = Notes.from_onsets([60, 62, 62], [0, 1_000_000, 2**31], [500_000, 2_000_000, 2**31 + 1_000_000], [64] * 3)
    pressed = np.array([[0, hour]])
    sustained = apply_sustain(notes, pressed)
    assert sustained.duration_us.tolist() == [MAX_TIME_US, 2**31 - 1_000_000, hour - 2**31]
    short = notes[:1]
    samples, _ = audio.render(short, np.array([[0, 2_000_000]]))
    assert len(samples) == 4 * audio.SAMPLE_RATE
    data = midi_bytes(
        [
            pedal(0, 127),
            on(0, 60),
            off(500, 60),
            *[pedal(600_000, 100)] * 3,
            *RESTRUCK,
            *[pedal(600_000, 100)] * 3,
            *RESTRUCK,
        ]
    )
    assert rows(read_midi(data, "x.mid", sustain="extend").notes)[0] == (0, 60, MAX_TIME_US, 64)
