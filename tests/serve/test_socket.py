"""The native WebSocket: several requests, inputs that stream in, media out, cancel, bounds, bad messages."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import numpy as np
import pytest

import tauten as tt
from serve.kit_asgi import ask, site
from serve.kit_stream import Talk, settle
from serve.kit_workflows import endless
from tauten.serve.door import Caller, Door
from tauten.serve.native.dialogue import FEED
from tauten.serve.observe.logs import Logs
from tauten.serve.observe.metrics import Metrics
from tauten.serve.service import Service

WAV = tt.Audio.from_array(np.zeros(160, np.float32), 16000).data


@tt.stage
async def echoed(words: tt.Stream[str]) -> tt.Stream[str]:  # type: ignore[misc]
    async for each in words:
        yield each.upper()


@tt.workflow
def echo(words: tt.Stream[str]) -> tt.Stream[str]:
    return echoed(words)


@tt.stage
async def hushed(sound: tt.Stream[tt.Audio]) -> tt.Stream[tt.Audio]:  # type: ignore[misc]
    async for each in sound:
        yield each


@tt.workflow
def hush(sound: tt.Stream[tt.Audio]) -> tt.Stream[tt.Audio]:
    return hushed(sound)


@tt.stage
async def spelled(text: str) -> tt.Stream[str]:  # type: ignore[misc]
    for letter in text:
        if letter == "?":
            await asyncio.sleep(3600)
        yield letter


@tt.workflow
def spell(text: str) -> tt.Stream[str]:
    return spelled(text)


class Watch:
    """The calls that are over."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def finished(self, exchange: Any, call: Any, error: Any, seconds: float) -> None:
        self.calls.append(call)


def test_a_request_says_its_own_priority_and_trace_and_nothing_that_is_not_known() -> None:
    async def main() -> None:
        async with site(Service(spell)) as app:
            watch = Watch()
            app.site.observers.append(watch)
            talk = await opened(app, "spell")
            said = {"priority": -3, "traceparent": f"00-{7:032x}-{8:016x}-01", "id": "mine"}
            talk.say({"inputs": {"text": "a"}, **said})
            assert (await until_done(talk))[-1]["id"] == "mine"
            call = watch.calls[-1]
            assert (call.request.priority, call.parent.trace_id) == (-3, f"{7:032x}")
            talk.say({"inputs": {"text": "a"}, "deadlin_ms": 1})
            [refused] = await until_done(talk)
            assert (refused["error"]["code"], "`deadline_ms`" in refused["error"]["help"]) == ("E287", True)
            talk.say({"inputs": {"text": "a"}})  # the next is on its own again
            await until_done(talk)
            assert (watch.calls[-1].request.priority, watch.calls[-1].parent) == (0, None)
            await talk.leave()

    asyncio.run(main())


async def opened(app: Any, name: str) -> Talk:
    talk = Talk(app, f"/v1/workflows/{name}/ws")
    assert await talk.hear() == "websocket.accept"
    return talk


async def until_done(talk: Talk) -> list[Any]:
    heard = []
    while True:
        heard.append(await talk.hear())
        if isinstance(heard[-1], dict) and heard[-1]["type"] in ("done", "error"):
            return heard


def test_requests_follow_one_another_each_with_its_own_id_and_trace() -> None:
    async def main() -> None:
        async with site(Service(spell), apis=["native"]) as app:
            talk = await opened(app, "spell")
            ids = []
            for text in ("ab", "c"):
                talk.say({"inputs": {"text": text}})
                started, *outputs, done = await until_done(talk)
                assert started == {"type": "started", "id": done["id"]}
                assert [each["output"] for each in outputs] == list(text)
                assert done["plan"] == app.site.services["spell"].plan_id
                ids.append(done["id"])
            talk.say({"inputs": {"text": "d"}, "id": "mine"})
            assert (await until_done(talk))[-1]["id"] == "mine"
            await talk.leave()
            for each in (*ids, "mine"):
                assert (await ask(app, "GET", f"/v1/requests/{each}")).status == 200
            assert len(set(ids)) == 2

    asyncio.run(main())


def test_text_streams_in_and_out() -> None:
    async def main() -> None:
        async with site(Service(echo), apis=["native"]) as app:
            talk = await opened(app, "echo")
            talk.say({"inputs": {}})
            assert (await talk.hear())["type"] == "started"
            for word in ("one", "two"):
                talk.say({"type": "input", "input": "words", "value": word})
                assert (await talk.hear())["output"] == word.upper()
            talk.say({"type": "end", "input": "words"})
            assert (await talk.hear())["type"] == "done"
            talk.say({"inputs": {"words": ["a", "b"]}})  # or whole, at once
            assert [each["output"] for each in (await until_done(talk))[1:-1]] == ["A", "B"]
            await talk.leave()
            whole = await ask(app, "POST", "/v1/workflows/echo", {"inputs": {"words": ["x", "y"]}})
            assert whole.json["output"] == "XY"

    asyncio.run(main())


