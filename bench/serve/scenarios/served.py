"""The workflows that the scenarios serve: stages of known length, streams, and a replica that can be killed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import tauten as tt
from tauten.errors import BackendError

BATCH_S, ITEM_S, MOST = 0.05, 0.0025, 8  # 114 requests a second in full batches, none of it CPU time
CHILD_S = 0.02  # of one item in a replica's process
CHILD_NAME = "tauten-bench-replica"  # on its command line: how it is found and killed
CHILD = f"""
import sys, time
for line in sys.stdin:
    time.sleep({CHILD_S})
    sys.stdout.write(line)
    sys.stdout.flush()
"""


@tt.stage(pure=True, max_batch=MOST)
def pause(text: list[str]) -> list[str]:
    """A model of known duration that uses no core: what is left is the server."""
    time.sleep(BATCH_S + ITEM_S * len(text))
    return text


@tt.workflow(slo=tt.Slo(p99_ms=500))
def paused(text: str) -> str:
    return pause(text)  # type: ignore[arg-type, return-value]  # batched: lists inside, one item outside


@tt.stage(max_batch=MOST)
def pause_each(text: list[str]) -> list[str]:
    """The same, not called pure: each request is owed a run of its own."""
    time.sleep(BATCH_S + ITEM_S * len(text))
    return text


@tt.workflow(slo=tt.Slo(p99_ms=500))
def paused_each(text: str) -> str:
    return pause_each(text)  # type: ignore[arg-type, return-value]  # batched, as above


@tt.stage(pure=True)
async def parts(text: tt.Text) -> AsyncIterator[tt.Text]:
    """`COUNT BYTES GAP_MS`: so many parts of that size, that far apart; anything else is one part."""
    words = text.text.split()
    count, size, gap_ms = (int(word) for word in words[:3]) if len(words) >= 3 else (1, 1, 0)
    body = "x" * size
    for _ in range(count):
        yield tt.Text(body)
        await asyncio.sleep(gap_ms / 1e3)


@tt.workflow
def streamed(text: tt.Text) -> tt.Stream[tt.Text]:
    return parts(text)


@tt.stage(pure=True)
class Child:
    """A replica whose work is done by a process of its own, as engines that may crash are run."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", CHILD, CHILD_NAME]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, text: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(text.encode() + b"\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except OSError as error:
            raise died() from error
        if not answer:
            raise died()
        return answer.decode().rstrip("\n")

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass  # it died with a question unread
        self.process.kill()
        self.process.wait()


def died() -> BackendError:
    """What a backend raises when it can do nothing more until it is opened anew."""
    error = BackendError("the replica's process died", help="send the request again")
    error.dead = True
    return error


@tt.workflow(slo=tt.Slo(p99_ms=1000))
def mortal(text: str) -> str:
    return Child(text)  # type: ignore[arg-type, return-value]  # a class is a stage
