"""Export of a trained model as a TensorFlow SavedModel, whose signatures docs/export.md describes."""

import dataclasses
import functools
import os
from collections.abc import Callable

import tensorflow as tf

from sostenuto import storage
from sostenuto.errors import FileError
from sostenuto.music.notes import PITCHES
from sostenuto.storage.lease import Lease, Lock
from trainer.checkpoints.manager import CheckpointManager, checkpoint_name, model_variables
from trainer.checkpoints.tensorflow_errors import translate_errors
from trainer.data.note_tensors import START_PITCH, NoteTensors
from trainer.data.recall import TimeRecall, empty_recall
from trainer.model.categorical import categorical_nll
from trainer.model.heads import UNIFORMS_PER_NOTE, DensityHeads, HeadInput
from trainer.model.lstm_layers import DecodeWeights, LayerState
from trainer.model.memory import Memory, match_pitch, recall_times
from trainer.model.next_note import ModelState, NextNoteModel
from trainer.model.note_history import NoteHistory
from trainer.model.time_bins import BINS
from trainer.reporting import model_card
from trainer.workdir.formats import ExportInfo
from trainer.workdir.layout import BEST_NAME, EXPORT_INFO_NAME, EXPORT_LAST, EXPORT_NAME, load_run
from trainer.workdir.load_model import LoadedModel, load_model
from trainer.workdir.outputs import hold_output
from trainer.workdir.transfer import upload_on_exit

_Tensors = dict[str, tf.Tensor]
_Outputs = tuple[HeadInput, TimeRecall | tuple[()]]  # for each scored note


def export_model(workdir: str) -> str:
    """Writes the best weights of a workdir as `workdir/export/`, replacing an earlier export; returns the directory.

    The directory appears complete or not at all; until then, an earlier export stays. In a bucket, saved_model.pb is
    deleted first and uploaded last, because a directory without it is not a SavedModel.

    Raises:
        UserError: the workdir does not exist, has no checkpoint yet, or the directory cannot be written.
    """
    trained = load_model(workdir)
    directory = os.path.join(workdir, EXPORT_NAME)
    if storage.is_remote(workdir):
        with hold_output(directory) as held:
            with upload_on_exit(directory, held, last=EXPORT_LAST) as copy:
                _write(trained, workdir, copy)
            _remove_former_weights(directory, trained.train_step, held)
        return directory
    with storage.atomic_directory(directory) as unfinished:
        _write(trained, workdir, unfinished)
    return directory


def _remove_former_weights(directory: str, train_step: int, held: Lock | Lease) -> None:
    """Deletes the weights of other train_steps from an export in a bucket."""
    kept = f"{BEST_NAME}/{checkpoint_name(train_step)}/"
    for name, generation in storage.generations(directory).items():
        if name.startswith(f"{BEST_NAME}/") and not name.startswith(kept):
            held.check_held()
            storage.remove_generation(storage.join(directory, name), generation)


def _write(trained: LoadedModel, workdir: str, directory: str) -> None:
    """Writes the files of an export."""
    graphs = _Graphs(trained.model)  # Keeps the weights until they are saved: traced graphs refer to them weakly.
    signatures = graphs.trace()
    module = tf.Module()
    # Only what the graphs read: without Keras objects, loading needs no Keras.
    module.weights = list({id(weight): weight for graph in signatures.values() for weight in graph.variables}.values())
    with translate_errors(storage.TEMPORARY.sub("", directory)):
        # An export is not trained, and without gradients it is smaller.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, directory, signatures=signatures, options=options)
    # The graphs have the weights in a form that cannot be trained. So the export has them as a workdir does, too.
    model, best = trained.model, CheckpointManager(os.path.join(directory, BEST_NAME), max_to_keep=1)
    try:
        best.save(trained.train_step, model_variables(model), {"config": dataclasses.asdict(model.config)})
    except FileError as error:
        raise FileError(storage.TEMPORARY.sub("", str(error))) from error
    exported = ExportInfo(
        trained.train_step, model.heads.pitch_range, model.config, load_run(workdir).sustain, model.composers
    )
    exported.save(os.path.join(directory, EXPORT_INFO_NAME))
    card = model_card.text(workdir, exported)
    storage.write_bytes_atomic(os.path.join(directory, model_card.CARD_NAME), card.encode())


