"""The parent's side of a language model's worker: start, talk, notice its death, end it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import IO, Any

from tauten.errors import BackendError, MachineError, PlanError, StoreError, TautenError
from tauten.run.backends import _frames
from tauten.run.backends._llm_config import WorkerConfig

_READ_BYTES = 1 << 18
_GRACE_S = 2.0  # the worker sees the end after its step: 0.1 s, several times that on a busy machine
_CAUSES = {"E325": StoreError, "E120": PlanError, "E122": PlanError}

Answer = dict[str, Any] | TautenError


class Worker:
    """One worker process and the streams in it. Belongs to one event loop."""

    def __init__(self, config: WorkerConfig) -> None:
        self.config = config
        self.loop = asyncio.get_running_loop()
        self.streams: dict[int, asyncio.Queue[Answer]] = {}
        self.left: dict[int, float] = {}  # closed ones, since when, until the engine has dropped them
        self.facts: dict[str, str] = {}
        self.alive = False
        self._ready: asyncio.Future[None] = self.loop.create_future()
        self._splitter = _frames.Splitter()
        self._unsent = bytearray()
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process; kill() closes it
        with theirs:
            self._process = _spawn(theirs.fileno(), self._stderr)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def start(self) -> None:
        """Wait until the model is loaded; raises what the worker could not do."""
        self.alive = True
        self.loop.add_reader(self._socket, self._on_readable)
        self._send(self.config)
        try:
            await self._ready
        except BaseException:
            await self.stop()
            raise

    def open(self, id: int, item: Any) -> asyncio.Queue[Answer]:
        """Send one request; its answers come through the queue."""
        self.streams[id] = asyncio.Queue()
        self._send({"id": id, "item": item})
        return self.streams[id]

    def cancel(self, id: int) -> None:
        """Ask the engine to drop a request; the stream counts as open until it says that it has."""
        if self.alive and id in self.streams:
            self.left[id] = monotonic()
            self._send({"cancel": id})

    def _send(self, message: Any) -> None:
        waiting = bool(self._unsent)
        self._unsent += _frames.encode(message)
        if not waiting:
            self._on_writable()

    def _on_writable(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
            del self._unsent[:sent]
        except BlockingIOError:
            pass  # its buffer is full: the writer below goes on when there is room
        except OSError:
            self._unsent.clear()  # it is gone; the reader says so to all streams
        if self._unsent:
            self.loop.add_writer(self._socket, self._on_writable)
        else:
            self.loop.remove_writer(self._socket)

    def _on_readable(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost(self._last_words())
            return
        for message in self._splitter.feed(data):
            for each in message if isinstance(message, list) else [message]:
                self._take(each)

    def _take(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self.facts = message["ready"]
            self._ready.set_result(None)
        elif "failed" in message:
            self._ready.set_exception(_failed(message))
        elif "ended" in message:
            self._lost(message["ended"])
        elif (queue := self.streams.get(message["id"])) is not None:
            if message.get("done") or "error" in message:
                del self.streams[message["id"]]
                self.left.pop(message["id"], None)
            queue.put_nowait(message)

    def _lost(self, why: str) -> None:
        """The worker ended: every open stream fails, and nobody may start another here."""
        self._detach()
        error = BackendError(
            f"the worker of {self.config.model} ended: {why}",
            help="send the request again: the next one starts a new worker",
        )
        for queue in self.streams.values():
            queue.put_nowait(error)
        self.streams.clear()
        self.left.clear()
        if not self._ready.done():
            self._ready.set_exception(error)

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "it was killed, or ran out of memory"

    def _detach(self) -> None:
        if self.alive:
            self.alive = False
            self.loop.remove_reader(self._socket)
            self.loop.remove_writer(self._socket)

    async def stop(self) -> None:
        """Close the socket, which ends the worker after its step; end it by force when it takes too long."""
        self._detach()
        self._socket.close()
        until = self.loop.time() + _GRACE_S
        while self._process.poll() is None and self.loop.time() < until:
            await asyncio.sleep(0.01)
        self.kill()

    def kill(self) -> None:
        """End the process now and collect it. Needs no event loop."""
        self._socket.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._stderr.close()


def _spawn(fd: int, stderr: IO[bytes]) -> subprocess.Popen[bytes]:
    # -P: a file called openvino.py in the user's folder must not be taken for the library.
    command = [sys.executable, "-P", "-m", "tauten.run.backends._llm_worker", str(fd), str(os.getpid())]
    package = str(
        Path(__file__).parents[3]
    )  # the folder that holds the package: -P leaves out the current one
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    try:
        return subprocess.Popen(
            command,
            pass_fds=[fd],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    except OSError as error:
        raise MachineError(
            f"cannot start a worker process: {error}", help="free memory or processes", code="E303"
        ) from error


def _failed(message: dict[str, Any]) -> TautenError:
    kind = _CAUSES.get(message["code"], MachineError)
    return kind(message["failed"], help=message["help"], code=message["code"])
