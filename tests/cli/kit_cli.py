"""Workflows on disk for command lines, and a whole `tauten` process with what it leaves behind."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

FLOW = """
import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
import tauten as tt

MARK = Path(__file__).with_name("ran.txt")

@tt.stage(pure=True)
def upper(text: tt.Text, extra: tt.Json | None = None) -> tt.Text:
    MARK.write_text("ran")
    if text.text == "bad":
        raise ValueError("no bad words")
    return tt.Text(text.text.upper())

@tt.stage(pure=True)
async def twice(text: tt.Text) -> tt.Text:
    await asyncio.sleep(0.002)
    return tt.Text(text.text * 2)

@tt.stage(pure=True)
def words(a: tt.Text, b: tt.Text) -> Iterator[tt.Text]:
    for word in f"{a.text} {b.text}".split():
        yield tt.Text(word + " ")

@tt.workflow(slo=tt.Slo(p95_ms=5000))
def talk(text: tt.Text, extra: tt.Json | None = None) -> tt.Stream[tt.Text]:
    return words(upper(text, extra), twice(text))
"""
SLOW = """
import asyncio, time
from collections.abc import AsyncIterator, Iterator
import tauten as tt

@tt.stage(pure=True)
async def steps(text: tt.Text) -> AsyncIterator[tt.Text]:
    for number in range(100_000):
        yield tt.Text(f"{number}\\n")
        await asyncio.sleep(0.001)

@tt.stage(pure=True)
def blocking(text: tt.Text) -> Iterator[tt.Text]:
    for number in range(100_000):
        yield tt.Text(f"{number}\\n")
        time.sleep(0.001)

@tt.workflow
def drawn(text: tt.Text) -> tt.Stream[tt.Text]:
    return steps(text)

@tt.workflow
def threaded(text: tt.Text) -> tt.Stream[tt.Text]:
    return blocking(text)

@tt.workflow
async def observed(text: tt.Text) -> AsyncIterator[tt.Text]:
    async for each in steps(text):
        yield each
"""


def written(folder: Path, name: str, text: str) -> Path:
    """A file of a user."""
    path = folder / name
    path.write_text(text)
    return path


def plan(folder: Path, body: str, name: str = "other.toml") -> Path:
    """A plan file."""
    return written(folder, name, f'tauten = "plan/1"\n{body}')


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    out: str
    err: str


def command(*words: object) -> list[str]:
    """`tauten ...` as this interpreter runs it."""
    return [sys.executable, "-m", "tauten", *map(str, words)]


def tauten(*words: object, environment: Mapping[str, str] | None = None, given: bytes = b"") -> Ended:
    """Run a whole `tauten` process."""
    done = subprocess.run(
        command(*words),
        input=given,
        capture_output=True,
        env={**os.environ, **(environment or {})},
        timeout=120,
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


@contextmanager
def nothing_left(process: psutil.Process | None = None) -> Iterator[None]:
    """Fail when child processes of this process are there afterwards that were not before."""
    here = process or psutil.Process()
    before = {each.pid for each in here.children(recursive=True)}
    yield
    left = [each for each in here.children(recursive=True) if each.pid not in before]
    assert not left, f"left running: {left}"
