"""Bodies of ``infer`` over HTTP: a JSON head and, after it, tensors as raw bytes, both ways."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from tauten.errors import InputError, suggest
from tauten.run.oip.tensors import (
    DTYPES,
    Array,
    Buffer,
    aligned,
    datatype_of,
    from_json,
    from_raw,
    size_of,
    to_json,
    to_raw,
    wrong,
)
from tauten.serve.exchange import Reply, TooLarge
from tauten.serve.oip.models import VERSION
from tauten.serve.oip.parameters import parameters

HEAD_LENGTH = "inference-header-content-length"
RAW = "application/octet-stream"
_WORTH_BYTES = 1024  # smaller answers fit one packet as they are
_STEP_BYTES = 256 * 1024  # of an encoded body at a time: the loop is free again within a millisecond
CODINGS = {"gzip": 31, "deflate": 15}  # zlib's words for the two containers


class InputParameters(msgspec.Struct, gc=False):
    binary_data_size: int | None = None
    shared_memory_region: str | None = None


class GivenTensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: InputParameters | None = None
    data: msgspec.Raw = msgspec.Raw()


class OutputParameters(msgspec.Struct, gc=False):
    binary_data: bool | None = None
    classification: int = 0
    shared_memory_region: str | None = None


class WantedTensor(msgspec.Struct, gc=False):
    name: str
    parameters: OutputParameters | None = None


class Head(msgspec.Struct):
    """The JSON of an inference request."""

    inputs: list[GivenTensor]
    outputs: list[WantedTensor] | None = None
    id: str = ""
    parameters: Any = None  # an object as it comes; `Parameters` once it was read


class ResultParameters(msgspec.Struct, gc=False):
    binary_data_size: int


class ResultTensor(msgspec.Struct, omit_defaults=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: ResultParameters | None = None
    data: list[Any] | None = None


class Result(msgspec.Struct, omit_defaults=True):
    """The JSON of an inference answer."""

    model_name: str
    outputs: list[ResultTensor]
    model_version: str = ""
    id: str = ""


D = TypeVar("D", bound=dict[str, Any])

_heads = msgspec.json.Decoder(Head)
_encoder = msgspec.json.Encoder()
_layouts: dict[bytes, Layout] = {}
_texts: dict[tuple[Any, ...], bytes] = {}
_KNOWN = 256  # heads kept: shapes and models of a server's clients, a few hundred bytes each
_COPIED = 16384  # bytes of an output: a copy of less costs less than the objects of a view
_KNOWN_BYTES = 2048  # a longer head is more than names and shapes


# -- what came -----------------------------------------------------------------------------------------------


def read(body: bytes, head_length: str | None) -> tuple[Head, dict[str, Array]]:
    """The head and its tensors; raises InputError E295 where they do not hold together."""
    end = len(body) if head_length is None else _length(head_length, len(body))
    text = body if head_length is None else body[:end]
    layout = layout_of(body, end)
    if layout is not None:
        return layout.head, layout.tensors(body, {})
    head = _decode(text)
    tensors: dict[str, Array] = {}
    at = end
    for given in head.inputs:
        if given.name in tensors:
            raise wrong(f"input {given.name[:80]!r} is given twice", "give it once")
        size = None if given.parameters is None else _binary_size(given, len(body) - at)
        if size is None:
            tensors[given.name] = _from_head(given)
        else:
            tensors[given.name] = from_raw(given.name, given.datatype, given.shape, body, at, size)
            at += size
    if at != len(body):
        raise wrong(f"{len(body) - at} bytes follow the last tensor", "say each tensor's binary_data_size")
    if head_length is not None and end <= _KNOWN_BYTES and not head.id:
        _remember(text, head, len(body) - end)
    return head, tensors


def _decode(text: bytes) -> Head:
    try:
        head = _heads.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise wrong(f"the request is no inference request: {error}", "see /openapi.json") from None
    if head.parameters is not None:
        head.parameters = parameters(head.parameters)
    return head


class Layout:
    """Where the tensors of a head lie that was read before: clients send the same one again and again."""

    __slots__ = ("head", "parts", "raw", "text", "whole")

    def __init__(self, head: Head, text: bytes, size: int) -> None:
        self.head = head
        self.text = text
        self.whole = len(text) + size  # bytes of a body
        self.raw = raw_names(head)  # the outputs that it asks for, where all are raw
        self.parts: list[tuple[str, Any, tuple[int, ...], int, int]] = []
        at = len(text)
        for given in head.inputs:
            dtype, count = DTYPES[given.datatype], math.prod(given.shape)
            self.parts.append((given.name, dtype, tuple(given.shape), count, at))
            at += count * dtype.itemsize

    def tensors(self, body: bytes, into: D, start: int = 0) -> D:
        """The tensors of a body that begins at `start`, put into a mapping by their names."""
        for name, dtype, shape, count, at in self.parts:
            into[name] = aligned(np.frombuffer(body, dtype, count, start + at)).reshape(shape)
        return into

    def joined(self, bodies: Sequence[tuple[bytes, int]], into: D) -> D:
        """The tensors of several bodies, each with where it begins, one after the other on their first axis."""
        if len(bodies) == 1:
            return self.tensors(bodies[0][0], into, bodies[0][1])
        for name, dtype, shape, count, at in self.parts:
            size = count * dtype.itemsize
            rows = b"".join([memoryview(body)[start + at : start + at + size] for body, start in bodies])
            into[name] = np.frombuffer(rows, dtype).reshape((len(bodies) * shape[0], *shape[1:]))
        return into


def layout_of(body: bytes, end: int) -> Layout | None:
    """The layout of a body with a head of `end` bytes, where that was read before."""
    layout = _layouts.get(body[:end]) if end <= _KNOWN_BYTES else None
    return layout if layout is not None and len(body) == layout.whole else None


def _remember(text: bytes, head: Head, size: int) -> None:
    """Keep a head that was found right, where every tensor is numbers and raw."""
    for given in head.inputs:
        raw = given.parameters is not None and given.parameters.binary_data_size
        if not raw or given.datatype not in DTYPES or given.datatype == "BOOL":
            return
    if len(_layouts) >= _KNOWN:
        _layouts.clear()
    _layouts[text] = Layout(head, text, size)


def _length(text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12 and 0 < int(text) <= most):
        raise wrong(
            f"Inference-Header-Content-Length {text[:20]!r}; the body has {most} bytes",
            "say how long the JSON at its beginning is",
        )
    return int(text)


def _binary_size(given: GivenTensor, left: int) -> int | None:
    parameters = given.parameters
    assert parameters is not None  # the caller looked
    if parameters.shared_memory_region is not None:
        raise no_shared_memory()
    size = parameters.binary_data_size
    if size is not None and not 0 <= size <= left:
        raise wrong(f"input {given.name[:80]!r}: binary_data_size {size}; {left} bytes are left in the body")
    return size


def _from_head(given: GivenTensor) -> Array:
    if not given.data:
        raise wrong(f"input {given.name[:80]!r} has neither data nor binary_data_size", "send one of them")
    return from_json(given.name, given.datatype, given.shape, given.data)


def no_shared_memory() -> InputError:
    return InputError(
        "this server shares no memory with its clients", help="send tensors in the request", code="E297"
    )


async def decoded(body: bytes, encoding: str, limit_bytes: int) -> bytes:
    """A compressed body as it was; raises TooLarge before it holds more than `limit_bytes`."""
    if encoding in ("", "identity"):
        return body
    if encoding not in CODINGS:
        raise InputError(
            f"content-encoding {encoding[:40]!r}", help="send gzip, deflate or neither", code="E299"
        )
    machine = zlib.decompressobj(CODINGS[encoding])
    parts: list[bytes] = []
    size = 0
    for start in range(0, len(body), _STEP_BYTES):
        piece = body[start : start + _STEP_BYTES]
        while piece and not machine.eof:
            parts.append(_inflated(machine, piece))
            size += len(parts[-1])
            if size > limit_bytes:
                raise _bomb(limit_bytes)
            piece = machine.unconsumed_tail
            await asyncio.sleep(0)  # others have their turn
    if not machine.eof or machine.unused_data:
        raise InputError(
            "the compressed body is cut short, or goes on after its end", help="send it whole", code="E299"
        )
    return b"".join(parts)


def _inflated(machine: Any, piece: bytes) -> bytes:
    try:
        return machine.decompress(piece, _STEP_BYTES)  # type: ignore[no-any-return]
    except zlib.error as error:
        raise InputError(
            f"the body is not compressed as content-encoding says: {error}",
            help="send gzip, deflate or neither",
            code="E299",
        ) from None


def _bomb(limit_bytes: int) -> TooLarge:
    return TooLarge(
        f"a compressed body of more than {limit_bytes} bytes",
        help="send less, or start the server with a larger --max-body-mb",
    )


# -- what goes back ------------------------------------------------------------------------------------------


def written(model: str, head: Head, results: Mapping[str, Array]) -> Reply:
    """The answer: the wanted outputs in the wanted order, raw where that was asked."""
    names = None if head.id else raw_names(head)
    quick = None if names is None else all_raw(model, names, results)
    if quick is not None:
        text, body = quick
        return Reply(body, media_type=RAW, headers=[(HEAD_LENGTH, str(len(text)))])
    binary = bool(head.parameters is not None and head.parameters.binary_data_output)
    tensors: list[ResultTensor] = []
    raws: list[Any] = [b""]
    for name, as_raw in _wanted(head.outputs, results, binary):
        array = results[name]
        made = ResultTensor(name, datatype_of(array), array.shape)
        if as_raw:
            raw = to_raw(array)
            raws.append(raw)
            made.parameters = ResultParameters(size_of(raw))
        else:
            made.data = to_json(name, array)
        tensors.append(made)
    text = _encoder.encode(Result(model, tensors, VERSION, head.id))
    if len(raws) == 1:
        return Reply(text)
    raws[0] = text
    return Reply(b"".join(raws), media_type=RAW, headers=[(HEAD_LENGTH, str(len(text)))])


def raw_names(head: Head) -> tuple[str, ...] | None:
    """The outputs that are wanted where all of them are wanted raw, () for all there are; else None."""
    binary = bool(head.parameters is not None and head.parameters.binary_data_output)
    for each in head.outputs or ():
        wishes = each.parameters
        if wishes is None:
            if not binary:
                return None
        elif (
            wishes.shared_memory_region is not None
            or wishes.classification
            or not (binary if wishes.binary_data is None else wishes.binary_data)
        ):
            return None
    if not head.outputs:
        return () if binary else None
    return tuple(each.name for each in head.outputs)


def all_raw(model: str, names: Sequence[str], results: Mapping[str, Array]) -> tuple[bytes, bytes] | None:
    """(JSON head, whole body) with those outputs raw; None where one is BYTES, or is not there."""
    found = parted(model, names, results, 1)
    if found is None:
        return None
    text, (body,) = found
    return text, b"".join((text, *body))


def parted(
    model: str, names: Sequence[str], results: Mapping[str, Array], count: int
) -> tuple[bytes, list[tuple[Buffer, ...]]] | None:
    """The JSON head and, for each of `count` requests with as many rows each, those outputs raw.

    The head is only written once for its shapes. None where an output is BYTES, or is not there.
    """
    key: list[Any] = [model]
    parts: list[list[Buffer]] = []
    for name in names or results:
        array = results.get(name)
        if array is None or (dtype := array.dtype.char) == "O":
            return None
        shape = array.shape if count == 1 else (len(array) // count, *array.shape[1:])
        key.append((name, dtype, shape))
        parts.append(_bytes_of(array, count))
    known = tuple(key)
    text = _texts.get(known) or _text_of(model, results, known)
    return text, list(zip(*parts, strict=True)) if parts else [()] * count


def _bytes_of(array: Array, count: int) -> list[Buffer]:
    """An array's bytes in so many equal parts; large ones are views, small ones copies, which cost less."""
    if count == 1 and array.nbytes <= _COPIED:
        return [array.tobytes()]
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    size = len(raw) // count
    return [raw[at : at + size] for at in range(0, size * count, size)] if size else [raw] * count


