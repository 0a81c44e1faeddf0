from io import BytesIO

import mido
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sostenuto.music._scan import EventCounts, count_events
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


def counted_by_mido(data: bytes) -> EventCounts:
    (messages,) = mido.MidiFile(file=BytesIO(midi_bytes(b"MTrk" + len(data).to_bytes(4, "big") + data))).tracks
    return EventCounts(
        len(messages),
        sum(message.type == "note_on" and message.velocity > 0 for message in messages),
        sum(message.type == "program_change" for message in messages),
        sum(message.time for message in messages),
    )


@given(EVENTS)
def test_counts_are_those_of_a_parser(events):
    data = body(events)
    assert count_events(data) == counted_by_mido(data)


@given(st.binary(max_size=40), EVENTS)
@example(b"\x00\x00\xf1\x00", [on(128, 0, 0, 0)])
def test_what_a_parser_takes_is_counted_or_breaks_the_standard(noise, events):
    """Nothing that mido would read escapes the bounds. Beyond the standard, it takes numbers of more than four bytes,
    and data bytes on their own after a message of the system, which has ended the running status."""
    data = body(events)
    data = data[: len(data) // 2] + noise + data[len(data) // 2 :]
    try:
        expected = counted_by_mido(data)
    except Exception:  # mido raises many kinds for a corrupt byte.
        return
    try:
        assert count_events(data) == expected
    except ValueError as error:
        assert "more than 4 bytes" in str(error) or "without a status" in str(error)


def test_running_status_holds_over_metas_and_not_from_nothing():
    running = b"\x00\x90\x3c\x40" + b"\x05\x3c\x00" + b"\x00\xff\x01\x00" + b"\x81\x00\x3e\x40"
    assert count_events(running) == EventCounts(4, 2, 0, 5 + 128)
    with pytest.raises(ValueError, match="without a status"):
        count_events(b"\x00\x3c\x40")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x00\x90\x3c", "after the end"),
        (b"\x00\xff\x01\x7fabc", "after the end"),
        (b"\x00\xf0\x7fabc", "after the end"),
        (b"\x00", "after the end"),
        (b"\x00\xf4", "undefined status 0xf4"),
        (b"\x81\x81\x81\x81\x00\x90\x3c\x40", "more than 4 bytes"),
    ],
)
def test_what_does_not_end_with_the_track_is_rejected(data, message):
    with pytest.raises(ValueError, match=message):
        count_events(data)
