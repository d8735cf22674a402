"""What holds for every recording that ships with an example, and how the documents are held against its labels."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tauten.describe.passages import Chunk
from tauten.examples.help_desk.manual import NAME, ensure_manual
from tauten.examples.help_desk.scoring import accepts, stands_in
from tauten.improve.recording import Item, Label, Recording
from tauten.run.retrieval.index import Index


def digest(items: Iterable[Item]) -> str:
    """Of all that a request is: id, inputs, arrival, label, half, tags."""
    told = hashlib.sha256()
    for item in items:
        inputs = sorted((name, str(payload)) for name, payload in item.inputs.items())
        told.update(
            repr((item.id, inputs, item.at_s, item.label, item.split, item.quick, item.tags)).encode()
        )
    return told.hexdigest()


def digest_elsewhere(module: str) -> str:
    """The digest of a recording in a process whose sets and dicts are ordered by another seed."""
    code = f"from examples.kit_recordings import digest\nfrom {module} import recording\nprint(digest(recording()))"
    tests = str(Path(__file__).parents[1])  # not this process's own path: other tests put folders there
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": tests}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@functools.cache
def passages() -> tuple[Chunk, ...]:
    """Every passage of the documents."""
    ensure_manual()
    return tuple(Index.open(NAME))


def held(chunk: Chunk) -> str:
    return "\n".join([chunk.text, *chunk.code])


def answered_by(label: Label) -> list[Chunk]:
    """The passages at a label's places that hold what it accepts."""
    return [
        each
        for each in passages()
        if stands_in(label, each.source, each.titles) and accepts(label, held(each))
    ]


def accepted_share(label: Label, step: int = 7) -> float:
    """The share of other documents' passages that a label accepts, of every so many."""
    own = {document.source for document in label.documents}
    others = [each for each in passages()[::step] if each.source not in own]
    return sum(accepts(label, held(each)) for each in others) / len(others)


def texts(recording: Recording, split: str) -> set[str]:
    return {
        str(payload).casefold()
        for item in recording
        if item.split == split
        for payload in item.inputs.values()
    }
