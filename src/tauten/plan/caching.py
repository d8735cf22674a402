"""What a plan says of caches: how large they are, and which stages may have one."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from tauten.describe.graph import FromInput, FromStage, Graph, Literal, Source, Stage
from tauten.describe.stage import StageKind
from tauten.errors import PlanError
from tauten.plan.likeness import check_likeness, wrongs
from tauten.plan.plan import CachePlan, StagePlan

RESULTS_BYTES = 64_000_000  # of `cache = true`: some 30,000 embeddings or 10,000 written answers
DISK_BYTES = 4_000_000_000  # of the tier on disk: what is kept for days, on machines with tens of GB free
VIEWS_BYTES = 256_000_000  # of `cache_view = true`: some seventy pictures of 1280 by 960
_PLAIN = CachePlan()
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)")


def cache_bytes(said: bool | str | CachePlan, usual: int, where: str = "", key: str = "cache") -> int:
    """Bytes of a cache in memory as a plan says it; 0 where there is none.

    >>> cache_bytes("256MB", RESULTS_BYTES), cache_bytes(False, RESULTS_BYTES)
    (256000000, 0)
    """
    if isinstance(said, CachePlan):
        said = said.size or True
    if isinstance(said, bool):
        return usual if said else 0
    found = _SIZE.fullmatch(said)
    size = float(found[1]) * _UNITS.get(found[2], 0) if found else 0.0
    if not 1 <= size < math.inf:
        raise PlanError(
            f"{key} = {said!r} is no size",
            help=f'write {key} = true, or a size with a unit, such as "256MB"; units: {", ".join(_UNITS)}',
            where=where,
            code="E134",
        )
    return int(size)


def cache_rules(said: bool | str | CachePlan) -> CachePlan:
    """The rules of a cache, whichever way a plan says it.

    >>> cache_rules("256MB").tiers
    ('memory',)
    """
    if isinstance(said, CachePlan):
        return said
    return CachePlan(size=said) if isinstance(said, str) else _PLAIN


def check_rules(said: bool | str | CachePlan, where: str = "") -> None:
    """Raise PlanError E135 for rules that contradict one another, E134 for a size that is none."""
    rules = cache_rules(said)
    cache_bytes(rules.disk or True, DISK_BYTES, where, "cache.disk")
    for wrong, why, help in _wrongs(rules):
        if wrong:
            raise PlanError(f"cache: {why}", help=help, where=where, code="E135")
    for each in wrongs(rules):
        raise PlanError(f"cache: {each.why}", help=each.help, where=where, code="E135")


def _wrongs(rules: CachePlan) -> list[tuple[bool, str, str]]:
    times = {key: getattr(rules, key) for key in ("ttl_s", "refresh", "stale_s", "negative_s")}
    below = next((key for key, value in times.items() if not 0 <= value < math.inf), "")
    aged = next((key for key in ("refresh", "stale_s") if times[key] and not rules.ttl_s), "")
    return [
        (not rules.tiers, "tiers = [] keeps nothing", "leave `tiers` out, or `cache` as a whole"),
        (
            len(set(rules.tiers)) < len(rules.tiers),
            f"tiers = {list(rules.tiers)} names one twice",
            "name each tier once, the quickest first",
        ),
        (bool(below), f"{below} = {times.get(below)} is no span of time", "give 0 or more seconds"),
        (bool(aged), f"{aged} = {times.get(aged)} without ttl_s", "say ttl_s: without it nothing grows old"),
        (
            bool(rules.disk) and "disk" not in rules.tiers,
            f'disk = "{rules.disk}" and no tier "disk"',
            'write tiers = ["memory", "disk"]',
        ),
    ]


def check_caches(
    name: str,
    kind: StageKind[..., Any],
    chosen: StagePlan,
    given: Mapping[str, Any],
    *,
    control: str = "",
    streams: bool = False,
) -> None:
    """Raise PlanError E133 for a stage that may not be cached, E134 for a size that is none.

    `given` are its settings, and those of its inputs that are known before a request; `streams` says that one of
    its inputs comes in increments, and is read so.
    """
    where = f"stage '{name}'"
    cache_bytes(chosen.cache_view, VIEWS_BYTES, where, "cache_view")
    check_rules(chosen.cache, where)
    if chosen.cache_view and not kind.views:
        raise PlanError(
            f"stage '{name}' decodes nothing: cache_view has nothing to keep",
            help="leave cache_view out; `cache` keeps what a stage gives",
            code="E133",
        )
    if cache_bytes(chosen.cache, RESULTS_BYTES, where) and (
        reason := uncached(kind, given, control, streams)
    ):
        why, help = reason
        raise PlanError(f"stage '{name}' cannot be cached: {why}", help=help, code="E133")
    check_likeness(where, kind, cache_rules(chosen.cache))


def uncached(
    kind: StageKind[..., Any], given: Mapping[str, Any], control: str = "", streams: bool = False
) -> tuple[str, str] | None:
    """Why a stage may not be cached, and what to do; None where it may."""
    if control not in ("", "map"):
        return "it only hands values on", "cache the stages around it"
    if not kind.pure:
        return (
            'it may have effects (effects="once")',
            "write pure=True where equal inputs always give equal results, and running it leaves no trace",
        )
    if kind.session_param:
        return "what it gives depends on the session", "take what it needs of the session as an input"
    if streams:
        return "one of its inputs comes as a stream", "cache the stage that gives the stream"
    if draws(given):
        return "it draws by lot (temperature above 0 and no seed)", "set temperature = 0, or a seed"
    return None


def draws(given: Mapping[str, Any]) -> bool:
    """Whether a stage with these settings and inputs draws by lot: each caller is owed a draw of its own.

    What only a request will tell (a `Source`) may or may not: that is asked again with the request.
    """
    temperature = given.get("temperature")
    return bool(temperature) and not isinstance(temperature, Source) and given.get("seed") is None


def check_drawn(graph: Graph, stage: Stage, chosen: StagePlan, params: Mapping[str, Any]) -> None:
    """As `check_caches`, of a stage of a drawing."""
    given = {**params, **known(stage)}
    check_caches(
        stage.name, stage.kind, chosen, given, control=stage.control, streams=reads_stream(graph, stage)
    )


def known(stage: Stage) -> dict[str, Any]:
    """Its inputs: literal values where the workflow writes them, the others as their sources."""
    return {
        name: source.value if isinstance(source, Literal) else source for name, source in stage.inputs.items()
    }


def reads_stream(graph: Graph, stage: Stage) -> bool:
    """Whether one of its inputs comes in increments, and is read so."""
    return any(_streams(graph, stage.inputs.get(name)) for name in stage.kind.streamed)


def _streams(graph: Graph, source: Source | None) -> bool:
    if isinstance(source, FromInput):
        return source.name in graph.inputs and graph.inputs[source.name].stream
    return isinstance(source, FromStage) and graph.stages[source.name].output.stream
