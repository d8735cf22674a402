"""The Open Inference Protocol over gRPC: the same models, door and budgets, on the same event loop."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from tauten.errors import MachineError
from tauten.run.oip.messages import SERVICE, message, parse
from tauten.serve.door import Call
from tauten.serve.exchange import Reply
from tauten.serve.kept.idempotency import HEADER as IDEMPOTENCY_KEY
from tauten.serve.oip.grpc_call import One, route_of
from tauten.serve.oip.grpc_methods import Method, Methods
from tauten.serve.oip.grpc_stream import Stream

if TYPE_CHECKING:
    from tauten.serve.app import Site

HEAD_BYTES = 64 * 1024  # names and shapes of a message beside its tensors
METADATA_BYTES = 64 * 1024  # as the HTTP server allows for headers
AT_ONCE = 1024  # calls of one connection; more than any client keeps open
MOST = 4096  # calls of the server, as requests over HTTP
PING_S = 20.0  # as over WebSockets: below the 60 s after which balancers drop what is silent
PONG_S = 20.0  # an answer slower than this is a dead peer
PINGED_S = 5.0  # how often clients may ping; the library's own 300 would end those that keep themselves alive
ONCE = ("ModelInfer", "RepositoryModelLoad", "RepositoryModelUnload")  # POST over HTTP: they may carry a key
DRAIN_S = 30.0  # what calls get to end in, as over HTTP
QUIET_S = 1.0  # between two looks at whether anybody is inside, while the library says that calls run


async def serve_grpc(site: Site, host: str, port: int = 0) -> GrpcServer:
    """Start the service beside HTTP; port 0 takes a free one. Raises MachineError where it cannot listen."""
    server = GrpcServer(site)
    await server.start(host, port)
    return server


class GrpcServer:
    """A running server; `port` is where it listens."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.port = 0
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", site.door.body_bytes + HEAD_BYTES),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", METADATA_BYTES),
                ("grpc.max_concurrent_streams", AT_ONCE),
                ("grpc.so_reuseport", 0),  # two servers on one port would share its clients unseen
                *_keepalive(),
            ],
            maximum_concurrent_rpcs=MOST,
        )
        self._server.add_generic_rpc_handlers((_handlers(site),))

    async def start(self, host: str, port: int) -> None:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self.port = self._server.add_insecure_port(where)
        except RuntimeError as error:
            raise MachineError(
                f"cannot listen for gRPC on {where}",
                help="choose another --grpc-port (off: none), or stop what listens there",
                code="E340",
            ) from error
        await self._server.start()

    async def stop(self, drain_s: float = DRAIN_S) -> None:
        """Take no more calls, let those that run end, then close; may be called twice.

        The library may wait for a call that it took while it stopped, and never handed to us: where nobody is inside at
        two looks, it is not waited for.
        """
        stopping = asyncio.ensure_future(self._server.stop(drain_s))
        quiet = 0
        while not stopping.done() and quiet < 2:
            await asyncio.wait((stopping,), timeout=QUIET_S)
            quiet = quiet + 1 if self.site.in_flight == 0 else 0
        if stopping.done():
            await stopping
        else:
            stopping.cancel()
            with contextlib.suppress(TimeoutError):  # the process ends anyway
                await asyncio.wait_for(self._server.stop(None), QUIET_S)


def _keepalive() -> list[tuple[str, int]]:
    """Signs of life below the messages: the protocol has none of its own that a client would not take for an answer.

    They keep silent streams open in balancers, and find peers that are gone without a word, whose work then stops.
    """
    return [
        ("grpc.keepalive_time_ms", round(PING_S * 1e3)),
        ("grpc.keepalive_timeout_ms", round(PONG_S * 1e3)),
        (
            "grpc.http2.ping_timeout_ms",
            round(PONG_S * 1e3),
        ),  # the one that present versions of the library obey
        ("grpc.http2.max_pings_without_data", 0),  # as many as a silence asks for
        ("grpc.keepalive_permit_without_calls", 1),  # clients may ping while they ask nothing
        ("grpc.http2.min_ping_interval_without_data_ms", round(PINGED_S * 1e3)),
    ]


def _handlers(site: Site) -> Any:
    """Every method of the service by its name, bytes in and bytes out."""
    methods = Methods(site)
    table = {
        name: grpc.unary_unary_rpc_method_handler(_Unary(site, name, method, once=name in ONCE).answer)
        for name, method in methods.table().items()
    }
    stream = Stream(site)
    table["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(stream.talk)
    return grpc.method_handlers_generic_handler(SERVICE, table)


class _Unary:
    """A method of one question and one answer."""

    def __init__(self, site: Site, name: str, method: Method, *, once: bool) -> None:
        self.site = site
        self.once = once  # an idempotency key is honoured
        self.route = route_of(name)
        self.request = message(f"{name}Request")
        self.method = method

    async def answer(self, data: bytes, context: Any) -> bytes:
        one = One(self.site, self.route, context)
        try:
            call = one.enter()
            if self.once and IDEMPOTENCY_KEY in call.exchange.headers:
                return await self._kept(one, call, data)
            answer = await self._work(call, data)
            context.set_trailing_metadata(tuple(one.exchange.extra))
            return answer
        except asyncio.CancelledError as error:
            one.left(error)
            raise
        except Exception as error:  # every call gets a status
            await one.abort(error)
            raise  # unreachable: abort raises
        finally:
            one.close()

    async def _work(self, call: Call, data: bytes) -> bytes:
        answer = await self.method(call, parse(self.request, data))
        return answer.SerializeToString()  # type: ignore[no-any-return]

    async def _kept(self, one: One, call: Call, data: bytes) -> bytes:
        """The answer, or the first one to this key."""

        async def handler(call: Call) -> Reply:
            return Reply(await self._work(call, data))

        reply = await self.site.idempotency.reply(call, handler, [data])
        one.context.set_trailing_metadata(tuple(one.exchange.trailers(reply)))
        return reply.body  # type: ignore[return-value]  # it is whole: the handler's is
