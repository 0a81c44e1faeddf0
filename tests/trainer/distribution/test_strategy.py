"""Strategies and communication of several hosts, as far as one process without a GPU shows them."""

import pytest
import tensorflow as tf
from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended

from sostenuto.data.manifest import Manifest
from sostenuto.errors import UserError
from tests.factories import write_dataset
from trainer.distribution.cluster import Cluster
from trainer.distribution.strategy import check_worker_devices, communication_options, create_resolver
from trainer.distribution.workers import Workers
from trainer.presets import preset
from trainer.workdir import layout

SECOND = Cluster(("a:1", "b:2"), 1)
WORKER = "/job:worker/replica:0/task:1"
GPUS = ["GPU:0", "GPU:1"]


@pytest.mark.parametrize("devices", [["CPU:0"], ["GPU:0"], GPUS])
def test_tensorflow_takes_the_devices_of_a_worker_from_its_resolver(devices):
    """As MultiWorkerMirroredStrategy does it. Without their number a host with GPUs would train on its CPU."""
    resolver = create_resolver(devices, SECOND)
    taken, kind = CollectiveAllReduceExtended._initialize_local_devices(None, resolver, "/job:worker/task:1")
    assert kind == devices[0][:3]
    check_worker_devices(taken, devices, SECOND)


def test_a_resolver_knows_all_workers_and_this_one():
    resolver = create_resolver(GPUS, SECOND)
    assert resolver.cluster_spec().as_dict() == {"worker": ["a:1", "b:2"]}
    assert (resolver.task_type, resolver.task_id, resolver.rpc_layer) == ("worker", 1, "grpc")


def test_gradients_of_gpus_go_by_nccl():
    kinds = tf.distribute.experimental.CommunicationImplementation
    assert communication_options(GPUS).implementation == kinds.NCCL
    assert communication_options(["CPU:0"]).implementation == kinds.AUTO


@pytest.mark.parametrize("got", [["CPU:0"], ["GPU:0"], ["GPU:1", "GPU:0"]])
def test_a_worker_that_would_train_on_other_devices_ends_with_one_line(got):
    with pytest.raises(UserError) as error:
        check_worker_devices([f"{WORKER}/device:{device}" for device in got], GPUS, SECOND)
    (line,) = str(error.value).splitlines()
    assert line.startswith("worker 1 of 2: TensorFlow trains on other devices")
    assert f"got {', '.join(got)}, expected GPU:0, GPU:1" in line


def test_a_host_alone_agrees_with_itself():
    workers = Workers(tf.distribute.get_strategy(), None)
    assert (workers.size, workers.index, workers.is_chief) == (1, 0, True)
    assert workers.all_reduce_sum([1.5, 2.0]) == [1.5, 2.0]
    assert workers.broadcast_from_chief([3.0]) == [3.0]


def test_runs_of_another_config_or_dataset_have_another_fingerprint(dataset, tmp_path):
    manifest = Manifest.load(dataset)
    other = Manifest.load(write_dataset(tmp_path / "other", {"train": [40], "validation": [30]}, seed=1))
    base = preset("base")
    prints = [
        layout.fingerprint(config, data)
        for data in (manifest, other)
        for config in (base, base.replace(seed=1), base.replace(max_to_keep=4), base.replace(learning_rate=0.0021))
    ]
    assert len(set(prints)) == len(prints)
    assert layout.fingerprint(preset("base").replace(), Manifest.load(dataset)) == prints[0]
    # Small enough for the sum of the squares of very many to be exact as a float64.
    assert all(0 <= number < 2**20 for number in prints)
