"""Counts of the events of a MIDI track, before a parser creates an object for each of them."""

from typing import NamedTuple

# The standard's own limit. Parsers read on while the highest bit is set, into a number that grows with each byte.
_MAX_NUMBER_BYTES = 4

_NOTE_ON = 0x90
_PROGRAM_CHANGE = 0xC0
_META = 0xFF
_SYSTEM_EXCLUSIVE = (0xF0, 0xF7)
# Data bytes of a message by its status: first those of a channel, then those of the system.
_DATA_BYTES = {status: 1 if status & 0xF0 in (0xC0, 0xD0) else 2 for status in range(0x80, 0xF0)}
_DATA_BYTES |= {0xF1: 1, 0xF2: 2, 0xF3: 1, 0xF6: 0, 0xF8: 0, 0xFA: 0, 0xFB: 0, 0xFC: 0, 0xFE: 0}


class EventCounts(NamedTuple):
    """The content of a track: events of all kinds, notes, program changes, and the last MIDI tick."""

    events: int
    notes: int
    program_changes: int
    last_midi_tick: int


def count_events(track: bytes) -> EventCounts:
    """Returns the counts of a track's chunk; raises ValueError, with the position, if it is no sequence of events."""
    position = events = notes = program_changes = midi_tick = 0
    status = None
    try:
        while position < len(track):
            delta, position = _read_number(track, position)
            midi_tick += delta
            events += 1
            first = track[position]
            if first == _META:
                length, position = _read_number(track, position + 2)
                position += length
                continue
            if first >= 0x80:
                status = first
                position += 1
            elif status is None or status >= 0xF0:
                raise ValueError(f"has a data byte without a status before it (byte {position} of a track)")
            if status in _SYSTEM_EXCLUSIVE:
                length, position = _read_number(track, position)
                position += length
                continue
            if status not in _DATA_BYTES:
                raise ValueError(f"has the undefined status {status:#x} (byte {position - 1} of a track)")
            if status & 0xF0 == _NOTE_ON:
                notes += track[position + 1] > 0  # A velocity of 0 ends a note.
            elif status & 0xF0 == _PROGRAM_CHANGE:
                program_changes += 1
            position += _DATA_BYTES[status]
    except IndexError:
        position = len(track) + 1
    if position > len(track):
        raise ValueError(f"has an event that continues after the end of its track, at byte {len(track)} of it")
    return EventCounts(events, notes, program_changes, midi_tick)


def _read_number(track: bytes, position: int) -> tuple[int, int]:
    """Returns a number of variable length, and the position after it."""
    number = 0
    for index in range(position, position + _MAX_NUMBER_BYTES):
        byte = track[index]
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, index + 1
    raise ValueError(f"has a number of more than {_MAX_NUMBER_BYTES} bytes (byte {position} of a track)")
