"""A graph run by torch, one operator after another: what a framework does that compiles nothing.

Only the operators of EfficientNet-Lite0; torch is in the extra `compress` and nothing else here needs it.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tauten.errors import InputError
from tauten.improve.measuring.profile import WARM

Operator = Callable[[Any, list[Any], dict[str, Any]], Any]  # torch, inputs, attributes


class Eager:
    """The graph of an ONNX file with its weights as tensors."""

    def __init__(self, path: Path) -> None:
        """Raises InputError E277 for a graph with an operator that is not here."""
        import onnx
        import torch

        graph = onnx.load(path).graph
        for node in graph.node:
            if node.op_type not in OPERATORS:
                raise InputError(
                    f"{path.name} has the operator {node.op_type}",
                    help=f"eager torch has {', '.join(sorted(OPERATORS))} here",
                    code="E277",
                )
        self._torch = torch
        self._weights = {
            each.name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy()) for each in graph.initializer
        }
        self._nodes = [
            (
                OPERATORS[node.op_type],
                list(node.input),
                node.output[0],
                {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute},
            )
            for node in graph.node
        ]
        self._output = graph.output[0].name

    def run(self, feed: Mapping[str, Any]) -> Any:
        """The output for arrays by input, batch axis included."""
        values = dict(self._weights)
        with self._torch.inference_mode():
            values |= {name: self._torch.from_numpy(array) for name, array in feed.items()}
            for operator, inputs, output, attributes in self._nodes:
                given = [values[name] if name else None for name in inputs]
                values[output] = operator(self._torch, given, attributes)
        return values[self._output].numpy()

    def run_ms(self, items: Sequence[Mapping[str, Any]], runs: int) -> float:
        """The median of so many runs of these items together, after a warm-up."""
        import numpy as np

        feed = {name: np.stack([item[name] for item in items]) for name in items[0]}
        taken = []
        for _ in range(WARM + runs):
            began = time.perf_counter()
            self.run(feed)
            taken.append(time.perf_counter() - began)
        return statistics.median(taken[WARM:]) * 1e3


def _conv(torch: Any, given: list[Any], attributes: dict[str, Any]) -> Any:
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    x, weight, *bias = given
    if (top, left) != (bottom, right):
        x = torch.nn.functional.pad(x, (left, right, top, bottom))
        top = left = 0
    return torch.nn.functional.conv2d(
        x,
        weight,
        bias[0] if bias else None,
        stride=tuple(attributes.get("strides", (1, 1))),
        padding=(top, left),
        groups=attributes.get("group", 1),
    )


def _clip(torch: Any, given: list[Any], attributes: dict[str, Any]) -> Any:
    low, high = (None if each is None else each.item() for each in (*given[1:], None, None)[:2])
    return torch.clamp(given[0], low, high)


def _gemm(torch: Any, given: list[Any], attributes: dict[str, Any]) -> Any:
    x, weight, *bias = given
    turned = weight if attributes.get("transB", 0) else weight.T
    return torch.nn.functional.linear(x, turned, bias[0] if bias else None)


OPERATORS: dict[str, Operator] = {
    "Add": lambda torch, given, attributes: given[0] + given[1],
    "Clip": _clip,
    "Conv": _conv,
    "Flatten": lambda torch, given, attributes: torch.flatten(given[0], attributes.get("axis", 1)),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda torch, given, attributes: given[0].mean(dim=(2, 3), keepdim=True),
}
