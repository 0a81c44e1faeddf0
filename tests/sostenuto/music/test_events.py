from io import BytesIO
from typing import NamedTuple

import mido
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sostenuto.music._events import bound_midi_ticks, read_events, write_number
from tests.factories import midi_bytes, off, on, pedal, program, tempo, track

SYSTEM = st.sampled_from(
    [
        b"\xf0\x03abc",
        b"\xf7\x00",
        b"\xf1\x01",
        b"\xf2\x01\x02",
        b"\xf3\x01",
        b"\xf6",
        b"\xf8",
        b"\xfe",
        b"\xff\x01\x02hi",
    ]
)
EVENTS = st.lists(
    st.one_of(
        st.builds(on, st.integers(0, 2**28 - 1), st.integers(0, 127), st.integers(0, 127), st.integers(0, 15)),
        st.builds(off, st.integers(0, 300), st.integers(0, 127)),
        st.builds(pedal, st.integers(0, 300), st.integers(0, 127)),
        st.builds(program, st.integers(0, 300), st.integers(0, 127)),
        st.builds(tempo, st.integers(0, 300), st.integers(1, 2**24 - 1)),
        st.tuples(st.integers(0, 300), SYSTEM),
    ),
    max_size=30,
)


def body(events) -> bytes:
    return track(events)[8:]


class Counts(NamedTuple):
    """The content of a track."""

    events: int
    notes: int
    programs: int
    last_midi_tick: int


def counted_by_mido(data: bytes) -> Counts:
    (messages,) = mido.MidiFile(file=BytesIO(midi_bytes(b"MTrk" + len(data).to_bytes(4, "big") + data))).tracks
    return Counts(
        len(messages),
        sum(message.type == "note_on" and message.velocity > 0 for message in messages),
        sum(message.type == "program_change" for message in messages),
        sum(message.time for message in messages),
    )


def counted(data: bytes) -> Counts:
    events = list(read_events(data))
    notes = sum(kind == 0x90 and payload[1] > 0 for _, kind, _, payload, _ in events)
    programs = sum(kind == 0xC0 for _, kind, *_ in events)
    return Counts(len(events), notes, programs, events[-1][0] if events else 0)


@given(EVENTS)
def test_events_are_those_of_a_parser(events):
    data = body(events)
    assert counted(data) == counted_by_mido(data)


@given(st.binary(max_size=40), EVENTS)
@example(b"\x00\x00\xf1\x00", [on(128, 0, 0, 0)])
def test_what_a_parser_takes_is_read_or_breaks_the_standard(noise, events):
    """Nothing that mido would read escapes the bounds. Beyond the standard, it takes numbers of more than four bytes,
    and data bytes on their own after a message of the system, which has ended the running status."""
    data = body(events)
    data = data[: len(data) // 2] + noise + data[len(data) // 2 :]
    try:
        expected = counted_by_mido(data)
    except Exception:  # mido raises many kinds for a corrupt byte.
        return
    try:
        # mido takes the bytes after a system exclusive event for another one, where we accept running status.
        assert counted(data) == expected or {0xF0, 0xF7} & set(data)
    except ValueError as error:
        assert "more than 4 bytes" in str(error) or "without a status" in str(error)


def test_running_status_holds_over_metas_and_system_exclusive_and_not_from_nothing():
    running = b"\x00\x90\x3c\x40" + b"\x05\x3c\x00" + b"\x00\xff\x01\x00" + b"\x81\x00\x3e\x40"
    assert counted(running) == Counts(4, 2, 0, 5 + 128)
    assert counted(running + b"\x00\xf0\x01\xf7" + b"\x02\x3f\x01") == Counts(6, 3, 0, 5 + 128 + 2)
    for start in (b"", b"\x00\xf1\x01", b"\x00\xf0\x00"):
        with pytest.raises(ValueError, match="without a status"):
            counted(start + b"\x00\x3c\x40")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x00\x90\x3c", "after the end"),
        (b"\x00\xff\x01\x7fabc", "after the end"),
        (b"\x00\xf0\x7fabc", "after the end"),
        (b"\x00\xff", "after the end"),
        (b"\x00", "after the end"),
        (b"\x00\xf4", "undefined status 0xf4"),
        (b"\x00\x90\x3c\x80", "more than 127"),
        (b"\x00\xb0\x80\x00", "more than 127"),
        (b"\x81\x81\x81\x81\x00\x90\x3c\x40", "more than 4 bytes"),
    ],
)
def test_what_does_not_end_with_the_track_is_rejected(data, message):
    with pytest.raises(ValueError, match=message):
        counted(data)


PLAIN = st.builds(
    lambda delta, status, first, second: write_number(delta) + status + bytes([first, second]),
    st.one_of(st.integers(0, 200), st.integers(0, 2**28 - 1)),
    st.sampled_from([b"", b"\x80", b"\x91", b"\xaf", b"\xb2"]),
    st.integers(0, 127),
    st.integers(0, 127),
)


@given(st.lists(PLAIN, max_size=12).map(b"".join), st.integers(0, 3), st.binary(min_size=1, max_size=3), st.data())
@example(b"", 0, b"\x00", None)
def test_the_quick_check_accepts_exactly_messages_of_two_data_bytes(messages, edits, noise, data):
    data_bytes = bytearray(messages + write_number(7))
    for _ in range(edits):
        position = data.draw(st.integers(0, len(data_bytes)))
        data_bytes[position : position + data.draw(st.integers(0, 3))] = noise
    bound = bound_midi_ticks(bytes(data_bytes))
    try:
        events = list(read_events(b"\x00\x90\x3c\x40" + bytes(data_bytes) + b"\xff\x2f\x00"))
    except ValueError:
        assert bound is None
        return
    if any(kind > 0xB0 for _, kind, *_ in events[:-1]) or events[-1][1] != 0xFF2F:
        assert bound is None
        return
    midi_ticks = events[-1][0]
    assert midi_ticks <= bound <= 2 * midi_ticks + 128 * (len(events) - 1)
