"""Indexes that grow while they are served: what another process commits is searched within a second."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tauten.describe.graph import FromInput, FromStage, Literal, Source
from tauten.errors import MachineError
from tauten.run.workers import in_thread
from tauten.serve.service import Service

FOLLOW_S = 1.0  # between looks: a look reads one small file


async def follow(services: Iterable[Service], say: Callable[..., None], *, every_s: float = FOLLOW_S) -> None:
    """Take over new generations until it is cancelled; one that cannot be read changes nothing, and is told once."""
    indexes, refused = list(indexes_of(services)), set()
    while indexes:
        await asyncio.sleep(every_s)
        for index in indexes:
            try:
                newer = await in_thread(index.refresh)
            except (MachineError, OSError) as error:  # OSError: too many open files, a share that is away
                if index.name not in refused:
                    code, message = getattr(error, "code", ""), getattr(error, "message", str(error))
                    say("index refused", index=index.name, code=code, message=message)
                refused.add(index.name)
                continue
            refused.discard(index.name)
            if newer:
                say("index", name=index.name, chunks=len(index))


def indexes_of(services: Iterable[Service]) -> Iterator[Any]:
    """The indexes that drawn workflows name, once each. What an `async def` workflow opens, nobody sees."""
    seen: set[int] = set()
    for service in services:
        graph = service.workflow.graph
        for stage in graph.stages.values() if graph is not None else ():
            for source in stage.inputs.values():
                for value in _literals(source):
                    if hasattr(value, "refresh") and hasattr(value, "revision") and id(value) not in seen:
                        seen.add(id(value))
                        yield value


def _literals(source: Source) -> Iterator[Any]:
    if isinstance(source, Literal):
        yield from source.value if isinstance(source.value, list | tuple) else [source.value]
    elif not isinstance(source, FromInput | FromStage):
        for member in source.members:
            yield from _literals(member)
