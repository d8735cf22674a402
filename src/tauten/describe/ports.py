"""Types of edges: T, T | None, list[T], Stream[T]; sessions as an injected port.

A `PortType` is read once from an annotation and then only compared. Python's own types are legal
(a dataclass, a msgspec or Pydantic model, ``str``); payload modalities convert from plain values.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import types
import typing
from collections import abc
from collections.abc import AsyncIterator
from typing import Any, Generic, Literal, TypeVar, Union

import msgspec

from tauten.describe.payload import Json, Payload, Text, as_payload

T = TypeVar("T")


class Stream(Generic[T]):
    """Values that arrive one after another: an asynchronous iterator with a bounded channel behind it.

    In an annotation, ``Stream[Text]`` says that an edge carries increments.
    """

    def __init__(self, source: AsyncIterator[T]) -> None:
        self._source = source

    def __aiter__(self) -> AsyncIterator[T]:
        return self._source

    def relabel(self, reader: str) -> None:
        """Say who reads now: a control step hands a stream on, and waiting is the reader's own."""
        if hasattr(self._source, "step"):
            self._source.step = reader

    async def aclose(self) -> None:
        """Stop reading; the producer is not held back any more."""
        if hasattr(self._source, "aclose"):
            await self._source.aclose()

    async def collect(self) -> list[T]:
        """Wait for the end and return all values."""
        return [value async for value in self._source]


class Session:
    """One conversation: an id that keeps requests together, its tenant, and what was said so far."""

    def __init__(self, id: str = "", tenant: str = "") -> None:
        self.id = id
        self.tenant = tenant
        self.history: list[dict[str, str]] = []
        self.state: dict[str, Any] = {}

    def say(self, role: str, text: str) -> None:
        """Append one turn to the history; `role` is ``user`` or ``assistant``."""
        self.history.append({"role": role, "content": text})


class PortType(msgspec.Struct, frozen=True):
    """What one edge may carry: any of `kinds`, perhaps absent, alone, in a list or as a stream."""

    kinds: tuple[Any, ...]
    optional: bool = False
    many: bool = False
    stream: bool = False

    def __str__(self) -> str:
        inner = " | ".join(getattr(kind, "__name__", str(kind)) for kind in self.kinds) or "Any"
        if self.stream:
            inner = f"Stream[{inner}]"
        if self.many:
            inner = f"list[{inner}]"
        return f"{inner} | None" if self.optional else inner

    @property
    def converts(self) -> bool:
        """Whether a plain value may have to become a payload, or text a string, on its way in."""
        return any(
            kind is str or (isinstance(kind, type) and issubclass(kind, Payload)) for kind in self.kinds
        )

    @property
    def element(self) -> PortType:
        """The type of one member of a list or stream."""
        return PortType(self.kinds)

    def accepts(self, given: PortType) -> bool:
        """Whether a value of `given` may flow into this port; a stream may be collected on the way."""
        if _anything(self) or _anything(given):
            return True
        if self.many != given.many and not (self.many and given.stream):
            return False
        if self.stream and not given.stream and given.many:
            return True
        return self._accepts_kinds(given.kinds)

    def _accepts_kinds(self, given: tuple[Any, ...]) -> bool:
        if Any in self.kinds or Any in given or not self.kinds:
            return True
        return all(any(_fits(kind, wanted) for wanted in self.kinds) for kind in given)

    def coerce(self, value: object) -> object:
        """Turn a caller's plain value into what this port carries; raises InputError when it cannot."""
        if value is None or self.stream or not self.kinds or Any in self.kinds:
            return value
        if self.many and isinstance(value, list | tuple):
            return [self.element.coerce(member) for member in value]
        accepted = tuple(kind for kind in self.kinds if isinstance(kind, type))
        payloads = tuple(kind for kind in accepted if issubclass(kind, Payload))
        if not payloads or isinstance(value, accepted):
            return value
        return as_payload(value, payloads)


def _anything(port: PortType) -> bool:
    """Whether nothing is known of the type, not even that it is a list."""
    return not (port.many or port.stream) and (not port.kinds or Any in port.kinds or object in port.kinds)


def _fits(given: Any, wanted: Any) -> bool:
    if given is wanted or wanted is Json or (given is int and wanted is float):
        return True
    if {given, wanted} == {str, Text}:
        return True  # text flows both ways: the engine unwraps or wraps it
    return isinstance(given, type) and isinstance(wanted, type) and issubclass(given, wanted)


def port_type(annotation: Any) -> PortType:
    """Read an annotation; an absent one accepts anything."""
    if annotation is None or annotation is type(None):
        return PortType((), optional=True)
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        present = [arg for arg in args if arg is not type(None)]
        inner = [port_type(arg) for arg in present]
        return PortType(
            tuple(kind for each in inner for kind in each.kinds),
            optional=len(present) < len(args),
            many=any(each.many for each in inner),
            stream=any(each.stream for each in inner),
        )
    if (origin or annotation) in _STREAMS:
        return PortType(_members(args), stream=True)
    if (origin or annotation) in _LISTS:
        return PortType(_members(args), many=True)
    if origin is Literal:
        return PortType(tuple(dict.fromkeys(type(value) for value in args)))
    if isinstance(annotation, typing.NewType):
        return port_type(annotation.__supertype__)
    if isinstance(annotation, TypeVar):
        return PortType((Any,))
    return PortType((origin or annotation,))


_STREAMS = (Stream, abc.AsyncIterator, abc.AsyncIterable, abc.AsyncGenerator, abc.Iterator, abc.Generator)
_LISTS = (list, abc.Sequence, abc.Collection, abc.Iterable)


def _members(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The kinds of a list's or stream's members; lists of lists are not looked into."""
    inner = port_type(args[0]) if args else PortType((Any,))
    return (Any,) if inner.many or inner.stream else inner.kinds
