"""The parent's side of a process that measures: start it, ask it one thing at a time, notice its death, end it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from tauten.errors import (
    BackendError,
    InputError,
    MachineError,
    PlanError,
    StoreError,
    TautenError,
)
from tauten.improve.measuring import wire

_GRACE_S = 2.0  # an engine that closes well does so at once
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_CLASSES: dict[str, type[TautenError]] = {"1": PlanError, "2": InputError}
_STORE = ("E310", "E325")


class Measurer(Protocol):
    """What measures one model when it is asked to: a process, or its double in a test."""

    async def ask(self, message: Mapping[str, Any], timeout_s: float) -> Any:
        """What it answers, as plain data; raises what it could not do."""
        ...

    async def end(self) -> None:
        """Let go of the model and of all that it took. May be called twice."""
        ...


class Process:
    """A fresh interpreter that runs `child`. Belongs to one event loop."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        err: IO[bytes],
    ) -> None:
        self._process = process
        self._reader, self._writer = streams
        self._err = err
        self._over = ""  # why it was ended

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, message: Mapping[str, Any], timeout_s: float) -> Any:
        """What it answers; after `timeout_s`, or when it dies, it is ended and a BackendError raised."""
        if self._over:
            raise _gone(self._over)
        try:
            answer = await asyncio.wait_for(self._exchange(message), timeout_s)
        except TimeoutError as error:
            await self.end(f"it gave no answer within {timeout_s:g} s")
            raise _gone(self._over) from error
        except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
            await self.end(await self._last_words())
            raise _gone(self._over) from error
        if "failed" in answer:
            raise _failed(answer)
        return answer["did"]

    async def _exchange(self, message: Mapping[str, Any]) -> Any:
        self._writer.write(wire.encode(message))
        await self._writer.drain()
        size = wire.size_of(await self._reader.readexactly(wire.HEAD.size))
        return wire.decode(await self._reader.readexactly(size))

    async def _last_words(self) -> str:
        try:
            code = await asyncio.wait_for(self._process.wait(), _GRACE_S)
        except TimeoutError:
            return "it closed its socket"
        self._err.seek(0)
        lines = self._err.read().decode(errors="replace").strip().splitlines()
        if code < 0 or not lines:
            return f"signal {-code}, maybe for want of memory" if code < 0 else f"exit {code}"
        return lines[-1][:200]

    async def end(self, why: str = "it was told to") -> None:
        """Close the socket, which ends it; by force when that takes too long."""
        if self._over:
            return
        self._over = why
        self._writer.close()
        try:
            await asyncio.wait_for(self._process.wait(), _GRACE_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        finally:
            self._err.close()


async def started() -> Process:
    """A new process that waits to be told; raises MachineError."""
    ours, theirs = socket.socketpair()
    err = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process; end() closes it
    # -P: a file called openvino.py in the user's folder must not be taken for the library.
    command = [sys.executable, "-P", "-m", "tauten.improve.measuring.child"]
    package = str(
        Path(__file__).parents[3]
    )  # the folder that holds the package: -P leaves out the current one
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    with theirs:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                str(theirs.fileno()),
                str(os.getpid()),
                pass_fds=[theirs.fileno()],
                env={**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(paths)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=err,
            )
        except OSError as error:
            ours.close()
            err.close()
            raise MachineError(
                f"cannot start a process: {error}", help="free memory or processes", code="E303"
            ) from error
    try:
        return Process(process, await asyncio.open_connection(sock=ours), err)
    except BaseException:
        process.kill()
        await process.wait()
        err.close()
        raise


def _gone(why: str) -> BackendError:
    return BackendError(
        f"the process that measured ended: {why}", help="measure smaller batches, or free memory"
    )


def _failed(answer: Mapping[str, Any]) -> TautenError:
    """The child's error as one of ours, of the class that its code belongs to."""
    code = str(answer["code"])
    if code in _STORE:
        return StoreError(answer["failed"], help=answer["help"], code=code)
    kind = _CLASSES.get(code[1:2], MachineError if code.startswith("E3") else BackendError)
    return kind(answer["failed"], help=answer["help"], code=code)
