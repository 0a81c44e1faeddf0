"""MIDI corpus to dataset: an Apache Beam pipeline that imports neither TensorFlow nor the trainer."""

from sostenuto._exports import export as _export

_EXPORTS = {
    "Config": "beam_preprocess.config",
    "Corpus": "beam_preprocess.corpus",
    "find_corpus": "beam_preprocess.corpus",
    "PreprocessCorpus": "beam_preprocess.pipeline",
}
__all__ = [*_EXPORTS]
__getattr__ = _export(__name__, _EXPORTS)
