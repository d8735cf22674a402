"""A workflow as text and as a picture (SVG, self-contained, light and dark)."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from tauten.describe.graph import FromInput, FromStage, Graph, Listed, Literal, Source, Stage
from tauten.describe.ports import PortType

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 168, 44, 56, 22  # pixels: a 20-letter name fits a box


def as_text(name: str, inputs: Mapping[str, PortType], graph: Graph | None) -> str:
    """One line a stage, in the order they were written."""
    head = [f"{name}  ({', '.join(f'{key}: {port}' for key, port in inputs.items())})"]
    if graph is None:
        return f"{head[0]}\n  async def: the graph is observed as requests run"
    width = max((len(name) for name in graph.stages), default=0)
    lines = [
        f"  {stage.name:<{width}}  {_inputs(graph, stage)}  -> {stage.output}"
        for stage in graph.stages.values()
    ]
    return "\n".join([*head, *lines, f"  returns {_show(graph.result)} ({graph.output})  graph {graph.hash}"])


def _inputs(graph: Graph, stage: Stage) -> str:
    parts = []
    for port, source in stage.inputs.items():
        streamed = isinstance(source, FromStage) and graph.stages[source.name].output.stream
        parts.append(f"{_show(source)} {'~>' if streamed else '->'} {port}")
    return f"{_word(stage)}({', '.join(parts)})"


def _word(stage: Stage) -> str:
    """What it does: its kind, and how it chooses where it says so."""
    policy = stage.params.get("policy", "") if stage.control == "choose" else ""
    return " ".join(filter(None, [stage.control or stage.kind.name, policy and f"by {policy}"]))


def _show(source: Source) -> str:
    if isinstance(source, FromInput):
        return source.name
    if isinstance(source, FromStage):
        return f"{source.name}.{source.attribute}" if source.attribute else source.name
    if isinstance(source, Listed):
        return f"[{', '.join(_show(each) for each in source.members)}]"
    text = repr(source.value)
    return text if len(text) <= 24 else text[:21] + "..."


def as_svg(name: str, graph: Graph | None) -> str:
    """Boxes in columns by depth, arrows from left to right; streamed edges are dashed."""
    if graph is None:
        return _frame(320, 60, _box(8, 8, name, "graph observed"))
    nodes = [*graph.inputs, *graph.stages]
    depth = _depths(graph)
    places = _places(nodes, depth)
    body = [_arrow(places[a], places[b], dashed) for a, b, dashed in _edges(graph)]
    body += [_box(*places[name], name, str(graph.inputs[name]), kind="input") for name in graph.inputs]
    body += [_box(*places[stage.name], stage.name, _note(stage)) for stage in graph.stages.values()]
    width = max(x for x, _ in places.values()) + _WIDTH + 8
    height = max(y for _, y in places.values()) + _HEIGHT + 8
    return _frame(width, height, "".join(body))


def _note(stage: Stage) -> str:
    chooses = stage.control == "choose" and stage.params.get("policy")
    return _word(stage) if chooses else str(stage.output)


def _edges(graph: Graph) -> list[tuple[str, str, bool]]:
    found = []
    for stage in graph.stages.values():
        for source in stage.inputs.values():
            for leaf in _leaves(source):
                streamed = leaf in graph.stages and graph.stages[leaf].output.stream
                found.append((leaf, stage.name, streamed))
    return list(dict.fromkeys(found))


def _leaves(source: Source) -> list[str]:
    if isinstance(source, FromInput | FromStage):
        return [source.name]
    if isinstance(source, Literal):
        return []
    return [leaf for member in source.members for leaf in _leaves(member)]


def _depths(graph: Graph) -> dict[str, int]:
    depth = dict.fromkeys(graph.inputs, 0)
    for stage in graph.stages.values():
        leaves = [leaf for source in stage.inputs.values() for leaf in _leaves(source)]
        depth[stage.name] = 1 + max((depth.get(leaf, 0) for leaf in leaves), default=0)
    return depth


def _places(nodes: list[str], depth: dict[str, int]) -> dict[str, tuple[int, int]]:
    rows: dict[int, int] = {}
    places = {}
    for name in nodes:
        column = depth.get(name, 0)
        row = rows.get(column, 0)
        rows[column] = row + 1
        places[name] = (8 + column * (_WIDTH + _GAP_X), 8 + row * (_HEIGHT + _GAP_Y))
    return places


def _arrow(start: tuple[int, int], end: tuple[int, int], dashed: bool) -> str:
    x1, y1 = start[0] + _WIDTH, start[1] + _HEIGHT // 2
    x2, y2 = end[0], end[1] + _HEIGHT // 2
    bend = (x1 + x2) // 2
    dash = ' stroke-dasharray="5 3"' if dashed else ""
    path = f"M{x1},{y1} C{bend},{y1} {bend},{y2} {x2 - 6},{y2}"
    return f'<path class="edge" d="{path}"{dash} marker-end="url(#tip)"/>'


def _box(x: int, y: int, name: str, note: str, kind: str = "stage") -> str:
    note = note if len(note) <= 26 else note[:25] + "…"
    return (
        f'<g><rect class="{kind}" x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6"/>'
        f'<text x="{x + 10}" y="{y + 18}">{escape(name)}</text>'
        f'<text class="note" x="{x + 10}" y="{y + 34}">{escape(note)}</text></g>'
    )


def _frame(width: int, height: int, body: str) -> str:
    style = (
        "text{font:13px system-ui,sans-serif;fill:#1b1f24}.note{font-size:11px;fill:#59636e}"
        ".stage{fill:#eef4ff;stroke:#5b7fc7}.input{fill:#f4f4f2;stroke:#8c8c86}"
        ".edge{fill:none;stroke:#6b7280;stroke-width:1.4}"
        "@media(prefers-color-scheme:dark){text{fill:#e6e6e6}.note{fill:#a5adba}"
        ".stage{fill:#1c2740}.input{fill:#2a2a28}}"
    )
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#6b7280"/></marker></defs>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}"><style>{style}</style>{tip}{body}</svg>'
    )
