"""MIDI parsing for the pipeline, in this process or in a child process with limits."""

from collections.abc import Callable

from beam_preprocess.sandbox import Process, ProcessDied
from sostenuto.errors import MidiDecodeError
from sostenuto.music import midi

# A file within the limits of sostenuto.music.midi took at most 11 s on a slow core. The interpreter and its libraries
# take half of the address space.
PARSE_SECONDS = 60.0
PARSE_MEMORY_BYTES = 2**30

_REASONS = {"time": "timed_out", "memory": "out_of_memory", "outside": "crashed", "crash": "crashed"}


class Parser:
    """Parses MIDI files; can be pickled before the first call.

    Args:
        sustain: the sustain pedal's effect on durations.
        seconds: time limit per file in a child process; None parses in this process.
    """

    def __init__(self, sustain: midi.Sustain, *, seconds: float | None) -> None:
        self._parse, self._seconds = _Parse(sustain), seconds
        self._process: Process | None = None

    def parse(self, data: bytes, name: str) -> midi.DecodedMidi:
        """Returns the contents of a file.

        Raises:
            MidiDecodeError: from `midi.read_midi`; or the file ended the child process, with the reason timed_out,
                out_of_memory or crashed.
        """
        if self._seconds is None:
            return self._parse((data, name))
        if self._process is None:
            self._process = Process(self._parse, seconds=self._seconds, memory_bytes=PARSE_MEMORY_BYTES)
        try:
            try:
                return self._process.call((data, name))
            except ProcessDied as died:
                # The file may not be the reason why another process killed the child.
                if died.cause != "outside":
                    raise
                return self._process.call((data, name))
        except ProcessDied as died:
            raise MidiDecodeError(
                name, _REASONS[died.cause], f"ended the process that parsed it: it {died.detail}"
            ) from died

    def close(self) -> None:
        """Ends the child process."""
        if self._process is not None:
            self._process.close()
            self._process = None


class _Parse:
    """The picklable function that a child process calls for each file."""

    def __init__(self, sustain: midi.Sustain) -> None:
        self._sustain = sustain

    def __call__(self, file: tuple[bytes, str], heartbeat: Callable[[], None] = lambda: None) -> midi.DecodedMidi:
        data, name = file
        return midi.read_midi(data, name, sustain=self._sustain)
