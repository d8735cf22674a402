"""Files from a Hugging Face style hub over HTTP: resumed where they broke off, redirected, checked early.

The endpoint comes from the caller, TAUTEN_HUB or HF_ENDPOINT; a token for private files from HF_TOKEN.
The token is sent to the endpoint's own host only, and appears in no message.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tauten.errors import StoreError
from tauten.models.blobs import CHUNK_BYTES, disk_errors, sha256_of, wrong_bytes
from tauten.models.catalog import HubSource

DEFAULT_ENDPOINT = "https://huggingface.co"
TIMEOUT_S = 30.0  # without a byte: the connection is dead
ATTEMPTS = 5  # a broken transfer goes on where it stopped, so each attempt makes progress
PAUSE_S = 0.5  # before the second attempt; doubles
MAX_REDIRECTS = 5  # the hub needs one or two

_ANSWERS = {
    401: "it asks for a token; set HF_TOKEN",
    403: "it refuses access; accept the model's terms there or set HF_TOKEN",
    404: "it has no such file or revision",
}
_WORTH_A_RETRY = {408, 425, 429, 500, 502, 503, 504}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None  # followed by hand, so that the token stays with its host


_OPENER = urllib.request.build_opener(_NoRedirect)


class _Broken(Exception):
    """The transfer broke off; what has come is kept for the next attempt."""


def endpoint(chosen: str | None = None) -> str:
    """The hub to ask; StoreError E311 for what is no address."""
    found = chosen or os.environ.get("TAUTEN_HUB") or os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT
    if not found.startswith(("http://", "https://")):
        raise StoreError(
            f"the hub {found[:120]!r} is no address of http or https",
            help=f"write it whole, like https://{found[:120]}; it comes from TAUTEN_HUB or HF_ENDPOINT",
            code="E311",
        )
    return found.rstrip("/")


class Download:
    """One file on its way from a hub into a partial file."""

    def __init__(self, source: HubSource, base: str, partial: Path, sha256: str, size_bytes: int) -> None:
        path = f"{source.repo}/resolve/{source.revision}/{source.file}"
        self._url = f"{base}/{urllib.parse.quote(path)}"
        self._name = f"hub:{source.repo}@{source.revision}!{source.file}"
        self._host = urllib.parse.urlsplit(base)[:2]
        self._partial, self._sha256, self._size_bytes = partial, sha256, size_bytes

    def run(self, progress: Callable[[int], None], pause: Callable[[float], None] = time.sleep) -> None:
        """Complete the partial file and check it; E311 if the hub cannot deliver, E312 if it is another file."""
        for attempt in range(ATTEMPTS):
            if attempt:
                pause(PAUSE_S * 2 ** (attempt - 1))
            resumed = self._have()
            try:
                self._transfer(progress)
            except _Broken as error:
                reason = str(error)
                continue
            if self._is_right():
                return
            if not resumed:  # a resumed file may have changed between the attempts: once more from the start
                break
        else:
            raise StoreError(
                f"{self._name}: {reason} ({ATTEMPTS} attempts, {self._have()} of {self._size_bytes} bytes are kept)",
                help="check the network and pull again: it goes on from there",
                code="E311",
            )
        raise wrong_bytes(
            self._name, "another SHA-256 or size", f"{self._sha256} of {self._size_bytes} bytes"
        )

    def _have(self) -> int:
        return self._partial.stat().st_size if self._partial.exists() else 0

    def _is_right(self) -> bool:
        """Check the whole file; a wrong one is removed."""
        if self._have() == self._size_bytes and sha256_of(self._partial) == self._sha256:
            return True
        self._partial.unlink(missing_ok=True)
        return False

    def _transfer(self, progress: Callable[[int], None]) -> None:
        start = self._have()
        if start >= self._size_bytes:
            return
        try:
            with self._open(start) as response:
                if start and response.status != 206:
                    start = 0  # the server sends the whole file
                elif start and not _starts_at(response.headers.get("Content-Range", ""), start):
                    self._partial.unlink()
                    raise _Broken("the answer begins at another byte than asked for")
                self._receive(response, start, progress)
        except (http.client.HTTPException, TimeoutError, ConnectionError, urllib.error.URLError) as error:
            raise _Broken(
                f"the connection broke ({getattr(error, 'reason', None) or type(error).__name__})"
            ) from error

    def _receive(self, response: Any, done: int, progress: Callable[[int], None]) -> None:
        with disk_errors(self._partial.parent), self._partial.open("ab" if done else "wb") as out:
            while chunk := _more(response):
                out.write(chunk)
                done += len(chunk)
                progress(done)
                if done > self._size_bytes:
                    return
        if done < self._size_bytes:
            raise _Broken(f"the connection closed after {done} of {self._size_bytes} bytes")

    def _open(self, start: int) -> Any:
        """Ask for the file from byte `start`, following redirects."""
        url = self._url
        for _ in range(MAX_REDIRECTS):
            try:
                response = _OPENER.open(
                    urllib.request.Request(url, headers=self._headers(url, start)), timeout=TIMEOUT_S
                )
            except urllib.error.HTTPError as error:
                with error:
                    self._check_announced(url, error.headers)
                    url = self._after_status(url, error)
                    continue
            self._check_announced(url, response.headers)
            return response
        raise StoreError(
            f"{self._name}: more than {MAX_REDIRECTS} redirects",
            code="E311",
            help="check the proxy and TAUTEN_HUB: something sends requests in a circle",
        )

    def _headers(self, url: str, start: int) -> dict[str, str]:
        headers = {"User-Agent": "tauten", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        token = os.environ.get("HF_TOKEN")
        if token and self._is_own(url):
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _is_own(self, url: str) -> bool:
        return urllib.parse.urlsplit(url)[:2] == self._host

    def _check_announced(self, url: str, headers: Any) -> None:
        """A hub names the SHA-256 of large files in advance: do not fetch 100 MB to throw them away.

        The storage that it redirects to has tags of its own, which may be as long and mean something else.
        """
        tag = headers.get("X-Linked-Etag") or (headers.get("ETag") if self._is_own(url) else None) or ""
        announced = tag.removeprefix("W/").strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", announced) and announced != self._sha256:
            self._partial.unlink(missing_ok=True)
            raise wrong_bytes(self._name, f"the hub announces SHA-256 {announced}", self._sha256)

    def _after_status(self, url: str, error: urllib.error.HTTPError) -> str:
        """The address to go on with after a redirect; other answers raise."""
        status = error.code
        if status in (301, 302, 303, 307, 308) and "Location" in error.headers:
            target: str = urllib.parse.urljoin(url, error.headers["Location"])
            if urllib.parse.urlsplit(target).scheme not in ("http", "https"):
                raise StoreError(
                    f"{self._name}: redirected to something that is not HTTP",
                    code="E311",
                    help="check TAUTEN_HUB: only http and https are followed",
                )
            return target
        if status == 416:
            self._partial.unlink(missing_ok=True)
            raise _Broken("the hub cannot go on from where we stopped")
        if status in _WORTH_A_RETRY:
            raise _Broken(f"the hub answered {status}")
        raise StoreError(
            f"{self._name}: the hub answered {status}: {_ANSWERS.get(status, error.reason)}",
            help="check the name, TAUTEN_HUB and HF_TOKEN",
            code="E311",
        )


def _more(response: Any) -> bytes:
    """The next bytes; what goes wrong with the connection is no matter of the disk that they are written to."""
    try:
        chunk: bytes = response.read(CHUNK_BYTES)
    except OSError as error:
        raise _Broken(f"the connection broke ({error.strerror or type(error).__name__})") from error
    return chunk


def _starts_at(content_range: str, start: int) -> bool:
    return content_range.startswith(f"bytes {start}-")
