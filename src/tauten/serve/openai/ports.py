"""How a workflow is spoken to: which of its inputs takes what a client sends.

The rule, by the type and the name of each input:

* an input named as a field of the body (`temperature`, `tools`, `language`, a field of your own) takes the field;
* `messages: list[dict]` takes the whole conversation; a `Session` gets what was said before as its history;
* Image, Audio and Video inputs take the media of the last user message in order, a list takes all that are left;
* the first Text (or str) input that is still free takes the last user message's text.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from tauten.describe.payload import Audio, Image, Json, Media, Payload, Tensor, Text, Video
from tauten.describe.ports import PortType
from tauten.describe.workflow import Workflow
from tauten.serve.openai.errors import Refused

_LISTS_OF_DICTS = ("tools", "functions")  # fields that look like a conversation
_MEDIA: tuple[type[Media], ...] = (Image, Audio, Video)


class Turn(msgspec.Struct):
    """What one request says: the text, the media in order, the conversation, the fields of its body."""

    text: str = ""
    media: list[Media] = []
    messages: list[dict[str, Any]] = []
    fields: dict[str, Any] = {}
    strict: bool = True  # False of a form, whose fields are texts: numbers and flags are read out of them


class Inputs:
    """A workflow's inputs, sorted by what they take."""

    def __init__(self, workflow: Workflow[..., Any]) -> None:
        self.workflow = workflow
        self.ports = workflow.inputs
        self.whole = next(
            (n for n, p in self.ports.items() if p.many and p.kinds == (dict,) and n not in _LISTS_OF_DICTS),
            "",
        )
        self.plain = {name for name, port in self.ports.items() if _is_plain(port)}

    def takes(self, field: str) -> bool:
        """Whether an input is filled by the field of that name."""
        return field in self.plain or field == self.whole

    def takes_text(self) -> bool:
        return any(_accepts(port, Text) for port in self.ports.values())

    def takes_a_message(self) -> bool:
        """Whether a user's message, its text or media, has any place."""
        return self.takes_text() or any(map(self.takes_media, _MEDIA))

    def list_of_texts(self) -> str:
        """The input that takes many texts at once, or ""."""
        lists = (n for n, p in self.ports.items() if p.many and (str in p.kinds or Text in p.kinds))
        return next(lists, "")

    def takes_media(self, kind: type[Media]) -> bool:
        return any(_accepts(port, kind) for port in self.ports.values())

    def fill(self, turn: Turn) -> dict[str, Any]:
        """The workflow's inputs by name; raises Refused E271 where something said has no place."""
        given: dict[str, Any] = {
            name: _field(name, self.ports[name], turn.fields[name], strict=turn.strict)
            for name in self.ports
            if name in self.plain and turn.fields.get(name) is not None
        }
        if self.whole:
            given[self.whole] = turn.messages
        for medium in turn.media:
            self._place_medium(medium, given)
        if turn.text:
            self._place_text(turn.text, given)
        return self.workflow.bind(**given)

    def _place_medium(self, medium: Media, given: dict[str, Any]) -> None:
        free = self._free(type(medium), given)
        if free:
            port = self.ports[free]
            if port.many:
                given.setdefault(free, []).append(medium)
            else:
                given[free] = medium
        elif not self.whole:
            raise self._no_place(medium.modality)

    def _free(self, kind: type[Payload], given: Mapping[str, Any]) -> str:
        """The input that takes one more value of a kind: the one that takes nothing else goes first."""
        fitting = [
            name
            for name, port in self.ports.items()
            if _accepts(port, kind) and (name not in given or (port.many and isinstance(given[name], list)))
        ]
        return min(fitting, key=lambda name: len(self.ports[name].kinds), default="")

    def _place_text(self, text: str, given: dict[str, Any]) -> None:
        free = [name for name, port in self.ports.items() if name not in given and _accepts(port, Text)]
        if free:
            port = self.ports[free[0]]
            value: Any = text if str in port.kinds else Text(text)
            given[free[0]] = [value] if port.many else value
        elif not self.whole:
            raise self._no_place("text")

    @property
    def listed(self) -> str:
        """The inputs with their types, as a message names them."""
        return ", ".join(f"{name}: {port}" for name, port in self.ports.items()) or "nothing"

    def _no_place(self, what: str) -> Refused:
        return Refused(
            f"'{self.workflow.name}' has no free input for the {what} of the last user message",
            help=f"its inputs are {self.listed}",
            param="messages",
            code="E271",
        )


@functools.lru_cache(maxsize=256)  # of the workflows that a server has; read once, not with each request
def inputs_of(workflow: Workflow[..., Any]) -> Inputs:
    """How a workflow is spoken to."""
    return Inputs(workflow)


def _is_plain(port: PortType) -> bool:
    """Whether a field may fill an input: never one that takes media, whose strings could be file names."""
    kinds = port.kinds
    media = any(isinstance(kind, type) and issubclass(kind, (*_MEDIA, Tensor)) for kind in kinds)
    return bool(kinds) and not media and not port.stream


def _accepts(port: PortType, kind: type[Payload]) -> bool:
    if kind is Text and str in port.kinds:
        return True
    return any(
        isinstance(each, type) and issubclass(kind, each) and each is not object for each in port.kinds
    )


def _field(name: str, port: PortType, value: Any, *, strict: bool) -> Any:
    """A field's JSON as an input takes it."""
    if Any in port.kinds or port.kinds == (Json,):
        return value
    kinds = [str if kind is Text else kind for kind in port.kinds if kind is not Json]
    wanted: Any = kinds[0]
    for kind in kinds[1:]:
        wanted = wanted | kind
    try:
        plain = msgspec.convert(value, list[wanted] if port.many else wanted, strict=strict)
    except (msgspec.ValidationError, TypeError) as error:
        raise Refused(
            f"`{name}` does not fit the workflow's input: {error}",
            help=f"it takes {port}",
            param=name,
            says="invalid_value",
            code="E271",
        ) from None
    if Text not in port.kinds:
        return plain
    return [Text(each) for each in plain] if port.many else Text(plain) if isinstance(plain, str) else plain


def gives(workflow: Workflow[..., Any], kinds: Iterable[type]) -> bool:
    """Whether what a workflow gives may be of one of the kinds; an untyped result may be anything."""
    given = workflow.output.kinds
    if not given or Any in given:
        return True
    wanted = tuple(kinds)
    return any(isinstance(kind, type) and issubclass(kind, wanted) for kind in given)
