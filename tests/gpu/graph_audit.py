"""Audit of a traced graph: what a GPU would run, what the host would, and what is copied between them.

The device CPU:0 stands for the host, CPU:1 for the first GPU, CPU:2 for the second; an op without a device is
where its function is called. Everything is read from the graph as it was traced, before Grappler.

- A *device kernel* is an op that leaves at least one tensor in a GPU's memory, without those that start no work there
  (`_FREE`) and without functional ops, whose bodies are counted instead: both branches of a condition, the body of a
  loop once. An *update* is an op without outputs that computes a variable in a GPU's memory, such as ResourceApplyAdam.
- A *copy* is a tensor that one op leaves on the host and another wants on a GPU, or the reverse; each tensor counts
  once in each direction. An argument of a loop or of a branch is where the value is that it was called with. What
  follows from constants and known shapes alone is not copied: Grappler computes it before the graph runs.
- The condition of a loop or branch is wanted on the host: one from a GPU is a copy for which the host waits.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.python.framework import dtypes
from tensorflow.python.ops import cond_v2, control_flow_util_v2, while_v2

from tests.gpu.kernels import gpu_kernel, has_any_kernel, has_xla_kernel, on_host

HOST = 0

# Ops that pass a tensor on, or read or describe it, without a kernel of their own on the device.
_FREE = {
    "Const", "EnsureShape", "ExpandDims", "Identity", "Merge", "Placeholder", "PreventGradient", "ReadVariableOp",
    "Reshape", "Shape", "Squeeze", "StopGradient", "Switch", "VarHandleOp",
}  # fmt: skip
_SAME_VALUE = {"EnsureShape", "ExpandDims", "Identity", "PreventGradient", "Reshape", "Squeeze", "StopGradient"}
_LOOPS = ("While", "StatelessWhile")
_CONDITIONS = ("If", "StatelessIf")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_NOTHING_TO_RUN = {"Placeholder", "NoOp", "_Arg", "_Retval"}


class Place(NamedTuple):
    """Where a tensor is.

    Attributes:
        device: number of the device.
        origin: the tensor, or the one that it repeats, in this graph or in one that calls it.
        is_constant: it follows from constants and known shapes.
    """

    device: int
    origin: tf.Tensor
    is_constant: bool = False


class Copy(NamedTuple):
    """A tensor that is copied."""

    size: int  # bytes
    tensor: str  # op, type and shape
    name: str  # of the op that made it
    used_by: str  # the first op that reads the copy
    graph: str  # that op's graph, such as "/While.body"
    source: str  # the product's line that made it
    is_batch: bool
    is_argument: bool  # of the traced function


@dataclasses.dataclass
class Audit:
    """Findings about a graph; counts of kernels and updates by graph, op and source, on the first GPU.

    Attributes:
        kernels: device kernels.
        updates: updates of variables on the device, by ops without outputs.
        without_gpu_kernel: ops that are not pinned to the host, and yet no GPU can run.
        without_xla_kernel: ops that XLA cannot compile for a GPU.
        cudnn: cuDNN's forward ops by type.
        down: copies from the first GPU to the host.
        up: copies from the host to the first GPU.
        across: copies from one GPU to another, by others than collectives.
    """

    kernels: collections.Counter[tuple[str, str, str]]
    updates: collections.Counter[tuple[str, str, str]]
    without_gpu_kernel: collections.Counter[str]
    without_xla_kernel: collections.Counter[str]
    cudnn: collections.Counter[str]
    down: list[Copy]
    up: list[Copy]
    across: list[Copy]

    def to_json(self) -> dict[str, Any]:
        """Returns the findings as JSON values."""
        return {
            field.name: [[key, count] for key, count in value.items()] if isinstance(value, dict) else value
            for field in dataclasses.fields(self)
            for value in [getattr(self, field.name)]
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Audit":
        """Reads what `to_json` returned."""
        keys = {"kernels": tuple, "updates": tuple}
        return cls(**{
            name: [Copy(*copy) for copy in value] if name in ("down", "up", "across")
            else collections.Counter({keys.get(name, str)(key): count for key, count in value})
            for name, value in values.items()
        })  # fmt: skip


def audit(function: tf.types.experimental.ConcreteFunction, *, called_on: int = 1, unknown: int = 1) -> Audit:
    """Audits a traced function and all that it calls.

    Args:
        function: the function.
        called_on: the device of the call: that of its arguments, except int32, and of ops without one.
        unknown: stands for a dimension of unknown size.
    """
    walk = _Walk(unknown)
    captured = {id(inner): outer for outer, inner in function.graph.captures}
    places = []
    for argument in function.graph.inputs:
        outer = captured.get(id(argument))
        device = HOST if argument.dtype == tf.int32 else called_on
        if outer is not None:
            device = _device_of(outer.device, called_on)
        places.append(Place(device, argument))
    walk.arguments = {id(argument) for argument in function.graph.inputs}
    walk.visit(function.graph, places, "", called_on)
    return walk.audit


class _Scope(NamedTuple):
    """A graph that is called: its path, the device of the call, and the lines that made its ops."""

    path: str
    called_on: int
    sources: "_Sources"


class _Walk:
    """A walk through a graph and its functions, in the order of execution."""

    def __init__(self, unknown: int) -> None:
        self.audit = Audit(*[collections.Counter() for _ in range(5)], [], [], [])
        self.arguments: set[int] = set()
        self._unknown = unknown
        self._seen: set[tuple[int, int, int]] = set()
        self._kept: list[Any] = []  # Ids are unique only while the tensors live.

    def visit(self, graph: tf.Graph, arguments: Sequence[Place], path: str, called_on: int) -> list[Place]:
        """Audits a graph that is called on a device, with arguments in these places; returns its outputs' places."""
        self._kept.append(graph)
        places = {id(tensor): place for tensor, place in zip(graph.inputs, arguments, strict=True)}
        scope = _Scope(path, called_on, _Sources(graph))
        for op in graph.get_operations():
            if op.type == "Placeholder":
                continue
            inputs = [places[id(tensor)] for tensor in op.inputs]
            for tensor, place in zip(op.outputs, self._run(op, inputs, scope), strict=True):
                places[id(tensor)] = place
        return [places[id(tensor)] for tensor in graph.outputs]

    def _run(self, op: tf.Operation, inputs: list[Place], scope: _Scope) -> list[Place]:
        """Audits an op; returns the places of its outputs."""
        device = _device_of(op.device, scope.called_on)
        if op.type in _LOOPS:
            return self._loop(op, inputs, scope, device)
        if op.type in _CONDITIONS:
            self._copy(inputs[0], HOST, op, scope)
            then, other = (
                self.visit(graph, inputs[1:], f"{scope.path}/If.{name}", device)
                for name, graph in zip(("then", "else"), cond_v2.get_func_graphs(op), strict=True)
            )
            for wanted, place in zip(then, other, strict=True):
                self._copy(place, wanted.device, op, scope)
            return [Place(place.device, tensor) for place, tensor in zip(then, op.outputs, strict=True)]
        if op.type in _CALLS:
            shapes = [tensor.shape for tensor in op.inputs]
            graph = control_flow_util_v2.get_func_graph(op, shapes, op.get_attr("f").name)
            return self.visit(graph, inputs, scope.path, device)
        if op.type == "Identity" and not op.device:
            return inputs  # The outputs of loops and branches have one each, which Grappler removes.
        return self._kernel(op, inputs, scope, device)

    def _loop(self, op: tf.Operation, inputs: list[Place], scope: _Scope, device: int) -> list[Place]:
        inputs = [place._replace(is_constant=False) for place in inputs]  # They vary from one iteration to the next.
        inside = scope._replace(path=f"{scope.path}/While.cond")
        (going,) = self.visit(while_v2._get_graph(op, "cond", "_cond_graph"), inputs, inside.path, device)
        self._copy(going, HOST, op, inside)
        inside = scope._replace(path=f"{scope.path}/While.body")
        outputs = self.visit(while_v2._get_graph(op, "body", "_body_graph"), inputs, inside.path, device)
        for wanted, place in zip(inputs, outputs, strict=True):
            if place.origin.dtype != tf.resource:
                self._copy(place, wanted.device, op, inside)
        return [Place(place.device, tensor) for place, tensor in zip(inputs, op.outputs, strict=True)]

    def _kernel(self, op: tf.Operation, inputs: list[Place], scope: _Scope, device: int) -> list[Place]:
        node = op.node_def
        if op.type not in _NOTHING_TO_RUN and not has_xla_kernel(node):
            self.audit.without_xla_kernel[_typed(op)] += 1
        for tensor, place in zip(op.inputs, inputs, strict=True):
            if tensor.dtype == tf.resource:
                device = place.device  # An op is where its variable is.
        kernel = gpu_kernel(node) if device != HOST else None
        if kernel is None:
            if device != HOST and has_any_kernel(op.type) and not _is_text(op):
                self.audit.without_gpu_kernel[_typed(op)] += 1
            ins, outs = [True] * len(op.inputs), [True] * len(op.outputs)
        else:
            ins, outs = on_host(kernel, op)
            self._count(op, device, outs, scope)
        for tensor, place, host in zip(op.inputs, inputs, ins, strict=True):
            if tensor.dtype != tf.resource:
                self._copy(place, HOST if host else device, op, scope)
        constant = _is_constant(op, inputs)
        places = [
            Place(device if tensor.dtype == tf.resource or not host else HOST, tensor, constant)
            for tensor, host in zip(op.outputs, outs, strict=True)
        ]
        if op.type in _SAME_VALUE and places[0].device == inputs[0].device:
            return inputs[:1]
        return places

    def _count(self, op: tf.Operation, device: int, outs: list[bool], scope: _Scope) -> None:
        """Counts an op that a GPU runs."""
        if device != 1:
            return
        if op.type.startswith("CudnnRNN") and "Backprop" not in op.type:
            self.audit.cudnn[op.type] += 1
        key = scope.path, op.type, scope.sources.of(op)
        if not all(outs) and op.type not in _FREE:
            self.audit.kernels[key] += 1
        # An assignment takes the memory of its value.
        if not op.outputs and op.type != "AssignVariableOp" and any(map(_is_variable, op.inputs)):
            self.audit.updates[key] += 1

    def _copy(self, place: Place, device: int, op: tf.Operation, scope: _Scope) -> None:
        """Notes a copy, unless the tensor is where it is wanted."""
        tensor = place.origin
        made_by = tensor.op
        key = id(tensor), place.device, device
        if place.device == device or place.is_constant or key in self._seen:
            return
        self._seen.add(key)
        copy = Copy(
            self._size(tensor), f"{made_by.type} {tensor.dtype.name}{tensor.shape}", made_by.name, op.type, scope.path,
            scope.sources.of(made_by), _is_of_batch(made_by),
            id(tensor) in self.arguments,
        )  # fmt: skip
        if HOST not in (place.device, device):
            self.audit.across.append(copy)
        elif device == HOST and place.device == 1:
            self.audit.down.append(copy)
        elif place.device == HOST and device == 1:
            self.audit.up.append(copy)

    def _size(self, tensor: tf.Tensor) -> int:
        items = 1
        for size in tensor.shape if tensor.shape.rank is not None else [None]:
            items *= self._unknown if size is None else size
        return items * dtypes.as_dtype(tensor.dtype).size


