"""Notes, MIDI, the data format, storage and the command line, without Apache Beam and TensorFlow."""

# First, since it takes effect on import: importing the rest takes long enough to press Ctrl-C.
import sostenuto.interrupt  # isort: skip

from sostenuto._exports import export as _export

__version__ = "0.1.0"

_EXPORTS = {
    "Notes": "sostenuto.music.notes",
    "note_name": "sostenuto.music.notes",
    "ticks": "sostenuto.music.notes",
    "DecodedMidi": "sostenuto.music.midi",
    "read_midi": "sostenuto.music.midi",
    "read_pedal": "sostenuto.music.midi",
    "write_midi": "sostenuto.music.midi",
    "infer_pedal": "sostenuto.music.pedal",
    "Histograms": "sostenuto.music.histograms",
    "piano_roll": "sostenuto.music.plots",
    "distributions": "sostenuto.music.plots",
    "render_wav": "sostenuto.music.audio",
    "Performance": "sostenuto.data.performance",
    "encode_performance": "sostenuto.data.performance",
    "decode_performance": "sostenuto.data.performance",
    "Manifest": "sostenuto.data.manifest",
    "UserError": "sostenuto.errors",
    "FileError": "sostenuto.errors",
    "UnavailableError": "sostenuto.errors",
    "MidiDecodeError": "sostenuto.errors",
}
__all__ = [*_EXPORTS]
__getattr__ = _export(__name__, _EXPORTS)
