"""The explicit fetcher of URLs: public addresses only, bounded in size, time and redirects.

A name is resolved once, every address it gives is checked, and the connection goes to a checked address
itself, so that the name cannot answer differently between check and use. Each redirect starts anew.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from urllib.parse import SplitResult, urljoin, urlsplit

from tauten.errors import InputError, MachineError, MediaError
from tauten.run.lookup import lookup

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]

MAX_BYTES = 64 * 1024 * 1024  # 64 MiB: a minute of 1080p video; more should be handed over as a file
TIMEOUT_S = (
    20.0  # the whole fetch, redirects included: longer than a healthy server, shorter than a user waits
)
MAX_REDIRECTS = 5  # browsers follow 20; media needs one or two
_MAX_HEAD_BYTES = 64 * 1024  # headers of one answer: servers themselves refuse more
_READ_BYTES = 64 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_EMBEDDED_V4 = (  # IPv6 ranges that carry an IPv4 address, and the bit where it begins
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),
    (ipaddress.IPv6Network("::/96"), 0),
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),
    (ipaddress.IPv6Network("2002::/16"), 80),
)


async def fetch(
    url: str,
    *,
    allow: Sequence[str] = ("https", "http"),
    max_bytes: int = MAX_BYTES,
    timeout_s: float = TIMEOUT_S,
    allow_private: bool = False,
    resolve: Resolver | None = None,
    tls: ssl.SSLContext | None = None,
) -> bytes:
    """Return the body of `url`; `timeout_s` covers all of it.

    Raises InputError E241 (a URL or address that is refused) or E242 (an answer other than 200),
    MediaError E214 (more than `max_bytes`), MachineError E323 (no connection, no answer in time).
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _follow(url, allow, max_bytes, allow_private, resolve or _system_resolver, tls)
    except TimeoutError:
        raise MachineError(
            f"no whole answer from {_shown(url)} within {timeout_s:g} s",
            help="try again, or give a nearer copy",
            code="E323",
        ) from None
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        raise MachineError(
            f"cannot fetch {_shown(url)}: {error or error.__class__.__name__}",
            help="check the address and the network",
            code="E323",
        ) from error


async def _follow(
    url: str,
    allow: Sequence[str],
    max_bytes: int,
    allow_private: bool,
    resolve: Resolver,
    tls: ssl.SSLContext | None,
) -> bytes:
    for _ in range(MAX_REDIRECTS + 1):
        parts = _checked_url(url, allow)
        addresses = await _checked_addresses(parts, allow_private, resolve)
        async with _connected(parts, addresses, tls) as (reader, writer):
            writer.write(_request(parts))
            await writer.drain()
            status, headers = await _head(reader)
            if status not in _REDIRECTS or "location" not in headers:
                _check_status(url, status)
                return await _body(reader, headers, max_bytes)
            url = urljoin(url, headers["location"])
    raise _refused(url, f"more than {MAX_REDIRECTS} redirects", "give the address they lead to")


def _checked_url(url: str, allow: Sequence[str]) -> SplitResult:
    if any(character <= " " or character == "\x7f" for character in url):
        raise _refused(url, "it holds spaces or control characters", "percent-encode them")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _refused(url, str(error), "give scheme://host/path") from None
    if parts.scheme not in allow:
        raise _refused(url, f"scheme {parts.scheme!r}", f"allowed: {', '.join(allow)}")
    if not parts.hostname or port == 0:
        raise _refused(url, "it names no host", "give scheme://host/path")
    if parts.username is not None or parts.password is not None:
        raise _refused(url, "it carries a user name", "fetch it yourself and pass the bytes")
    return parts


async def _checked_addresses(parts: SplitResult, allow_private: bool, resolve: Resolver) -> Sequence[str]:
    host = parts.hostname or ""
    addresses = await resolve(host, _port(parts))
    if not addresses:
        raise OSError(f"{host} has no address")
    for address in addresses:
        if not allow_private and not is_public(address):
            raise _refused(
                parts.geturl(), f"{host} is {address}, which is not a public address", "fetch it yourself"
            )
    return addresses


