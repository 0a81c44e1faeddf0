"""MIDI corpus to dataset: an Apache Beam pipeline that imports neither TensorFlow nor the trainer."""
