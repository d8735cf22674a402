"""HTTP/1.1 on the wire, pure functions: targets in, status lines and response heads out."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

from tauten.errors import InternalError
from tauten.serve.http import refused

Headers = list[tuple[bytes, bytes]]

_STATUS = {s.value: b"HTTP/1.1 %d %b\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus if s >= 200}
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)
_PLAIN = re.compile(rb"/[A-Za-z0-9/._~-]*")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+;=%]*)(?::[0-9]*)?")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BREAK = re.compile(rb"[\r\n\0]")
_lines: dict[
    tuple[bytes, bytes], bytes
] = {}  # headers that were checked already: an app sends few different ones
KNOWN_LINES = 1024  # then it starts anew: values that never repeat must not pile up
KNOWN_LINE_BYTES = 128  # longer ones seldom repeat
ONCE = frozenset(
    (b"x-request-id", b"x-tauten-session", b"server-timing", b"retry-after-ms")
)  # these never do
SERVER = b"server: tauten\r\n"


class Refusal(Exception):
    """A request that is answered by the server itself, and closes its connection."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def _status_line(status: int) -> bytes:
    """The first line of an answer whose status has no registered phrase."""
    if not (isinstance(status, int) and 200 <= status <= 599):
        raise InternalError(f"the app answered with status {status!r}, expected 200 to 599")
    return b"HTTP/1.1 %d \r\n" % status


def usual_lines(now: float) -> bytes:
    """The Date and Server lines of the second `now`."""
    return b"date: %b\r\n%b" % (formatdate(now, usegmt=True).encode(), SERVER)


def valid_host(value: bytes) -> bool:
    """Whether a Host field is `name`, `name:port` or `[address]:port`."""
    return _HOST.fullmatch(value) is not None


def split_target(target: bytes) -> tuple[str, bytes, bytes, bytes | None]:
    """(path, raw path, query, authority of an absolute form); raises `Refusal` for what is none of it."""
    if _PLAIN.fullmatch(target):
        return target.decode("ascii"), target, b"", None
    authority = None
    if target[:1] != b"/" and target != b"*":
        found = _ABSOLUTE.fullmatch(target)
        if found is None:
            raise Refusal(400, "the target is neither a path nor an http address")
        authority, target = found.groups()
        if target[:1] != b"/":
            target = b"/" + target
    if b"#" in target:
        raise Refusal(400, "the target has a fragment")
    raw_path, _, query = target.partition(b"?")
    if b"%" not in raw_path:
        return raw_path.decode("latin-1"), raw_path, query, authority
    return _unquoted(raw_path), raw_path, query, authority


def _unquoted(raw_path: bytes) -> str:
    """The path with its escapes resolved."""
    if _BROKEN_ESCAPE.search(raw_path):
        raise Refusal(400, "the path has a broken percent escape")
    try:
        path = unquote_to_bytes(raw_path).decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal(400, "the path's escapes are not UTF-8") from None
    if "\0" in path:
        raise Refusal(400, "the path has a NUL")
    return path


class Head:
    """An app's response start, checked, except for its framing."""

    __slots__ = ("close", "length", "own_date", "own_server", "status", "text")

    def __init__(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.status = status
        self.length: int | None = None
        self.close = self.own_date = self.own_server = False
        parts = [_STATUS.get(status) or _status_line(status)]
        for header in headers:
            line = _lines.get(tuple(header))  # type: ignore[arg-type]  # some apps send lists
            parts.append(self._line(*header) if line is None else line)
        self.text = b"".join(parts)

    @classmethod
    def ready(cls, lines: bytes) -> Head:
        """One whose status line and headers are our own: nothing of them is looked at."""
        head = cls(200, ())
        head.text = lines
        return head

    def _line(self, name: bytes, value: bytes) -> bytes:
        """One header on the wire. Framing is the server's: what the app says of it is read, not copied."""
        lowered = name.lower()
        if lowered == b"content-length":
            if not value.isdigit():
                raise InternalError(f"the app's Content-Length is {value!r}, expected digits")
            self.length = int(value)
            return b""
        if lowered == b"connection":
            self.close = self.close or b"close" in value.lower()
            return b""
        if lowered == b"transfer-encoding":
            return b""
        line = b"%b: %b\r\n" % (name, value)
        if _TOKEN.fullmatch(name) is None or _BREAK.search(value):
            raise InternalError(
                f"the response header {name!r} is malformed or holds a line break, expected one line",
                help="escape what users wrote before it becomes a header",
            )
        if lowered in (b"date", b"server"):
            self.own_date = self.own_date or lowered == b"date"
            self.own_server = self.own_server or lowered == b"server"
        elif len(line) <= KNOWN_LINE_BYTES and lowered not in ONCE:
            if len(_lines) >= KNOWN_LINES:
                _lines.clear()
            _lines[name, value] = line
        return line

    def render(self, framing: bytes, usual: bytes) -> bytes:
        """The whole head; `usual` are the server's Date and Server lines."""
        if self.own_date or self.own_server:
            lines = usual.splitlines(keepends=True)
            usual = b"".join(
                line for line in lines if not (self.own_date if line.startswith(b"date") else self.own_server)
            )
        return b"%b%b%b\r\n" % (self.text, usual, framing)


def refusal(status: int, reason: str, usual: bytes) -> bytes:
    """A complete answer of the server's own, after which the connection closes."""
    body = refused.body(status, reason)
    retry = b"retry-after: 1\r\n" if status == 503 else b""
    return b"%bcontent-type: application/json\r\ncontent-length: %d\r\n%b%bconnection: close\r\n\r\n%b" % (
        _STATUS[status],
        len(body),
        retry,
        usual,
        body,
    )
