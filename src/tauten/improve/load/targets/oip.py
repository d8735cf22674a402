"""Open Inference Protocol v2 over REST: tensors as binary behind a JSON head, or as JSON."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tauten.describe.payload import Json, Payload, Tensor, Text
from tauten.errors import InputError, MachineError, suggest
from tauten.improve.load.http import Heard, HttpClient, Prepared
from tauten.improve.load.http_target import HttpTarget

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NUMPY: Final = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}


class OipTarget(HttpTarget):
    """`…/v2/models/NAME[/versions/V]`, `/infer` added where it is left out.

    Datatypes come from the model's metadata, read when it is opened.
    """

    def __init__(self, client: HttpClient, *, binary: bool = True) -> None:
        self.model_url = client.url.rstrip("/").removesuffix("/infer")
        client.url = f"{self.model_url}/infer"
        super().__init__(client, self.model_url.partition("/models/")[2].partition("/")[0])
        self.binary = binary
        self.inputs: dict[str, str] = {}

    async def open(self) -> None:
        """Read the metadata; raises MachineError when there is none."""
        await super().open()
        found = await self.client.get_json(self.model_url)
        try:
            self.inputs = {each["name"]: each["datatype"] for each in found.get("inputs", [])}
        except (AttributeError, KeyError, TypeError) as error:
            raise MachineError(
                f"{self.model_url} tells no model's inputs",
                help="check the address, or say which API it has: --api raw",
                code="E300",
            ) from error

    def prepare(self, inputs: Mapping[str, Payload]) -> Prepared:
        tensors, raw = [], []
        for name, value in inputs.items():
            if self.inputs and name not in self.inputs:
                raise InputError(
                    f"{self.name} has no input {name!r}", help=suggest(name, self.inputs), code="E205"
                )
            tensor, data = self._tensor(name, value, self.inputs.get(name, ""))
            tensors.append(tensor)
            raw.append(data)
        request: dict[str, Any] = {"inputs": tensors}
        if not self.binary:
            return Prepared(msgspec.json.encode(request), {"content-type": "application/json"})
        request["parameters"] = {"binary_data_output": True}
        head = msgspec.json.encode(request)
        headers = {
            "content-type": "application/octet-stream",
            "inference-header-content-length": str(len(head)),
        }
        return Prepared(b"".join([head, *raw]), headers)

    def _tensor(self, name: str, value: Payload, datatype: str) -> tuple[dict[str, Any], bytes]:
        if isinstance(value, Text) or datatype == "BYTES":
            return self._strings(name, value)
        array = _array(name, value, datatype)
        kind = datatype or _datatype(name, array)
        tensor: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": kind}
        if not self.binary:
            return {**tensor, "data": array.ravel().tolist()}, b""
        data = array.tobytes()
        return {**tensor, "parameters": {"binary_data_size": len(data)}}, data

    def _strings(self, name: str, value: Payload) -> tuple[dict[str, Any], bytes]:
        """Text and media as BYTES: a length of 4 bytes before each item."""
        item = value.text.encode() if isinstance(value, Text) else value.data
        tensor: dict[str, Any] = {"name": name, "shape": [1], "datatype": "BYTES"}
        if not self.binary:
            return {**tensor, "data": [item.decode("utf-8", "replace")]}, b""
        data = len(item).to_bytes(4, "little") + item
        return {**tensor, "parameters": {"binary_data_size": len(data)}}, data

    @staticmethod
    def hear(event: str, data: bytes) -> Heard:
        """An answer is whole."""
        return Heard()


def _array(name: str, value: Payload, datatype: str) -> NDArray[Any]:
    import numpy as np

    if not isinstance(value, Tensor | Json):
        raise InputError(f"{name} is no tensor", help="give JSON numbers, or @FILE.npy", code="E205")
    given = value.array if isinstance(value, Tensor) else value.value
    wanted = NUMPY.get(datatype) or (np.asarray(given).dtype if isinstance(value, Tensor) else None)
    try:
        array: NDArray[Any] = np.ascontiguousarray(np.asarray(given), dtype=wanted)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{name} cannot be {datatype or 'a tensor'}: {error}",
            help="give numbers of one shape",
            code="E205",
        ) from error
    return array if array.ndim else array.reshape(1)


def _datatype(name: str, array: NDArray[np.generic]) -> str:
    for kind, code in NUMPY.items():
        if array.dtype == code:
            return kind
    raise InputError(
        f"{name} has numbers of type {array.dtype}", help=f"use one of {', '.join(NUMPY)}", code="E205"
    )
