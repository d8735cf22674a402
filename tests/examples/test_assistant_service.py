"""The stand-in service over real HTTP: what it says of orders, and what is no answer about an order."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession, web

from tauten.errors import BackendError
from tauten.examples.assistant import source
from tauten.examples.assistant.lookup import order_desk
from tauten.examples.assistant.orders import Order, Orders, bundled
from tauten.examples.assistant.service import Remote, Service

POT = Order("T-1111", "blue teapot", "packed", "Red Van", "4 May")


@pytest.fixture
def service() -> Iterator[Service]:
    with Service(Orders([POT], wait_s=0.0)) as started:
        yield started


async def put(url: str, content: Any) -> tuple[int, bytes]:
    async with ClientSession() as session, session.put(url, data=msgspec.json.encode(content)) as answer:
        return answer.status, await answer.read()


def test_it_says_what_there_is_and_what_there_is_not(service: Service) -> None:
    remote = Remote(service.url)
    assert asyncio.run(remote.find("T-1111")) == POT
    assert asyncio.run(remote.find("T-9999")) is None
    assert service.orders.looked == 2


def test_an_order_is_changed_and_added(service: Service) -> None:
    async def main() -> None:
        remote = Remote(service.url)
        assert (await put(f"{service.url}/orders/T-1111", {"state": "delivered"}))[0] == 200
        assert (await put(f"{service.url}/orders/T-2222", {"state": "received"}))[0] == 200
        states = [order.state for number in ("T-1111", "T-2222") if (order := await remote.find(number))]
        assert states == ["delivered", "received"]

    asyncio.run(main())


@pytest.mark.parametrize("content", [{"state": "lost"}, {"status": "packed"}, "packed", None])
def test_a_change_that_is_none_changes_nothing(service: Service, content: Any) -> None:
    status, said = asyncio.run(put(f"{service.url}/orders/T-1111", content))
    assert status == 400
    assert b"error" in said
    assert service.orders.now("T-1111") == POT


def test_a_service_that_fails_is_an_error(service: Service) -> None:
    async def main() -> None:
        assert (await put(f"{service.url}/down", {"down": True}))[0] == 200
        with pytest.raises(BackendError, match="status 503"):
            await Remote(service.url).find("T-1111")
        assert (await put(f"{service.url}/down", {"down": False}))[0] == 200
        assert await Remote(service.url).find("T-1111") == POT
        assert (await put(f"{service.url}/down", {"up": True}))[0] == 400

    asyncio.run(main())


def test_a_service_that_is_gone_is_an_error(service: Service) -> None:
    service.stop()
    with pytest.raises(BackendError, match="cannot be looked up"):
        asyncio.run(Remote(service.url).find("T-1111"))


Answer = Callable[[web.Request], Awaitable[web.Response]]


def of_somebody_else(status: int, text: str) -> None:
    """Asks a server that is not ours."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, text=text)

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/orders/{number}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            await Remote(f"http://127.0.0.1:{runner.addresses[0][1]}").find("T-1111")
        finally:
            await runner.cleanup()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (404, "<h1>Not Found</h1>"),
        (404, '{"unknown": "T-2222"}'),
        (404, "{}"),
        (200, "<h1>Welcome</h1>"),
        (200, '{"number": "T-1111"}'),
        (500, '{"unknown": "T-1111"}'),
        (302, ""),
    ],
)
def test_what_another_server_says_makes_no_order_unknown(status: int, text: str) -> None:
    with pytest.raises(BackendError):
        of_somebody_else(status, text)


def test_the_stage_starts_a_service_where_none_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(source.ADDRESS, raising=False)
    monkeypatch.setattr(source, "_named", [])
    assert "Order T-1010 (bamboo tray)" in order_desk("Where is T-1010?").text
    assert "orders are looked up at http://127.0.0.1:" in capsys.readouterr().err


def test_the_stage_asks_the_service_that_is_named(monkeypatch: pytest.MonkeyPatch, service: Service) -> None:
    monkeypatch.setenv(source.ADDRESS, service.url)
    monkeypatch.setattr(source, "_named", [])
    assert "blue teapot" in order_desk("T-1111").text
    assert service.orders.looked == 1


def test_it_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "tauten.examples.assistant.service"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            found = asyncio.run(Remote(url).find("T-1010"))
            assert found == bundled()[0]
        finally:
            process.terminate()