def test_media_stream_in_and_out_as_bytes() -> None:
    async def main() -> None:
        async with site(Service(hush), apis=["native"]) as app:
            talk = await opened(app, "hush")
            talk.say({"inputs": {}})
            talk.say(WAV)
            talk.say({"type": "input", "input": "sound"})
            talk.say(WAV)
            talk.say({"type": "end", "input": "sound"})
            started, *heard, done = await until_done(talk)
            head = {"type": "output", "media": "audio/wav", "size_bytes": len(WAV)}
            assert heard == [head, WAV, head, WAV]
            assert (started["type"], done["type"]) == ("started", "done")
            await talk.leave()

    asyncio.run(main())


def test_cancel_deadline_and_failure_end_one_request_and_not_the_socket() -> None:
    async def main() -> None:
        async with site(Service(spell), apis=["native"]) as app:
            talk = await opened(app, "spell")
            talk.say({"inputs": {"text": "a?"}})
            assert [(await talk.hear())["type"] for _ in "12"] == ["started", "output"]
            talk.say({"inputs": {"text": "b"}})
            assert (await talk.hear())["error"]["code"] == "E287"  # one at a time
            talk.say({"type": "cancel"})
            assert (await talk.hear())["error"]["code"] == "E403"
            talk.say({"inputs": {"text": "?"}, "deadline_ms": 20})
            assert (await until_done(talk))[-1]["error"]["code"] == "E401"
            talk.say({"inputs": {"text": 3}})
            assert (await until_done(talk))[-1]["error"]["code"] == "E281"
            talk.say({"inputs": {"text": "ok"}})
            assert (await until_done(talk))[-1]["type"] == "done"
            await talk.leave()

    asyncio.run(main())


def test_a_request_that_is_cancelled_in_the_same_breath_is_answered_and_the_socket_goes_on() -> None:
    async def main() -> None:
        async with site(Service(spell), apis=["native"]) as app:
            watch = Watch()
            app.site.observers.append(watch)
            talk = await opened(app, "spell")
            talk.say({"inputs": {"text": "a"}, "id": "mine"})
            talk.say({"type": "cancel"})
            await settle()
            talk.say({"inputs": {"text": "b"}})
            cancelled = await talk.hear()
            assert (cancelled["type"], cancelled["error"]["code"]) == ("error", "E403")
            assert cancelled["id"] == "mine"
            started, *_, done = await until_done(talk)
            assert (started["type"], done["type"]) == ("started", "done")
            assert [call.id for call in watch.calls] == ["mine", done["id"]]
            assert watch.calls[0].request is None  # nothing was begun for it
            await talk.leave()

    asyncio.run(main())


def test_in_a_drain_what_runs_goes_on_and_the_next_request_is_refused() -> None:
    async def main() -> None:
        out = io.StringIO()
        async with site(Service(echo), apis=["native"]) as app:
            app.site.observers.append(Logs(sample=1.0, out=out))
            talk = await opened(app, "echo")
            talk.say({"inputs": {}})
            assert (await talk.hear())["type"] == "started"
            app.site.door.closing.set()
            talk.say({"type": "input", "input": "words", "value": "still"})
            assert (await talk.hear())["output"] == "STILL"
            talk.say({"type": "end", "input": "words"})
            assert (await talk.hear())["type"] == "done"
            talk.say({"inputs": {"words": ["late"]}, "id": "late"})
            refused = await talk.hear()
            assert (refused["type"], refused["id"], refused["error"]["code"]) == ("error", "late", "E409")
            await talk.leave()
        told = [json.loads(line) for line in out.getvalue().splitlines()]
        ends = [(line["status"], line["outcome"]) for line in told]
        assert ends == [(200, "ok"), (503, "rejected"), (101, "ok")]

    asyncio.run(main())


def test_messages_that_mean_nothing_are_answered_in_words() -> None:
    async def main() -> None:
        async with site(Service(echo), apis=["native"]) as app:
            talk = await opened(app, "echo")
            for message in (
                b"bytes",
                3,
                [],
                {},
                {"type": "rnu"},
                {"type": "input", "input": "words"},
                {"inputs": 3},
                {"inputs": {}, "id": "a b"},
                {"inputs": {}, "deadline_ms": "soon"},
            ):
                talk.say(message)
                assert (await talk.hear())["type"] == "error", message
            talk.say({"inputs": {}})
            assert (await talk.hear())["type"] == "started"
            for message in (
                {"type": "input", "input": "word", "value": "x"},
                {"type": "input", "input": "words", "value": 3},
                {"type": "input", "value": "x"},
            ):
                talk.say(message)
                assert (await talk.hear())["type"] == "error", message
            talk.say({"type": "end", "input": "words"})
            assert (await talk.hear())["type"] == "done"
            await talk.leave()

    asyncio.run(main())


def test_a_client_that_leaves_stops_what_runs() -> None:
    stopped = asyncio.Event()

    async def main() -> None:
        async with site(Service(endless(stopped)), apis=["native"]) as app:
            talk = await opened(app, "wait")
            talk.say({"inputs": {"text": "x"}})
            assert (await talk.hear())["type"] == "started"
            await talk.leave()
            assert stopped.is_set()
            assert app.site.in_flight == 0

    asyncio.run(main())


