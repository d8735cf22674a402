"""A recording: requests that were kept, with inputs, arrival times and labels; replayed for every claim.

On disk it is a folder: ``items.jsonl`` (a header, then one item a line) and ``media/`` with each input
once, named by its content hash.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import hashlib
import io
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import msgspec

from tauten.describe.payload import Audio, Image, Json, Payload, Pdf, Tensor, Text, Video
from tauten.errors import InputError, MediaError
from tauten.run.caching.naming import content_name

SCHEMA = "tauten.recording/1"
Inputs = Mapping[str, Payload]

_KINDS: dict[str, type[Payload]] = {
    kind.modality: kind for kind in (Text, Json, Tensor, Image, Audio, Video, Pdf)
}


class Document(msgspec.Struct, frozen=True):
    """A place that answers: a source file, and a pattern that its title matches."""

    source: str
    title: str = ""


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """What is known to be right about a request; whatever is left out is not judged.

    `accept` holds groups of patterns: an answer is right when every pattern of one group is found in it.
    `answer` may hold the expected output of a workflow that is judged in another way.
    """

    answerable: bool = True
    documents: tuple[Document, ...] = ()
    accept: tuple[tuple[str, ...], ...] = ()
    exception: str = ""
    transcript: str = ""
    screen: bool | None = None
    answer: Any = None


class Item(msgspec.Struct, kw_only=True, dict=True):
    """One request. Its inputs are made by `render` when they are first read, and kept until `forget`. `made_of` names
    all that they are made of, so that nobody has to render them to see whether they have changed."""

    id: str
    render: Callable[[], Inputs]
    at_s: float = 0.0  # arrival, counted from the first request
    label: Label = Label()
    split: str = "dev"
    quick: bool = False
    tags: tuple[str, ...] = ()
    provenance: str = ""
    made_of: str = ""

    @functools.cached_property
    def inputs(self) -> Inputs:
        """Payloads by the name of the workflow's input; an input that the request lacks is not there."""
        return self.render()

    @functools.cached_property
    def revision(self) -> str:
        """Another one when the inputs are; those that do not tell what they are made of are rendered for it."""
        if self.made_of:
            return self.made_of
        name = content_name(*sorted(self.inputs.items())).hex()
        self.forget()
        return name

    def forget(self) -> None:
        """Free the rendered inputs; reading them again renders them again."""
        self.__dict__.pop("inputs", None)


class Recording:
    """Requests in the order of their arrival.

    >>> Recording("one", [Item(id="a", render=lambda: {"question": Text("Why?")})])
    <recording one: 1 items>
    """

    def __init__(self, name: str, items: Iterable[Item]) -> None:
        self.name = name
        self.items = sorted(items, key=lambda item: item.at_s)
        seen: set[str] = set()
        for item in self.items:
            if item.id in seen:
                raise InputError(f"two items are called {item.id!r}", help="give each its id", code="E245")
            seen.add(item.id)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __getitem__(self, place: int) -> Item:
        return self.items[place]

    def __repr__(self) -> str:
        return f"<recording {self.name}: {len(self.items)} items>"

    def select(
        self, *, split: str | None = None, quick: bool | None = None, tags: Sequence[str] = ()
    ) -> Recording:
        """The items of a split, of the quick set, or that carry all of the tags; times stay as they are."""
        chosen = [
            item
            for item in self.items
            if (split is None or item.split == split)
            and (quick is None or item.quick == quick)
            and set(tags) <= set(item.tags)
        ]
        return Recording(self.name, chosen)

    def at_rate(self, rate_per_s: float, *, seed: int = 0) -> Recording:
        """The same requests arriving at another mean rate; the order stays."""
        times = arrivals(len(self.items), rate_per_s, seed=seed)
        pairs = zip(self.items, times, strict=True)
        return Recording(self.name, [msgspec.structs.replace(item, at_s=at) for item, at in pairs])

    def save(self, folder: str | Path) -> Path:
        """Write all items, rendering what is not rendered yet, and only as long as it is written; a recording of that
        name is replaced."""
        folder = Path(folder)
        media = folder / "media"
        media.mkdir(parents=True, exist_ok=True)
        lines = [msgspec.json.encode(_Header(schema=SCHEMA, name=self.name))]
        for item in self.items:
            rendered = "inputs" in item.__dict__
            lines.append(msgspec.json.encode(_kept(item, media)))
            if not rendered:
                item.forget()
        _write(folder / "items.jsonl", b"\n".join(lines) + b"\n")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Recording:
        """Read a saved recording; media files are opened when an item's inputs are read."""
        folder = Path(folder)
        try:
            first, *rest = (folder / "items.jsonl").read_bytes().splitlines()
            header = msgspec.json.decode(first, type=_Header)
            kept = [msgspec.json.decode(line, type=_Kept) for line in rest]
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise InputError(
                f"{str(folder)!r} is not a recording: {error}",
                help="give the folder that `record` or Recording.save wrote",
                code="E245",
            ) from error
        if header.schema != SCHEMA:
            raise InputError(
                f"{str(folder)!r} has schema {header.schema!r}; this version reads {SCHEMA!r}",
                help="record it again",
                code="E245",
            )
        return cls(header.name, [_item(line, folder / "media") for line in kept])


