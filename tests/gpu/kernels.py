"""Kernels of TensorFlow's registry: those for GPUs, the memory of their tensors, and those of XLA.

A CUDA build registers its GPU kernels on a machine without a GPU too.
"""

import functools
from collections.abc import Iterable
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import kernels

# Attributes that hold a type, or a list of types.
_Attributes = Any


@functools.cache
def _registered(op_type: str) -> tuple[Any, ...]:
    return tuple(kernels.get_registered_kernels_for_op(op_type).kernel)


def has_any_kernel(op_type: str) -> bool:
    """Returns whether the op has a kernel for any device; functional ops such as While have none."""
    return bool(_registered(op_type))


def gpu_kernel(node: tf.compat.v1.NodeDef) -> Any | None:
    """Returns the kernel that a GPU runs for a node, or None. `DEFAULT` kernels serve devices without their own."""
    for device in ("GPU", "DEFAULT"):
        found = [kernel for kernel in _registered(node.op) if kernel.device_type == device and _fits(kernel, node)]
        if found:
            return max(found, key=lambda kernel: kernel.priority)
    return None


def has_xla_kernel(node: tf.compat.v1.NodeDef) -> bool:
    """Returns whether XLA can compile a node for a GPU."""
    return any(kernel.device_type == "XLA_GPU_JIT" and _fits(kernel, node) for kernel in _registered(node.op))


def _fits(kernel: Any, node: tf.compat.v1.NodeDef) -> bool:
    """Returns whether a kernel's constraints allow the types of a node."""
    return kernel.label == "" and all(
        constraint.name in node.attr
        and set(_types(node.attr[constraint.name])) <= set(constraint.allowed_values.list.type)
        for constraint in kernel.constraint
    )


def _types(attribute: _Attributes) -> Iterable[int]:
    kind = attribute.WhichOneof("value")
    return [attribute.type] if kind == "type" else attribute.list.type


def on_host(kernel: Any, op: tf.Operation) -> tuple[list[bool], list[bool]]:
    """Returns, for each input and each output of an op, whether its kernel wants it in host memory."""
    names = set(kernel.host_memory_arg)
    by_side = []
    for definitions, tensors in ((op.op_def.input_arg, op.inputs), (op.op_def.output_arg, op.outputs)):
        expanded = [definition.name in names for definition in definitions for _ in range(_width(definition, op))]
        always = [tensor.dtype in (tf.string, tf.resource) for tensor in tensors]
        by_side.append([host or forced for host, forced in zip(expanded, always, strict=True)])
    return by_side[0], by_side[1]


def _width(definition: Any, op: tf.Operation) -> int:
    """Returns the number of tensors of an argument."""
    if definition.number_attr:
        return op.get_attr(definition.number_attr)
    return len(op.get_attr(definition.type_list_attr)) if definition.type_list_attr else 1
