"""A service as the Open Inference Protocol sees it: a model with named tensors in and out.

A model alone gives its file's own tensors. Of a workflow each input is one: Text, pictures, sound, clips and
JSON are BYTES, one element a value (pictures and sound as their files are); a Tensor is what it is. Its result
is the output ``output``, or one output for each array where it gives several by name.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np

from tauten.describe.payload import Json, Media, Payload, Tensor, Text, sniff
from tauten.describe.ports import PortType
from tauten.errors import InputError, NotFound, suggest
from tauten.run.oip.tensors import DATATYPES, Array, strings
from tauten.run.signature import TensorInfo
from tauten.serve.door import check_depth
from tauten.serve.native.values import encode
from tauten.serve.service import Service
from tauten.serve.tensor_model import TensorService

if TYPE_CHECKING:
    from tauten.serve.app import Site

VERSION = "1"  # a service has one version: a new plan answers under the same name
OUTPUT = "output"


class TensorSpec(msgspec.Struct, frozen=True):
    """A tensor as metadata tell it; -1 is a size that each request chooses."""

    name: str
    datatype: str
    shape: list[int]
    optional: bool = False


class Model(Protocol):
    """A service with tensors in and out."""

    platform: str
    decoupled: bool  # whether one request may have many answers

    @property
    def service(self) -> Service: ...

    @property
    def max_batch(self) -> int:
        """How many requests may share a run; 0 where there is no batch axis."""
        ...

    @property
    def inputs(self) -> list[TensorSpec]: ...

    @property
    def outputs(self) -> list[TensorSpec]: ...

    def bind(self, tensors: Mapping[str, Array]) -> dict[str, Any]:
        """The workflow's inputs; raises InputError E296 where the tensors are not what it takes."""
        ...

    def tensors(self, value: Any) -> dict[str, Array]:
        """A result as arrays."""
        ...


class Models:
    """The models of a site, by name."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._known: dict[str, Model] = {}

    def find(self, name: str, version: str = "") -> Model:
        """The model of that name, ready or not; raises NotFound."""
        service = self.site.services.find(name)
        if service is None:
            known = [each.name for each in self.site.services]
            raise NotFound(f"no model is served as {name[:80]!r}", help=suggest(name[:80], known))
        if version and version != VERSION:
            raise NotFound(
                f"'{name}' has no version {version[:20]!r}",
                help=f"its only version is {VERSION}",
            )
        model = self._known.get(name)
        if model is None or model.service is not service:
            model = Alone(service) if isinstance(service, TensorService) else Flow(service)
            self._known[name] = model
        return model

    def all(self) -> list[Model]:
        return [self.find(service.name) for service in self.site.services]


class Alone:
    """A model that is served raw."""

    platform = "onnx_onnxv1"
    decoupled = False

    def __init__(self, service: TensorService) -> None:
        self.service: TensorService = service

    @property
    def max_batch(self) -> int:
        return self.service.max_batch

    @property
    def inputs(self) -> list[TensorSpec]:
        if not self.service.signature.inputs:
            self.service.check()  # its file has not been opened yet
        return [_spec(info) for info in self.service.signature.inputs]

    @property
    def outputs(self) -> list[TensorSpec]:
        return [_spec(info) for info in self.service.signature.outputs]

    def bind(self, tensors: Mapping[str, Array]) -> dict[str, Any]:
        return {"tensors": self.service.fitted(tensors)}

    def tensors(self, value: Any) -> dict[str, Array]:
        return value  # type: ignore[no-any-return]  # its stage gives arrays by name


def _spec(info: TensorInfo) -> TensorSpec:
    datatype = "BYTES" if info.dtype == "str" else DATATYPES.get(info.dtype, "")
    return TensorSpec(info.name, datatype, [axis if isinstance(axis, int) else -1 for axis in info.shape])


class Flow:
    """A workflow."""

    platform = "tauten_workflow"
    max_batch = 0

    def __init__(self, service: Service) -> None:
        self.service = service
        workflow = service.workflow
        self.ports = workflow.inputs
        self.decoupled = workflow.streams
        self._readers = {name: _reader(name, port) for name, port in self.ports.items()}

    @property
    def inputs(self) -> list[TensorSpec]:
        return [_port_spec(name, port) for name, port in self.ports.items()]

    @property
    def outputs(self) -> list[TensorSpec]:
        return [_port_spec(OUTPUT, self.service.workflow.output)]

    def bind(self, tensors: Mapping[str, Array]) -> dict[str, Any]:
        given = {}
        for name, array in tensors.items():
            if name not in self._readers:
                raise InputError(
                    f"no input is called {name[:80]!r}", help=suggest(name[:80], self.ports), code="E296"
                )
            given[name] = self._readers[name](array)
        return self.service.workflow.bind(**given)

    def tensors(self, value: Any) -> dict[str, Array]:
        if isinstance(value, dict) and value and all(isinstance(each, np.ndarray) for each in value.values()):
            return value
        return {OUTPUT: _array_of(value)}

    def text_input(self, taken: Mapping[str, Any]) -> str:
        """The input that ``text_input`` of a generate request fills: the first that takes text."""
        for name, port in self.ports.items():
            if name not in taken and (Text in port.kinds or str in port.kinds):
                return name
        raise InputError(
            f"'{self.service.name}' has no free input for text_input",
            help=f"name its inputs in the body: {', '.join(self.ports)}",
            code="E296",
        )


# -- inputs of workflows -------------------------------------------------------------------------------------

Reader = Callable[[Array], Any]


def _port_spec(name: str, port: PortType) -> TensorSpec:
    return TensorSpec(
        name, _datatype(port), [-1] if port.many or _datatype(port) == "FP32" else [1], port.optional
    )


def _datatype(port: PortType) -> str:
    kinds = port.kinds
    if Tensor in kinds or np.ndarray in kinds:
        return "FP32"  # the usual one; any number is taken, and results say their own
    plain = {bool: "BOOL", int: "INT64", float: "FP64"}
    return plain.get(kinds[0], "BYTES") if len(kinds) == 1 else "BYTES"


def _reader(name: str, port: PortType) -> Reader:
    def read(array: Array) -> Any:
        if array.dtype != np.dtype(object) and not port.many:
            if Tensor in port.kinds:
                return Tensor(array)
            if np.ndarray in port.kinds:
                return array
        values = array.ravel().tolist()
        if port.many or port.stream:
            return [_value(name, port, each) for each in values]
        if len(values) != 1:
            raise InputError(
                f"input {name!r} has {len(values)} elements; it takes one",
                help="send shape [1]; one request is one item of a workflow",
                code="E296",
            )
        return _value(name, port, values[0])

    return read


def _value(name: str, port: PortType, value: Any) -> Any:
    """One element as the port's kind; bytes never become the name of a file."""
    if not isinstance(value, bytes):
        return _number(name, port, value)
    media = [kind for kind in port.kinds if isinstance(kind, type) and issubclass(kind, Media)]
    texts = Text in port.kinds or str in port.kinds
    if media and (sniff(value) or not texts):
        return _medium(value, media)
    if texts or not port.kinds or Any in port.kinds:
        text = _decoded(name, value)
        return Text(text) if Text in port.kinds else text
    return _from_json(name, port, value)


