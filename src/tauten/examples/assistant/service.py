"""The orders behind HTTP on this machine's loopback: a stand-in for the data service that a shop would ask.

    python -m tauten.examples.assistant.service      # prints where it listens, and serves until it is stopped

`GET /orders/T-1010` takes 400 ms. `PUT /orders/T-1010` with {"state": "delivered"} changes an order, `PUT /down` with
{"down": true} lets the service fail, `GET /looked` says how often it was asked.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout, web

from tauten.errors import BackendError, InputError, MachineError
from tauten.examples.assistant.orders import Order, Orders, away

PATIENCE_S = 5.0  # of one lookup: more than ten times what it takes
START_S = 10.0  # until it listens; a loaded machine takes two
END_S = 1.0  # that lookups under way may take at the end: more than twice what one takes


class Change(msgspec.Struct, forbid_unknown_fields=True):
    """What becomes of an order."""

    state: str


class Fail(msgspec.Struct, forbid_unknown_fields=True):
    """Whether the service fails from now on."""

    down: bool


class Unknown(msgspec.Struct):
    """What a 404 of this service says, and no other server's: that it looked, and there is no such order."""

    unknown: str


class Remote:
    """The orders of a service at an address."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def find(self, number: str) -> Order | None:
        try:
            async with (
                ClientSession(timeout=ClientTimeout(total=PATIENCE_S)) as session,
                session.get(f"{self.url}/orders/{number}") as answer,
            ):
                return _order(number, answer.status, await answer.read())
        except (ClientError, TimeoutError) as error:
            raise away(str(error) or type(error).__name__) from error


def _order(number: str, status: int, body: bytes) -> Order | None:
    """What an answer says. A 404 from somebody else (a proxy, another program) says nothing about an order."""
    try:
        if status == 404 and msgspec.json.decode(body, type=Unknown).unknown == number:
            return None
        if status == 200:
            return msgspec.json.decode(body, type=Order)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise away(f"an answer that cannot be read ({error})") from error
    raise away(f"status {status}")


# -- serving -------------------------------------------------------------------------------------------------


class Service:
    """Orders that are served by a thread of this process, on a free port."""

    def __init__(self, orders: Orders | None = None) -> None:
        self.orders = orders or Orders()
        self.url = ""
        self._listens = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="orders", daemon=True)

    def start(self) -> Service:
        """Serve; returns when it listens."""
        self._thread.start()
        self._listens.wait(START_S)
        if not self.url:
            raise MachineError("the service of the orders did not start", help="see the log above")
        return self

    def stop(self) -> None:
        """End it, and wait until it has."""
        if self._loop is not None and self._stopped is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join(START_S)

    def __enter__(self) -> Service:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self._listens.set()

    async def _serve(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        runner = web.AppRunner(application(self.orders), access_log=None, shutdown_timeout=END_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            self._listens.set()
            await self._stopped.wait()
        finally:
            await runner.cleanup()


def application(orders: Orders) -> web.Application:
    """What the service answers."""

    async def find(request: web.Request) -> web.Response:
        number = request.match_info["number"]
        try:
            found = await orders.find(number)
        except BackendError as error:
            return _json(error.as_json(), 503)
        return _json(Unknown(number), 404) if found is None else _json(found)

    async def change(request: web.Request) -> web.Response:
        try:
            asked = msgspec.json.decode(await request.read(), type=Change)
            return _json(orders.change(request.match_info["number"], asked.state))
        except (msgspec.MsgspecError, UnicodeDecodeError, InputError) as error:
            return _json({"error": str(error)}, 400)

    async def fail(request: web.Request) -> web.Response:
        try:
            orders.down = msgspec.json.decode(await request.read(), type=Fail).down
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return _json({"error": str(error)}, 400)
        return _json({"down": orders.down})

    async def looked(request: web.Request) -> web.Response:
        return _json({"looked": orders.looked})

    made = web.Application()
    made.router.add_get("/orders/{number}", find)
    made.router.add_put("/orders/{number}", change)
    made.router.add_put("/down", fail)
    made.router.add_get("/looked", looked)
    return made


def _json(content: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), status=status, content_type="application/json")


def main() -> None:
    """Serve until Ctrl-C."""
    with Service() as service:
        print(service.url, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)


if __name__ == "__main__":
    main()
