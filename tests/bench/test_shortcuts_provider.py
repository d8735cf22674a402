"""The stand-in provider of make bench-shortcuts: what its acts are made of, what it counts, how it misbehaves."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tauten.run.remote.sse import Events
from tauten.run.remote.units import prompt_tokens as ours

sys.path.insert(0, str(Path(__file__).parents[2]))  # bench/ is no part of the installed package
acts, running = (importlib.import_module(f"bench.shortcuts.provider.{name}") for name in ("acts", "running"))

ASKED = {"messages": [{"role": "user", "content": "How is the sea?"}], "stream": True}


def told(parts: Any) -> list[Any]:
    """The events of a script, as our own client reads them; the last one is the word that ends a stream."""
    body = b"".join(part.data for part in parts).partition(b"\r\n\r\n")[2]
    data, read = b"", 0
    while read < len(body):
        size, _, rest = body[read:].partition(b"\r\n")
        data += rest[: int(size, 16)]
        read += len(size) + 2 + int(size, 16) + 2
    return [each if each == b"[DONE]" else json.loads(each) for each in Events().feed(data)]


def words(events: list[Any]) -> str:
    return "".join(
        choice["delta"].get("content") or ""
        for event in events
        if isinstance(event, dict)
        for choice in event.get("choices", ())
    )


def test_an_answer_says_as_many_words_as_it_is_billed() -> None:
    parts = acts.script({"do": "says", "words": 7}, {**ASKED, "stream_options": {"include_usage": True}})
    events = told(parts)
    assert words(events) == acts.spoken(7) == "The sea is big now The sea "
    assert sum(part.words for part in parts) == 7
    assert events[-1] == b"[DONE]"
    assert events[-2]["usage"] == {"prompt_tokens": 8, "completion_tokens": 7, "total_tokens": 15}
    assert [part.end for part in parts] == ["keep"]


def test_words_are_a_token_each_and_prompts_are_counted_as_we_estimate_them() -> None:
    assert all(len(word) <= 4 for word in acts.WORDS)
    for text in ("", "one", "four", "fives", "How is the sea? 000012"):
        messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "The sea "}]
        assert acts.prompt_tokens({"messages": messages}) == ours(messages)


def test_a_gap_lets_it_trickle_and_a_bound_ends_it() -> None:
    parts = acts.script({"do": "says", "words": 8, "first_s": 0.1, "gap_s": 0.2}, {**ASKED, "max_tokens": 3})
    assert [part.at_s for part in parts] == pytest.approx([0.1, 0.3, 0.5])
    assert [part.words for part in parts] == [1, 1, 1]
    finishes = [choice["finish_reason"] for event in told(parts)[:-1] for choice in event["choices"]]
    assert finishes[-1] == "length"


@pytest.mark.parametrize("do", ["cuts", "ends", "stops", "garbage", "fails"])
def test_what_is_cut_has_no_proper_end(do: str) -> None:
    parts = acts.script({"do": do, "words": 2}, ASKED)
    assert sum(part.words for part in parts) == 2
    body = b"".join(part.data for part in parts)
    assert b"[DONE]" not in body
    assert b'"finish_reason": "stop"' not in body


def test_a_call_may_say_what_it_meets() -> None:
    content = '[[{"do": "cuts", "words": 2}]] How is the sea?'
    assert acts.ordered({"messages": [{"role": "user", "content": content}]}) == {"do": "cuts", "words": 2}
    assert acts.ordered(ASKED) is None


# -- in a process of its own ---------------------------------------------------------------------------------


def scene(body: Callable[[Any, aiohttp.ClientSession], Awaitable[None]]) -> None:
    async def main() -> None:
        async with running.standin({"do": "says", "words": 4}) as provider, aiohttp.ClientSession() as client:
            await body(provider, client)

    asyncio.run(main())


async def asked(provider: Any, client: aiohttp.ClientSession, **more: Any) -> tuple[int, bytes]:
    async with client.post(f"{provider.url}/chat/completions", json={**ASKED, **more}) as answer:
        return answer.status, await answer.read()


def test_it_counts_what_it_gives() -> None:
    async def body(provider: Any, client: aiohttp.ClientSession) -> None:
        for stream in (True, False):
            status, data = await asked(provider, client, stream=stream)
            assert status == 200
            assert b"sea" in data
        assert await provider.count() == (2, 16, 8)
        await provider.acts({"do": "status", "code": 503}, usual={"do": "says", "words": 1})
        assert (await asked(provider, client))[0] == 503
        assert (await asked(provider, client))[0] == 200
        assert (await provider.count()).since(running.Count(2, 16, 8)) == (2, 8, 1)

    scene(body)


def test_a_client_that_leaves_is_billed_what_it_was_given() -> None:
    async def body(provider: Any, client: aiohttp.ClientSession) -> None:
        for act, billed in (({"do": "hangs"}, (8, 0)), ({"do": "stops", "words": 2}, (8, 2))):
            await provider.acts(act)
            before = await provider.count()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await asked(provider, client)
            assert (await provider.quiet()).since(before) == (1, *billed)
            assert (await provider.counts())["kept"][-1]["left"]

    scene(body)


def test_it_cuts_resets_and_refuses() -> None:
    async def body(provider: Any, client: aiohttp.ClientSession) -> None:
        for act in ({"do": "cuts", "words": 2}, {"do": "hangs_up"}, {"do": "raw"}):
            await provider.acts(act)
            with pytest.raises(aiohttp.ClientError):
                await asked(provider, client)
        await provider.refuse()
        with pytest.raises(aiohttp.ClientConnectorError):
            await asked(provider, client)
        await provider.listen()
        assert (await asked(provider, client))[0] == 200
        assert await provider.count() == (4, 16, 6)  # two words that were cut, four that were whole

    scene(body)


def test_it_says_what_it_was_given_to_say() -> None:
    async def body(provider: Any, client: aiohttp.ClientSession) -> None:
        await provider.answers({"How is the sea?": "deep"})
        status, data = await asked(provider, client, stream=False)
        assert (status, json.loads(data)["choices"][0]["message"]["content"]) == (200, "deep")
        assert await provider.count() == (1, 8, 1)

    scene(body)
