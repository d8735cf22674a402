"""all-MiniLM-L6-v2: safetensors in, fp32 ONNX out, mean pooling and normalisation inside.

Inputs `input_ids`, `attention_mask` (n, l) int64; output `embedding` (n, 384) of length one.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tauten.models.convert.graph import Graph, floats, integers
from tauten.models.convert.safetensors import read_safetensors

LAYERS = 6
HEADS = 12
_EPSILON = 1e-12  # of layer normalisation, as in BERT
_MASKED = -1e9  # added to the score of a padded position: zero after softmax, finite in float32


def pool(graph: Graph, states: str, mask: str) -> str:
    """Mean over the real positions, scaled to length one; `mask` is float (n, l)."""
    weight = graph.op("Unsqueeze", mask, graph.ints(2))
    total = graph.op("ReduceSum", graph.op("Mul", states, weight), graph.ints(1), keepdims=0)
    mean = graph.op("Div", total, graph.op("ReduceSum", weight, graph.ints(1), keepdims=0))
    return graph.op("LpNormalization", mean, output="embedding", axis=-1, p=2)


class _Encoder:
    """A BERT encoder, post-norm, exact GELU."""

    def __init__(self, weights: dict[str, NDArray[Any]]) -> None:
        self.graph = Graph()
        self._prefix = "" if "embeddings.word_embeddings.weight" in weights else "bert."
        self._weights = weights
        self.dim = self.weight("embeddings.word_embeddings.weight").shape[1]

    def weight(self, name: str) -> NDArray[Any]:
        return np.asarray(self._weights[self._prefix + name], np.float32)

    def linear(self, x: str, name: str) -> str:
        g = self.graph
        product = g.op("MatMul", x, g.const(self.weight(f"{name}.weight").T))
        return g.op("Add", product, g.const(self.weight(f"{name}.bias")))

    def norm(self, x: str, name: str) -> str:
        scale, shift = (self.graph.const(self.weight(f"{name}.{part}")) for part in ("weight", "bias"))
        return self.graph.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=_EPSILON)

    def embed(self) -> str:
        """Word, position and (constant) segment embeddings."""
        g = self.graph
        words = g.op("Gather", g.const(self.weight("embeddings.word_embeddings.weight")), "input_ids")
        segment = g.const(self.weight("embeddings.token_type_embeddings.weight")[0])
        length = g.op("Gather", g.op("Shape", "input_ids"), g.ints(1))
        table = g.const(self.weight("embeddings.position_embeddings.weight"))
        positions = g.op("Slice", table, g.ints(0), length, g.ints(0))
        return self.norm(g.op("Add", g.op("Add", words, segment), positions), "embeddings.LayerNorm")

    def _heads(self, x: str, name: str, order: list[int]) -> str:
        shape = self.graph.ints(0, 0, HEADS, self.dim // HEADS)
        return self.graph.op("Transpose", self.graph.op("Reshape", self.linear(x, name), shape), perm=order)

    def attention(self, x: str, bias: str, name: str) -> str:
        g = self.graph
        query = self._heads(x, f"{name}.self.query", [0, 2, 1, 3])
        key = self._heads(x, f"{name}.self.key", [0, 2, 3, 1])
        value = self._heads(x, f"{name}.self.value", [0, 2, 1, 3])
        scores = g.op("Mul", g.op("MatMul", query, key), g.number((self.dim // HEADS) ** -0.5))
        weights = g.op("Softmax", g.op("Add", scores, bias), axis=-1)
        mixed = g.op("Transpose", g.op("MatMul", weights, value), perm=[0, 2, 1, 3])
        return self.linear(g.op("Reshape", mixed, g.ints(0, 0, self.dim)), f"{name}.output.dense")

    def gelu(self, x: str) -> str:
        g = self.graph
        erf = g.op("Erf", g.op("Mul", x, g.number(2**-0.5)))
        return g.op("Mul", g.op("Mul", x, g.number(0.5)), g.op("Add", erf, g.number(1)))

    def layer(self, x: str, bias: str, name: str) -> str:
        g = self.graph
        attended = self.attention(x, bias, f"{name}.attention")
        x = self.norm(g.op("Add", x, attended), f"{name}.attention.output.LayerNorm")
        inner = self.linear(self.gelu(self.linear(x, f"{name}.intermediate.dense")), f"{name}.output.dense")
        return self.norm(g.op("Add", x, inner), f"{name}.output.LayerNorm")


def float_mask(graph: Graph) -> str:
    """`attention_mask` as floats."""
    return graph.op("Cast", "attention_mask", to=1)  # 1 is FLOAT


def convert(inputs: Sequence[Path], output: Path) -> None:
    """Write the encoder of a safetensors file as ONNX."""
    encoder = _Encoder(read_safetensors(inputs[0]))
    g = encoder.graph
    mask = float_mask(g)
    padded = g.op("Sub", g.number(1), g.op("Unsqueeze", mask, g.ints(1, 2)))
    bias = g.op("Mul", padded, g.number(_MASKED))
    x = encoder.embed()
    for i in range(LAYERS):
        x = encoder.layer(x, bias, f"encoder.layer.{i}")
    pool(g, x, mask)
    tokens = [integers(name, ["n", "l"]) for name in ("input_ids", "attention_mask")]
    g.save(output, "minilm", "minilm@1", tokens, [floats("embedding", ["n", encoder.dim])])
