"""The application behind `tauten label --browser`: one page, one person, this machine only.

What the page is told of a pair is what is to be seen of it: no hash, no plan, no path, and no figure that moves
with a single choice. The address holds a secret, so that only who was given it can label.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable

import msgspec

from tauten.describe.payload import Json, Text
from tauten.errors import InputError, NotFound, TautenError
from tauten.improve.labels.judgements import Choice
from tauten.improve.labels.pairs import Pair
from tauten.improve.labels.session import Part, Session
from tauten.serve.door import refusal_headers
from tauten.serve.exchange import Exchange, Receive, Reply, Scope, Send, failure
from tauten.serve.http.listener import serve
from tauten.serve.page import read as page
from tauten.serve.routes import Route, Router
from tauten.serve.safety.guard import Guard

BODY_BYTES = 4096  # a choice is some fifty bytes
SECRET_BYTES = 16  # what is usual for a secret that lives for an hour
DRAIN_S = 1.0  # for the last answer to reach the page
PRIVATE = [  # headers of every reply
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
]


class Chosen(msgspec.Struct, forbid_unknown_fields=True):
    """What the page sends: the number of the pair that it showed, and the choice."""

    pair: int
    choice: Choice


class Labelling:
    """An ASGI application over one session. `ended` is set when its labeller has had enough."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.secret = secrets.token_urlsafe(SECRET_BYTES)
        self.ended = asyncio.Event()
        self._guard = Guard()
        self._shown: Pair | None = None
        self._number = 0  # of the pair that is shown; tells a second press of a key from the first
        plain: list[tuple[str, str, Callable[..., Awaitable[Reply]]]] = [
            ("GET", "/", self.page),
            ("GET", "/pair", self.pair),
            ("GET", "/pair/{number}/{part}", self.medium),
            ("POST", "/label", self.label),
            ("POST", "/undo", self.undo),
            ("POST", "/end", self.end),
        ]
        self._router = Router(
            Route(method, path, handler, failure, handler.__name__) for method, path, handler in plain
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the page opens no socket
            return
        exchange = Exchange(scope, receive, send)
        try:
            reply = await self._answer(exchange)
        except TautenError as error:
            reply = failure(error)
            reply.headers += refusal_headers(error)
        reply.headers = PRIVATE + reply.headers
        await exchange.reply(reply)

    async def _answer(self, exchange: Exchange) -> Reply:
        refused = self._guard.meet(exchange)
        if refused is not None:
            return refused
        root = f"/{self.secret}"
        if not secrets.compare_digest(exchange.path[: len(root)].encode(errors="replace"), root.encode()):
            raise NotFound("no such page", help="open the address that `tauten label` printed")
        route, params = self._router.find(exchange.method, exchange.path[len(root) :])
        reply: Reply = await route.handler(exchange, **params)
        return reply

    # -- what the page asks -------------------------------------------------------------------------------

    async def page(self, exchange: Exchange) -> Reply:
        text, policy = page("tauten.serve.labels")
        return Reply(
            text, media_type="text/html; charset=utf-8", headers=[("content-security-policy", policy)]
        )

    async def pair(self, exchange: Exchange) -> Reply:
        """The pair to look at now, or that there is none."""
        pair = self.session.pair()
        if pair is not self._shown:
            self._shown, self._number = pair, self._number + 1
        parts = self.session.parts(pair) if pair is not None else []
        return Reply.json(
            {
                "pair": self._number if pair is not None else None,
                "told": self.session.told(),
                "parts": [self._part(place, part) for place, part in enumerate(parts)],
            }
        )

    def _part(self, place: int, part: Part) -> dict[str, str]:
        told = {"side": part.side, "name": part.name, "type": part.payload.type}
        if isinstance(part.payload, Text):
            return told | {"text": part.payload.text}
        if isinstance(part.payload, Json):
            return told | {"text": msgspec.json.format(part.payload.data).decode()}
        return told | {"medium": f"pair/{self._number}/{place}"}

    async def medium(self, exchange: Exchange, number: str, part: str) -> Reply:
        """The bytes of a part of the pair that is shown."""
        parts = self.session.parts(self._shown) if self._shown and number == str(self._number) else []
        if not part.isdecimal() or int(part) >= len(parts):
            raise NotFound("no such part of the pair that is shown", help="load the page again")
        payload = parts[int(part)].payload
        headers = [("content-disposition", "attachment"), ("content-security-policy", "sandbox")]
        return Reply(payload.data, media_type=payload.type, headers=headers)

    async def label(self, exchange: Exchange) -> Reply:
        """Keep a choice; the answer is the next pair."""
        try:
            chosen = msgspec.json.decode(await exchange.body(BODY_BYTES), type=Chosen)
        except msgspec.MsgspecError as error:
            raise InputError(f"no choice: {error}", help="choose in the page", code="E257") from error
        if self._shown is None or chosen.pair != self._number:
            raise InputError(
                "that pair is not the one that is shown", help="load the page again", code="E257"
            )
        self.session.choose(chosen.choice)
        return await self.pair(exchange)

    async def undo(self, exchange: Exchange) -> Reply:
        """Take the last choice back; the answer is its pair, or the one that was shown where there is none."""
        self.session.undo()
        return await self.pair(exchange)

    async def end(self, exchange: Exchange) -> Reply:
        self.ended.set()
        return Reply.json({})


async def serve_labels(session: Session, *, port: int = 0, announce: Callable[[str], None]) -> None:
    """Serve the page on loopback until its labeller ends it; `announce` is told its address.

    Raises MachineError when the port is taken. What was chosen is on disk, however this ends.
    """
    app = Labelling(session)
    async with await serve(app, host="127.0.0.1", port=port, lifespan=False) as running:
        announce(f"http://127.0.0.1:{running.port}/{app.secret}/")
        await app.ended.wait()
        await running.drain(DRAIN_S)
