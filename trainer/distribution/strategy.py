"""Strategies of tf.distribute: one replica on each device of each host."""

import signal
from collections.abc import Sequence

import tensorflow as tf

from sostenuto.errors import UserError
from trainer.distribution.cluster import Cluster
from trainer.distribution.rendezvous import wait_for_workers

_CONNECT_SECONDS = 300  # longest time in which TensorFlow connects workers that are all present; usually a second


def create_strategy(devices: Sequence[str], cluster: Cluster | None = None) -> tf.distribute.Strategy:
    """Returns a strategy with one replica on each device of each host; waits for the other hosts.

    Raises UserError if the hosts have different devices, TemporaryError if a host does not come.
    """
    if cluster is None:
        # For logical devices of one CPU, a plain sum is faster than the collectives for GPUs.
        sums = tf.distribute.ReductionToOneDevice() if devices[0].startswith("CPU") else None
        return tf.distribute.MirroredStrategy(list(devices), cross_device_ops=sums)
    wait_for_workers(cluster, devices)
    # While TensorFlow still waits, no thread of Python runs. It would wait an hour for a worker that has ended.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.alarm(_CONNECT_SECONDS)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(
            create_resolver(devices, cluster), communication_options(devices)
        )
    finally:
        signal.alarm(0)
        # TensorFlow installs a SIGTERM handler that does nothing. There is nothing to save yet.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
    check_worker_devices(strategy.extended.worker_devices, devices, cluster)
    return strategy


def create_resolver(devices: Sequence[str], cluster: Cluster) -> tf.distribute.cluster_resolver.ClusterResolver:
    """Returns the workers and this one's devices for TensorFlow, which would train on one CPU without their number."""
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.workers)}), task_type="worker", task_id=cluster.index,
        rpc_layer="grpc", num_accelerators={"GPU": sum(device.startswith("GPU") for device in devices)},
    )  # fmt: skip


def communication_options(devices: Sequence[str]) -> tf.distribute.experimental.CommunicationOptions:
    """Returns NCCL for GPUs, whose gradients TensorFlow would otherwise send through the hosts' memory."""
    kinds = tf.distribute.experimental.CommunicationImplementation
    kind = kinds.NCCL if devices[0].startswith("GPU") else kinds.AUTO
    return tf.distribute.experimental.CommunicationOptions(implementation=kind)


def check_worker_devices(got: Sequence[str], expected: Sequence[str], cluster: Cluster) -> None:
    """Raises UserError unless a strategy's devices on this worker, such as "/job:worker/…/device:GPU:0", are these."""
    parsed = [tf.DeviceSpec.from_string(device) for device in got]
    names = [f"{device.device_type}:{device.device_index}" for device in parsed]
    if names != list(expected):
        raise UserError(
            f"worker {cluster.index} of {cluster.size}: TensorFlow trains on other devices: got {', '.join(names)}, "
            f"expected {', '.join(expected)}. Install the pinned TensorFlow"
        )
