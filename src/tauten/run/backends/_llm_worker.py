"""The worker process of a language model: its engine's steps hold the interpreter lock, so it lives alone.

Started as ``python -m tauten.run.backends._llm_worker FD PARENT``; speaks frames over the socket FD. It ends
when the socket closes, when its parent dies, or when the engine fails.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys
from time import monotonic
from typing import Any

import msgspec

from tauten.errors import MachineError, TautenError
from tauten.run.backends import _frames
from tauten.run.backends._llm_config import WorkerConfig
from tauten.run.backends._llm_engine import Engine, EngineFailed, Message, read_item
from tauten.run.backends._llm_load import load, properties_in_force

_ENGINE_FAILED = 70  # exit code: the engine is beyond repair, a fresh process is needed
_PR_SET_PDEATHSIG = 1
_READ_BYTES = 1 << 16


class _Pipe:
    """Frames to and from the parent; what one step has to say leaves in one write."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._splitter = _frames.Splitter()
        self._out: list[Message] = []

    def send(self, message: Message) -> None:
        self._out.append(message)

    def flush(self) -> None:
        if self._out:
            self._socket.sendall(_frames.encode(self._out))
            self._out = []

    def receive(self, *, wait: bool) -> list[Any]:
        """All messages that are there; with `wait`, until there are some. Raises EOFError at the end.

        All, because a request to stop may lie behind long prompts, and the next look is a step away.
        """
        messages: list[Any] = []
        while self._there(wait=wait and not messages):
            data = self._socket.recv(_READ_BYTES)
            if not data:
                raise EOFError
            messages += self._splitter.feed(data)
        return messages

    def _there(self, *, wait: bool) -> bool:
        return bool(select.select([self._socket], [], [], None if wait else 0)[0])


def main(fd: int, parent: int) -> int:
    if not _tied_to(parent):
        return 0
    pipe = _Pipe(fd)
    try:
        config = msgspec.convert(_first(pipe), WorkerConfig)
        engine = _start(config, pipe)
        return _serve(engine, pipe) if engine else 1
    except (EOFError, ConnectionError):
        return 0  # the parent closed its end or is gone


def _first(pipe: _Pipe) -> Any:
    return pipe.receive(wait=True)[0]


def _start(config: WorkerConfig, pipe: _Pipe) -> Engine | None:
    started = monotonic()
    try:
        loaded = load(config)
        engine = Engine(config, loaded, pipe.send)
        facts = properties_in_force(config)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent raises it
        ours = error if isinstance(error, TautenError) else _not_loaded(config, error)
        pipe.send({"failed": ours.message, "help": ours.help, "code": ours.code})
        pipe.flush()
        return None
    facts |= {"load_s": f"{monotonic() - started:.1f}", "loaded_from": loaded.source}
    pipe.send({"ready": facts})
    pipe.flush()
    return engine


def _not_loaded(config: WorkerConfig, error: Exception) -> TautenError:
    if isinstance(error, ImportError):
        return MachineError(f"{error.name} is not installed", help="pip install 'tauten[local]'", code="E315")
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return MachineError(
        f"OpenVINO GenAI cannot load {config.model!r}: {lines[-1]}",
        help=f"check the file: tauten model verify {config.model}",
        code="E325",
    )


def _serve(engine: Engine, pipe: _Pipe) -> int:
    while True:
        for message in pipe.receive(wait=not engine.busy):
            if "item" in message:
                engine.add(message["id"], read_item(message["item"]))
            else:
                engine.cancel(message["cancel"])
        try:
            if engine.busy:
                engine.step()
        except EngineFailed as error:
            pipe.send({"ended": str(error)})
            return _ENGINE_FAILED
        finally:
            pipe.flush()


def _tied_to(parent: int) -> bool:
    """Ctrl-C is the parent's to handle; if it dies without a word, the kernel ends this process.

    False if the parent was gone before the kernel could be asked.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
