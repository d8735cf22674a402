"""Counts what an ONNX graph costs at given input shapes: operations, weight bytes, bytes of activations.

Products are counted from their shapes (a multiply and an add are two operations), everything else as one
operation an element that it gives. What only renames or reshapes a tensor costs nothing. Nothing is run.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tauten.errors import InputError, MachineError
from tauten.plan.peaks import Peaks
from tauten.plan.roofline import ModelCost, Point, Work, formula

Shape = tuple[int, ...]

# Views and bookkeeping: no bytes are moved, no number is computed.
_FREE = frozenset({"Constant", "Dropout", "Flatten", "Identity", "Reshape", "Shape", "Squeeze", "Unsqueeze"})
_PRODUCTS = frozenset({"MatMul", "MatMulInteger", "QLinearMatMul", "MatMulNBits"})
_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "QLinearConv", "FusedConv"})
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_PLACES = {"QLinearMatMul": (0, 3), "QLinearConv": (0, 3)}  # where the two operands stand, if not first


class Counted(msgspec.Struct, frozen=True):
    """One graph at one set of input shapes. `unknown` operators had no shape, and count nothing.

    Weights are those that a call reads; of a table of embeddings that is only what is looked up.
    """

    flops: float
    weight_bytes: float
    activation_bytes: float
    operators: int
    unknown: dict[str, int] = {}


def count(path: Path, shapes: Mapping[str, Sequence[int]]) -> Counted:
    """Count a file at these shapes of its inputs, batch axis included.

    Raises InputError E255 for inputs that the file does not have and files that cannot be read, MachineError
    where the package onnx is not installed.
    """
    model = _inferred(path, shapes)
    graph = model.graph
    weights = {tensor.name: _size(tensor) for tensor in graph.initializer}
    known = _shapes(graph)
    flops = moved = 0.0
    unknown: dict[str, int] = {}
    operators = 0
    for node in graph.node:
        if node.op_type == "Constant":
            weights.update((node.output[0], _size(each.t)) for each in node.attribute if each.name == "value")
        if node.op_type in _FREE:
            continue
        operators += 1
        given = known.get(node.output[0])
        found = None if given is None else _flops(node, known, given)
        if found is None:
            unknown[node.op_type] = unknown.get(node.op_type, 0) + 1
            continue
        flops += found
        moved += sum(_bytes(name, known) for name in node.output)  # written once, and read by the next
    tables = _tables(graph)
    read = sum(size for name, size in weights.items() if name not in tables)
    return Counted(flops, float(read), 2.0 * moved, operators, unknown)


def _tables(graph: Any) -> set[str]:
    """Tensors of which only some rows are looked up: a call does not read them."""
    looked_up = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    others = {
        name
        for node in graph.node
        for place, name in enumerate(node.input)
        if node.op_type != "Gather" or place
    }
    return looked_up - others


def cost_of(
    path: Path,
    items: Sequence[Mapping[str, Any]],
    weight: Callable[[Mapping[str, Any]], float] | None = None,
    *,
    unbatched: bool = False,
) -> ModelCost:
    """The cost of a model from items as they reach its backend: arrays without the batch axis.

    Of `unbatched` models the arrays are whole. One count for each size among the items; `weight` says an item's size (default: how many numbers it
    holds, as the tensor backends do).
    """
    size_of = weight or _elements
    sizes = {size_of(item): item for item in items}
    if not sizes:
        raise InputError("no items to count a model with", help="give one at least", code="E255")
    batch = () if unbatched else (1,)
    counted = {
        size: count(path, {name: (*batch, *_shape_of(array)) for name, array in item.items()})
        for size, item in sorted(sizes.items())
    }
    last = counted[max(counted)]
    work = tuple(Work(size, each.flops, each.activation_bytes) for size, each in counted.items())
    return ModelCost(last.weight_bytes, work, last.operators)


def memory_share(
    path: Path, items: Sequence[Mapping[str, Any]], peaks: Peaks, point: Point, *, unbatched: bool = False
) -> float:
    """The share of a run's time, 0 to 1, in which a graph moves bytes and neighbours that do so slow it down.

    At `point`, of an item of the size that is the median of these; 0.0 where the peaks say too little. Raises as
    `count`.
    """
    sizes = sorted(_elements(item) for item in items)
    middle = sizes[len(sizes) // 2] if sizes else 0.0
    usual = [item for item in items if _elements(item) == middle][:1]
    cost = cost_of(path, usual, unbatched=unbatched)
    found = formula(cost, peaks, msgspec.structs.replace(point, shape=middle))
    return found.memory if found is not None else 0.0


def _shape_of(array: Any) -> Shape:
    return tuple(getattr(array, "shape", ()))


def _elements(item: Mapping[str, Any]) -> float:
    return float(sum(math.prod(_shape_of(array)) for array in item.values()))


def _inferred(path: Path, shapes: Mapping[str, Sequence[int]]) -> Any:
    """The model with these input shapes in it, and every other shape that follows from them."""
    try:
        import onnx
        from onnx import shape_inference
    except ImportError as error:
        raise MachineError(
            "onnx is not installed", help="pip install 'tauten[local]'", code="E315"
        ) from error
    try:
        model = onnx.load(str(path))
    except Exception as error:
        raise InputError(
            f"cannot read {path.name}: {type(error).__name__}", help="check the file", code="E255"
        ) from error
    _fix(model, shapes)
    del model.graph.value_info[:]  # of other input shapes, where a file keeps any
    return shape_inference.infer_shapes(model, data_prop=True)


def _fix(model: Any, shapes: Mapping[str, Sequence[int]]) -> None:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = {each.name: each for each in model.graph.input if each.name not in weights}
    if inputs.keys() != shapes.keys():
        raise InputError(
            f"the model takes {', '.join(sorted(inputs))}; shapes are given of {', '.join(sorted(shapes))}",
            help="give the shape of every input of the model, and of no other",
            code="E255",
        )
    for name, shape in shapes.items():
        axes = inputs[name].type.tensor_type.shape
        del axes.dim[:]
        for length in shape:
            axes.dim.add().dim_value = length
    for output in model.graph.output:  # they follow from the inputs
        output.type.tensor_type.ClearField("shape")


def _shapes(graph: Any) -> dict[str, tuple[Shape, int]]:
    """Shape and bytes an element of every tensor that has one."""
    found = {tensor.name: (tuple(tensor.dims), _width(tensor.data_type)) for tensor in graph.initializer}
    for each in [*graph.input, *graph.value_info, *graph.output]:
        kind = each.type.tensor_type
        lengths = tuple(axis.dim_value for axis in kind.shape.dim)
        if kind.HasField("shape") and (all(lengths) or not lengths):
            found[each.name] = (lengths, _width(kind.elem_type))
    return found


def _width(kind: int) -> int:
    """Bytes of one element."""
    from onnx import TensorProto, helper

    if kind in (TensorProto.UNDEFINED, TensorProto.STRING):
        return 8  # a pointer
    return int(helper.tensor_dtype_to_np_dtype(kind).itemsize)


def _size(tensor: Any) -> int:
    return int(math.prod(tensor.dims)) * _width(tensor.data_type)


def _bytes(name: str, known: Mapping[str, tuple[Shape, int]]) -> float:
    shape, width = known.get(name, ((0,), 1))
    return float(math.prod(shape) * width)


def _flops(node: Any, known: Mapping[str, tuple[Shape, int]], given: tuple[Shape, int]) -> float | None:
    """Operations of one node; None where a shape that is needed is not known."""
    out = math.prod(given[0])
    kind = node.op_type
    if kind in _GATES:
        return _recurrent(node, known)
    if kind not in _PRODUCTS and kind not in _CONVOLUTIONS and kind not in ("Gemm", "ConvTranspose"):
        return float(out)
    left, right = _operands(node, known)
    if left is None or right is None:
        return None
    if kind in _CONVOLUTIONS:
        return 2.0 * out * math.prod(right[1:])  # input channels of a group, times the kernel
    if kind == "ConvTranspose":
        return 2.0 * math.prod(left) * math.prod(right[1:])
    if kind == "Gemm":
        return 2.0 * out * left[0 if _attribute(node, "transA") else 1]
    return 2.0 * out * left[-1]


def _operands(node: Any, known: Mapping[str, tuple[Shape, int]]) -> tuple[Shape | None, Shape | None]:
    left, right = (node.input[place] for place in _PLACES.get(node.op_type, (0, 1)))
    return known.get(left, (None, 0))[0], known.get(right, (None, 0))[0]


def _recurrent(node: Any, known: Mapping[str, tuple[Shape, int]]) -> float | None:
    """Both products of each gate, at each step: inputs to hidden, hidden to hidden."""
    steps, weights, states = (known.get(name, (None, 0))[0] for name in node.input[:3])
    if steps is None or weights is None or states is None:
        return None
    return 2.0 * steps[0] * steps[1] * (math.prod(weights) + math.prod(states))


def _attribute(node: Any, name: str) -> int:
    return next((int(each.i) for each in node.attribute if each.name == name), 0)
