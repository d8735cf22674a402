"""Values of ports as they cross the network, both ways: JSON and form fields in, JSON out.

A string that a client sends is text, base64 or a data URL; it is never the name of a file.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import base64
import binascii
import functools
import typing
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from tauten.describe.graph import FromInput
from tauten.describe.payload import Json, Media, Payload, Tensor, Text, sniff
from tauten.describe.ports import PortType
from tauten.describe.workflow import Workflow
from tauten.errors import InputError, MediaError, RequestError, suggest
from tauten.run.siblings import gather_members
from tauten.serve.door import check_depth

Fetch = Callable[[str], Awaitable[bytes]]
Brought = Mapping[str, bytes]
"""What was fetched, by its address."""

_DATA = frozenset({"data", "type"})
_TENSOR = frozenset({"dtype", "shape", "data"})
_GIVE_MEDIA = 'give {"data": base64, "type": "image/png"} or a data URL, data:image/png;base64,...'


class NotSendable(RequestError):
    """A result that JSON cannot hold."""

    code = "E420"


class FormField(msgspec.Struct, frozen=True):
    """One part of a form: bytes, and what the client says they are."""

    data: bytes
    type: str = ""
    filename: str | None = None

    def text(self, name: str) -> str:
        try:
            return self.data.decode()
        except UnicodeDecodeError:
            raise _wrong(name, "bytes that are not UTF-8 text", "send it as UTF-8") from None


# -- in -------------------------------------------------------------------------------------------------------


class Inputs:
    """Reads a workflow's inputs from what a client sent; made once for each service."""

    def __init__(self, workflow: Workflow[..., Any]) -> None:
        self.workflow = workflow
        function = workflow.function
        plain = function.func if isinstance(function, functools.partial) else function
        self.hints: dict[str, Any] = typing.get_type_hints(plain)
        self.ports = {name: _known(workflow, name, port) for name, port in workflow.inputs.items()}

    async def read(self, given: Mapping[str, Any], fetch: Fetch | None = None) -> dict[str, Any]:
        """JSON values or form fields as the values of ports; raises InputError that names the input."""
        return self.workflow.bind(**await self.values(given, fetch))

    async def values(self, given: Mapping[str, Any], fetch: Fetch | None = None) -> dict[str, Any]:
        """The same, not bound yet. What they name by address is fetched before any is read, side by side."""
        ports = {name: self._port(name) for name in given}
        brought = None if fetch is None else await _brought(ports, given, fetch)
        return {name: self._one(name, port, given[name], brought) for name, port in ports.items()}

    async def one(self, name: str, value: Any, fetch: Fetch | None = None) -> Any:
        """One input."""
        return (await self.values({name: value}, fetch))[name]

    async def increment(self, name: str, value: Any, fetch: Fetch | None = None) -> Any:
        """One increment of a streamed input."""
        element = self.ports[name].element
        brought = None if fetch is None else await _brought({name: element}, {name: value}, fetch)
        return self._single(name, element, value, brought, whole=False)

    def _port(self, name: str) -> PortType:
        port = self.ports.get(name)
        if port is None:
            help = suggest(name, self.ports)
            raise InputError(f"{self.workflow.name} has no input `{name[:60]}`", help=help, code="E205")
        return port

    def _one(self, name: str, port: PortType, value: Any, brought: Brought | None) -> Any:
        if value is None:
            return None
        if port.many or port.stream:
            return self._members(name, port, value, brought)
        return self._single(name, port, value, brought)

    def _members(self, name: str, port: PortType, value: Any, brought: Brought | None) -> Any:
        element = port.element
        if not port.stream and not _payloads(element):
            told = _is_fields(value)
            plain = _members_of(name, element, value) if told else value
            return _converted(name, plain, self.hints.get(name, Any), strict=not told)
        if isinstance(value, FormField) and not value.filename and not _payloads(element):
            return self._members(name, port, _json_of(name, value), brought)
        members = value if isinstance(value, list) else [value]
        if not isinstance(value, list | FormField) and not port.stream:
            raise _wrong(name, f"{_shown(value)} where {port} is expected", "give a list")
        place = "{}[{}]".format
        return [
            self._single(place(name, at), element, each, brought, whole=False)
            for at, each in enumerate(members)
        ]

    def _single(
        self, name: str, port: PortType, value: Any, brought: Brought | None, *, whole: bool = True
    ) -> Any:
        if isinstance(value, list) and _is_fields(value):
            raise _wrong(name, f"{len(value)} fields of that name where {port} is expected", "send one")
        kinds = _payloads(port)
        if not kinds:
            if isinstance(value, FormField):
                value = _plain_of(name, value, port)
                strict = False
            else:
                strict = True
            hint = self.hints.get(name, Any) if whole else _union(port.kinds)
            if hint is Any or not port.kinds or Any in port.kinds:
                return Text(value) if isinstance(value, str) else value
            return _converted(name, value, hint, strict=strict)
        if isinstance(value, FormField):
            return _from_field(name, port, kinds, value)
        if is_address(value) and _media(kinds):
            return _medium(name, kinds, _at(name, value["url"], brought))
        return _payload(name, port, kinds, value)


