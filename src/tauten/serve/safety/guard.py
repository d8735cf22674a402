"""Who may come in: keys, rates and requests at a time; and which pages of a browser may ask at all."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from tauten.clock import Clock, real
from tauten.errors import InputError
from tauten.run.request import HIGHEST
from tauten.serve.door import Caller
from tauten.serve.exchange import Exchange, Reply
from tauten.serve.safety.keys import Keys
from tauten.serve.safety.limits import IN_FLIGHT, Allowance, Busy, Failures, Total
from tauten.serve.socket import Socket

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})  # they change nothing, and without CORS no page reads the answer
LOCAL = Caller(name="local", priority=HIGHEST, admin=True)  # loopback without keys: the person here
ANYBODY = Caller(
    name="anybody", priority=HIGHEST
)  # another address without keys: whom something else let through
OWN_HOSTS = 64  # spellings of this machine that are remembered: a name and a port or two
PREFLIGHT_S = 600  # what browsers may remember of a preflight; Chromium keeps none longer than two hours
EXPOSED = ", ".join(  # of a reply, what a page may read beside what every page may
    (
        "x-request-id",
        "x-tauten-session",
        "x-tauten-shared",
        "x-tauten-cache",
        "x-tauten-ignored",
        "x-tauten-error",
        "idempotent-replayed",
        "inference-header-content-length",
        "server-timing",
        "retry-after",
        "retry-after-ms",
    )
)
_HEADER_NAMES = re.compile(r"[A-Za-z0-9-]{1,64}(\s*,\s*[A-Za-z0-9-]{1,64}){0,31}")


class Unauthorized(InputError):
    """No key, or one that nobody has."""

    code = "E262"
    http_status = 401
    grpc_status = "UNAUTHENTICATED"


class Forbidden(InputError):
    """Known, but not allowed: a scope, a host name, a page of another origin."""

    code = "E263"
    http_status = 403
    grpc_status = "PERMISSION_DENIED"


class Guard:
    """Stands at the door of a server.

    Without `keys` nobody is told from another. With `hosts_checked` that is the local user, and names that are
    not loopback are refused, so that no web page reaches the server under a name of its own (DNS rebinding).
    """

    def __init__(
        self,
        keys: Keys | None = None,
        *,
        hosts_checked: bool = True,
        origins: Sequence[str] = (),
        in_flight: int = IN_FLIGHT,
        timing: bool = False,
        clock: Clock = real,
    ) -> None:
        self.keys = keys
        self.in_flight = in_flight
        self._total = Total()
        self._origins = frozenset(origins)
        self._hosts_checked = hosts_checked and keys is None
        self._own_hosts = {""}  # Host headers that were found to be this machine; HTTP/1.0 has none
        self._clock = clock
        self._failures = Failures()
        self._allowances: dict[str, Allowance] = {}
        keyless = LOCAL if hosts_checked else ANYBODY
        self._keyless = Allowance(msgspec.structs.replace(keyless, timing=timing), clock(), self._total)

    # -- pages --------------------------------------------------------------------------------------------

    def meet(self, exchange: Exchange) -> Reply | None:
        """Refuse foreign hosts and pages; answers the preflight of a page that is allowed."""
        headers = exchange.headers
        host = headers.get("host", "")
        if self._hosts_checked and host not in self._own_hosts:
            self._check_host(host)
        origin = headers.get("origin")
        if origin is None or _same(origin, host):
            return None
        if origin in self._origins or "*" in self._origins:
            return self._welcome(exchange, origin)
        if exchange.method not in SAFE or "access-control-request-method" in headers:
            raise Forbidden(
                f"a page of {origin[:80]!r} may not ask this server",
                help="start the server with --cors ORIGIN to allow it",
                code="E265",
            )
        return None

    def _check_host(self, host: str) -> None:
        if not is_loopback(host_of(host)):
            raise Forbidden(
                f"Host {host[:80]!r} is not this machine",
                help="ask 127.0.0.1 or localhost; for other names start the server with --keys",
                code="E264",
            )
        if len(self._own_hosts) < OWN_HOSTS:
            self._own_hosts.add(host)

    @staticmethod
    def _welcome(exchange: Exchange, origin: str) -> Reply | None:
        exchange.extra += [
            ("access-control-allow-origin", origin),
            ("vary", "origin"),
            ("access-control-expose-headers", EXPOSED),
        ]
        if exchange.method != "OPTIONS" or "access-control-request-method" not in exchange.headers:
            return None
        asked = exchange.headers.get("access-control-request-headers", "")
        named = asked if _HEADER_NAMES.fullmatch(asked) else "authorization, content-type"
        return Reply(
            status=204,
            headers=[
                ("access-control-allow-methods", "GET, POST, PUT, DELETE"),
                ("access-control-allow-headers", named),
                ("access-control-max-age", str(PREFLIGHT_S)),
            ],
        )

    # -- callers ------------------------------------------------------------------------------------------

    def identify(self, exchange: Exchange) -> Caller:
        """Who asks; counts the request in, and out again when the exchange is over.

        A WebSocket is no request itself: those that come over it are counted one by one.
        """
        token = address = ""
        if self.keys is not None:
            client = exchange.scope.get("client")
            token, address = token_of(exchange.headers), str(client[0]) if client else ""
        if isinstance(exchange, Socket):
            return self._allowance(token, address).caller
        allowance = self.admit(token, address)
        exchange.on_close(allowance.end)
        return allowance.caller

    @property
    def running(self) -> int:
        """Requests that were counted in and not out again."""
        return self._total.running

    def admit(self, token: str, address: str) -> Allowance:
        """Count a request in with a token, for its `caller`; to be ended when it is over.

        Raises Unauthorized E262, and Busy: E411 rate, E412 requests at a time, E413 the server's own bound,
        E414 too many wrong keys.
        """
        allowance = self._keyless if self.keys is None else self._allowance(token, address)
        if self._total.running >= self.in_flight:
            raise Busy(
                f"{self.running} requests are running, at most {self.in_flight}",
                help="retry later, or start the server with a larger --max-in-flight",
                retry_after_s=1.0,
                code="E413",
            )
        allowance.begin(self._clock())
        return allowance

    def _allowance(self, token: str, address: str) -> Allowance:
        if self.keys is None:
            return self._keyless
        caller = self.keys.find(token)
        if caller is None:
            raise self._stranger(token, address)
        known = self._allowances.get(caller.name)
        if known is None:
            self._allowances[caller.name] = known = Allowance(caller, self._clock(), self._total)
        elif known.caller is not caller:
            known.renew(caller, self._clock())
        return known

    def _stranger(self, token: str, address: str) -> InputError | Busy:
        if not token:
            return Unauthorized("no API key", help="send Authorization: Bearer KEY, or x-api-key: KEY")
        wait_s = self._failures.count(address, self._clock())
        if wait_s:
            return Busy(
                "too many wrong API keys from this address",
                help="check the key; right ones are always let in",
                retry_after_s=wait_s,
                code="E414",
            )
        return Unauthorized("this API key is not known", help="see: tauten key list")


def token_of(headers: dict[str, str]) -> str:
    """The key that a request shows: a bearer token, or x-api-key."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return headers.get("x-api-key", "").strip()


def host_of(header: str) -> str:
    """The name in a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].rstrip(".").lower()


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine by definition, whatever a name server says."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _same(origin: str, host: str) -> bool:
    try:
        return bool(host) and urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False
