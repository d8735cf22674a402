"""The labelled recording of the help desk: about 500 requests from scripts and seeds, rendered when read.

Nothing of it is stored but the scripts in items/. docs/recording.md says how it is made and what is templated.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import io
import random
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import msgspec

from tauten.describe.payload import Image, Payload, Text
from tauten.examples.help_desk import scenes, screens, voices
from tauten.examples.help_desk.rendered import kept
from tauten.examples.help_desk.sites import (
    HALVES,
    Foreign,
    Half,
    Site,
    label,
    questions,
    refused,
    sites,
    tracebacks,
)
from tauten.improve.recording import Inputs, Item, Label, Recording, arrivals

RATE_PER_S = 1.0  # mean arrival rate of the recording; replay may choose another
_SPOKEN_QUESTIONS = 14  # of the questions without a screen, the first fourteen are also asked aloud
_WITH_PICTURE = 6  # and the last six also come with a picture that has nothing to do with them
_PHOTOGRAPHED = 30  # typed questions of a half that come with a photo of the screen
_SPOKEN_PHOTOS = 11
_SILENT = 16  # pictures of a half without any question; every fourth is a photo

QUICK = {
    "screen typed": 8,
    "screen spoken": 5,
    "photo typed": 3,
    "photo spoken": 1,
    "picture only": 2,
    "typed": 4,
    "spoken": 2,
    "unrelated picture": 1,
    "refused typed": 2,
    "refused screen": 1,
    "refused spoken": 1,
}
"""How many of each kind, in each half, form the quick set: 30 a half, 9 of them spoken."""

SYNTHETIC = "rendered from items/*.toml and seeds; questions and labels written by hand"
T = TypeVar("T")
Shot = tuple[str, str, str, str, str, bool]  # seed, text, command, program, file, photographed?


def recording(*, split: str | None = None, quick: bool = False) -> Recording:
    """The recording, a half of it, or its quick set. Nothing is rendered until an item's inputs are read.

    Both halves are mixed in time. Arrivals are a Poisson process at `RATE_PER_S`, counted anew for what
    was chosen.
    """
    items = [item for half in HALVES for item in _half(half)]
    random.Random("help desk").shuffle(items)
    chosen = [item for item in items if (split is None or item.split == split) and (item.quick or not quick)]
    times = arrivals(len(chosen), RATE_PER_S, seed=7)
    placed = (msgspec.structs.replace(item, at_s=at) for item, at in zip(chosen, times, strict=True))
    return Recording("help_desk", placed)


def render(items: Iterable[Item], report: Callable[[int], None] | None = None) -> None:
    """Make all inputs now and keep them in the cache folder, then free the voice; `report` counts items."""
    try:
        for count, item in enumerate(items, 1):
            _ = item.inputs
            item.forget()
            if report is not None:
                report(count)
    finally:
        voices.close()


def _half(half: Half) -> list[Item]:
    """All items of one half, the quick ones marked: of each kind the same number, evenly spread."""
    items = [*_about_screens(half), *_without_screen(half), *_refused(half)]
    marked: set[str] = set()
    for kind, wanted in QUICK.items():
        of_kind = [item.id for item in items if kind in item.tags]
        marked |= {of_kind[place * len(of_kind) // wanted] for place in range(wanted)}
    return [msgspec.structs.replace(item, quick=item.id in marked) for item in items]


def _about_screens(half: Half) -> Iterator[Item]:
    """Questions about a failing program: typed and spoken, on screenshots and on photographs, or none."""
    asked = [(site, place) for site in sites(half) for place in range(len(site.questions))]
    for site, place in asked:
        yield _about(half, site, place, "screen typed")
    for site in sites(half):
        yield _about(half, site, 0, "screen spoken")
    for site, place in _spread(asked, _PHOTOGRAPHED):
        yield _about(half, site, place, "photo typed")
    for site in _spread(sites(half), _SPOKEN_PHOTOS):
        yield _about(half, site, 0, "photo spoken")
    for count, site in enumerate(_spread(sites(half), _SILENT)):
        yield _silent(half, site, photographed=count % 4 == 3)


def _spread(values: list[T], wanted: int) -> list[T]:
    return [values[place * len(values) // wanted] for place in range(wanted)]


def _about(half: Half, site: Site, place: int, kind: str) -> Item:
    id = f"{half}/{site.id}/{place}/{kind.replace(' ', '-')}"
    text, answer = site.questions[place]
    aloud, photographed = kind.endswith("spoken"), kind.startswith("photo")
    known = label(answer, exception=site.exception, transcript=text if aloud else "", screen=True)
    question = (text, half, id) if aloud else text
    return _item(id, half, kind, known, question=question, shot=_shot(id, site, photographed))


def _silent(half: Half, site: Site, *, photographed: bool) -> Item:
    id = f"{half}/{site.id}/picture-only"
    known = label(site.means, exception=site.exception, screen=True)
    return _item(id, half, "picture only", known, shot=_shot(id, site, photographed))


def _without_screen(half: Half) -> Iterator[Item]:
    """Typed and spoken questions alone, and a few beside a picture that is no help."""
    asked = questions(half)
    for place, (text, answer) in enumerate(asked):
        yield _item(f"{half}/question/{place}/typed", half, "typed", label(answer), question=text)
    for place, (text, answer) in enumerate(asked[:_SPOKEN_QUESTIONS]):
        id = f"{half}/question/{place}/spoken"
        yield _item(id, half, "spoken", label(answer, transcript=text), question=(text, half, id))
    names = _scenery(half)
    for place, (text, answer) in enumerate(asked[-_WITH_PICTURE:]):
        id = f"{half}/question/{place}/unrelated-picture"
        known = label(answer, screen=False)
        scene = (names[place % len(names)], id)
        yield _item(id, half, "unrelated picture", known, question=text, scene=scene)


def _refused(half: Half) -> Iterator[Item]:
    """Requests that must get "not found"."""
    script = refused(half)
    for tag, texts in (("near", script.near), ("foreign", script.foreign)):
        for place, text in enumerate(texts):
            id = f"{half}/{tag}/{place}"
            yield _item(id, half, "refused typed", label(""), question=text, tags=(tag,))
    for place, text in enumerate(script.spoken):
        id = f"{half}/refused/{place}/spoken"
        yield _item(id, half, "refused spoken", label("", transcript=text), question=(text, half, id))
    for place, text in enumerate(script.pictures):
        id = f"{half}/refused/{place}/picture"
        scene = (_scenery(half)[place], id)
        yield _item(id, half, "refused picture", label("", screen=False), question=text, scene=scene)
    for place, screen in enumerate(script.screens):
        yield from _other_tool(half, place, screen)


def _other_tool(half: Half, place: int, screen: Foreign) -> Iterator[Item]:
    for count, text in enumerate([*screen.questions, ""]):
        id = f"{half}/refused/screen-{place}/{count}"
        shot: Shot = (id, screen.text, screen.command, "", "", count == 1)
        known = label("", screen=True)
        yield _item(id, half, "refused screen", known, question=text, shot=shot, tags=("near",))


def _scenery(half: Half) -> list[str]:
    """Two photographs and the drawn scenes; the photographs of one half are not in the other."""
    first = 0 if half == "dev" else 2
    return [*scenes.PHOTOGRAPHS[first : first + 2], *scenes.SCENES]


def _shot(id: str, site: Site, photographed: bool) -> Shot:
    return (id, tracebacks()[site.id], f"python {site.file}", site.program, site.file, photographed)


def _item(
    id: str,
    half: Half,
    kind: str,
    known: Label,
    *,
    question: str | tuple[str, str, str] = "",
    shot: Shot | None = None,
    scene: tuple[str, str] | None = None,
    tags: tuple[str, ...] = (),
) -> Item:
    has = [name for name, given in (("question", question), ("photo", shot or scene)) if given]
    kinds = (kind, *tags, "answerable" if known.answerable else "refused", *(f"with {name}" for name in has))
    return Item(
        id=id,
        render=functools.partial(_inputs, question, shot, scene),
        label=known,
        split=half,
        tags=kinds,
        provenance=SYNTHETIC,
        made_of=repr((question, shot, scene)),
    )


def _inputs(question: str | tuple[str, str, str], shot: Shot | None, scene: tuple[str, str] | None) -> Inputs:
    """Render one request: `question` (text or sound) and `photo`, each only where the request has it."""
    inputs: dict[str, Payload] = {}
    if isinstance(question, tuple):
        inputs["question"] = voices.spoken(*question)
    elif question:
        inputs["question"] = Text(question)
    if shot is not None:
        inputs["photo"] = Image(kept("\n".join(map(str, shot)), lambda: _screen(shot)))
    elif scene is not None:
        inputs["photo"] = Image(kept("\n".join(scene), lambda: scenes.ordinary(*scene)))
    return inputs


def _screen(shot: Shot) -> bytes:
    seed, text, command, program, file, photographed = shot
    picture = screens.screenshot(text, command, seed, program=program, file=file)
    if photographed:
        return scenes.photograph(picture, seed)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=6)  # 6: zlib's usual level; these are kept
    return buffer.getvalue()