def _known(workflow: Workflow[..., Any], name: str, port: PortType) -> PortType:
    """The port; one without a type takes that of a stage that wants media of it."""
    if (port.kinds and Any not in port.kinds) or workflow.graph is None:
        return port
    for stage in workflow.graph.stages.values():
        for each, source in stage.inputs.items():
            wanted = stage.kind.inputs.get(each)
            if isinstance(source, FromInput) and source.name == name and wanted and _media(wanted.kinds):
                return PortType(wanted.kinds, port.optional, wanted.many, wanted.stream)
    return port


def _payloads(port: PortType) -> tuple[type[Payload], ...]:
    return tuple(kind for kind in port.kinds if isinstance(kind, type) and issubclass(kind, Payload))


def _media(kinds: Sequence[Any]) -> tuple[type[Media], ...]:
    return tuple(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Media))


def _union(kinds: Sequence[Any]) -> Any:
    return functools.reduce(lambda a, b: a | b, kinds) if kinds else Any


def _payload(name: str, port: PortType, kinds: tuple[type[Payload], ...], value: Any) -> Any:
    """A JSON value as one of the payloads that a port takes, or as the plain value that it takes beside."""
    if isinstance(value, str):
        return _from_string(name, port, kinds, value)
    media = _media(kinds)
    if media and isinstance(value, dict) and "data" in value and value.keys() <= _DATA:
        data = _from_base64(name, value["data"])
        said = value.get("type")
        _check_type(name, said, data)
        return _medium(name, kinds, data)
    if Tensor in kinds and (isinstance(value, list) or (isinstance(value, dict) and value.keys() == _TENSOR)):
        return _tensor(name, value)
    if isinstance(value, tuple(kind for kind in port.kinds if isinstance(kind, type))):
        return value
    if Json in kinds:
        return Json(value)
    others = tuple(kind for kind in port.kinds if kind not in kinds)
    if others:
        return _converted(name, value, _union(others))
    raise _wrong(name, f"{_shown(value)} where {port} is expected", _GIVE_MEDIA if media else f"give {port}")


def _from_string(name: str, port: PortType, kinds: tuple[type[Payload], ...], value: str) -> Any:
    if _media(kinds) and value[:5].lower() == "data:":
        return _medium(name, kinds, _from_data_url(name, value))
    if Text in kinds:
        return Text(value)
    if str in port.kinds:
        return value
    if Json in kinds:
        return Json(value)
    raise _wrong(name, f"a string where {port} is expected", _GIVE_MEDIA if _media(kinds) else f"give {port}")


