"""A sentence encoder that stops at its last hidden state: add mean pooling and normalisation.

The result has the inputs and the output of converter `minilm`, so that variants can be exchanged.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tauten.models.convert.graph import Graph, floats
from tauten.models.convert.minilm import float_mask, pool


def convert(inputs: Sequence[Path], output: Path) -> None:
    """Pool `last_hidden_state` into `embedding`; the segment input becomes the constant zero it always is."""
    import onnx
    from onnx import helper

    model = onnx.load(str(inputs[0]))
    ends = {value.name: value for value in model.graph.output}
    dim = ends["last_hidden_state"].type.tensor_type.shape.dim[-1].dim_value
    _rename(model.graph, "embedding", "embedding_of_words")
    before, after = Graph("pool_before_"), Graph("pool_after_")
    before.op("Sub", "input_ids", "input_ids", output="token_type_ids")
    pool(after, "last_hidden_state", float_mask(after))
    tokens = [value for value in model.graph.input if value.name != "token_type_ids"]
    weights = [*model.graph.initializer, *before.initializers, *after.initializers]
    nodes = [*before.nodes, *model.graph.node, *after.nodes]
    graph = helper.make_graph(nodes, "minilm", tokens, [floats("embedding", ["n", dim])], weights)
    opsets = list(model.opset_import)
    pooled = helper.make_model(
        graph, opset_imports=opsets, ir_version=model.ir_version, producer_name="tauten"
    )
    helper.set_model_props(pooled, {"tauten.converter": "minilm-pool@1"})
    onnx.checker.check_model(pooled)
    output.write_bytes(pooled.SerializeToString())


def _rename(graph: Any, old: str, new: str) -> None:
    """Free a name that the exporter used inside of the graph."""
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
