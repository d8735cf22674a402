"""Build an ONNX graph node by node: names, constants and the final check in one place."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

OPSET = 17  # the first with LayerNormalization; every engine here reads it
IR_VERSION = 9  # the newest that onnxruntime 1.17 still reads


class Graph:
    """Grows a list of nodes and initializers; each method returns the name of what it made."""

    def __init__(self, prefix: str = "") -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._prefix = prefix
        self._number = count()

    def _name(self, kind: str) -> str:
        return f"{self._prefix}{kind}_{next(self._number)}"

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add one node with one output."""
        from onnx import helper

        output = output or self._name(kind)
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def const(self, array: NDArray[Any]) -> str:
        """Add an initializer."""
        from onnx import numpy_helper

        name = self._name("const")
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def ints(self, *numbers: int) -> str:
        """A vector of integers: shapes, axes, bounds."""
        return self.const(np.array(numbers, np.int64))

    def number(self, value: float) -> str:
        """A float scalar."""
        return self.const(np.array(value, np.float32))

    def save(
        self, path: Path, name: str, converter: str, inputs: Sequence[Any], outputs: Sequence[Any]
    ) -> None:
        """Check the model and write it, with the converter's name inside."""
        import onnx
        from onnx import helper

        graph = helper.make_graph(self.nodes, name, list(inputs), list(outputs), self.initializers)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="tauten")
        helper.set_model_props(model, {"tauten.converter": converter})
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString())


def floats(name: str, shape: Sequence[int | str]) -> Any:
    """Describe a float input or output."""
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def integers(name: str, shape: Sequence[int | str]) -> Any:
    """Describe an int64 input or output."""
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.INT64, list(shape))