def test_a_client_that_says_too_much_is_held_back() -> None:
    @tt.stage
    async def idle(words: tt.Stream[str]) -> int:
        count = 0
        async for _ in words:
            count += 1
            if count == 2:
                await asyncio.sleep(0.05)
        return count

    @tt.workflow
    def idles(words: tt.Stream[str]) -> int:
        return idle(words)

    async def main() -> None:
        async with site(Service(idles), apis=["native"]) as app:
            talk = await opened(app, "idles")
            talk.say({"inputs": {}})
            for _ in range(500):
                talk.say({"type": "input", "input": "words", "value": "x"})
            talk.say({"type": "end", "input": "words"})
            await talk.hear()
            for _ in range(200):
                await asyncio.sleep(0)
            assert talk.unread > 500 - 3 * FEED
            assert (await talk.hear())["output"] == 500
            await talk.leave()

    asyncio.run(main())


def test_the_door_counts_each_request_of_a_socket() -> None:
    entered: list[str] = []
    released: list[str] = []

    def identify(exchange: Any) -> Caller:
        entered.append(exchange.headers.get("x-request-id", ""))
        exchange.on_close(lambda: released.append("one"))
        return Caller()

    async def main() -> None:
        async with site(Service(spell), door=Door(identify=identify), apis=["native"]) as app:
            talk = await opened(app, "spell")
            for _ in range(3):
                talk.say({"inputs": {"text": "a"}})
                await until_done(talk)
            await talk.leave()
            assert (len(entered), len(released)) == (4, 4)

    asyncio.run(main())


def test_a_message_beyond_the_bound_is_refused() -> None:
    async def main() -> None:
        async with site(Service(spell), door=Door(body_bytes=100), apis=["native"]) as app:
            talk = await opened(app, "spell")
            talk.say({"inputs": {"text": "x" * 100}})
            assert "--max-body-mb" in (await talk.hear())["error"]["help"]
            await talk.leave()

    asyncio.run(main())


class Hasty(Talk):
    """A client that closes while the last word to it is on its way."""

    async def _out_put(self, message: Any) -> None:
        await super()._out_put(message)
        if any(f'"type":"{last}"' in message.get("text", "") for last in ("done", "error")):
            self._in.put_nowait({"type": "websocket.disconnect", "code": 1000})
            await settle()


async def ends(kind: type[Talk], text: str, *heard: str) -> tuple[list[tuple[int, str]], list[Any]]:
    """How a request and its socket end in the log, and what counts as refused."""
    out = io.StringIO()
    async with site(Service(spell), apis=["native", "operations"]) as app:
        metrics = Metrics(app.site)
        app.site.observers += [Logs(sample=1.0, out=out), metrics]
        talk = kind(app, "/v1/workflows/spell/ws")
        assert await talk.hear() == "websocket.accept"
        talk.say({"inputs": {"text": text}})
        assert tuple([(await talk.hear())["type"] for _ in heard]) == heard
        await talk.leave()
        refused = list(metrics.refusals.series)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    return [(line["status"], line["outcome"]) for line in lines], refused


@pytest.mark.parametrize("kind", [Talk, Hasty])
def test_a_client_that_closes_after_its_last_answer_has_cancelled_nothing(kind: type[Talk]) -> None:
    told, refused = asyncio.run(ends(kind, "a", "started", "output", "done"))
    assert told == [(200, "ok"), (101, "ok")]
    assert refused == []


def test_a_client_that_closes_on_a_refusal_was_refused() -> None:
    told, refused = asyncio.run(ends(Hasty, 7, "error"))  # type: ignore[arg-type]
    assert told == [(400, "refused"), (101, "ok")]
    assert refused == [("", "input")]


def test_a_client_that_closes_while_its_request_runs_has_left() -> None:
    told, refused = asyncio.run(ends(Talk, "a?", "started", "output"))
    assert told == [(499, "cancelled"), (499, "cancelled")]
    assert sorted(refused) == [("", "client_left"), ("spell", "client_left")]


def test_a_socket_that_the_server_refuses_is_no_client_that_left() -> None:
    async def main() -> None:
        out = io.StringIO()
        async with site(Service(spell), apis=["native"]) as app:
            app.site.observers.append(Logs(out=out))
            talk = Talk(app, "/v1/workflows/spill/ws")
            assert await talk.hear() == "websocket.close"
            await talk.task
        line = json.loads(out.getvalue())
        assert (line["status"], line["outcome"], line["reason"]) == (404, "refused", "not_found")

    asyncio.run(main())


def test_a_socket_of_nothing_is_refused() -> None:
    async def main() -> None:
        async with site(Service(spell), apis=["native"]) as app:
            talk = Talk(app, "/v1/workflows/spill/ws")
            assert await talk.hear() == "websocket.close"
            await talk.task

    asyncio.run(main())
