"""A trained model as a TensorFlow SavedModel, for programs that have TensorFlow and nothing of this project.

docs/export.md is its user's page: what the signatures take and return.
"""

import contextlib
import dataclasses
import os
import shutil

import tensorflow as tf

from sostenuto import storage
from sostenuto.errors import UserError
from sostenuto.music.notes import PITCHES
from trainer.data.windows import START_PITCH, NoteTensors
from trainer.model.density_heads import UNIFORMS_PER_NOTE, DensityHeads
from trainer.model.next_note import DecodeWeights, LayerState, ModelState, NextNoteModel
from trainer.model.note_history import NoteHistory
from trainer.reporting import model_card
from trainer.workdir.json_record import write_json
from trainer.workdir.layout import EXPORT_LAST, EXPORT_NAME
from trainer.workdir.load_model import LoadedModel, load_model
from trainer.workdir.transfer import upload_on_exit


def export_model(workdir: str) -> str:
    """Writes the best weights of a workdir as `workdir/export/`, in place of an earlier export.

    Its README.md is a model card, made of what the workdir says of the run (`trainer.reporting.model_card`).

    The directory appears whole or not at all: until it does, an earlier one stays as it was. (In a bucket its
    saved_model.pb, without which it is no SavedModel, goes first and comes back last.) docs/export.md says what its
    signatures take and return.

    Returns:
        The directory.

    Raises:
        UserError: no such workdir, nothing was saved in it yet, or the directory cannot be written.
    """
    trained = load_model(workdir)
    directory = os.path.join(workdir, EXPORT_NAME)
    if storage.is_remote(workdir):
        with upload_on_exit(directory, last=EXPORT_LAST) as copy:
            _write(trained, workdir, copy)
        return directory
    unfinished = storage.temporary_name(directory)
    try:
        _write(trained, workdir, unfinished)
        _put_in_place(unfinished, directory)
    except OSError as error:
        raise UserError(f"{directory}: cannot be written ({error.strerror or error})") from error
    except tf.errors.OpError as error:
        reason = error.message.rpartition("; ")[2].split(" [")[0]  # TensorFlow names a temporary file before it.
        raise UserError(f"{directory}: cannot be written ({reason}): make room, and write it again") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    # What a killed export left, which may be the only whole one until now.
    for name in os.listdir(workdir):
        if name != EXPORT_NAME and storage.TEMPORARY.sub("", name) == EXPORT_NAME:
            shutil.rmtree(os.path.join(workdir, name), ignore_errors=True)
    return directory


def _write(trained: LoadedModel, workdir: str, directory: str) -> None:
    """Writes an export and waits until it is on the disk."""
    weights = _step_weights(trained.model)
    signatures = _signatures(trained.model, weights)
    module = tf.Module()
    # What the graphs read and nothing else: without Keras' objects, no Keras is needed to load them.
    module.weights = list({id(weight): weight for graph in signatures.values() for weight in graph.variables}.values())
    tf.saved_model.save(module, directory, signatures=signatures)
    description = {
        "train_step": trained.train_step,
        "pitch_range": trained.model.heads.pitch_range,
        "config": dataclasses.asdict(trained.model.config),
    }
    write_json(os.path.join(directory, model_card.DESCRIPTION_NAME), description)
    card = model_card.text(workdir, description)
    storage.write_bytes_atomic(os.path.join(directory, model_card.CARD_NAME), card.encode())
    for parent, _, names in os.walk(directory):
        for path in (*(os.path.join(parent, name) for name in names), parent):
            storage.sync(path)


