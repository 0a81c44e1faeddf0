"""MIDI parsing for the pipeline, in this process or in a child process with limits."""

import functools
from typing import Any

from beam_preprocess.sandbox import Process, ProcessDied
from sostenuto.errors import MidiDecodeError
from sostenuto.music import midi

# A file within the limits of sostenuto.music.midi took at most 1.1 s. The interpreter and its libraries take half of
# the address space.
PARSE_SECONDS = 60.0
PARSE_MEMORY_BYTES = 2**30

_REASONS = {"time": "timed_out", "memory": "out_of_memory", "outside": "crashed", "crash": "crashed"}


class Parser:
    """Parses MIDI files, in a child process if there is a limit of `seconds` per file; can be pickled before."""

    def __init__(self, sustain: midi.Sustain, *, seconds: float | None) -> None:
        self._parse, self._seconds = functools.partial(_parse, sustain), seconds
        self._process: Process | None = None

    def parse(self, data: bytes, name: str, *, attempts: int = 2) -> midi.DecodedMidi:
        """Returns the contents of a file; raises a MidiDecodeError also if the file ended the child process."""
        if self._seconds is None:
            return self._parse((data, name))
        if self._process is None:
            self._process = Process(self._parse, seconds=self._seconds, memory_bytes=PARSE_MEMORY_BYTES)
        try:
            return self._process.call((data, name))
        except ProcessDied as died:
            # The file may not be the reason why another process killed the child.
            if died.cause == "outside" and attempts > 1:
                return self.parse(data, name, attempts=attempts - 1)
            raise MidiDecodeError(
                name, _REASONS[died.cause], f"ended the process that parsed it: it {died.detail}"
            ) from died

    def close(self) -> None:
        """Ends the child process."""
        if self._process is not None:
            self._process.close()
            self._process = None


def _parse(sustain: midi.Sustain, file: tuple[bytes, str], heartbeat: Any = None) -> midi.DecodedMidi:
    """Parses a file in any process; the heartbeat of a child process is not needed for so short a call."""
    return midi.read_midi(*file, sustain=sustain)
