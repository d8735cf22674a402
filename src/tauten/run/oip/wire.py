"""An inference call as bytes and its answer as arrays: a JSON head with raw tensors after it, or gRPC messages."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from tauten.errors import BackendError, InputError
from tauten.run.oip.messages import message
from tauten.run.oip.tensors import (
    DTYPES,
    Array,
    datatype_of,
    from_json,
    from_raw,
    from_values,
    size_of,
    strings,
    to_raw,
)
from tauten.run.signature import Signature, TensorInfo, axes

HEAD_LENGTH: Final = "inference-header-content-length"

_CONTENTS: Final = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: msgspec.Raw = msgspec.Raw()


class _Answer(msgspec.Struct):
    outputs: list[_Output]


class _Tensor(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]


class _Metadata(msgspec.Struct):
    inputs: list[_Tensor] = []
    outputs: list[_Tensor] = []


def plain(array: Any) -> Array:
    """An array as the protocol can carry it: numbers in its byte order, texts as objects."""
    given: Array = np.asarray(array)
    if given.dtype.kind in "US":
        return strings(given.ravel().tolist()).reshape(given.shape)
    return given if given.dtype == object else given.astype(given.dtype.newbyteorder("<"), copy=False)


# -- REST ----------------------------------------------------------------------------------------------------


def question(inputs: Mapping[str, Array]) -> tuple[bytes, int]:
    """(body, length of its JSON head) of a call that wants all outputs raw."""
    raws = {name: to_raw(array) for name, array in inputs.items()}
    head = {
        "inputs": [
            {
                "name": name,
                "datatype": datatype_of(array),
                "shape": array.shape,
                "parameters": {"binary_data_size": size_of(raws[name])},
            }
            for name, array in inputs.items()
        ],
        "parameters": {"binary_data_output": True},
    }
    text = msgspec.json.encode(head)
    parts = [raw.tobytes() if isinstance(raw, np.ndarray) else bytes(raw) for raw in raws.values()]
    return b"".join((text, *parts)), len(text)


def answer(body: bytes, head_length: str | None) -> dict[str, Array]:
    """The outputs in an answer; raises BackendError E460 for bytes that are none."""
    try:
        end = len(body) if head_length is None else int(head_length)
        head = msgspec.json.decode(body[:end], type=_Answer)
        found: dict[str, Array] = {}
        for output in head.outputs:
            size = (output.parameters or {}).get("binary_data_size")
            if size is None:
                found[output.name] = from_json(output.name, output.datatype, output.shape, output.data)
                continue
            if not isinstance(size, int) or size < 0 or end + size > len(body):
                raise ValueError(f"output {output.name!r} ends beyond the body")
            found[output.name] = from_raw(output.name, output.datatype, output.shape, body, end, size)
            end += size
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, InputError) as error:
        raise garbled(str(error)) from error
    return found


def signature(data: bytes) -> Signature:
    """A model's tensors in its metadata; raises BackendError E460."""
    try:
        read = msgspec.json.decode(data, type=_Metadata)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise garbled(str(error)) from error
    return _signature(read.inputs, read.outputs)


def _signature(inputs: Sequence[Any], outputs: Sequence[Any]) -> Signature:
    return Signature(tuple(map(_info, inputs)), tuple(map(_info, outputs)))


def _info(tensor: Any) -> TensorInfo:
    dtype = DTYPES.get(tensor.datatype)
    return TensorInfo(tensor.name, "str" if dtype is None else dtype.name, axes(tensor.shape))


# -- gRPC ----------------------------------------------------------------------------------------------------


def question_message(model: str, inputs: Mapping[str, Array]) -> Any:
    """A call with all inputs raw."""
    request = message("ModelInferRequest")(model_name=model)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        raw = to_raw(array)
        request.raw_input_contents.append(raw.tobytes() if isinstance(raw, np.ndarray) else bytes(raw))
    return request


def answer_of_message(reply: Any) -> dict[str, Array]:
    """The outputs of an answer, raw or typed; raises BackendError E460."""
    raws = reply.raw_output_contents
    if raws and len(raws) != len(reply.outputs):
        raise garbled(f"{len(raws)} raw contents for {len(reply.outputs)} outputs")
    try:
        return {
            output.name: _output(output, raws[index] if raws else None)
            for index, output in enumerate(reply.outputs)
        }
    except InputError as error:
        raise garbled(error.message) from error


def _output(output: Any, raw: bytes | None) -> Array:
    shape = list(output.shape)
    if raw is not None:
        return from_raw(output.name, output.datatype, shape, raw, 0, len(raw))
    field = _CONTENTS.get(output.datatype)
    if field is None:
        raise garbled(f"output {output.name!r} has {output.datatype}, which is only sent raw")
    return from_values(output.name, output.datatype, shape, getattr(output.contents, field))


def signature_of_message(reply: Any) -> Signature:
    """A model's tensors in its metadata."""
    return _signature(reply.inputs, reply.outputs)


def garbled(what: str) -> BackendError:
    """An answer that is none."""
    return BackendError(
        f"no provider answered: an answer that is no inference: {what}",
        help="the server must speak the Open Inference Protocol v2; check its address",
        code="E460",
    )