class _Sources:
    """The product's lines that made the ops of a graph; a gradient's line is that of the op it belongs to."""

    def __init__(self, graph: tf.Graph) -> None:
        self._by_scope: dict[str, str] = {}
        for op in graph.get_operations():
            if "gradient_tape/" not in op.name:
                parts, line = op.name.split("/"), _line(op)
                for length in range(1, len(parts) + 1):
                    self._by_scope.setdefault("/".join(parts[:length]), line)

    def of(self, op: tf.Operation) -> str:
        """Returns the line, such as "heads.py:80 losses"."""
        if "gradient_tape/" not in op.name:
            return _line(op)
        parts = op.name.replace("gradient_tape/", "").split("/")
        for length in range(len(parts), 0, -1):
            line = self._by_scope.get("/".join(parts[:length]))
            if line is not None:
                return f"gradient of {line}"
        return _line(op)


def _line(op: tf.Operation) -> str:
    for frame in reversed(_frames(op)):
        if "/trainer/" in frame.filename and "/site-packages/" not in frame.filename:
            return f"{frame.filename.rpartition('/trainer/')[2]}:{frame.lineno} {frame.name}"
    return ""


def _is_of_batch(op: tf.Operation) -> bool:
    return any(frame.filename.endswith("trainer/data/windows.py") for frame in _frames(op))


def _frames(op: tf.Operation) -> list[Any]:
    try:
        return list(op.traceback or ())
    except AttributeError:
        return []


def _is_constant(op: tf.Operation, inputs: list[Place]) -> bool:
    """Returns whether Grappler knows an op's outputs."""
    if op.type in ("Shape", "Size"):
        return op.inputs[0].shape.is_fully_defined()
    return not op.op_def.is_stateful and all(place.is_constant for place in inputs)


def _is_variable(tensor: tf.Tensor) -> bool:
    return tensor.dtype == tf.resource


def _is_text(op: tf.Operation) -> bool:
    """Returns whether an op makes text, such as a message, which is always on the host."""
    return bool(op.outputs) and all(tensor.dtype == tf.string for tensor in op.outputs)


def _device_of(device: str, default: int) -> int:
    """Returns the number of a device."""
    return int(device.rpartition("CPU:")[2]) if "CPU:" in device else default


def _typed(op: tf.Operation) -> str:
    """Returns an op with its types, such as "Mul(float32)"."""
    return f"{op.type}({', '.join(sorted({tensor.dtype.name for tensor in [*op.inputs, *op.outputs]}))})"
