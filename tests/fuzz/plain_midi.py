"""A plain reader of MIDI files, written from docs/data-format.md alone: slow, exact, without limits."""

from typing import NamedTuple

DATA_BYTES = {0x80: 2, 0x90: 2, 0xA0: 2, 0xB0: 2, 0xC0: 1, 0xD0: 1, 0xE0: 2}
SYSTEM_DATA_BYTES = {0xF1: 1, 0xF2: 2, 0xF3: 1, 0xF6: 0, 0xF8: 0, 0xFA: 0, 0xFB: 0, 0xFC: 0, 0xFE: 0}


# Types that mido knows. It loses the time before any other one.
KNOWN_METAS = {0xFF00 + kind for kind in (*range(8), 9, 0x20, 0x21, 0x2F, 0x51, 0x54, 0x58, 0x59, 0x7F)}


class RefusedError(Exception):
    """The bytes are no MIDI file."""


class Plain(NamedTuple):
    """The content of a file."""

    notes: list[tuple[int, int, int, int]]  # onset, pitch, offset, velocity; µs from the file's start; sorted
    zero_length: int
    unended: int
    pedals: list[list[tuple[int, int]]]  # of each track and channel with notes: µs, value
    later_tempos: int
    traits: set[str]  # which pretty_midi reads otherwise, as docs/data-format.md has it


class Bytes:
    """Bytes that are taken from the front."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def __len__(self) -> int:
        return len(self.data) - self.position

    def take(self, count: int) -> bytes:
        if count > len(self):
            raise RefusedError("cut")
        self.position += count
        return self.data[self.position - count : self.position]

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        value = 0
        for _ in range(4):
            byte = self.byte()
            value = value * 128 + byte % 128
            if byte < 128:
                return value
        raise RefusedError("long number")


def read_plain(data: bytes) -> Plain:
    """Returns the content of a file; raises RefusedError."""
    resolution, bodies, traits = read_chunks(Bytes(data))
    tempos = [(0, 500_000)]  # tick, µs a quarter
    later_tempos = 0
    played = []  # onset, pitch, offset, velocity in ticks
    pedals: dict[tuple[int, int], list[tuple[int, int]]] = {}
    sounded = set()  # track and channel
    unended = 0
    for number, body in enumerate(bodies):
        held: list[tuple[int, int, int, int]] = []  # channel, pitch, onset, velocity
        for tick, kind, payload in read_track(Bytes(body), traits):
            status, channel = kind & 0xF0, kind & 0x0F
            if kind == 0xFF51:
                if number:
                    later_tempos += 1
                    continue
                if len(payload) < 3 or not any(payload[:3]):
                    raise RefusedError("tempo")
                tempos.append((tick, payload[0] * 65536 + payload[1] * 256 + payload[2]))
            elif kind >= 0xF0 or channel == 9:
                continue
            elif status == 0xB0 and payload[0] == 64:
                pedals.setdefault((number, channel), []).append((tick, payload[1]))
            elif status == 0x90 and payload[1] > 0:
                held.append((channel, payload[0], tick, payload[1]))
            elif status in (0x80, 0x90):
                same = [note for note in held if note[:2] == (channel, payload[0])]
                earlier = [note for note in same if note[2] < tick]
                for note in earlier or same:
                    sounded.add((number, channel))
                    played.append((note[2], note[1], tick, note[3]))
                spared = [note for note in same if earlier and note[2] == tick]
                held = [note for note in held if note not in same] + spared
        unended += len(held)

    if min(tempo_us for _, tempo_us in tempos) < 3 * resolution:
        traits.add("times that differ by less than the rounding")

    def microseconds(tick: int) -> int:
        ends = [*(min(start, tick) for start, _ in tempos[1:]), tick]
        total = sum(
            (end - start) * tempo_us for (start, tempo_us), end in zip(tempos, ends, strict=True) if end > start
        )
        return (2 * total + resolution) // (2 * resolution)  # rounded half up

    timed = [(microseconds(onset), pitch, microseconds(offset), velocity) for onset, pitch, offset, velocity in played]
    notes = sorted(note for note in timed if note[2] > note[0])
    return Plain(
        notes,
        len(played) - len(notes),
        unended,
        [[(microseconds(tick), value) for tick, value in pedals.get(key, [])] for key in sounded],
        later_tempos,
        traits,
    )


def read_chunks(data: Bytes) -> tuple[int, list[bytes], set[str]]:
    """Returns the resolution, the tracks, and traits."""
    traits: set[str] = set()
    if data.take(4) != b"MThd":
        raise RefusedError("no MIDI")
    header = Bytes(data.take(int.from_bytes(data.take(4), "big")))
    midi_format, declared, resolution = (int.from_bytes(header.take(2), "big") for _ in range(3))
    if not 0 < resolution < 0x8000:
        raise RefusedError("resolution")
    bodies: list[bytes] = []
    while True:
        is_declared = len(bodies) < declared
        rest = Bytes(data.data[data.position :])
        try:
            kind = rest.take(4)
            body = rest.take(int.from_bytes(rest.take(4), "big"))
        except RefusedError:
            if is_declared or rest.data[:4] == b"MTrk":
                raise
            break
        data.take(rest.position)
        if kind == b"MTrk":
            bodies.append(body)
            traits |= set() if is_declared else {"more tracks than declared"}
    if midi_format == 2 and len(bodies) > 1:
        raise RefusedError("format 2")
    return resolution, bodies, traits


def read_track(data: Bytes, traits: set[str]) -> list[tuple[int, int, bytes]]:
    """Returns the events of a track: tick, status (FFxx of a meta), data."""
    events = []
    tick = running = 0
    after_system = False
    while len(data):
        delta = data.number()
        tick += delta
        first = data.byte()
        if first == 0xFF:
            kind = 0xFF00 + data.byte()
            if delta and kind not in KNOWN_METAS:
                traits.add("time before a meta event of an unknown type")
            payload = data.take(data.number())
        elif first in (0xF0, 0xF7):
            kind, payload = first, data.take(data.number())
            after_system = True
        else:
            if first >= 0x80:
                running, after_system = first, False
                payload = b""
            else:
                payload = bytes([first])
                if after_system:
                    traits.add("running status after system exclusive")
            kind = running
            count = SYSTEM_DATA_BYTES.get(kind, DATA_BYTES.get(kind & 0xF0))
            if count is None:
                raise RefusedError("status")
            payload += data.take(count - len(payload))
            if max(payload, default=0) > 127:
                raise RefusedError("data byte")
            if kind >= 0xF0:
                running = 0
        events.append((tick, kind, payload))
    return events
