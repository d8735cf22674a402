"""The index that the chat answers from, and the handbooks that ship with it.

    python -m tauten.examples.live_chat.library     puts in what is not there yet

The index is made empty when it is first needed; documents come in one by one, by the workflow `add_document`.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tauten.describe.payload import Payload
from tauten.examples.indexed import opened
from tauten.examples.live_chat.handbook import HALVES, Handbook, handbook, handbooks
from tauten.examples.live_chat.rendered import files
from tauten.plan.plan import load_plan
from tauten.run.ambient import run_async
from tauten.run.engine import Engine
from tauten.run.retrieval.ranking import IndexSettings

NAME = "handbooks-1"  # another number where handbooks are drawn or cut in another way
HERE = Path(__file__).parent
SETTINGS = IndexSettings(
    foreign=(), foreign_errors=(), refuse_below=0.3
)  # names and sentences decide; lists: Python's
Say = Callable[[str], None]


documents = opened(NAME, SETTINGS)


def shipped() -> list[Handbook]:
    """The handbooks of both halves."""
    return [each for half in HALVES for each in handbooks(half)]


def newcomers() -> list[Handbook]:
    """Handbooks that are not in the library: they come in while the chat is being used."""
    return [
        handbook("dev", "Otter 19", "boat winch", "pdf"),
        handbook("held_out", "Falcon 23", "drone dock", "scan"),
        handbook("dev", "Magpie 5", "coin counter", "picture"),
    ]


def missing(of: Iterable[Handbook]) -> list[tuple[str, Payload]]:
    """The files of handbooks that the index does not hold."""
    documents.refresh()
    held = documents.sources
    return [(name, file) for each in of for name, file in files(each) if name not in held]


def ensure_library(say: Say | None = None, of: Iterable[Handbook] | None = None) -> int:
    """Put in what is not there yet; says how many documents that were."""
    wanted = missing(shipped() if of is None else of)
    if wanted:
        run_async(_fill(wanted, say or (lambda said: None)))
    return len(wanted)


async def _fill(wanted: list[tuple[str, Payload]], say: Say) -> None:
    from tauten.examples.live_chat.adding import add_document

    async with Engine() as engine:
        await engine.open(add_document, load_plan(HERE / "adding.toml"))
        for count, (name, file) in enumerate(wanted, 1):
            added = (await engine.run(inputs_of(name, file))).value
            say(f"reading handbooks: {count} of {len(wanted)}   {name}, {added.chunks} passages")


def inputs_of(name: str, file: Payload) -> Mapping[str, Any]:
    """What `add_document` takes."""
    return {"file": file, "name": name}


if __name__ == "__main__":
    from tauten.examples.live_chat.library import (
        ensure_library as ensure,
    )  # not a second index of this module's

    print(f"{ensure(print)} documents were added")
