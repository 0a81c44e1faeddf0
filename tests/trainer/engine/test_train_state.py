"""One device, train_step by train_step: the moving average, the loss scale, types, and a loss that is no number."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from sostenuto.music.notes import Notes
from tests.factories import regular_notes
from tests.trainer.replica_runs import MARK, build, overflowing
from trainer.config import Config
from trainer.data.note_table import NoteTable
from trainer.data.windows import WindowSampler
from trainer.engine.train_state import TrainState
from trainer.evaluation.scorer import Scorer
from trainer.generation.sampler import NoteSampler
from trainer.model.heads import DensityHeads
from trainer.presets import preset

LENGTHS = [70, 33, 120, 5]
TINY = {
    "units": 8, "layers": 2, "head_units": 4, "pitch_embedding": 4, "time_embedding": 4, "velocity_embedding": 4,
    "seq_length": 8, "batch_size": 4, "warmup_steps": 0, "transpose": 0, "steps": 50,
}  # fmt: skip


def table_of(lengths) -> NoteTable:
    rows = np.empty(sum(lengths), [("pitch", "u1"), ("velocity", "u1"), ("step_us", "<i4"), ("duration_us", "<i4")])
    notes = [regular_notes(length, seed) for seed, length in enumerate(lengths)]
    for field in rows.dtype.names:
        rows[field] = np.concatenate([getattr(performance, field) for performance in notes])
    return NoteTable(rows, np.cumsum([0, *lengths]))


def tiny(**changes) -> Config:
    return preset("base").replace(**{**TINY, **changes})


def state_of(table: NoteTable | None = None, **changes) -> TrainState:
    return build(tiny(**changes), table_of(LENGTHS) if table is None else table, ["CPU:0"])


def run(state: TrainState, train_steps: int) -> None:
    state.run(train_steps)


def weights(state: TrainState) -> list[np.ndarray]:
    return [variable.numpy() for variable in state.variables()["model"]]


def all_variables(state: TrainState) -> list[tf.Variable]:
    return [variable for group in state.variables().values() for variable in group]


def values_of(state: TrainState) -> list[np.ndarray]:
    """Of all that a checkpoint holds."""
    return [variable.numpy() for variable in all_variables(state)]


def assert_equal(some, others) -> None:
    for one, other in zip(some, others, strict=True):
        np.testing.assert_array_equal(one, other)


# The moving average of the weights.


@pytest.fixture(scope="module")
def averaging():
    """A state with averages, and its weights before and after each of the train_steps that it has done."""
    state = state_of(ema=0.3, precision="float64")
    history = [weights(state)]
    for _ in range(6):
        run(state, 1)
        history.append(weights(state))
    return state, history


def test_the_average_is_that_of_the_weights_after_each_train_step(averaging):
    """A short memory at first: of train_step t the decay is (1 + t) / (10 + t), until that exceeds the config's."""
    state, history = averaging
    averages = history[0]
    for done, current in enumerate(history[1:]):
        decay = min(0.3, (1 + done) / (10 + done))
        averages = [decay * old + (1 - decay) * new for old, new in zip(averages, current, strict=True)]
    with state.scored_weights():
        for average, expected, last in zip(weights(state), averages, history[-1], strict=True):
            np.testing.assert_allclose(average, expected, rtol=1e-6, atol=1e-9)
            assert not np.allclose(average, last, rtol=1e-5, atol=1e-8)


def test_the_average_is_scored_and_the_weights_are_trained(averaging):
    state, _ = averaging
    trained, averages = weights(state), [variable.numpy() for variable in state.variables()["ema"]]
    with state.scored_weights():
        scored = weights(state)
    values = np.concatenate([np.ravel(weight) for weight in scored])
    np.testing.assert_array_equal(np.sort(values), np.sort(np.concatenate(averages)))
    assert_equal(weights(state), trained)
    with pytest.raises(InterruptedError), state.scored_weights():
        raise InterruptedError
    assert_equal(weights(state), trained)
    assert_equal([variable.numpy() for variable in state.variables()["ema"]], averages)
    assert not np.allclose(trained[0], scored[0])


def test_without_an_average_the_weights_are_scored():
    state = state_of()
    before = weights(state)
    with state.scored_weights():
        assert_equal(weights(state), before)
    assert not state.variables()["ema"]


# Types.


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_only_the_lstm_computes_in_the_coarse_type(precision):
    config, table = tiny(precision=precision), table_of(LENGTHS)
    state = build(config, table, ["CPU:0"])
    groups = state.variables()
    held = {variable.dtype for name in ("model", "ema", "optimizer") for variable in groups[name]}
    assert {dtype for dtype in held if dtype.is_floating} == {tf.float32}
    batch = WindowSampler(table, config).batch(tf.constant(0, tf.int64), 4)
    hidden, after = state.model.forward(batch.inputs)
    assert {part.dtype.name for layer in after.layers for part in layer} == {precision.removeprefix("mixed_")}
    assert hidden.body.dtype == tf.float32
    results = [state.model.heads.logits(hidden, batch.targets), state.model.heads.losses(hidden, batch.targets)]
    assert {value.dtype for result in results for value in result.values()} == {tf.float32}