def _from_field(name: str, port: PortType, kinds: tuple[type[Payload], ...], field: FormField) -> Any:
    """A form's part: a file for media, text for the rest."""
    media = _media(kinds)
    if media and (field.filename is not None or field.type.startswith(("image/", "audio/", "video/"))):
        takes_text = Text in kinds or str in port.kinds
        if not takes_text or sniff(field.data):
            return _medium(name, kinds, field.data)
    text = field.text(name)
    if Text in kinds or (media and text[:5].lower() == "data:") or not (Json in kinds or Tensor in kinds):
        return _from_string(name, port, kinds, text)
    return _payload(name, port, kinds, _json_of(name, field))


def _plain_of(name: str, field: FormField, port: PortType) -> Any:
    """A field for a port without payloads: its text where that is taken, else JSON or a bare word."""
    if bytes in port.kinds:
        return field.data
    text = field.text(name)
    if str in port.kinds or not port.kinds or Any in port.kinds:
        return text
    if text[:1] in ("{", "["):
        return _json_of(name, field)
    return text


def _is_fields(value: Any) -> bool:
    """Whether it came in a form."""
    return any(isinstance(each, FormField) for each in (value if isinstance(value, list) else [value]))


def _members_of(name: str, element: PortType, given: Any) -> list[Any]:
    """Fields of one name as the members of a list without payloads; one alone may hold all of them, as JSON."""
    if isinstance(given, FormField):
        whole = _json_of(name, given)
        if isinstance(whole, list):
            return whole
        given = [given]
    if not element.kinds or Any in element.kinds:
        return [_json_of(name, each) for each in given]
    return [_plain_of(name, each, element) for each in given]


