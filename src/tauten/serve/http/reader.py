"""Reads the heads of requests: llhttp parses, this file refuses what llhttp lets pass, and builds ASGI scopes."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, Protocol

import httptools

from tauten.serve.http.framing import Framing
from tauten.serve.http.known import KNOWN_BYTES, Heads, Known, host_in, outline
from tauten.serve.http.limits import HttpLimits
from tauten.serve.http.wire import Headers, Refusal, split_target, valid_host

END = b"\r\n\r\n"
NOTABLE = frozenset((b"host", b"content-length", b"transfer-encoding", b"expect", b"upgrade"))


class Taker(Protocol):
    """What a reader reports to, in this order for each request."""

    def begun(self) -> None: ...
    def head(
        self, scope: dict[str, Any], length: int | None, *, keep: bool, old: bool, expect: bool
    ) -> None: ...
    def body(self, body: bytes) -> None: ...
    def ended(self) -> None: ...


class Reader:
    """The callbacks of one llhttp parser. A callback that raises stops it; `cause` then says why."""

    def __init__(self, taker: Taker, limits: HttpLimits, scope: dict[str, Any]) -> None:
        self.limits = limits
        self.cause: Refusal | None = None
        self.wants = b""  # the protocol that the request in hand would switch to
        self.framing = Framing(limits.header_bytes)
        self._common = scope
        self._host = host_in(scope)
        self._url = b""
        self._lines: Headers = []
        self._trailers: int | None = None  # bytes of them so far, behind a head; None: the head has not ended
        self._expect = False
        self._chunked = False
        self._skip = False  # the head in the parser is one of ours
        self._good_host = b""  # the last one that was checked
        self._sight = b""  # the last head that came whole in one read
        self.known: Known | None = None  # and what it means, once seen twice
        self._head = taker.head
        self.on_message_begin: Callable[[], None] = taker.begun
        self.on_body: Callable[[bytes], None] = taker.body
        self.on_message_complete: Callable[[], None] = taker.ended
        self.parser = httptools.HttpRequestParser(self)

    def again(self, length: int | None) -> None:
        """A fresh parser after an upgrade that was not taken, before the body (None: chunked) of that request."""
        self.parser = httptools.HttpRequestParser(self)
        if length != 0:
            body = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
            self._skip = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % body)
            self._skip, self._url = False, b""

    def release(self) -> None:
        """The connection is gone: break the circles, so that nothing of it waits for the garbage collector."""
        del self.parser, self._head, self.on_message_begin, self.on_body, self.on_message_complete

    def stop(self, status: int, reason: str) -> Refusal:
        """The reason with which a callback stops the parser."""
        self.cause = Refusal(status, reason)
        return self.cause

    # -- heads that repeat: a client sends the same bytes again and again ----------------------------------

    def learn(
        self, data: bytes, scope: MutableMapping[str, Any] | None, length: int, heads: Heads
    ) -> Known | None:
        """Remember the head of a request, with which `data` begins; seen twice, here or from this address, it becomes a
        template: returned once."""
        end = data.find(END, 0, KNOWN_BYTES) + len(END)
        if scope is None or self.wants or self._expect or end < len(END):
            return None
        head = data[:end]
        if not head.startswith(scope["method"].encode() + b" "):
            return None  # blank lines before it, which the parser skips: where it ends was not looked for
        sight = outline(head)
        again = heads.sighted(self._host, sight)
        if sight != self._sight:
            self._sight, self.known = sight, None
        elif self.known is not None:
            return None
        else:
            again = True
        if again:
            known = Known(head, {**scope, "headers": list(scope["headers"])}, length)
            if known.sure:
                self.known = known
                return known
        return None

    def recall(self, data: bytes, heads: Heads) -> Known | None:
        """What a request means, where this client sent its head on another connection; in place of what was known
        here."""
        known = heads.find(data, self._host)
        if known is None or known.read(data) is None:
            return None
        self._sight, self.known = b"", known.elsewhere(self._common)
        return self.known

    # -- callbacks of llhttp ------------------------------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._trailers = None

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._trailers is None:
            self._lines.append((name, value))
        else:
            self._trailer(name, value)

    def on_headers_complete(self) -> None:
        self._trailers = 0
        if self._skip:
            self._lines.clear()
            return
        lines, parser = self._lines, self.parser
        headers: Headers = []
        host: bytes | None = None
        length: int | None = 0
        if self.wants or self._expect or self._chunked:
            self.wants, self._expect, self._chunked = b"", False, False
        for name, value in lines:
            name = name.lower()
            value = value.rstrip(b" \t")
            headers.append((name, value))
            if name in NOTABLE:
                if name == b"content-length":
                    length = int(value)
                elif name == b"host" and host is None:
                    host = value
                else:
                    self._note(name, value)
        lines.clear()
        version = parser.get_http_version()
        if self._chunked:
            length = None
        self._check(version, host, length, headers)
        scope = self._scope(version, parser.get_method(), headers)
        self._url = b""
        old = version == "1.0"
        expect = self._expect and not old and length != 0
        self._head(scope, length, keep=parser.should_keep_alive(), old=old, expect=expect)

    # -- what llhttp lets pass and we do not --------------------------------------------------------------

    def _note(self, name: bytes, value: bytes) -> None:
        """The rarer headers that the server itself acts on."""
        if name == b"host":
            raise self.stop(400, "expected one Host")
        if name == b"transfer-encoding":
            if value.lower() != b"chunked":
                raise self.stop(400, "the only transfer coding taken is chunked")
            self._chunked = True
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise self.stop(417, "the only expectation met is 100-continue")
            self._expect = True
        else:
            self.wants = value.lower()

    def _trailer(self, name: bytes, value: bytes) -> None:
        """Nobody asks for trailers: each is counted and dropped."""
        self._trailers = (self._trailers or 0) + len(name) + len(value) + 4
        if self._trailers > self.limits.header_bytes:
            raise self.stop(431, "the trailers are too large")

    def _check(self, version: str, host: bytes | None, length: int | None, headers: Headers) -> None:
        limits = self.limits
        if version != "1.1":
            if version != "1.0":
                raise self.stop(400, "the only versions spoken are HTTP/1.1 and HTTP/1.0")
            if length is None:
                raise self.stop(400, "HTTP/1.0 has no transfer coding")
        elif host is None:
            raise self.stop(400, "HTTP/1.1 asks for a Host")
        if host is not None and host != self._good_host:
            if not valid_host(host):
                raise self.stop(400, "expected a Host of the form name:port")
            self._good_host = host
        if len(headers) > limits.header_count:
            raise self.stop(431, f"{len(headers)} headers, at most {limits.header_count} are taken")
        if len(self._url) > limits.target_bytes:
            raise self.stop(
                414, f"the target has {len(self._url)} bytes, at most {limits.target_bytes} are taken"
            )
        framing = self.framing
        if framing.before + framing.piece > limits.header_bytes:
            size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in headers)
            if size > limits.header_bytes:
                raise self.stop(431, "the head is too large")
        if length is not None and length > limits.body_bytes:
            raise self.stop(413, f"the body has {length} bytes, at most {limits.body_bytes} are taken")

    def _scope(self, version: str, method: bytes, headers: Headers) -> dict[str, Any]:
        try:
            path, raw_path, query, authority = split_target(self._url)
        except Refusal as refused:
            self.cause = refused
            raise
        if authority is not None:  # it overrides the Host, so that no two readers see two hosts
            if not valid_host(authority):
                raise self.stop(400, "the target's host is not of the form name:port")
            headers = [(b"host", authority), *(each for each in headers if each[0] != b"host")]
        if raw_path == b"*" and method != b"OPTIONS":
            raise self.stop(400, "the target * is for OPTIONS alone")
        if method == b"CONNECT":
            raise self.stop(400, "this server is no proxy")
        scope = self._common.copy()
        scope["http_version"] = version
        scope["method"] = method.decode("ascii")
        scope["path"] = path
        scope["raw_path"] = raw_path
        scope["query_string"] = query
        scope["headers"] = headers
        return scope
