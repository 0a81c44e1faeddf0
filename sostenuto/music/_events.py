"""Events of a MIDI track: a walk that rejects anything else, and a quick check of messages of the common kind."""

from collections.abc import Iterator

import numpy as np

# Kinds of events: the status of a message, without its channel; of a meta event the byte FF and its type.
NOTE_OFF, NOTE_ON, CONTROL_CHANGE, PROGRAM_CHANGE, CHANNEL_PRESSURE = 0x80, 0x90, 0xB0, 0xC0, 0xD0
SYSTEM = 0xF0  # the lowest kind without a channel
SET_TEMPO = 0xFF51

Event = tuple[int, int, int, bytes, int]
"""An event's MIDI tick, kind, channel (0 if it has none), data, and the position after it."""

_META = 0xFF
_SYSTEM_EXCLUSIVE = (0xF0, 0xF7)  # F7 continues a message or escapes any bytes; both have a length
# Data bytes of a message by its status: first those of a channel, then those of the system.
_DATA_BYTES = {status: 1 if status & 0xF0 in (PROGRAM_CHANGE, CHANNEL_PRESSURE) else 2 for status in range(0x80, 0xF0)}
_DATA_BYTES |= {0xF1: 1, 0xF2: 2, 0xF3: 1, 0xF6: 0, 0xF8: 0, 0xFA: 0, 0xFB: 0, 0xFC: 0, 0xFE: 0}
# The standard's own limit. Parsers read on while the highest bit is set, into a number that grows with each byte.
_MAX_NUMBER_BYTES = 4


def read_events(track: bytes) -> Iterator[Event]:
    """Yields the events of a track's chunk; raises ValueError, with the position, if it is no sequence of events.

    Running status holds over meta and system exclusive events. The standard forbids this; players accept it.
    """
    position = midi_tick = running = 0
    try:
        while position < len(track):
            delta, position = _read_number(track, position)
            midi_tick += delta
            first = track[position]
            if first == _META:
                kind = _META << 8 | track[position + 1]
                length, position = _read_number(track, position + 2)
            elif first in _SYSTEM_EXCLUSIVE:
                kind = first
                length, position = _read_number(track, position + 1)
            else:
                if first >= 0x80:
                    running = first
                    position += 1
                elif not running:
                    raise ValueError(f"has a data byte without a status before it (byte {position} of a track)")
                kind = running
                if kind not in _DATA_BYTES:
                    raise ValueError(f"has the undefined status {kind:#x} (byte {position - 1} of a track)")
                length = _DATA_BYTES[kind]
                if not track[position : position + length].isascii():
                    raise ValueError(f"has a data byte of more than 127 (byte {position} of a track, or the next)")
                if kind >= SYSTEM:
                    running = 0
            end = position + length
            if end > len(track):
                raise IndexError
            channel = kind & 0x0F if kind < SYSTEM else 0
            yield midi_tick, kind - channel, channel, track[position:end], end
            position = end
    except IndexError:
        problem = f"has an event that continues after the end of its track, at byte {len(track)} of it"
        raise ValueError(problem) from None


def write_number(number: int) -> bytes:
    """Returns a number below 2^28 in MIDI's variable length."""
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(number & 0x7F | 0x80)
    return bytes(reversed(digits))


def bound_midi_ticks(messages: bytes) -> int | None:
    """Returns an upper bound of the delta times of messages with two data bytes each, and of a last one after them.

    Args:
        messages: bytes; the first message may have running status.

    Returns:
        The bound, at most twice their sum and 128 for each message; None if the bytes are anything else.
    """
    values = np.frombuffer(messages, np.uint8)
    high = np.flatnonzero(values >= 0x80)
    messages_and_end, is_cut = divmod(len(values) - len(high) + 2, 3)
    if is_cut or values[-1] >= 0x80:
        return None
    # Bytes below 0x80 are the ends of delta times, first and second data bytes, in turn. So their number before one of
    # the others says whether it is in a delta time (0), a status (1) or wrong (2).
    lower = high - np.arange(len(high))
    place = lower - lower // 3 * 3  # NumPy's remainder takes twice as long.
    is_status = place == 1
    if (
        (place == 2).any()
        or (is_status & (values[high] >= PROGRAM_CHANGE)).any()
        or ((lower[1:] == lower[:-1]) & is_status[1:]).any()  # two in a row
        or (lower[_MAX_NUMBER_BYTES - 1 :] == lower[: 1 - _MAX_NUMBER_BYTES]).any()
    ):
        return None
    delta = high[place == 0]
    midi_ticks = messages_and_end << 7
    for digit in range(1, _MAX_NUMBER_BYTES):
        midi_ticks += int((values[delta] & 0x7F).sum()) << 7 * digit
        delta = delta[:-1][delta[1:] - delta[:-1] == 1]  # those that another one follows
    return midi_ticks


def _read_number(track: bytes, position: int) -> tuple[int, int]:
    """Returns a number of variable length, and the position after it; raises IndexError at the end of the track."""
    number = 0
    for index in range(position, position + _MAX_NUMBER_BYTES):
        byte = track[index]
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, index + 1
    raise ValueError(f"has a number of more than {_MAX_NUMBER_BYTES} bytes (byte {position} of a track)")