def evenly(items: Iterable[Item], count: int) -> list[Item]:
    """So many of them, evenly over their kinds, as far as tags tell, and then over time; all where there are no
    more."""
    ordered = sorted(items, key=lambda item: item.tags)
    count = min(count, len(ordered))
    return [ordered[place * len(ordered) // count] for place in range(count)]


def sample(items: Sequence[Item], count: int) -> list[Item]:
    """So many of them, evenly as above, of which about as large a share repeats others as in the whole: a cache is
    worth as much to them. Items that do not tell what they are made of repeat none.

    >>> asked = [Item(id=str(number), render=dict, made_of="ab"[number % 2] * (number < 4)) for number in range(8)]
    >>> [item.id for item in sample(asked, 4)]
    ['0', '4', '6', '2']
    """
    alike: dict[str, list[Item]] = {}
    for item in items:
        alike.setdefault(item.made_of or item.id, []).append(item)
    count = min(count, len(items))
    again = min(count - 1, round(count * (1.0 - len(alike) / max(1, len(items)))))
    if again < 1:
        return evenly(items, count)
    often = evenly((each[0] for each in alike.values() if len(each) > 1), min(again, count - again))
    once = evenly((each[0] for each in alike.values() if len(each) == 1), count - again - len(often))
    more = [
        item for turn in zip_longest(*(alike[each.made_of][1:] for each in often)) for item in turn if item
    ]
    return [*often, *once, *more][:count]


def arrivals(count: int, rate_per_s: float, *, seed: int = 0) -> list[float]:
    """Arrival times of `count` independent requests at a mean rate (a Poisson process), the first at 0.

    >>> arrivals(3, 1.0, seed=1) == arrivals(3, 1.0, seed=1)
    True
    """
    if rate_per_s <= 0:
        raise InputError(f"a rate of {rate_per_s:g} requests a second", help="give more than 0", code="E246")
    rng, now, times = random.Random(seed), 0.0, []
    for _ in range(count):
        times.append(now)
        now += rng.expovariate(rate_per_s)
    return times


class _Header(msgspec.Struct):
    schema: str
    name: str


class _Value(msgspec.Struct, omit_defaults=True):
    """One saved input: text and JSON stand in the line itself, anything else in a file."""

    kind: str
    type: str = ""
    text: str | None = None
    value: Any = None
    file: str = ""


class _Kept(msgspec.Struct, omit_defaults=True, kw_only=True):
    id: str
    at_s: float
    inputs: dict[str, _Value]
    label: Label
    split: str
    quick: bool = False
    tags: tuple[str, ...] = ()
    provenance: str = ""


def _kept(item: Item, media: Path) -> _Kept:
    return _Kept(
        id=item.id,
        at_s=item.at_s,
        inputs={name: _value(payload, media) for name, payload in item.inputs.items()},
        label=item.label,
        split=item.split,
        quick=item.quick,
        tags=item.tags,
        provenance=item.provenance,
    )


def _value(payload: Payload, media: Path) -> _Value:
    if isinstance(payload, Text):
        return _Value("text", text=payload.text)
    if isinstance(payload, Json):
        return _Value("json", value=payload.value)
    name = f"{payload.hash}.{payload.type.split('/')[-1].removeprefix('x-')}"
    if not (media / name).exists():
        _write(media / name, payload.data)
    return _Value(payload.modality, type=payload.type, file=name)


def _write(path: Path, data: bytes) -> None:
    """All or nothing: a reader never sees half a file."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _item(kept: _Kept, media: Path) -> Item:
    return Item(
        id=kept.id,
        render=functools.partial(_open, kept.inputs, media),
        at_s=kept.at_s,
        label=kept.label,
        split=kept.split,
        quick=kept.quick,
        tags=kept.tags,
        provenance=kept.provenance,
        made_of=hashlib.sha256(msgspec.json.encode(kept.inputs, order="deterministic")).hexdigest(),
    )


def _open(inputs: Mapping[str, _Value], media: Path) -> Inputs:
    return {name: _payload(value, media) for name, value in inputs.items()}


def _payload(value: _Value, media: Path) -> Payload:
    if value.kind == "text":
        return Text(value.text or "")
    if value.kind == "json":
        return Json(value.value)
    if value.kind not in _KINDS or Path(value.file).name != value.file:
        raise InputError(
            f"an input of kind {value.kind!r} in file {value.file!r}",
            help=f"kinds are {', '.join(_KINDS)}; files stand in media/",
            code="E245",
        )
    payload = _decode(value, media / value.file)
    _check(value, payload)
    return payload


def _check(value: _Value, payload: Payload) -> None:
    if not value.file.startswith(payload.hash):
        raise MediaError(
            f"{value.file} in the recording holds other bytes than were saved",
            help="restore the file, or record again",
            code="E247",
        )


def _decode(value: _Value, path: Path) -> Payload:
    if not path.is_file():
        raise MediaError(f"the recording lacks {path.name}", help="copy the whole folder", code="E247")
    data = path.read_bytes()
    if value.kind == "tensor":
        import numpy as np

        _check(value, Payload(data, value.type))  # before NumPy believes what a damaged file says of itself
        return Tensor(np.load(io.BytesIO(data), allow_pickle=False))
    return _KINDS[value.kind](data, value.type)
