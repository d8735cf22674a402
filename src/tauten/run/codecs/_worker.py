"""A decode worker: a process that reads jobs from a socket and writes arrays into lent memory.

Messages are MessagePack behind a 4-byte length. For each job the worker decodes, says how many bytes
the arrays take, receives the descriptor of a memory file that the engine owns, and copies them in. It
owns nothing, so that it may die at any instant and leave nothing behind.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import mmap
import os
import signal
import socket
import struct
import sys
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec

from tauten.describe.sheets import Sheets
from tauten.describe.view import Frames, Pixels, Samples
from tauten.errors import PlanError, TautenError
from tauten.run.contracts import find

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LENGTH = struct.Struct("!I")
_ALIGN = 64  # bytes: a cache line, so that arrays behind one another start as NumPy's own would


class Job(msgspec.Struct):
    """One decode, sent to the worker."""

    codec: str
    data: bytes
    type: str
    params: dict[str, int | float | str | bool]
    name: str


class Picture(msgspec.Struct):
    """`Pixels` without its array."""

    width: int
    height: int


class Result(msgspec.Struct):
    """What came out: the arrays' shapes, and the rest of the view. Or an error, by class name."""

    started: float
    ended: float
    kind: str = ""
    name: str = ""
    arrays: list[tuple[list[int], str, int]] = []  # shape, dtype, offset
    size_bytes: int = 0
    rate: int = 0
    pictures: list[Picture] = []
    times_s: list[float] = []
    meta: dict[str, Any] = {}
    packed: bytes = b""  # a view that holds no arrays
    error: str = ""
    message: str = ""
    help: str = ""
    code: str = ""


class Done(msgspec.Struct):
    """The arrays are in place; until when the copy took."""

    ended: float


def send(link: socket.socket, message: msgspec.Struct) -> None:
    """Write one message."""
    body = msgspec.msgpack.encode(message)
    link.sendall(_LENGTH.pack(len(body)))
    link.sendall(body)


def receive(link: socket.socket) -> bytes | None:
    """Read one message's bytes; None when the other side is gone."""
    head = _read(link, _LENGTH.size)
    return None if head is None else _read(link, _LENGTH.unpack(head)[0])


def _read(link: socket.socket, size: int) -> bytes | None:
    buffer = bytearray(size)
    view, got = memoryview(buffer), 0
    while got < size:
        count = link.recv_into(view[got:])
        if not count:
            return None
        got += count
    return bytes(buffer)


def pack(value: object, started: float) -> tuple[Result, list[NDArray[Any]]]:
    """Split a view into a message and its arrays; raises PlanError for a view of another type."""
    result = Result(started, 0.0)
    arrays: list[NDArray[Any]] = []
    if isinstance(value, Sheets):
        result.kind, result.packed = "sheets", msgspec.msgpack.encode(value)
    elif isinstance(value, Pixels):
        result.kind, result.name, arrays = "pixels", value.name, [value.array]
        result.pictures = [Picture(value.width, value.height)]
    elif isinstance(value, Samples):
        result.kind, result.name, result.rate = "samples", value.name, value.rate
        arrays = [value.array]
    elif isinstance(value, Frames):
        result.kind, result.name, result.meta = "frames", value.name, value.meta
        result.times_s = value.times_s
        result.pictures = [Picture(pixels.width, pixels.height) for pixels in value.pixels]
        arrays = [pixels.array for pixels in value.pixels]
    else:
        raise PlanError(
            f"a {value.__class__.__name__} cannot come from a decode process",
            help='decode it with decode = "thread"',
            code="E128",
        )
    for array in arrays:
        result.arrays.append((list(array.shape), array.dtype.str, result.size_bytes))
        result.size_bytes += -(-array.nbytes // _ALIGN) * _ALIGN
    return result, arrays


def unpack(result: Result, memory: NDArray[np.uint8]) -> Pixels | Samples | Frames | Sheets:
    """Build the view over `memory`, which keeps it alive; nothing is copied."""
    if result.kind == "sheets":
        return msgspec.msgpack.decode(result.packed, type=Sheets)
    arrays = [_array(memory, *place) for place in result.arrays]
    if result.kind == "samples":
        return Samples(arrays[0], result.rate, result.name)
    names = (
        [result.name] if result.kind == "pixels" else [f"{result.name}@{at:.3f}s" for at in result.times_s]
    )
    pixels = [
        Pixels(array, name, picture.width, picture.height)
        for array, name, picture in zip(arrays, names, result.pictures, strict=True)
    ]
    return pixels[0] if result.kind == "pixels" else Frames(pixels, result.times_s, result.name, result.meta)


def _array(memory: NDArray[np.uint8], shape: list[int], dtype: str, offset: int) -> NDArray[Any]:
    import numpy as np

    size = math.prod(shape) * np.dtype(dtype).itemsize
    return memory[offset : offset + size].view(dtype).reshape(shape)


def _work(job: Job) -> tuple[Result, list[NDArray[Any]]]:
    started = monotonic()
    try:
        value = find("codecs", job.codec)().decode(job.data, job.type, job.params, job.name)
        result, arrays = pack(value, started)
    except TautenError as error:
        result, arrays = Result(started, 0.0), []
        result.error, result.message = error.__class__.__name__, error.message
        result.help, result.code = error.help, error.code
    except Exception as error:  # noqa: BLE001  # a foreign codec's own bug must not cost the process
        result, arrays = Result(started, 0.0), []
        result.error, result.message = "BackendError", f"codec `{job.codec}`: {error!r}"
    result.ended = monotonic()
    return result, arrays


def _copy_into(link: socket.socket, result: Result, arrays: list[NDArray[Any]]) -> None:
    import numpy as np

    _, descriptors, _, _ = socket.recv_fds(link, 1, 1)
    with mmap.mmap(descriptors[0], result.size_bytes) as memory:
        os.close(descriptors[0])
        for array, (shape, dtype, offset) in zip(arrays, result.arrays, strict=True):
            target: NDArray[Any] = np.ndarray(shape, dtype, buffer=memory, offset=offset)
            target[...] = array
            del target  # or the map could not be closed


def main(fd: int) -> None:
    """Serve jobs until the engine closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the engine's to handle; it closes the socket
    decoder = msgspec.msgpack.Decoder(Job)
    with socket.socket(fileno=fd) as link:
        while (body := receive(link)) is not None:
            result, arrays = _work(decoder.decode(body))
            send(link, result)
            if arrays:
                _copy_into(link, result, arrays)
                send(link, Done(monotonic()))


if __name__ == "__main__":
    main(int(sys.argv[1]))
