"""Variables of a model by name: copies from another model, and parts that are not trained."""

import difflib
import itertools
from typing import Final

import keras

from sostenuto.errors import UserError
from trainer.model.next_note import NextNoteModel

COMPOSER_TABLE: Final = "composer/embeddings"
"""The table with a row for each composer, whose names differ between datasets."""


def named_weights(model: NextNoteModel) -> dict[str, keras.Variable]:
    """Returns a model's variables by name: its part, and the path within the part, as in `heads/pitch_logits/bias`."""
    return {
        f"{part.name}/{variable.path.removeprefix(f'{part.name}/')}": variable
        for part in model.layers
        for variable in part.weights
    }


def copy_weights(source: NextNoteModel, target: NextNoteModel) -> None:
    """Sets each variable of a model to the one of the same name in another of the same shape; precision may differ.

    What only the target predicts, such as the end of a performance, keeps its weights. A composer whom the source does
    not know starts with the vector of unknown ones.
    """
    values = named_weights(source)
    for name, variable in named_weights(target).items():
        if name == COMPOSER_TABLE:
            table = values[name].numpy()
            known = {composer: number for number, composer in enumerate(source.composers, 1)}
            variable.assign(table[[0, *(known.get(composer, 0) for composer in target.composers)]])
        elif name in values:
            variable.assign(values[name].numpy())


def freeze_parts(model: NextNoteModel, names: str) -> None:
    """Excludes the named parts, separated by commas, from training.

    A part is a layer of the model, or a group of variables within one, as in `heads/pitch_logits`.

    Raises:
        UserError: a name is unknown, or nothing would be left to train.
    """
    if not names:
        return
    variables = named_weights(model)
    for name in filter(None, map(str.strip, names.split(","))):
        frozen = [variable for path, variable in variables.items() if f"{path}/".startswith(f"{name}/")]
        if not frozen:
            raise _unknown_part(name, names, variables)
        for variable in frozen:
            variable.trainable = False
    if not model.trainable_variables:
        raise UserError(f"--freeze={names}: every part is frozen, so there is nothing to train. Leave out one of them")


def _unknown_part(name: str, names: str, variables: dict[str, keras.Variable]) -> UserError:
    """Returns the error for an unknown name, with the nearest one and the names of the layers."""
    paths = [path.split("/") for path in variables]
    known = dict.fromkeys("/".join(part) for path in paths for part in itertools.accumulate([[step] for step in path]))
    near = difflib.get_close_matches(name, known, 1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    layers = ", ".join(dict.fromkeys(path[0] for path in paths))
    return UserError(
        f"--freeze={names}: the model has no part {name!r}. {hint}Pass some of {layers}, or parts of them, such as "
        f"{'/'.join(paths[-1][:2])}"
    )
