"""Which requests are the same: media, arrays, structures and conversations, by their content and among many others."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import tauten as tt
from serve.kit_asgi import ask, site
from tauten.serve.kept.alike import LOOKS, WHOLE, fingerprint, same
from tauten.serve.service import Service


class Place(msgspec.Struct):
    """What a client sends that is no payload."""

    name: str
    at: Any = None


@dataclass
class Area:
    """The same, the other way to write one."""

    name: str
    at: Any = None


class Odd:
    """A value that answers a comparison with something else than yes or no."""

    def __eq__(self, other: object) -> Any:
        return np.array([True, False])

    __hash__ = object.__hash__


def test_structures_and_arrays_are_compared_in_full() -> None:
    for kind in (Place, Area):
        assert same(kind("a", np.zeros(3)), kind("a", np.zeros(3)))
        assert not same(kind("a", np.zeros(3)), kind("a", np.ones(3)))
        assert not same(kind("a", 1), kind("a", True))
        assert not same(kind("a", [0.0]), kind("a", [-0.0]))
    assert not same(Place("a"), Area("a"))
    assert same(np.array(["a", None], object), np.array(["a", None], object))
    assert not same(np.array(["a", None], object), np.array(["a", "b"], object))
    assert same(tt.Json({"a": [1], "b": 2.0}), tt.Json({"b": 2.0, "a": [1]}))
    assert not same(tt.Json({"a": 1}), tt.Json({"a": 1.0}))
    assert not same(Odd(), Odd())


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=4), inner, max_size=6),
    max_leaves=40,
)


@given(value=plain)
def test_what_is_the_same_has_the_same_fingerprint(value: Any) -> None:
    again = json.loads(json.dumps(value))
    assert same(value, again)
    assert fingerprint({"a": value}) == fingerprint({"a": again})
    assert fingerprint({"a": tt.Json(value)}) == fingerprint({"a": tt.Json(again)})


def test_a_fingerprint_tells_the_last_turn_of_a_conversation_and_looks_at_no_more_than_it_says() -> None:
    def turns(last: str) -> dict[str, Any]:
        before = [{"role": role, "content": "x"} for role in ("system", "user", "assistant") * 9]
        return {"messages": [*before, {"role": "user", "content": [{"type": "text", "text": last}]}]}

    def pixels(value: int) -> Any:
        array = np.zeros((64, 64), np.uint8)
        array[16:] = value
        return tt.Tensor(array)

    turned = {"content": [{"text": "a", "type": "text"}], "role": "user"}
    assert fingerprint(turns("a")) == fingerprint({"messages": [*turns("a")["messages"][:-1], turned]})
    assert fingerprint(turns("a")) != fingerprint(turns("b"))
    assert fingerprint({"a": Place("a")}) != fingerprint({"a": Place("b")})
    assert fingerprint({"a": pixels(1)}) != fingerprint({"a": pixels(2)})
    assert fingerprint({"a": "a" * WHOLE + "b"}) != fingerprint({"a": "a" * WHOLE + "c"})
    wide = dict.fromkeys(map(str, range(LOOKS)), "a")
    assert fingerprint({"a": wide}) == fingerprint({"a": {**wide, "0": "b"}})  # too much to look at
    looked = [0]

    class Watched(dict[str, Any]):
        def items(self) -> Any:
            looked[0] += 1
            return super().items()

    deep: Any = "end"
    for _ in range(LOOKS * 2):
        deep = Watched(a=deep)
    fingerprint({"a": deep})
    assert 0 < looked[0] <= LOOKS


def test_pictures_sound_and_structures_of_requests_are_compared_by_content() -> None:
    def sent(medium: tt.Image | tt.Audio) -> dict[str, str]:
        return {"data": base64.b64encode(medium.data).decode(), "type": medium.type}

    def picture(shade: int) -> dict[str, str]:
        pixels = np.zeros((16, 16, 3), np.uint8)
        pixels[8, 8] = shade
        return sent(tt.Image.from_array(pixels))

    def sound(level: float) -> dict[str, str]:
        samples = np.zeros(4000, np.float32)
        samples[2000] = level
        return sent(tt.Audio.from_array(samples, 16000))

    runs = 0

    @tt.stage(pure=True)
    async def weighed(photo: tt.Image | None, sound: tt.Audio | None, place: Place | None) -> int:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.02)
        return 1

    @tt.workflow
    def weigh(
        photo: tt.Image | None = None, sound: tt.Audio | None = None, place: Place | None = None
    ) -> int:
        return weighed(photo, sound, place)

    async def main() -> None:
        async with site(Service(weigh), apis=["native"]) as app:
            for name, one, other in (
                ("photo", picture(1), picture(2)),
                ("sound", sound(0.1), sound(0.2)),
                ("place", {"name": "a", "at": [1]}, {"name": "a", "at": [2]}),
            ):
                before = runs
                bodies = ({"inputs": {name: each}} for each in (one, one, other, one))
                asked = (ask(app, "POST", "/v1/workflows/weigh", each) for each in bodies)
                assert [each.status for each in await asyncio.gather(*asked)] == [200] * 4
                assert runs - before == 2, name

    asyncio.run(main())


def test_arrays_that_a_workflow_takes_as_they_are_share_as_well() -> None:
    runs = 0

    @tt.stage(pure=True)
    async def summed(rows: np.ndarray) -> float:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.02)
        return float(rows.sum())

    @tt.workflow
    def total(rows: np.ndarray) -> float:
        return summed(rows)

    def asked(last: float) -> dict[str, Any]:
        rows = {"name": "rows", "shape": [2, 2], "datatype": "FP32", "data": [0.0, 1.0, 2.0, last]}
        return {"inputs": [rows]}

    async def main() -> None:
        async with site(Service(total), apis=["oip"]) as app:
            path = "/v2/models/total/infer"
            answers = await asyncio.gather(*(ask(app, "POST", path, asked(last)) for last in (3, 3, 4)))
            assert [each.json["outputs"][0]["data"] for each in answers] == [[6.0], [6.0], [7.0]]
            assert runs == 2

    asyncio.run(main())


def test_many_different_requests_do_not_hide_the_same_one() -> None:
    runs = 0

    @tt.stage(pure=True)
    async def last(turns: list[dict[str, str]]) -> str:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.02)
        return turns[-1]["content"]

    @tt.workflow
    def talk(turns: list[dict[str, str]]) -> str:
        return last(turns)

    async def main() -> None:
        async with site(Service(talk), apis=["native"]) as app:
            texts = [f"say {number}" for number in range(30)] * 2
            bodies = ({"inputs": {"turns": [{"role": "user", "content": text}]}} for text in texts)
            asked = (ask(app, "POST", "/v1/workflows/talk", body) for body in bodies)
            assert [each.json["output"] for each in await asyncio.gather(*asked)] == texts
            assert runs == 30

    asyncio.run(main())