def _json_of(name: str, field: Any) -> Any:
    if not isinstance(field, FormField):
        return field
    check_depth(field.data)
    try:
        return msgspec.json.decode(field.data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return field.text(name)


def _converted(name: str, value: Any, hint: Any, *, strict: bool = True) -> Any:
    """A plain value as the type that the workflow's author wrote."""
    try:
        return msgspec.convert(value, hint, strict=strict, dec_hook=functools.partial(_hook, name))
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise _wrong(name, str(error), "see the input's schema in /openapi.json") from None
    except TypeError:  # a type that has no form in JSON
        kind = getattr(hint, "__name__", str(hint))
        raise _wrong(name, f"{_shown(value)} where {kind} is expected", "it cannot be sent as JSON") from None


def _hook(name: str, kind: Any, value: Any) -> Any:
    """Payloads inside of structures, and models that validate themselves."""
    if isinstance(kind, type) and issubclass(kind, Payload):
        return _payload(name, PortType((kind,)), (kind,), value)
    validate = getattr(kind, "model_validate", None)
    if validate is None:
        raise TypeError(f"{kind} has no form in JSON")
    try:
        return validate(value)
    except ValueError as error:
        raise _wrong(name, str(error), "see the input's schema in /openapi.json") from None


def _medium(name: str, kinds: Sequence[Any], data: bytes) -> Payload:
    """Bytes as the first medium that reads them."""
    media = _media(kinds)
    seen = sniff(data)
    kind = next((each for each in media if seen in each.types), media[0])
    try:
        return kind(data)
    except MediaError as error:
        raise MediaError(f"input `{name}`: {error.message}", help=error.help, code=error.code) from None


def _check_type(name: str, said: Any, data: bytes) -> None:
    """What a client says its bytes are must be of the kind that they are."""
    seen = sniff(data)
    if said is None or not seen or said == seen:
        return
    if not isinstance(said, str) or said.partition("/")[0] not in (seen.partition("/")[0], "video", "audio"):
        raise MediaError(
            f"input `{name}` is said to be {str(said)[:60]!r} and is {seen}",
            help="leave `type` out, or give the right one",
            code="E211",
        )


def _from_data_url(name: str, url: str) -> bytes:
    head, comma, data = url.partition(",")
    if not comma:
        raise _wrong(name, "a data URL without a comma", "write data:image/png;base64,...")
    if head[5:].lower().endswith(";base64"):
        return _from_base64(name, data)
    return unquote_to_bytes(data)


def _from_base64(name: str, data: Any) -> bytes:
    if not isinstance(data, str):
        raise _wrong(name, f"`data` is {_shown(data)}", "give base64 in a string")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _wrong(name, f"not base64: {error}", _GIVE_MEDIA) from None


def _tensor(name: str, value: Any) -> Tensor:
    """Nested lists of numbers; or the bytes of an array, with their type and shape beside."""
    import numpy as np

    try:
        if isinstance(value, dict):
            data = _from_base64(name, value["data"])
            array = np.frombuffer(data, np.dtype(value["dtype"])).reshape(
                [int(each) for each in value["shape"]]
            )
        else:
            array = np.asarray(value)
    except (ValueError, TypeError, OverflowError, SyntaxError) as error:
        raise _wrong(name, f"not a tensor: {error}", _GIVE_TENSOR) from None
    if array.dtype.kind not in "biuf":
        raise _wrong(name, f"a tensor of {array.dtype.name}", _GIVE_TENSOR)
    return Tensor(array)


_GIVE_TENSOR = 'give nested lists of numbers, or {"dtype": "float32", "shape": [2, 3], "data": base64}'


async def _brought(ports: Mapping[str, PortType], given: Mapping[str, Any], fetch: Fetch) -> Brought:
    """The bytes at each address that media have in place of bytes."""
    urls = list(dict.fromkeys(url for name, port in ports.items() for url in _addresses(port, given[name])))
    return dict(zip(urls, await gather_members(fetch, urls, len(urls), "raise"), strict=True)) if urls else {}


def _addresses(port: PortType, value: Any) -> Iterator[str]:
    members = value if isinstance(value, list) and (port.many or port.stream) else [value]
    for each in members if _media(port.kinds) else ():
        url = each["url"] if is_address(each) else None
        if isinstance(url, str) and url[:5].lower() != "data:":
            yield url


def is_address(value: Any) -> bool:
    """Whether it says where a medium is, in place of the medium."""
    return isinstance(value, dict) and value.keys() == {"url"}


def _at(name: str, url: Any, brought: Brought | None) -> bytes:
    if not isinstance(url, str):
        raise _wrong(name, f"`url` is {_shown(url)}", "give an address in a string")
    if url[:5].lower() == "data:":
        return _from_data_url(name, url)
    if brought is None:
        raise InputError(
            f"input `{name}`: this server does not fetch media from addresses",
            help="send the bytes: " + _GIVE_MEDIA,
            code="E280",
        )
    return brought[url]


def _wrong(name: str, seen: str, help: str) -> InputError:
    return InputError(f"input `{name}`: {seen}", help=help, code="E281")


def _shown(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else "a value")


# -- out ------------------------------------------------------------------------------------------------------


def encode(document: Any) -> bytes:
    """A document that holds results as JSON; raises NotSendable for what JSON cannot hold."""
    try:
        return msgspec.json.encode(document, enc_hook=_wire)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise NotSendable(
            f"the result cannot be sent: {error}",
            help="return text, media, numbers, lists, dicts, dataclasses or msgspec structs",
        ) from None


def _wire(value: Any) -> Any:
    """What stands for a value in JSON."""
    if isinstance(value, Text | Json | Tensor):
        return value.as_json()
    if isinstance(value, Payload):
        return {"type": value.type, "data": value.data}  # msgspec writes bytes as base64
    for method in ("model_dump", "tolist"):  # Pydantic models; NumPy's scalars and arrays
        give = getattr(value, method, None)
        if give is not None and not isinstance(value, type):
            return give()
    raise TypeError(f"{value.__class__.__name__} has no form in JSON")


def medium_of(value: Any, accept: str) -> Media | None:
    """The result itself, where it is one medium and the client would rather have its bytes than JSON."""
    if not isinstance(value, Media) or not accept:
        return None
    for entry in accept.split(","):
        wanted = entry.partition(";")[0].strip().lower()
        if wanted == "application/json":
            return None
        if wanted == value.type or (wanted.endswith("/*") and value.type.startswith(wanted[:-1])):
            return value
    return None