def _put_in_place(unfinished: str, directory: str) -> None:
    """Gives a whole export its name; the one that had it is gone, or after an exception there again."""
    if not os.path.exists(directory):
        storage.rename(unfinished, directory)
        return
    aside = storage.temporary_name(directory)
    os.rename(directory, aside)
    try:
        storage.rename(unfinished, directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.rename(aside, directory)
        raise


def _signatures(
    model: NextNoteModel, weights: list[DecodeWeights]
) -> dict[str, tf.types.experimental.ConcreteFunction]:
    """The graphs of an export, by name; `weights` is what `_step_weights` returned."""
    names = [f"{part}_{layer}" for layer in range(model.config.layers) for part in LayerState._fields]
    # A last-position model never saw a performance begin.
    highest_first_pitch = START_PITCH if model.config.positions == "every" else PITCHES - 1
    empty = model.initial_state(1)
    names += [f"recent_{field}" for field in NoteHistory._fields] if empty.recent else []
    state_specs = {
        name: tf.TensorSpec([None, *part.shape[1:]], model.compute_dtype if part.dtype.is_floating else part.dtype)
        for name, part in zip(names, tf.nest.flatten(empty), strict=True)
    }

    def note_specs(*shape: int | None) -> dict[str, tf.TensorSpec]:
        return {field: tf.TensorSpec(shape, tf.int32) for field in NoteTensors._fields}

    def state_of(inputs: dict[str, tf.Tensor]) -> ModelState:
        return tf.nest.pack_sequence_as(empty, [inputs[name] for name in names])

    def named(state: ModelState) -> dict[str, tf.Tensor]:
        return dict(zip(names, tf.nest.flatten(state), strict=True))

    def initial_state(batch):
        return {
            name: tf.cast(part, state_specs[name].dtype) for name, part in named(model.initial_state(batch)).items()
        }

    def next_note(temperature, seed, **inputs):
        note = NoteTensors(*(inputs[field] for field in NoteTensors._fields))
        with tf.control_dependencies([_check(note, highest_first_pitch)]):
            hidden, state = model.step(note, state_of(inputs), weights)
        uniforms = tf.random.stateless_uniform([tf.shape(note.pitch)[0], UNIFORMS_PER_NOTE], seed, alg="philox")
        drawn = model.heads.sample(hidden, uniforms, tf.cast(temperature, hidden.dtype))
        return {**drawn._asdict(), **named(state)}

    def score(**inputs):
        notes = NoteTensors(*(inputs[field] for field in NoteTensors._fields))
        first, later = notes.map(lambda field: field[:, :1]), notes.map(lambda field: field[:, 1:])
        with tf.control_dependencies([_check(first, highest_first_pitch), _check(later, PITCHES - 1)]):
            hidden, state = _read(model, weights, notes.map(lambda field: field[:, :-1]), state_of(inputs))
        return {**_scores(model, hidden, later), **named(state)}

    def graph(function, **specs):
        return tf.function(function, autograph=False).get_concrete_function(**specs)

    return {
        "initial_state": graph(initial_state, batch=tf.TensorSpec([], tf.int32)),
        "next_note": graph(
            next_note,
            temperature=tf.TensorSpec([], tf.float32),
            seed=tf.TensorSpec([2], tf.int32),
            **note_specs(None),
            **state_specs,
        ),
        "score": graph(score, **note_specs(None, None), **state_specs),
    }


def _step_weights(model: NextNoteModel) -> list[DecodeWeights]:
    """What `model.step` multiplies with, as variables, made once and for all; each matrix in one piece."""

    def variable(tensor):
        return tf.Variable(tensor, trainable=False)

    return [
        DecodeWeights(
            [variable(table) for table in layer.tables] if layer.tables else None,
            # It comes in a block for each core of this machine: another one has another number of them.
            variable(tf.concat(tf.unstack(layer.matrix), axis=-1)[tf.newaxis]),
            variable(layer.bias),
        )
        for layer in model.step_weights()
    ]


def _read(
    model: NextNoteModel, weights: list[DecodeWeights], notes: NoteTensors, state: ModelState
) -> tuple[tf.Tensor, ModelState]:
    """What `model.read` does, note by note: so no graph holds a kernel that only the exporting machine's GPU has.

    Args:
        model: the model.
        weights: what `_step_weights` returned.
        notes: `[batch, notes]`.
        state: before the first note.

    Returns:
        What the heads read, `[batch, notes, width]`, and the state after the last note.
    """
    length = tf.shape(notes.pitch)[1]
    by_note = notes.map(tf.transpose)
    outputs = tf.TensorArray(model.compute_dtype, length + 1, element_shape=[None, model.width])
    # Without any note there is something to stack.
    outputs = outputs.write(length, tf.zeros([tf.shape(notes.pitch)[0], model.width], model.compute_dtype))

    def read_one(index, state, outputs):
        output, state = model.step(by_note.map(lambda field: field[index]), state, weights)
        return index + 1, state, outputs.write(index, output)

    _, state, outputs = tf.while_loop(
        lambda index, *_: index < length, read_one, (0, state, outputs), maximum_iterations=length
    )
    return tf.transpose(outputs.stack()[:length], [1, 0, 2]), state


def _scores(model: NextNoteModel, hidden: tf.Tensor, notes: NoteTensors) -> dict[str, tf.Tensor]:
    """What the model says of the notes that came, `[batch, notes]` each."""
    if isinstance(model.heads, DensityHeads):
        nats = model.heads.nats(model.heads.logits(hidden, notes), notes)
        return {f"{field}_nats": value for field, value in nats.items()}
    predicted = model.heads.predict_fields(hidden)
    nats = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=notes.pitch, logits=predicted["pitch"])
    return {"pitch_nats": nats, "step_seconds": predicted["step"], "duration_seconds": predicted["duration"]}


def _check(notes: NoteTensors, highest_pitch: int) -> tf.Operation:
    """Refuses, when the graph runs, what is no note: on some devices it would be read as if it were another one."""
    legal = [(notes.pitch >= 0) & (notes.pitch <= highest_pitch), (notes.velocity >= 0) & (notes.velocity < PITCHES)]
    legal += [notes.step_us >= 0, notes.duration_us >= 0]
    expected = f"expected pitch 0 to {highest_pitch}, step_us and duration_us from 0, velocity 0 to {PITCHES - 1}"
    if highest_pitch < START_PITCH:
        expected += f" ({START_PITCH}, where a performance begins, may only come first, and not for every model)"
    return tf.debugging.Assert(tf.reduce_all(legal), [expected])
