"""Tiny ONNX models to measure a machine with: a matrix product, also with eight-bit operands, and nothing at all."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tauten.errors import MachineError

_OPSET, _IR = 17, 9  # what every ONNX Runtime and OpenVINO of the last three years reads
_SCALE, _MIDDLE = 1.0 / 127.0, 128  # operands lie between -1 and 1


def product(folder: Path, side: int, *, quantised: bool = False) -> Path:
    """y = x W of square matrices; quantised: u8 activations and i8 weights, as static quantisation writes it."""
    path = folder / f"product_{side}{'_int8' if quantised else ''}.onnx"
    if not path.exists():
        weights = rows(side)
        nodes, kept = _quantised(weights) if quantised else _plain(weights)
        _save(path, nodes, kept, [side, side])
    return path


def same(folder: Path) -> Path:
    """y = x, of one number."""
    path = folder / "same.onnx"
    if not path.exists():
        _save(path, [_onnx().helper.make_node("Identity", ["x"], ["y"])], [], [1, 1])
    return path


def rows(side: int) -> Any:
    """A square matrix of numbers between -1 and 1."""
    import numpy as np

    return np.linspace(-1.0, 1.0, side * side, dtype=np.float32).reshape(side, side)


def _plain(weights: Any) -> tuple[list[Any], list[Any]]:
    onnx = _onnx()
    return [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], [onnx.numpy_helper.from_array(weights, "w")]


def _quantised(weights: Any) -> tuple[list[Any], list[Any]]:
    import numpy as np

    onnx = _onnx()
    node, kept = onnx.helper.make_node, onnx.numpy_helper.from_array
    nodes = [
        node("QuantizeLinear", ["x", "scale", "middle"], ["xq"]),
        node("DequantizeLinear", ["xq", "scale", "middle"], ["xd"]),
        node("DequantizeLinear", ["wq", "scale", "zero"], ["wd"]),
        node("MatMul", ["xd", "wd"], ["y"]),
    ]
    constants = [
        kept(np.round(weights / _SCALE).astype(np.int8), "wq"),
        kept(np.array(_SCALE, np.float32), "scale"),
        kept(np.array(_MIDDLE, np.uint8), "middle"),
        kept(np.array(0, np.int8), "zero"),
    ]
    return nodes, constants


def _save(path: Path, nodes: Sequence[Any], constants: Sequence[Any], shape: list[int]) -> None:
    onnx = _onnx()
    helper = onnx.helper
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(list(nodes), path.stem, ports[:1], ports[1:], list(constants))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    onnx.save(made, str(path))


def _onnx() -> Any:
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError as error:
        raise MachineError(
            "onnx is not installed", help="pip install 'tauten[local]'", code="E315"
        ) from error
    return onnx
