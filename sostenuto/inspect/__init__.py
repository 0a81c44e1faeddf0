"""The command `sostenuto inspect`: contents of MIDI files and datasets."""
