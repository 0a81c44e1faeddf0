"""The audit itself, on functions of a few ops: "CPU:0" is the host, and ops without a device are on the GPU."""

import pytest
import tensorflow as tf

from tests.gpu.graph_audit import Audit, audit

pytestmark = pytest.mark.skipif(
    not tf.sysconfig.get_build_info()["is_cuda_build"], reason="this TensorFlow is no CUDA build: it has no GPU kernels"
)

FLOATS = tf.TensorSpec([10], tf.float32)
FLAG = tf.TensorSpec([], tf.bool)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Random ops need a seed if an earlier test has made TensorFlow deterministic."""
    tf.random.set_seed(0)


def audited(function, *arguments) -> Audit:
    return audit(tf.function(function, autograph=False).get_concrete_function(*arguments))


def on_host(function, *arguments):
    with tf.device("CPU:0"):
        return function(*arguments)


@pytest.mark.parametrize(("dtype", "copied"), [(tf.int32, 40), (tf.int64, 0)])
def test_arithmetic_of_int32_goes_through_the_host_and_that_of_int64_does_not(dtype, copied) -> None:
    found = audited(lambda values: tf.cast(tf.cast(values, dtype) + 1, tf.float32), FLOATS)
    assert sum(copy.size for copy in found.down) == sum(copy.size for copy in found.up) == copied


def test_an_op_that_no_gpu_can_run_is_found_but_not_where_it_is_pinned_to_the_host() -> None:
    assert audited(tf.random.shuffle, FLOATS).without_gpu_kernel == {"RandomShuffle(float32)": 1}
    pinned = audited(lambda values: on_host(tf.random.shuffle, values), FLOATS)
    assert pinned.without_gpu_kernel == {}
    assert [copy.size for copy in pinned.down] == [40]


def test_a_tensor_is_copied_once_for_any_number_of_readers() -> None:
    found = audited(lambda values: [on_host(tf.exp, values), on_host(tf.sin, values)], FLOATS)
    assert len(found.down) == 1


def test_constants_are_not_copied() -> None:
    found = audited(lambda values: values + on_host(lambda: tf.constant(1.0) + 2), FLOATS)
    assert found.up == []


@pytest.mark.parametrize(("device", "graphs"), [("CPU:0", []), ("CPU:1", ["/While.cond"])])
def test_the_host_waits_for_the_condition_of_a_loop_that_a_gpu_computes(device, graphs) -> None:
    def count():
        with tf.device(device):
            return tf.while_loop(lambda index: index < 5, lambda index: index + 1, (tf.constant(0, tf.int64),))

    assert [copy.graph for copy in audited(count).down] == graphs


def test_the_host_waits_for_the_condition_of_a_branch_that_a_gpu_computes() -> None:
    found = audited(lambda values: tf.cond(values[0] > 0, lambda: values * 2, lambda: tf.exp(values)), FLOATS)
    assert [(copy.size, copy.used_by) for copy in found.down] == [(1, "StatelessIf")]


def test_a_loop_variable_of_the_host_is_copied_to_the_gpu_that_reads_it_and_one_of_the_gpu_is_not() -> None:
    def loop(values: tf.Tensor):
        first = on_host(tf.random.uniform, [10])
        return tf.while_loop(
            lambda *_: on_host(tf.random.uniform, []) < 0.5,
            lambda sums, batch: (sums + batch, on_host(tf.square, batch)),
            (values, first),
            parallel_iterations=1,
        )

    found = audited(loop, FLOATS)
    assert [(copy.size, copy.graph) for copy in found.up if copy.used_by == "AddV2"] == [(40, "/While.body")]
    assert [copy.graph for copy in found.down if copy.size == 40] == []


def test_both_sides_of_a_condition_count_and_ops_that_start_nothing_do_not() -> None:
    def choose(flag, values):
        values = tf.identity(tf.reshape(values, [2, 5]))
        return tf.cond(flag, lambda: values * 2, lambda: tf.exp(tf.sin(values)))

    found = audited(choose, FLAG, FLOATS)
    assert {(graph, op): count for (graph, op, _), count in found.kernels.items()} == {
        ("/If.then", "Mul"): 1,
        ("/If.else", "Exp"): 1,
        ("/If.else", "Sin"): 1,
    }


def test_an_audit_is_the_same_after_json() -> None:
    found = audited(lambda values: tf.random.shuffle(tf.cast(values, tf.int32) + 1), FLOATS)
    assert Audit.from_json(found.to_json()) == found
