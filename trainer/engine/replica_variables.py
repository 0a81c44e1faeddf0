"""Assignment of a replica's own copy of a variable."""

import tensorflow as tf


def assign(variable: tf.Variable, value: tf.Tensor) -> None:
    """Sets this replica's copy of a variable; every replica must set the same value.

    `Variable.assign` would send the value from one replica to all others.
    """
    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=tf.cast(value, variable.dtype))
