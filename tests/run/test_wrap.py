"""A user's own client, wrapped: same results, with spans, deadline and tokens."""

import asyncio
import functools
import gc
import inspect
from collections.abc import AsyncIterator, Generator
from types import SimpleNamespace
from typing import Any

import pytest

import tauten as tt
from kit.virtual import answer
from tauten.run.attribution import attribute

USAGE = SimpleNamespace(prompt_tokens=12, completion_tokens=3)


class Completions:
    """An OpenAI-style endpoint that takes two seconds."""

    def __init__(self) -> None:
        self.timeouts: list[float | None] = []

    async def create(self, *, prompt: str, stream: bool = False, timeout: float | None = None) -> Any:
        self.timeouts.append(timeout)
        await asyncio.sleep(2.0)
        if prompt == "fail":
            raise ValueError("the provider said no")
        return self.chunks() if stream else SimpleNamespace(text=prompt.upper(), usage=USAGE)

    async def chunks(self) -> AsyncIterator[Any]:
        for word in ("a", "b"):
            await asyncio.sleep(1.0)
            yield SimpleNamespace(text=word, usage=None)
        yield SimpleNamespace(text="", usage=USAGE)


class Client:
    base_url = "http://127.0.0.1:1"

    def __init__(self) -> None:
        self.chat = SimpleNamespace(completions=Completions())

    def models(self) -> list[str]:
        return ["small"]


real = Client()
client = tt.wrap(real)


@tt.workflow
async def ask(prompt: str) -> str:
    return str((await client.chat.completions.create(prompt=prompt)).text)


@tt.workflow
async def listen(prompt: str) -> str:
    stream = await client.chat.completions.create(prompt=prompt, stream=True)
    return "".join([chunk.text async for chunk in stream])


def test_outside_a_request_nothing_changes() -> None:
    assert client.base_url == real.base_url
    assert client.models() == ["small"]
    assert inspect.signature(client.chat.completions.create) == inspect.signature(
        real.chat.completions.create
    )
    client.base_url = "http://127.0.0.1:2"
    assert real.base_url == "http://127.0.0.1:2"


def test_a_call_is_a_remote_row_and_its_tokens_are_booked() -> None:
    done = answer(ask, prompt="hi")
    assert done.value == "HI"
    exclusive = attribute(done.trace).exclusive()
    assert sum(s for (_, cause), s in exclusive.items() if cause == "remote") == pytest.approx(2.0)
    assert {(unit, amount) for _, unit, amount in done.trace.spent} == {
        ("input_tokens", 12.0),
        ("output_tokens", 3.0),
    }


def test_a_stream_is_watched_to_its_end() -> None:
    done = answer(listen, prompt="hi")
    assert done.value == "ab"
    remote = sum(end - start for _, cause, start, end in done.trace.rows if cause == "remote")
    assert remote == pytest.approx(4.0)  # two until the stream is there, one for each chunk
    assert sum(amount for _, unit, amount in done.trace.spent if unit == "input_tokens") == 12.0


def test_the_deadline_travels_as_the_timeout() -> None:
    answer(ask, prompt="hi", deadline_ms=5000)
    assert real.chat.completions.timeouts[-1] == pytest.approx(5.0)


def test_a_failing_call_has_its_row_and_raises_as_before() -> None:
    with pytest.raises(ValueError, match="the provider said no"):
        answer(ask, prompt="fail")


class Pages:
    """As clients give a list: awaited it is the first page, iterated it is every member, entered it is its response."""

    def __init__(self) -> None:
        self.left = False

    async def first(self) -> AsyncIterator[Any]:
        await asyncio.sleep(1.0)
        return self.members()

    def __await__(self) -> Generator[Any, None, AsyncIterator[Any]]:
        return self.first().__await__()

    async def members(self) -> AsyncIterator[Any]:
        for name in ("a", "b"):
            await asyncio.sleep(1.0)
            yield SimpleNamespace(text=name, usage=USAGE if name == "b" else None)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.members()

    async def __aenter__(self) -> str:
        await asyncio.sleep(1.0)
        return "response"

    async def __aexit__(self, *why: object) -> None:
        self.left = True


class Store:
    """A client that is entered, whose calls give what may be awaited, iterated or entered."""

    def __init__(self) -> None:
        self.pages = Pages()
        self.open = False
        self.named = functools.partial(self.list, "named")

    def list(self, name: str = "") -> Pages:
        return self.pages

    async def __aenter__(self) -> "Store":
        self.open = True
        return self

    async def __aexit__(self, *why: object) -> None:
        self.open = False

    __enter__ = lambda self: self  # noqa: E731
    __exit__ = lambda self, *why: None  # noqa: E731


@pytest.mark.parametrize(("way", "remote_s"), [("iterated", 2.0), ("awaited", 3.0), ("entered", 1.0)])
def test_what_is_awaited_or_iterated_or_entered_stays_all_of_these(way: str, remote_s: float) -> None:
    store = Store()

    @tt.workflow
    async def read(way: str) -> str:
        async with tt.wrap(store) as held:
            assert store.open
            if way == "entered":
                async with held.list() as response:
                    return str(response)
            pages = await held.named() if way == "awaited" else held.list()
            gc.collect()
            return "".join([each.text async for each in pages])

    done = answer(read, way=way)
    assert done.value == ("response" if way == "entered" else "ab")
    assert store.pages.left == (way == "entered")
    assert not store.open
    assert sum(end - start for _, cause, start, end in done.trace.rows if cause == "remote") == remote_s
    booked = {(unit, amount) for _, unit, amount in done.trace.spent}
    assert booked == (set() if way == "entered" else {("input_tokens", 12.0), ("output_tokens", 3.0)})


def test_a_client_that_is_entered_is_wrapped_inside_its_block() -> None:
    wrapped = tt.wrap(Store())
    with wrapped as held:
        assert held is wrapped
    assert wrapped.named() is wrapped.list()