def _text_of(model: str, results: Mapping[str, Array], key: tuple[Any, ...]) -> bytes:
    tensors = []
    for name, _, shape in key[1:]:
        array = results[name]
        size = math.prod(shape) * array.itemsize
        tensors.append(ResultTensor(name, datatype_of(array), shape, ResultParameters(size)))
    if len(_texts) >= _KNOWN:
        _texts.clear()
    text = _texts[key] = _encoder.encode(Result(model, tensors, VERSION))
    return text


def _wanted(
    outputs: Sequence[WantedTensor] | None, results: Mapping[str, Array], binary: bool
) -> list[tuple[str, bool]]:
    if not outputs:
        return [(name, binary) for name in results]
    found = []
    for each in outputs:
        check_output(each.name, results)
        as_raw = binary
        if each.parameters is not None:
            _check_wishes(each.name, each.parameters)
            as_raw = binary if each.parameters.binary_data is None else each.parameters.binary_data
        found.append((each.name, as_raw))
    return found


def check_output(name: str, known: Mapping[str, Any]) -> None:
    """Raise InputError E296 for an output that the model does not give."""
    if name not in known:
        raise InputError(f"no output is called {name[:80]!r}", help=suggest(name[:80], known), code="E296")


def _check_wishes(name: str, wishes: OutputParameters) -> None:
    if wishes.shared_memory_region is not None:
        raise no_shared_memory()
    if wishes.classification:
        raise InputError(
            f"output {name[:80]!r}: this server makes no classifications of scores",
            help="take the scores, or serve a workflow that classifies",
            code="E297",
        )


def encoded(reply: Reply, accepted: str) -> Reply:
    """The reply compressed where a client asks for one coding alone.

    Many clients list all codings that they know without being asked; numbers hardly shrink, and compressing
    them costs more than sending.
    """
    body = reply.body
    if accepted not in CODINGS or not isinstance(body, bytes) or len(body) < _WORTH_BYTES:
        return reply
    machine = zlib.compressobj(1, zlib.DEFLATED, CODINGS[accepted])  # 1: five times faster than the default
    headers = [*reply.headers, ("content-encoding", accepted)]
    return Reply(
        machine.compress(body) + machine.flush(),
        status=reply.status,
        media_type=reply.media_type,
        headers=headers,
    )
