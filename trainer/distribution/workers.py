"""Communication between the hosts of a run; `trainer.distribution.faults` recognizes errors of it."""

from collections.abc import Sequence

import tensorflow as tf

from trainer.distribution.cluster import Cluster


class Workers:
    """Collectives between calls of train_steps; every host must call the same ones in the same order."""

    def __init__(self, strategy: tf.distribute.Strategy, cluster: Cluster | None) -> None:
        self.size, self.index = (cluster.size, cluster.index) if cluster else (1, 0)
        self.is_chief = not self.index  # which decides and writes

        def sum_replicas(values: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            # Only the first replica of each host counts.
            is_first = context.replica_id_in_sync_group % (context.num_replicas_in_sync // self.size) == 0
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(is_first, values, 0))

        @tf.function(autograph=False, input_signature=(tf.TensorSpec([None], tf.float64),))
        def sum_hosts(values: tf.Tensor) -> tf.Tensor:
            return strategy.experimental_local_results(strategy.run(sum_replicas, args=(values,)))[0]

        self._sum_hosts = sum_hosts

    def all_reduce_sum(self, values: Sequence[float]) -> list[float]:
        """Returns the sum over all hosts of each value."""
        if self.size == 1:
            return list(values)
        return self._sum_hosts(tf.constant(values, tf.float64)).numpy().tolist()

    def are_equal(self, number: int) -> bool:
        """Returns whether all hosts pass the same number, below 2**20."""
        if self.size == 1:
            return True
        # Equal numbers have no variance; they are small enough for their squares' sum to be exact.
        total, squares = map(int, self.all_reduce_sum([number, number * number]))
        return total * total == squares * self.size

    def broadcast_from_chief(self, values: Sequence[float]) -> list[float]:
        """Returns the chief's values; the other hosts pass any values of the same number."""
        return self.all_reduce_sum(values if self.is_chief else [0] * len(values))
