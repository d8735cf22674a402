"""Providers that misbehave over real sockets: for each fault what the caller saw, and what was booked, to the token."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from remote.kit_lines import Told
from remote.kit_provider import (
    StandIn,
    cuts,
    fails,
    garbage,
    hangs,
    hangs_up,
    providers_toml,
    raw,
    says,
    status,
    stops,
)
from tauten.clock import real
from tauten.errors import BackendError, DeadlineExceeded, Overloaded, TautenError
from tauten.run.backends.remote import RemoteBackend
from tauten.run.contracts import ModelSpec
from tauten.run.remote.endpoint import Endpoints
from tauten.run.remote.line import HttpLine
from tauten.run.request import Request

WORDS = (
    "The ",
    "sea ",
    "is ",
    "deep",
)  # four characters at most: a token each, for them and for our estimate
ITEM = {"messages": [{"role": "user", "content": "How is the sea?"}], "max_tokens": 8}
PROMPT = 8.0  # tokens of it: four for the message, four for 15 characters
LONG_S = 20.0  # a hang of the test itself; no assertion is about it


class Wall:
    """A backend in front of stand-ins, and what a caller sees of it."""

    def __init__(self, folder: Path, *stands: StandIn, **options: Any) -> None:
        self.stands = stands
        self.names = [f"p{index}" for index in range(len(stands))]
        self._file = folder / "providers.toml"
        self._options = options
        self.backend: RemoteBackend | None = None
        self.shared: Endpoints | None = None
        self.clock = real

    async def __aenter__(self) -> Wall:
        for each in self.stands:
            await each.__aenter__()
        urls = {name: each.url for name, each in zip(self.names, self.stands, strict=True)}
        self._file.write_text(providers_toml(urls))
        options = {"provider": self.names, **self._options}
        self.backend = RemoteBackend(
            ModelSpec("words", options=options), clock=self.clock, shared=self.shared
        )
        await self.backend.open()
        return self

    async def __aexit__(self, *why: object) -> None:
        assert self.backend is not None
        await self.backend.close()
        for each in self.stands:
            await each.__aexit__(*why)

    async def ask(self, left_s: float = math.inf, item: Mapping[str, Any] = ITEM) -> Told:
        assert self.backend is not None
        request = Request(self.clock, deadline=self.clock() + left_s)
        told = Told(request)
        try:
            async with asyncio.timeout(LONG_S):
                async for chunk in self.backend.start_for(request, "ask", item):
                    told.chunks.append(chunk)
        except TautenError as error:
            told.error = error
        return told


@pytest.fixture
def wall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Wall]:
    monkeypatch.setenv("TAUTEN_PROVIDERS", str(tmp_path / "providers.toml"))

    def make(*acts: Any, **options: Any) -> Wall:
        """One stand-in for each act, or tuple of acts."""
        stands = [StandIn(*(each if isinstance(each, tuple) else (each,))) for each in acts]
        return Wall(tmp_path, *stands, **options)

    return make


def alone(wall: Wall, told: Told) -> None:
    """Nothing is left: no stream, no task of the route."""
    assert wall.backend is not None
    assert wall.backend.active == 0


Make = Callable[..., Wall]


def test_all_is_well_and_a_connection_is_used_again(wall: Make) -> None:
    async def scene() -> None:
        async with wall(says(*WORDS)) as one:
            for index in range(3):
                told = await one.ask()
                assert (told.text, told.whole) == ("The sea is deep", True)
                assert told.calls == [("p0", "", "ok", PROMPT, 4.0, "provider")]
                [call] = told.request.trace.provider_calls
                assert (call.request_id, call.started <= call.ended) == ("req-1", True)
                note = told.request.trace.notes["ask remote"]
                assert ("connect " in note, "connection reused" in note) == (not index, bool(index)), note
                assert "first byte" in note
                for _ in range(200):  # the end of the body is read beside
                    await asyncio.sleep(0)
            assert one.stands[0].connections == 1
            assert one.stands[0].billed() == (3 * PROMPT, 3 * 4)

    asyncio.run(scene())


def test_who_says_no_usage_is_estimated(wall: Make) -> None:
    async def scene() -> None:
        async with wall(says(*WORDS, usage=False)) as one:
            told = await one.ask()
            assert told.whole
            assert told.calls == [("p0", "", "ok", PROMPT, 4.0, "estimate")]

    asyncio.run(scene())


def test_a_bound_on_the_answer_is_kept(wall: Make) -> None:
    async def scene() -> None:
        async with wall(says(*WORDS)) as one:
            told = await one.ask(item={**ITEM, "max_tokens": 2})
            assert (told.text, told.chunks[-1].finish) == ("The sea ", "length")
            assert told.chunks[-1].usage["output_tokens"] == 2.0

    asyncio.run(scene())


BEFORE = {
    "hangs up": hangs_up(),
    "says nothing that is HTTP": raw(b"\x00\x01 what?\r\n\r\n"),
    "ends the connection": raw(b""),
    "ends within its head": raw(b"HTTP/1.1 200 OK\r\ncontent-ty"),
    "is no stream": raw(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
    "streams nonsense": garbage(),
    "fails in its first event": fails(),
    "cuts before its first word": cuts(),
    "ends cleanly before its first word": cuts(clean=True),
    "500": status(500),
    "502": status(502),
    "503": status(503, {"retry-after": "0.01"}),
    "504": status(504),
    "529": status(529),
    "redirects": status(302, {"location": "http://127.0.0.1:9/"}),
}


def who_says(fault: str) -> str:
    """An answer that is an error costs nothing, and we say so; what else was read may be billed, and nobody says."""
    return "estimate" if fault[0].isdigit() or fault == "redirects" else "none"


@pytest.mark.parametrize("fault", BEFORE)
def test_before_the_first_word_another_answers(wall: Make, fault: str) -> None:
    async def scene() -> None:
        async with wall(BEFORE[fault], says(*WORDS)) as both:
            told = await both.ask()
            assert (told.text, told.whole, told.error) == ("The sea is deep", True, None)
            assert told.calls == [
                ("p0", "", "failed", 0.0, 0.0, who_says(fault)),
                ("p1", "fallback", "ok", PROMPT, 4.0, "provider"),
            ]
            assert both.stands[1].billed() == (PROMPT, 4)
            alone(both, told)

    asyncio.run(scene())


@pytest.mark.parametrize("fault", BEFORE)
def test_with_nobody_else_it_is_an_error_that_says_so(wall: Make, fault: str) -> None:
    async def scene() -> None:
        async with wall(BEFORE[fault]) as one:
            told = await one.ask()
            assert isinstance(told.error, BackendError)
            assert told.error.code == "E460"
            assert "p0/words" in told.error.message
            assert told.error.help
            assert told.chunks == []
            assert [call[1:3] for call in told.calls] == [
                ("", "failed"),
                ("retry", "failed"),
                ("retry", "failed"),
            ]
            assert {call[3:] for call in told.calls} == {(0.0, 0.0, who_says(fault))}

    asyncio.run(scene())


def test_a_provider_that_is_not_there(wall: Make) -> None:
    async def scene() -> None:
        async with wall(says("never"), says(*WORDS)) as both:
            await both.stands[0].__aexit__()
            told = await both.ask()
            assert told.text == "The sea is deep"
            assert [(provider, outcome) for provider, _, outcome, *_ in told.calls] == [
                ("p0", "failed"),
                ("p1", "ok"),
            ]
            assert "connect" in told.request.trace.notes["ask remote"].lower()

    asyncio.run(scene())


def test_a_provider_that_hangs_is_left_and_sees_it(wall: Make) -> None:
    async def scene() -> None:
        async with wall(hangs(), says(*WORDS), patience_ms=50) as both:
            told = await both.ask()
            assert told.text == "The sea is deep"
            assert told.calls == [
                ("p0", "", "cancelled", PROMPT, 0.0, "estimate"),
                ("p1", "fallback", "ok", PROMPT, 4.0, "provider"),
            ]
            async with asyncio.timeout(LONG_S):
                await both.stands[0].calls[0].closed.wait()

    asyncio.run(scene())


def test_a_hang_in_mid_stream_is_an_error_and_the_words_are_booked(wall: Make) -> None:
    async def scene() -> None:
        async with wall(stops(*WORDS[:2]), patience_ms=50) as one:
            told = await one.ask()
            assert told.text == "The sea "
            assert told.error is not None
            assert told.error.code == "E461"
            assert "silent for 50 ms" in told.error.message
            assert told.calls == [("p0", "", "cancelled", PROMPT, 2.0, "estimate")]
            assert one.stands[0].billed() == (PROMPT, 2)
            async with asyncio.timeout(LONG_S):
                await one.stands[0].calls[0].closed.wait()

    asyncio.run(scene())


def test_a_trickle_is_an_answer_while_it_runs(wall: Make) -> None:
    async def scene() -> None:
        async with wall(says(*WORDS, gap_s=0.03), patience_ms=5000) as one:
            told = await one.ask()
            assert told.whole
            assert told.calls == [("p0", "", "ok", PROMPT, 4.0, "provider")]

    asyncio.run(scene())


def test_a_trickle_past_the_deadline_is_cut_by_it(wall: Make) -> None:
    async def scene() -> None:
        async with wall(says(*WORDS, *WORDS, gap_s=0.1)) as one:
            told = await one.ask(left_s=0.35)
            assert isinstance(told.error, DeadlineExceeded)
            assert not told.whole
            assert [outcome for _, _, outcome, *_ in told.calls] == ["cancelled"]
            words = sum(bool(chunk.text) for chunk in told.chunks)
            assert told.calls[0][4] == words

    asyncio.run(scene())


MIDST = {
    "cut": cuts(*WORDS[:2]),
    "ended as if all were well": cuts(*WORDS[:2], clean=True),
    "nonsense": garbage(*WORDS[:2]),
    "an error event": fails(*WORDS[:2]),
}


@pytest.mark.parametrize("fault", MIDST)
def test_a_stream_that_is_cut_is_never_a_success(wall: Make, fault: str) -> None:
    async def scene() -> None:
        async with wall(MIDST[fault], says("never")) as both:
            told = await both.ask()
            assert told.text == "The sea "
            assert not told.whole
            assert isinstance(told.error, BackendError)
            assert told.error.code == "E461"
            assert "`continue = true`" in told.error.help
            assert told.calls == [("p0", "", "cut", PROMPT, 2.0, "estimate")]
            assert both.stands[0].billed() == (PROMPT, 2)
            assert both.stands[1].calls == []
            alone(both, told)

    asyncio.run(scene())


@pytest.mark.parametrize("fault", MIDST)
def test_a_stream_that_is_cut_is_gone_on_with_where_the_plan_says_so(wall: Make, fault: str) -> None:
    async def scene() -> None:
        async with wall(MIDST[fault], says(*WORDS[2:]), **{"continue": True}) as both:
            told = await both.ask()
            assert (told.text, told.whole) == ("The sea is deep", True)
            assert told.calls == [
                ("p0", "", "cut", PROMPT, 2.0, "estimate"),
                ("p1", "continue", "ok", PROMPT + 6.0, 2.0, "provider"),  # 4 + 2 for the text so far
            ]
            [call] = both.stands[1].calls
            assert call.json["messages"][-1] == {"role": "assistant", "content": "The sea "}
            assert call.json["max_tokens"] == 6
            first, second = (each.billed() for each in both.stands)
            booked = [sum(each[3:5]) for each in told.calls]
            assert booked == [sum(first), sum(second)]

    asyncio.run(scene())


def test_429_with_retry_after_is_waited_for(wall: Make) -> None:
    async def scene() -> None:
        async with wall((status(429, {"retry-after": "0.2"}), says(*WORDS))) as one:
            told = await one.ask()
            assert told.whole
            assert told.calls == [
                ("p0", "", "refused", 0.0, 0.0, "none"),
                ("p0", "retry", "ok", PROMPT, 4.0, "provider"),
            ]
            assert told.spent_s("limit") >= 0.2
            assert one.backend is not None
            assert one.backend._route is not None
            assert one.backend._route.endpoints[0].circuit.state == "closed"

    asyncio.run(scene())


@pytest.mark.parametrize("headers", [{}, {"retry-after": "60"}, {"retry-after-ms": "60000"}])
def test_429_that_outlasts_the_call_tells_when_to_come_again(wall: Make, headers: dict[str, str]) -> None:
    async def scene() -> None:
        async with wall(status(429, headers)) as one:
            told = await one.ask(left_s=0.5)
            assert isinstance(told.error, Overloaded)
            assert told.error.code == "E462"
            assert told.error.retry_after_s == (60.0 if headers else 1.0)
            assert told.calls == [("p0", "", "refused", 0.0, 0.0, "none")]
            again = await one.ask(left_s=0.5)
            assert isinstance(again.error, Overloaded)
            assert len(one.stands[0].calls) == 1  # the limit is known

    asyncio.run(scene())


def test_headers_tell_of_a_limit_before_it_is_hit(wall: Make) -> None:
    headers = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "60s",
    }

    async def scene() -> None:
        async with wall(says(*WORDS, headers=headers)) as one:
            assert (await one.ask()).whole
            told = await one.ask(left_s=0.5)
            assert isinstance(told.error, Overloaded)
            assert len(one.stands[0].calls) == 1

    asyncio.run(scene())


def test_a_burst_of_5xx_is_not_answered_with_a_burst_of_retries(wall: Make) -> None:
    async def scene() -> None:
        async with wall((*[status(503)] * 40, says(*WORDS))) as one:
            told = await asyncio.gather(*(one.ask(left_s=5.0) for _ in range(20)))
            calls = [call for each in told for call in each.calls]
            retries = sum(why == "retry" for _, why, *_ in calls)
            assert retries <= 0.1 * len(told) + 2
            assert len(calls) == len(one.stands[0].calls)
            assert all(isinstance(each.error, BackendError) for each in told)

    asyncio.run(scene())


class SlowNames(AbstractResolver):
    """Names that take long, or cannot be found."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        await asyncio.sleep(self.wait_s)
        return [
            ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)
        ]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("wait_s", [0.02, 3600.0])
