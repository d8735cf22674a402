"""Where a graph repeats: the blocks of an encoder, found by its shape and not by names.

A *cut* is a value through which everything that comes from one input must pass on its way to the outputs (a
dominator of the flow graph; one pass in topological order finds them all). Between two cuts lies a segment.
Where the same run of segments comes several times in a row, with the same operators and weights of the same
shapes, each is a block: what goes into it has the shape of what comes out of it.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any, NamedTuple

_SIDE = frozenset({"Shape", "Size"})  # they pass on how large a value is, not the value


class Block(NamedTuple):
    """The nodes between two cuts: `takes` is the value that goes in, `gives` the one that comes out."""

    takes: str
    gives: str
    nodes: tuple[int, ...]  # places in the graph's list


class _Segment(NamedTuple):
    block: Block
    form: tuple[Any, ...]  # what its nodes do, and the shapes of their weights
    weighty: bool  # one of these is a matrix


def blocks(model: Any) -> list[Block]:
    """The longest row of equal blocks that hold weights, in order; empty where nothing repeats."""
    if any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute):
        return []  # branches and loops use values of the outer graph without naming them as inputs
    weights = {each.name for each in model.graph.initializer}  # which old files name among the inputs, too
    inputs = [each.name for each in model.graph.input if each.name not in weights]
    rows = [_row(_segments(model.graph, name)) for name in inputs]
    return max(rows, key=_covered, default=[])


def without(model: Any, block: Block) -> Any:
    """The model with a block replaced by a wire; what only the block used is gone, too."""
    from onnx import ModelProto, helper

    made = ModelProto()
    made.CopyFrom(model)
    graph, inside = made.graph, set(block.nodes)
    nodes = [node for place, node in enumerate(model.graph.node) if place not in inside]
    after = max((place for place, node in enumerate(nodes) if block.takes in node.output), default=-1)
    nodes.insert(after + 1, helper.make_node("Identity", [block.takes], [block.gives], name="without_block"))
    nodes = _needed(nodes, {each.name for each in graph.output})
    used = {name for node in nodes for name in node.input} | {each.name for each in graph.output}
    gone = {each.name for each in graph.initializer} - used
    kept = [each for each in model.graph.initializer if each.name in used]
    inputs = [each for each in model.graph.input if each.name not in gone]
    for field, content in (("node", nodes), ("initializer", kept), ("input", inputs), ("value_info", [])):
        graph.ClearField(field)
        getattr(graph, field).extend(content)
    return made


def _needed(nodes: list[Any], outputs: set[str]) -> list[Any]:
    """The nodes that the outputs depend on, in their order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def _segments(graph: Any, source: str) -> list[_Segment]:
    """What lies between the cuts on the way of one input."""
    path = _path(graph, source)
    consumers = _consumers(graph, path)
    shapes = {each.name: tuple(each.dims) for each in graph.initializer}
    live = {source: consumers.get(source, 0)}
    found: list[_Segment] = []
    start, inside = source, list[int]()
    for place in path:
        node = graph.node[place]
        inside.append(place)
        for name in set(node.input) & live.keys():
            live[name] -= 1
            if not live[name]:
                del live[name]
        live |= {name: consumers[name] for name in node.output if consumers.get(name)}
        if len(live) == 1:
            (end,) = live
            block = Block(start, end, tuple(inside))
            forms = [_form(graph.node[each], shapes) for each in inside]
            found.append(_Segment(block, tuple(forms), any(_weighty(form) for form in forms)))
            start, inside = end, []
    return found


def _path(graph: Any, source: str) -> list[int]:
    """The nodes that lie between an input and the outputs, in the graph's (topological) order."""
    reached = {source}
    after = []
    for place, node in enumerate(graph.node):
        if node.op_type not in _SIDE and reached.intersection(node.input):
            reached.update(node.output)
            after.append(place)
    wanted = {each.name for each in graph.output}
    before = []
    for place in reversed(after):
        node = graph.node[place]
        if wanted.intersection(node.output):
            wanted.update(node.input)
            before.append(place)
    return before[::-1]


def _consumers(graph: Any, path: list[int]) -> dict[str, int]:
    """How many nodes of the path read each value; an output of the graph has one reader more."""
    counts: dict[str, int] = {each.name: 1 for each in graph.output}
    for place in path:
        for name in set(graph.node[place].input):
            counts[name] = counts.get(name, 0) + 1
    return counts


def _form(node: Any, shapes: dict[str, tuple[int, ...]]) -> tuple[Any, ...]:
    attributes = sorted((each.name, each.SerializeToString(deterministic=True)) for each in node.attribute)
    return node.op_type, tuple(attributes), tuple(shapes[name] for name in node.input if name in shapes)


def _weighty(form: tuple[Any, ...]) -> bool:
    return any(len(shape) > 1 for shape in form[2])


def _row(segments: list[_Segment]) -> list[Block]:
    """The row of equal runs of segments that covers most; of equals the finest, begun at its largest segment.

    Which segment begins a block is a matter of rotation: attention and not the normalisation before it.
    """
    best: list[Block] = []
    rank = (0, 0, 0)
    for period in range(1, len(segments) // 2 + 1):
        for start in range(len(segments) - 2 * period + 1):
            run = segments[start : start + period]
            count = _repeats(segments, start, period)
            mark = (count * period, -period, len(run[0].block.nodes))
            if count > 1 and mark > rank and any(segment.weighty for segment in run):
                rank = mark
                best = [_joined(segments, start + turn * period, period) for turn in range(count)]
    return best


def _repeats(segments: list[_Segment], start: int, period: int) -> int:
    """How often the run of that length comes in a row from there."""
    count = 1
    while start + (count + 1) * period <= len(segments) and all(
        segments[start + count * period + each].form == segments[start + each].form for each in range(period)
    ):
        count += 1
    return count


def _joined(segments: list[_Segment], start: int, period: int) -> Block:
    run = [segment.block for segment in segments[start : start + period]]
    return Block(run[0].takes, run[-1].gives, tuple(place for block in run for place in block.nodes))


def _covered(row: list[Block]) -> int:
    return sum(len(block.nodes) for block in row)
