"""EfficientNet-Lite0: torch state dict in, ONNX out, batch normalisation folded into the convolutions.

Input `x` (n, 3, 224, 224), RGB; output `logits` (n, 1000).
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tauten.models.convert.graph import Graph, floats
from tauten.models.convert.state_dict import read_state_dict

SIDE = 224  # pixels the network was trained on
_EPSILON = np.float32(1e-3)  # of batch normalisation, as in the TensorFlow original
_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)  # of the depthwise convolution of each block


class _Network:
    """Follows the picture through the network; knows its current side in pixels."""

    def __init__(self, weights: dict[str, NDArray[Any]]) -> None:
        self.weights = weights
        self.graph = Graph()
        self.side = SIDE
        self._low, self._high = self.graph.number(0), self.graph.number(6)

    def _folded(self, convolution: str, norm: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Kernel and bias of a convolution with the normalisation that follows it."""
        w = self.weights
        gain = w[f"{norm}.weight"] / np.sqrt(w[f"{norm}.running_var"] + _EPSILON)
        bias = w[f"{norm}.bias"] - w[f"{norm}.running_mean"] * gain
        return w[f"{convolution}.weight"] * gain[:, None, None, None], bias

    def _padding(self, kernel: int, stride: int) -> list[int]:
        """TensorFlow's SAME: what is odd goes to the end."""
        total = max((-(-self.side // stride) - 1) * stride + kernel - self.side, 0)
        before = total // 2
        return [before, before, total - before, total - before]

    def conv(self, x: str, convolution: str, norm: str, stride: int = 1, depthwise: bool = False) -> str:
        kernel, bias = self._folded(convolution, norm)
        side = kernel.shape[2]
        out = self.graph.op(
            "Conv", x, self.graph.const(kernel), self.graph.const(bias),
            strides=[stride, stride], kernel_shape=[side, side], pads=self._padding(side, stride),
            group=kernel.shape[0] if depthwise else 1,
        )  # fmt: skip
        self.side = -(-self.side // stride)
        return out

    def relu6(self, x: str) -> str:
        return self.graph.op("Clip", x, self._low, self._high)

    def block(self, x: str, prefix: str, stride: int) -> str:
        """Inverted bottleneck: expand, depthwise, project; added to its input where the shapes agree."""
        w, inner = self.weights, x
        if f"{prefix}_expand_conv.weight" in w:
            inner = self.relu6(self.conv(inner, f"{prefix}_expand_conv", f"{prefix}_bn0"))
            channels = w[f"{prefix}_expand_conv.weight"].shape[1]
        else:
            channels = w[f"{prefix}_depthwise_conv.weight"].shape[0]
        inner = self.relu6(
            self.conv(inner, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride, depthwise=True)
        )
        inner = self.conv(inner, f"{prefix}_project_conv", f"{prefix}_bn2")
        same = stride == 1 and channels == w[f"{prefix}_project_conv.weight"].shape[0]
        return self.graph.op("Add", inner, x) if same else inner


def convert(inputs: Sequence[Path], output: Path) -> None:
    """Write the network of a state dict as ONNX."""
    net = _Network(read_state_dict(inputs[0]))
    x = net.relu6(net.conv("x", "_conv_stem", "_bn0", stride=2))
    for i, stride in enumerate(_STRIDES):
        x = net.block(x, f"_blocks.{i}.", stride)
    x = net.relu6(net.conv(x, "_conv_head", "_bn1"))
    graph, weights = net.graph, net.weights
    x = graph.op("Flatten", graph.op("GlobalAveragePool", x))
    head = graph.const(weights["_fc.weight"]), graph.const(weights["_fc.bias"])
    graph.op("Gemm", x, *head, output="logits", transB=1)
    shape: list[int | str] = ["n", 3, SIDE, SIDE]
    graph.save(
        output,
        "efficientnet_lite0",
        "efficientnet-lite0@1",
        [floats("x", shape)],
        [floats("logits", ["n", 1000])],
    )