def test_slow_names_are_seen_and_do_not_hold_a_call_for_ever(wall: Make, wait_s: float) -> None:
    async def scene() -> None:
        both = wall(says(*WORDS), says("other"), patience_ms=300)
        names = SlowNames(wait_s)
        both.shared = Endpoints(
            lambda provider: (
                HttpLine(provider.url.replace("127.0.0.1", "slow.test"), resolver=names)
                if provider.name == "p0"
                else HttpLine(provider.url)
            )
        )
        async with both:
            told = await both.ask()
            if wait_s < 1:
                assert told.text == "The sea is deep"
                assert "dns " in told.request.trace.notes["ask remote"]
            else:
                assert told.text == "other"
                assert told.calls[0] == ("p0", "", "cancelled", 0.0, 0.0, "estimate")  # nothing was sent
                assert both.stands[0].calls == []

    asyncio.run(scene())


@pytest.mark.parametrize("jump_s", [-1e5, 1e5])
def test_a_clock_that_jumps_changes_no_answer_and_no_count(wall: Make, jump_s: float) -> None:
    async def scene() -> None:
        offset = [0.0]
        one = wall(says(*WORDS, gap_s=0.01))
        one.clock = lambda: real() + offset[0]
        async with one:
            assert one.backend is not None
            told = Told(Request(one.clock))
            async for chunk in one.backend.start_for(told.request, "ask", ITEM):
                told.chunks.append(chunk)
                if len(told.chunks) == 3:
                    offset[0] = jump_s
            assert (told.text, told.whole) == ("The sea is deep", True)
            assert told.calls == [("p0", "", "ok", PROMPT, 4.0, "provider")]
            [call] = told.request.trace.provider_calls
            assert call.ended >= call.started
            assert all(end > start for _, _, start, end in told.request.trace.rows)
            assert (await one.ask()).whole  # and the next one goes at once

    asyncio.run(scene())


