"""From when a request's time counts: what its client sends slowly, and what is fetched for it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

import tauten as tt
from serve.kit_asgi import ask, site
from serve.kit_http import Peer, run, up
from serve.kit_stream import Client, Talk, settle
from tauten.errors import Cancelled, DeadlineExceeded, InputError
from tauten.run.attribution import attribute
from tauten.run.decode import fetch as fetching
from tauten.run.request import ANY_TIME, Aim, Request
from tauten.serve.app import App
from tauten.serve.door import Door
from tauten.serve.safety.safe_fetch import SIDE_BY_SIDE, TIMEOUT_S, Fetches
from tauten.serve.service import Service

PNG = tt.Image.from_array(np.zeros((4, 4, 3), np.uint8)).data
URL = "https://pictures.example/{}.png".format
SOON_MS, SLOWLY_S = "100", 0.3  # a deadline, and how long those take who are slower than that


@tt.stage
async def weighed(photos: list[tt.Image], words: str) -> str:
    return f"{words}{len(photos)}"


@tt.workflow
def weigh(photos: list[tt.Image], words: str = "") -> str:
    return weighed(photos, words)


@tt.stage
async def seen(photos: tt.Stream[tt.Image]) -> tt.Stream[str]:  # type: ignore[misc]
    async for each in photos:
        yield str(each.size_bytes)


@tt.workflow
def see(photos: tt.Stream[tt.Image]) -> tt.Stream[str]:
    return seen(photos)


class Origin:
    """Where media are fetched: it answers when it may, and knows who asks now and who was stopped."""

    def __init__(self, *, after_s: float = 0.0) -> None:
        self.after_s = after_s
        self.go = asyncio.Event()
        self.asked = asyncio.Event()
        self.running = self.most = self.stopped = 0

    async def fetch(self, url: str) -> bytes:
        self.running += 1
        self.most = max(self.most, self.running)
        self.asked.set()
        try:
            if self.after_s:
                await asyncio.sleep(self.after_s)
            else:
                await self.go.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        finally:
            self.running -= 1
        if "bad" in url:
            raise InputError("not there", help="", code="E242")
        return PNG


class Watch:
    """The exchanges that are over, with what ended them."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.errors: list[Any] = []

    def finished(self, exchange: Any, call: Any, error: Any, seconds: float) -> None:
        self.calls.append(call)
        self.errors.append(error)

    @property
    def causes(self) -> dict[str, float]:
        """Seconds of the last one by cause."""
        trace = self.calls[-1].request.trace
        found: dict[str, float] = {}
        for (_, cause), seconds in attribute(trace).exclusive().items():
            found[cause] = found.get(cause, 0.0) + seconds
        return found


@asynccontextmanager
async def served(origin: Origin | None = None, slo: tt.Slo | None = None) -> AsyncIterator[tuple[App, Watch]]:
    door = Door(fetch=origin.fetch if origin is not None else None)
    async with site(Service(weigh, slo=slo), Service(see), door=door, apis=["native", "openai"]) as app:
        watch = Watch()
        app.site.observers.append(watch)
        yield app, watch


def native(*urls: str) -> tuple[str, Any]:
    return "/v1/workflows/weigh", {"inputs": {"photos": [{"url": url} for url in urls]}}