def is_public(address: str) -> bool:
    """Whether an address lies in the public internet, embedded IPv4 addresses included.

    >>> is_public("93.184.216.34"), is_public("169.254.169.254"), is_public("::ffff:127.0.0.1")
    (True, False, False)
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        for network, shift in _EMBEDDED_V4:
            if parsed in network:
                return is_public(str(ipaddress.IPv4Address((int(parsed) >> shift) & 0xFFFFFFFF)))
        if parsed.teredo is not None or parsed.is_site_local:
            return False
    closed = parsed.is_private or parsed.is_multicast or parsed.is_reserved or parsed.is_unspecified
    return parsed.is_global and not (closed or parsed.is_loopback or parsed.is_link_local)


async def _system_resolver(host: str, port: int) -> Sequence[str]:
    found = await lookup(host, port)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@contextlib.asynccontextmanager
async def _connected(
    parts: SplitResult, addresses: Sequence[str], tls: ssl.SSLContext | None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to the first address that answers; the certificate is checked against the name."""
    secure = parts.scheme == "https"
    context = (tls or ssl.create_default_context()) if secure else None
    name = parts.hostname if secure else None
    failure: OSError = OSError("no address")
    for address in addresses:
        try:
            reader, writer = await asyncio.open_connection(
                address, _port(parts), ssl=context, server_hostname=name, limit=_MAX_HEAD_BYTES
            )
            break
        except OSError as error:
            failure = error
    else:
        raise failure
    try:
        yield reader, writer
    except BaseException:
        writer.transport.abort()  # whoever gave up does not wait for the other side's goodbye
        raise
    finally:
        writer.close()
        with contextlib.suppress(OSError):  # a peer that is gone cannot be told goodbye
            await writer.wait_closed()


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _request(parts: SplitResult) -> bytes:
    host = (parts.hostname or "").encode("idna" if ":" not in (parts.hostname or "") else "ascii").decode()
    shown = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port else ""
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {shown}{port}",
        "User-Agent: tauten",
        "Accept: */*",
        "Accept-Encoding: identity",
        "Connection: close",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


async def _head(reader: asyncio.StreamReader) -> tuple[int, Mapping[str, str]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
        raise ValueError(f"the answer is not HTTP/1: {first[:40]!r}")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    return int(rest[:3]), headers


def _check_status(url: str, status: int) -> None:
    if status != 200:
        raise InputError(
            f"{_shown(url)} answered {status}, expected 200",
            help="check the address in a browser",
            code="E242",
        )


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str], max_bytes: int) -> bytes:
    if headers.get("content-encoding", "identity") != "identity":
        raise ValueError(f"the body is {headers['content-encoding']}, which was not asked for")
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return await _chunked(reader, max_bytes)
    length = headers.get("content-length")
    if length is None:
        return await _until_end(reader, max_bytes)
    if not length.isdigit():
        raise ValueError(f"content-length {length!r}")
    if int(length) > max_bytes:
        raise _too_large(int(length), max_bytes)
    return await reader.readexactly(int(length))


async def _until_end(reader: asyncio.StreamReader, max_bytes: int) -> bytes:
    body = bytearray()
    while part := await reader.read(_READ_BYTES):
        body += part
        if len(body) > max_bytes:
            raise _too_large(len(body), max_bytes)
    return bytes(body)


async def _chunked(reader: asyncio.StreamReader, max_bytes: int) -> bytes:
    body = bytearray()
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.partition(b";")[0].strip(), 16)
        if size < 0:
            raise ValueError("a chunk of negative size")
        if not size:
            return bytes(body)
        if len(body) + size > max_bytes:
            raise _too_large(len(body) + size, max_bytes)
        body += await reader.readexactly(size)
        await reader.readexactly(2)


def _shown(url: str) -> str:
    """The URL as a message may show it: without query, which may hold a secret, and not too long."""
    return repr(url.partition("?")[0][:120])


def _refused(url: str, reason: str, help: str) -> InputError:
    return InputError(f"{_shown(url)} is not fetched: {reason}", help=help, code="E241")


def _too_large(size: int, limit: int) -> MediaError:
    return MediaError(
        f"the answer has {size} bytes or more; at most {limit} are fetched",
        help="raise the limit, or pass the file itself",
        code="E214",
    )