def test_a_caller_who_leaves_is_seen_by_the_provider(wall: Make) -> None:
    """It watches its socket every two milliseconds; that it sees the close at all is what is asserted."""

    async def scene() -> None:
        async with wall(stops(*WORDS[:2])) as one:
            assert one.backend is not None
            told = Told(Request(real))
            chunks = one.backend.start_for(told.request, "ask", ITEM)
            async for chunk in chunks:
                told.chunks.append(chunk)
                if told.text == "The sea ":
                    break
            assert not one.stands[0].calls[0].closed.is_set()
            await chunks.aclose()
            async with asyncio.timeout(LONG_S):
                await one.stands[0].calls[0].closed.wait()
            assert told.calls == [("p0", "", "cancelled", PROMPT, 2.0, "estimate")]
            assert one.stands[0].billed() == (PROMPT, 2)
            alone(one, told)

    asyncio.run(scene())


@pytest.mark.parametrize("act", ["before the first word", "in mid-stream"])
def test_a_task_that_is_cancelled_is_seen_by_the_provider(wall: Make, act: str) -> None:
    async def scene() -> None:
        async with wall(hangs() if act == "before the first word" else stops(*WORDS[:2])) as one:
            task = asyncio.create_task(one.ask())
            async with asyncio.timeout(LONG_S):
                while not one.stands[0].calls or (
                    act != "before the first word" and not one.stands[0].calls[0].said
                ):
                    await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            async with asyncio.timeout(LONG_S):
                await one.stands[0].calls[0].closed.wait()
            assert one.backend is not None
            assert one.backend.active == 0

    asyncio.run(scene())


def test_ten_thousand_words_in_bits_and_pieces_are_all_there(wall: Make) -> None:
    async def scene() -> None:
        words = [f"{index} " for index in range(2000)]
        async with wall(says(*words)) as one:
            told = await one.ask(item={**ITEM, "max_tokens": 5000})
            assert told.text == "".join(words)
            assert told.calls == [("p0", "", "ok", PROMPT, 2000.0, "provider")]

    asyncio.run(scene())