def test_a_model_learns_is_scored_and_plays():
    state = state_of(learning_rate=0.02)
    table = table_of([40, 20])
    before = Scorer(state.model).score(table)
    run(state, 30)
    assert state.not_finite() is None
    after = Scorer(state.model).score(table)
    for field in ("step", "duration"):
        assert getattr(after, field).mean() < getattr(before, field).mean() - 0.5
    samples = NoteSampler(state.model).sample(
        Notes.empty(), num_notes=30, num_samples=2, temperature=1.0, seed=0, top_p=0.9, end_odds=0.0
    )
    for played in samples.notes:
        assert len(played) == 30
        assert len(np.unique(played.step_us)) > 3


# A loss that is no number.


def marked_table(train_step: int, config: Config) -> tuple[NoteTable, int, int]:
    """A table with one marked note, the first target of a train_step's last window; its performance and place."""
    table = table_of(LENGTHS)
    performance, note, last = WindowSampler(table, config).place((train_step + 1) * config.windows_per_train_step - 1)
    assert last > note
    table.notes["pitch"][table.offsets[performance] + note] = MARK
    return table, performance, note


def break_losses(monkeypatch, field: str, how) -> None:
    """Applies `how` to a field's losses `[windows, notes]` and which windows `[windows]` hold the marked note."""
    loss_names = DensityHeads.losses

    def losses(heads, body, notes, times, is_end=False):
        found = loss_names(heads, body, notes, times, is_end)
        return {**found, field: how(found[field], tf.reduce_any(notes.pitch == MARK, axis=1))}

    monkeypatch.setattr(DensityHeads, "losses", losses)


def infinite(loss, where):
    return tf.where(where[:, tf.newaxis], np.inf, loss)


@pytest.mark.parametrize(
    ("field", "what", "how", "changes"),
    [
        ("duration", "loss", infinite, {"ema": 0.9, "dropout": 0.1, "accumulation_steps": 2, "batch_size": 2}),
        ("velocity", "gradient", overflowing, {"layers": 1}),
    ],
)
def test_a_loss_that_is_no_number_stops_before_its_train_step(monkeypatch, field, what, how, changes):
    """In the middle of a call; and all that a checkpoint would hold is as the train_steps before left it."""
    config = tiny(**changes)
    table, performance, note = marked_table(3, config)
    break_losses(monkeypatch, field, how)
    state = build(config, table, ["CPU:0"])
    initial = values_of(state)
    run(state, 3)
    assert state.not_finite() is None
    before = values_of(state)
    for variable, value in zip(all_variables(state), initial, strict=True):
        variable.assign(value)
    run(state, 9)
    found = state.not_finite()
    assert (found.train_step, found.field, found.quantity, found.performance) == (3, field, what, performance)
    assert found.first_note == note < found.last_note
    assert_equal(values_of(state), before)


def test_in_float16_an_infinite_gradient_stops_the_run_once_the_loss_scale_is_one(monkeypatch):
    """There nothing is left to halve: else it would skip train_steps for ever."""
    break_losses(monkeypatch, "step", lambda loss, _: overflowing(loss, tf.fill(tf.shape(loss)[:1], True)))
    state = build(tiny(precision="mixed_float16", layers=1), table_of(LENGTHS), ["CPU:0"], loss_scale=4.0)
    before = weights(state)
    run(state, 2)
    assert state.not_finite() is None
    assert state.train_step.numpy() == 2
    run(state, 1)
    found = state.not_finite()
    assert (found.train_step, found.field, found.quantity) == (2, "step", "gradient")
    assert_equal(weights(state), before)


def unordered_sums(graph: tf.Graph) -> list[str]:
    """Returns the sums of a graph whose order of addition may depend on timing.

    AddN writes into the first input that no other op still reads, and adds that one first. So a sum of three is ordered
    if one of the first two inputs is always free. A product is, if nothing else reads it; the output of another op may
    be that of an op before it, once Grappler has simplified the graph.
    """
    definition = graph.as_graph_def()
    unordered = []
    for nodes in (definition.node, *(function.node_def for function in definition.library.function)):
        by_name = {node.name: node for node in nodes}
        readers = collections.Counter(_producer(name) for node in nodes for name in node.input)

        def is_free(name: str, by_name=by_name, readers=readers) -> bool:
            node = by_name.get(_producer(name))
            if node is None or readers[node.name] > 1:
                return False
            return node.op in ("MatMul", "GatherV2") or (node.op in ("Reshape", "Transpose") and is_free(node.input[0]))

        unordered += [
            node.name
            for node in nodes
            if node.op == "AddN" and node.attr["N"].i > 2 and not any(map(is_free, node.input[:2]))
        ]
    return unordered


def _producer(name: str) -> str:
    return name.lstrip("^").partition(":")[0]


def test_a_sum_whose_terms_are_used_elsewhere_is_unordered():
    @tf.function(input_signature=[tf.TensorSpec([2, 2])] * 3)
    def add(*terms):
        return tf.add_n(terms), tf.stack(terms)

    assert len(unordered_sums(add.get_concrete_function().graph)) == 1


@pytest.mark.parametrize("changes", [{}, {"accumulation_steps": 2}, {"composer_embedding": 0, "layers": 3}])
def test_no_sum_of_a_train_step_depends_on_timing(changes):
    assert unordered_sums(state_of(**changes).graph.get_concrete_function().graph) == []


@pytest.mark.parametrize("name", ["base", "large", "tutorial"])
def test_no_sum_of_a_preset_depends_on_timing(name):
    state = build(preset(name), table_of([3000]), ["CPU:0"])
    assert unordered_sums(state.graph.get_concrete_function().graph) == []
