"""The process in which one model is measured alone: ``python -m tauten.improve.measuring.child FD PARENT``.

It obeys one message at a time over the socket FD, and ends when that closes or when its parent dies. One BLAS
thread: what an engine computes must not wait for threads of numpy's.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from tauten.errors import TautenError
from tauten.improve.measuring import wire
from tauten.improve.measuring.bench import Bench
from tauten.improve.measuring.peaks import measured_peaks
from tauten.improve.measuring.prober import Prober
from tauten.plan.hardware import Hardware
from tauten.run.contracts import ModelSpec

_PR_SET_PDEATHSIG = 1


class Obedient:
    """Does what a message says, and answers with plain data."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.prober: Prober | None = None

    async def answer(self, message: Mapping[str, Any]) -> Any:
        """One of ``open``, ``run``, ``peaks`` and ``probe``; raises what the backend raises."""
        if "open" in message:
            spec = msgspec.convert(message["spec"], ModelSpec, dec_hook=lambda kind, value: kind(value))
            return await self.bench.open(message["open"], spec, message["items"])
        if "run" in message:
            return await self.bench.run(message["run"])
        if "peaks" in message:
            return measured_peaks(msgspec.convert(message["peaks"], Hardware))
        self.prober = self.prober or Prober()
        return self.prober.slice()


async def serve(fd: int) -> None:
    """Answer until the other end closes."""
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=fd))
    obedient = Obedient()
    try:
        while True:
            try:
                body = await reader.readexactly(wire.size_of(await reader.readexactly(wire.HEAD.size)))
            except (asyncio.IncompleteReadError, ConnectionError):
                return  # the parent has what it wanted, or is gone
            writer.write(wire.encode(await _answered(obedient, wire.decode(body))))
            await writer.drain()
    finally:
        await obedient.bench.close()
        writer.close()


async def _answered(obedient: Obedient, message: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"did": await obedient.answer(message)}
    except TautenError as error:
        return {"failed": error.message, "help": error.help, "code": error.code}
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent tells it
        return {"failed": f"{type(error).__name__}: {error}", "help": "", "code": ""}


def main(fd: int, parent: int) -> int:
    """Ctrl-C is the parent's to handle; if it dies without a word, the kernel ends this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent:
        asyncio.run(serve(fd))
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