class _Graphs:
    """The graphs of an export; their inputs and outputs are named tensors."""

    def __init__(self, model: NextNoteModel) -> None:
        self._model = model
        variable = functools.partial(tf.Variable, trainable=False)
        self._weights = [
            DecodeWeights(
                [variable(table) for table in layer.tables] if layer.tables else None,
                # The model has a block for each core of this machine; other machines have other numbers of cores.
                variable(tf.concat(tf.unstack(layer.matrix), axis=-1)[tf.newaxis]),
                variable(layer.bias),
            )
            for layer in model.decode_weights()
        ]
        self._empty_state = model.initial_decode_state(1)
        self._state_names = [f"{part}_{layer}" for layer in range(model.config.layers) for part in LayerState._fields]
        if self._empty_state.history:
            self._state_names += [f"recent_{field}" for field in NoteHistory._fields]
        if model.has_memory:
            self._state_names += [f"memory_{field}" for field in Memory._fields]
        counts = {"position": self._empty_state.position, "composer": self._empty_state.composer}
        self._state_names += [name for name, value in counts.items() if not isinstance(value, tuple)]
        # A last-position model was never trained on the start of a performance.
        self._highest_first_pitch = START_PITCH if model.config.positions == "every" else PITCHES - 1

    def trace(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """Returns the signatures by name."""
        options = {"temperature": tf.TensorSpec([], tf.float32), "seed": tf.TensorSpec([2], tf.int32)}
        state = {
            name: tf.TensorSpec([None, *value.shape[1:]], value.dtype)
            for name, value in self._initial_state(tf.constant([0])).items()
        }
        note, notes = (
            {field: tf.TensorSpec(shape, tf.int32) for field in NoteTensors._fields} for shape in ([None], [None, None])
        )
        return {
            "initial_state": _trace(self._initial_state, composer=tf.TensorSpec([None], tf.int32)),
            "next_note": _trace(self._next_note, **options, **note, **state),
            "score": _trace(self._score, **notes, **state),
        }

    def _initial_state(self, composer: tf.Tensor) -> _Tensors:
        highest = len(self._model.composers)
        legal = tf.reduce_all((composer >= 0) & (composer <= highest))
        with tf.control_dependencies([tf.debugging.Assert(legal, [f"expected composer 0 to {highest}"])]):
            state = self._model.initial_decode_state(tf.shape(composer)[0], tf.identity(composer))
        return self._format_state(state)

    def _next_note(self, temperature: tf.Tensor, seed: tf.Tensor, **inputs: tf.Tensor) -> _Tensors:
        note = _parse_notes(inputs)
        with tf.control_dependencies([_check(note, self._highest_first_pitch)]):
            head_input, state = self._model.decode_step(note, self._parse_state(inputs), self._weights)
        uniforms = tf.random.stateless_uniform([tf.shape(note.pitch)[0], UNIFORMS_PER_NOTE], seed, alg="philox")
        temperature = tf.cast(temperature, head_input.body.dtype)
        sampled, _ = self._model.heads.sample(head_input, uniforms, temperature, memory=state.memory)
        end = self._model.heads.end
        ending = {"end_probability": tf.sigmoid(end(head_input.body, head_input.position))} if end else {}
        return {**sampled._asdict(), **ending, **self._format_state(state)}

    def _score(self, **inputs: tf.Tensor) -> _Tensors:
        notes = _parse_notes(inputs)
        first, later = notes.map(lambda field: field[:, :1]), notes.map(lambda field: field[:, 1:])
        with tf.control_dependencies([_check(first, self._highest_first_pitch), _check(later, PITCHES - 1)]):
            head_input, times, state = self._forward(notes, self._parse_state(inputs))
        heads = self._model.heads
        if isinstance(heads, DensityHeads):
            scores = {f"{field}_nats": nll for field, nll in heads.losses(head_input, later, times).items()}
        else:
            predicted = heads.predict_fields(head_input)
            nll = categorical_nll(predicted["pitch"], later.pitch)
            scores = {"pitch_nats": nll, "step_seconds": predicted["step"], "duration_seconds": predicted["duration"]}
        return {**scores, **self._format_state(state)}

    def _forward(self, notes: NoteTensors, state: ModelState) -> tuple[HeadInput, TimeRecall | tuple[()], ModelState]:
        """Reads notes `[batch, notes]` but the last one by one, without kernels that need a GPU.

        Returns what the heads need to score each note but the first, and the state before the last.
        """
        model = self._model
        length = tf.shape(notes.pitch)[1] - 1
        by_note = notes.map(tf.transpose)
        # An extra element, because an empty array cannot be stacked.
        last = self._empty_outputs(tf.shape(notes.pitch)[0])
        outputs = tf.nest.map_structure(
            lambda part: tf.TensorArray(part.dtype, length + 1, element_shape=[None, *part.shape[1:]]).write(
                length, part
            ),
            last,
        )

        def read_note(index: tf.Tensor, state: ModelState, outputs: _Outputs) -> tuple[tf.Tensor, ModelState, _Outputs]:
            output, state = model.decode_step(by_note.map(lambda field: field[index]), state, self._weights)
            times: TimeRecall | tuple[()] = ()
            if isinstance(state.memory, Memory):
                matches = match_pitch(state.memory, tf.cast(by_note.pitch[index + 1], tf.int64))
                times = recall_times(state.memory, matches)
            write = tf.nest.map_structure(lambda array, part: array.write(index, part), outputs, (output, times))
            return index + 1, state, write

        _, state, outputs = tf.while_loop(
            lambda index, *_: index < length, read_note, (0, state, outputs), maximum_iterations=length
        )
        head_input, times = tf.nest.map_structure(lambda array: _swap_axes(array.stack()[:length]), outputs)
        return head_input, times, state

    def _empty_outputs(self, batch: tf.Tensor) -> _Outputs:
        """Returns what `_forward` gathers for a note, in zeros."""
        model = self._model
        head_input = HeadInput(tf.zeros([batch, model.config.units], model.compute_dtype))
        times: TimeRecall | tuple[()] = ()
        if history := model.initial_state(batch).history:
            releases = tf.zeros([batch, BINS], model.compute_dtype)
            head_input = head_input._replace(remaining_us=history.remaining_us, releases=releases)
        if model.has_memory:
            pitches, times = empty_recall([batch])
            head_input = head_input._replace(recall=pitches)
        if model.config.has_ending:
            head_input = head_input._replace(position=tf.zeros([batch], tf.int64))
        return head_input, times

    def _parse_state(self, inputs: _Tensors) -> ModelState:
        return tf.nest.pack_sequence_as(self._empty_state, [inputs[name] for name in self._state_names])

    def _format_state(self, state: ModelState) -> _Tensors:
        return dict(zip(self._state_names, tf.nest.flatten(state), strict=True))


def _trace(function: Callable[..., _Tensors], **specs: tf.TensorSpec) -> tf.types.experimental.ConcreteFunction:
    return tf.function(function, autograph=False).get_concrete_function(**specs)


def _swap_axes(tensor: tf.Tensor) -> tf.Tensor:
    """Exchanges the first two axes."""
    return tf.transpose(tensor, [1, 0, *range(2, tensor.shape.rank)])


def _parse_notes(inputs: _Tensors) -> NoteTensors:
    return NoteTensors(*(inputs[field] for field in NoteTensors._fields))


def _check(notes: NoteTensors, highest_pitch: int) -> tf.Operation:
    """Rejects invalid notes when the graph runs: some devices would read them as other notes."""
    legal = [field >= 0 for field in notes] + [notes.pitch <= highest_pitch, notes.velocity < PITCHES]
    expected = f"expected pitch 0 to {highest_pitch}, step_us and duration_us from 0, velocity 0 to {PITCHES - 1}"
    if highest_pitch < START_PITCH:
        expected += (
            f". Pitch {START_PITCH}, the start of a performance, is allowed only first, and only for models "
            "trained with positions=every"
        )
    return tf.debugging.Assert(tf.reduce_all(legal), [expected])
