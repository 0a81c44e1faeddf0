"""Hyperparameter search over trainer configs."""

from sostenuto._exports import export as _export

_EXPORTS = {"Parameter": "tuning.space", "Space": "tuning.space", "create_space": "tuning.space_file"}
__all__ = [*_EXPORTS]
__getattr__ = _export(__name__, _EXPORTS)
