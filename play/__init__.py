"""The command `sostenuto play`: a model that answers a pianist, in the browser or through MIDI ports."""

__all__: list[str] = []