def chat(*urls: str) -> tuple[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    said = [{"type": "text", "text": ""}, *parts]
    return "/v1/chat/completions", {"model": "weigh", "messages": [{"role": "user", "content": said}]}


APIS = pytest.mark.parametrize("asks", [native, chat])
Asks = Callable[..., tuple[str, Any]]

# -- fetching ------------------------------------------------------------------------------------------------


@APIS
def test_the_deadline_stops_what_is_fetched(asks: Asks) -> None:
    async def main() -> None:
        origin = Origin()
        async with served(origin) as (app, watch):
            late = await ask(app, "POST", *asks(URL("a"), URL("b")), {"x-tauten-deadline-ms": SOON_MS})
            assert late.status == 504
            assert (origin.stopped, origin.running) == (2, 0)
            assert isinstance(watch.errors[-1], DeadlineExceeded)
            assert f"{SOON_MS} ms" in str(watch.errors[-1])
            assert watch.causes["transfer"] > 0.5 * sum(watch.causes.values())
            found = await ask(app, "GET", f"/v1/requests/{late.headers['x-request-id']}")
            assert found.status == 200, "where its time went is kept"

    run(main)


@APIS
def test_who_leaves_is_fetched_for_no_more(asks: Asks) -> None:
    async def main() -> None:
        origin = Origin()
        async with served(origin) as (app, watch):
            client = Client(app, "POST", *asks(URL("a")))
            await origin.asked.wait()
            client.leave()
            await client.done()
            assert (origin.stopped, watch.calls[-1].exchange.left) == (1, True)
            assert isinstance(watch.errors[-1], Cancelled)

    run(main)


@pytest.mark.parametrize("server", ["thin", "uvicorn"])
@pytest.mark.parametrize("how", ["expires", "leaves"])
def test_every_server_stops_what_is_fetched(server: str, how: str) -> None:
    async def main() -> None:
        origin = Origin()
        async with served(origin) as (app, _), await up(app, server=server) as server_:
            peer = await Peer.of(server_.port)
            path, body = native(URL("a"))
            await peer.say(posted(path, body, SOON_MS if how == "expires" else "60000"))
            await origin.asked.wait()
            if how == "expires":
                assert (await peer.answer())[0] == 504
            else:
                peer.go("close")
            while origin.running:
                await asyncio.sleep(0.001)
            assert origin.stopped == 1
            await peer.close()

    run(main)


@APIS
def test_media_of_one_request_are_fetched_side_by_side_within_a_bound(asks: Asks) -> None:
    async def main() -> None:
        origin = Origin()
        async with served(origin) as (app, watch):
            urls = [URL(number) for number in range(3 * SIDE_BY_SIDE)]
            client = Client(app, "POST", *asks(*urls))
            await origin.asked.wait()
            await settle()
            assert origin.running == SIDE_BY_SIDE
            origin.go.set()
            await client.done()
            assert client.status == 200
            assert str(len(urls)).encode() in client.body
            assert origin.most == SIDE_BY_SIDE
            assert sum(row[1] == "transfer" for row in watch.calls[-1].request.trace.rows) == len(urls)

    run(main)


@APIS
def test_one_that_fails_stops_the_others(asks: Asks) -> None:
    async def main() -> None:
        origin = Origin(after_s=0.01)
        async with served(origin) as (app, watch):
            failed = await ask(app, "POST", *asks(URL("a"), URL("bad"), URL("c")))
            assert failed.status == 400
            assert origin.running == 0
            assert watch.calls[-1].request is None, "nothing was begun"

    run(main)


def test_the_same_address_is_fetched_once_for_a_request_and_never_for_a_wrong_one() -> None:
    async def main() -> None:
        origin = Origin(after_s=0.001)
        async with served(origin) as (app, watch):
            path, body = native(URL("a"), URL("a"))
            assert (await ask(app, "POST", path, body)).json["output"] == "2"
            assert sum(row[1] == "transfer" for row in watch.calls[-1].request.trace.rows) == 1
            origin.most = 0
            body["inputs"]["nothing"] = 1
            assert (await ask(app, "POST", path, body)).status == 400
            assert origin.most == 0

    run(main)


def test_an_slo_does_not_count_what_origins_take() -> None:
    """It would refuse, or stop, what is late through no fault of this server."""

    async def main() -> None:
        origin = Origin(after_s=SLOWLY_S)
        async with served(origin, tt.Slo(p95_ms=50)) as (app, watch):
            assert (await ask(app, "POST", *native(URL("a")))).status == 200
            request = watch.calls[-1].request
            assert request.trace.end - request.trace.start >= SLOWLY_S
            assert request.start - request.trace.start >= 0.9 * SLOWLY_S
            timeout = {"x-stainless-read-timeout": "600"}  # which says nothing of what is wanted
            assert (await ask(app, "POST", *chat(URL("a")), timeout)).status == 200

    run(main)


def test_clocks_stand_still_while_any_fetch_runs() -> None:
    async def main(named: bool) -> Request:
        clock = [0.0]
        request = Request(lambda: clock[0], deadline=1.0)
        first, second = asyncio.Event(), asyncio.Event()
        waits = {"a": first, "b": second}

        async def fetch(url: str) -> bytes:
            await waits[url].wait()
            return b""

        fetches = Fetches(request, fetch, asyncio.Semaphore(9), named=named)
        tasks = [asyncio.ensure_future(fetches("a")), asyncio.ensure_future(fetches("b"))]
        await settle()
        assert request.deadline == (1.0 if named else 1.0 + TIMEOUT_S)
        for clock[0], event in ((2.0, first), (3.0, second)):
            event.set()
            await settle()
        await asyncio.gather(*tasks)
        assert [row[1:] for row in request.trace.rows] == [("transfer", 0.0, 2.0), ("transfer", 0.0, 3.0)]
        return request

    for named, deadline in ((True, 1.0), (False, 4.0)):
        request = asyncio.run(main(named))
        assert (request.start, request.trace.start, request.deadline) == (3.0, 0.0, deadline)


def test_a_fetch_that_is_given_up_does_not_wait_for_the_other_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that reads nothing more cannot be told goodbye."""
    aborted: list[bool] = []

    async def main() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        real = asyncio.open_connection

        async def watched(*args: Any, **more: Any) -> Any:
            reader, writer = await real(*args, **more)
            abort = writer.transport.abort
            monkeypatch.setattr(
                writer.transport, "abort", lambda: (aborted.append(True), abort()), raising=False
            )
            return reader, writer

        monkeypatch.setattr(asyncio, "open_connection", watched)
        task = asyncio.ensure_future(fetching.fetch(f"http://127.0.0.1:{port}/", allow_private=True))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.close()
        await server.wait_closed()

    run(main, uv=False)
    assert aborted


# -- sockets -------------------------------------------------------------------------------------------------


async def talking(app: App, name: str) -> Talk:
    talk = Talk(app, f"/v1/workflows/{name}/ws")
    assert await talk.hear() == "websocket.accept"
    return talk


@pytest.mark.parametrize("how", ["expires", "leaves", "cancel"])
def test_a_socket_stops_what_is_fetched_for_its_request(how: str) -> None:
    async def main() -> None:
        origin = Origin()
        async with served(origin) as (app, _):
            talk = await talking(app, "weigh")
            deadline_ms = float(SOON_MS) if how == "expires" else 60_000.0
            talk.say({"inputs": {"photos": [{"url": URL("a")}]}, "deadline_ms": deadline_ms})
            await origin.asked.wait()
            if how == "leaves":
                await talk.leave()
            else:
                if how == "cancel":
                    talk.say({"type": "cancel"})
                error = await talk.hear()
                assert error["error"]["code"] == ("E401" if how == "expires" else "E403"), error
                await talk.leave()
            assert (origin.stopped, origin.running) == (1, 0)

    run(main)


def test_an_increment_is_fetched_no_longer_than_its_request_lasts() -> None:
    async def main() -> None:
        origin = Origin()
        async with served(origin) as (app, _):
            talk = await talking(app, "see")
            talk.say({"inputs": {}, "deadline_ms": float(SOON_MS)})
            talk.say({"type": "input", "input": "photos", "value": {"url": URL("a")}})
            assert (await talk.hear())["type"] == "started"
            await origin.asked.wait()
            assert (await talk.hear())["error"]["code"] == "E401"
            await settle()
            assert origin.stopped == 1
            talk.say({"inputs": {}})
            assert (await talk.hear())["type"] == "started", "the socket goes on"
            await talk.leave()

    run(main)


# -- sending -------------------------------------------------------------------------------------------------


def posted(path: str, body: Any, deadline_ms: str = "") -> bytes:
    data = json.dumps(body).encode()
    more = f"x-tauten-deadline-ms: {deadline_ms}\r\n" if deadline_ms else ""
    head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Length: {len(data)}\r\n{more}\r\n"
    return head.encode() + data


SERVERS = pytest.mark.parametrize("server", ["thin", "uvicorn"])
SPLITS = pytest.mark.parametrize("split", ["head", "body"])


async def slowly(peer: Peer, data: bytes, split: str) -> int:
    """Send a request in two parts, and the status of its answer."""
    at = 10 if split == "head" else data.index(b"\r\n\r\n") + 10
    await peer.say(data[:at])
    await asyncio.sleep(SLOWLY_S)
    await peer.say(data[at:])
    return (await peer.answer())[0]


def photo(size: int = 0) -> Any:
    data = base64.b64encode(PNG).decode()
    return {"inputs": {"photos": [{"data": data}], "words": "x" * size}}


@SERVERS
@pytest.mark.parametrize("size", [0, 1_000_000], ids=["buffered", "streamed"])
def test_what_a_client_takes_to_send_counts_to_its_deadline_and_not_to_the_slo(
    server: str, size: int
) -> None:
    async def main() -> None:
        async with served(None, tt.Slo(p95_ms=50)) as (app, watch), await up(app, server=server) as server_:
            peer = await Peer.of(server_.port)
            assert await slowly(peer, posted("/v1/workflows/weigh", photo(size)), "body") == 200
            request = watch.calls[-1].request
            assert request.aim == Aim(0.05)
            assert watch.causes["client"] >= 0.9 * SLOWLY_S
            assert request.start - request.trace.start >= 0.9 * SLOWLY_S
            assert request.deadline - request.start == pytest.approx(0.15)
            late = posted("/v1/workflows/weigh", photo(size), SOON_MS)
            assert await slowly(peer, late, "body") == 504
            request = watch.calls[-1].request
            assert request.aim is ANY_TIME
            assert request.deadline - request.trace.start == pytest.approx(float(SOON_MS) / 1e3)
            await peer.close()

    run(main)


def test_a_slow_head_counts_too_and_a_request_in_one_piece_has_no_client_to_wait_for() -> None:
    async def main() -> None:
        async with served() as (app, watch), await up(app) as server:
            peer = await Peer.of(server.port)
            assert await slowly(peer, posted("/v1/workflows/weigh", photo(), SOON_MS), "head") == 504
            for _ in range(3):  # the last one's head is known
                await peer.say(posted("/v1/workflows/weigh", photo()))
                assert (await peer.answer())[0] == 200
                assert "client" not in [row[1] for row in watch.calls[-1].request.trace.rows]
            assert await slowly(peer, posted("/v1/workflows/weigh", photo()), "body") == 200
            assert watch.causes["client"] >= 0.9 * SLOWLY_S
            await peer.close()

    run(main)


def test_the_books_close_from_the_first_byte_on() -> None:
    async def main() -> None:
        origin = Origin(after_s=0.05)
        async with served(origin) as (app, watch), await up(app) as server:
            peer = await Peer.of(server.port)
            assert await slowly(peer, posted(*native(URL("a"))), "body") == 200
            trace = watch.calls[-1].request.trace
            assert sum(watch.causes.values()) == pytest.approx(trace.end - trace.start)
            assert watch.causes["client"] >= 0.9 * SLOWLY_S
            assert watch.causes["transfer"] >= 0.04
            assert watch.causes.get("unattributed", 0.0) < 0.05 * sum(watch.causes.values())
            await peer.close()

    run(main)