def _medium(value: bytes, media: list[type[Media]]) -> Media:
    """Encoded media as it is, or in base64, which JSON needs."""
    if not sniff(value):
        try:
            value = base64.b64decode(value, validate=True)
        except binascii.Error:
            pass  # it is neither: the medium says what it looks like
    seen = sniff(value)
    return next((kind for kind in media if seen in kind.types), media[0])(value)


def _decoded(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"input {name!r} is no UTF-8: {error}", help="send text", code="E296") from None


def _from_json(name: str, port: PortType, value: bytes) -> Any:
    kind = port.kinds[0] if len(port.kinds) == 1 else Any
    is_json = Json in port.kinds
    check_depth(value)
    try:
        found = msgspec.json.decode(value, type=Any if is_json or _is_payload(kind) else kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError) as error:
        raise InputError(
            f"input {name!r} ({port}): {error}", help="send the value as JSON text", code="E296"
        ) from None
    return Json(found) if is_json else found


def _is_payload(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Payload)


def _number(name: str, port: PortType, value: Any) -> Any:
    """One number where the port takes one; text and media are BYTES."""
    plain = [kind for kind in port.kinds if kind in (bool, int, float)]
    if not port.kinds or Any in port.kinds:
        return value
    if Json in port.kinds:
        return Json(value)
    try:
        if plain:
            return msgspec.convert(value, plain[0])
        seen = type(value).__name__
    except msgspec.ValidationError as error:
        seen = str(error)
    raise InputError(
        f"input {name!r} takes {port}: {seen}", help="send BYTES for text and media", code="E296"
    )


# -- results of workflows ------------------------------------------------------------------------------------


def _array_of(value: Any) -> Array:
    """A result as one tensor: arrays as they are, several of one shape stacked, anything else as BYTES."""
    if isinstance(value, Tensor):
        return value.array
    if isinstance(value, np.ndarray | np.generic):
        return np.atleast_1d(value)
    if isinstance(value, bool | int | float):
        return np.array([value])
    if isinstance(value, list | tuple):
        return _listed(value)
    return strings([as_bytes(value)])


def _listed(values: list[Any] | tuple[Any, ...]) -> Array:
    arrays = [value.array for value in values if isinstance(value, Tensor)]
    if arrays and len(arrays) == len(values) and len({(each.shape, each.dtype) for each in arrays}) == 1:
        return np.stack(arrays)
    return strings([as_bytes(value) for value in values])


def as_bytes(value: Any) -> bytes:
    """One value of a result: text as text, media as their files, the rest as JSON; raises NotSendable."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    if isinstance(value, Payload) and not isinstance(value, Tensor):
        return value.data
    return encode(value.array.tolist() if isinstance(value, Tensor) else value)
