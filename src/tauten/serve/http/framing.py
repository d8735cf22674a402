"""Counts the bytes around a request's body: a head in several reads, the framing of a chunked body."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from tauten.serve.http.wire import Refusal

CHUNK_SLACK_BYTES = 64 * 1024  # framing beyond a body's size: extensions and trailers of a sane client
CHUNK_FRAMING = 8  # and bytes of framing for each byte of body: one-byte chunks have five


class Framing:
    """What the request in hand has cost so far, whatever it is worth; too much of it is a refusal."""

    __slots__ = ("_body", "_chunked", "_header_bytes", "_read", "_still", "before", "piece")

    def __init__(self, header_bytes: int) -> None:
        self._header_bytes = header_bytes
        self.before = 0  # bytes of the head that earlier reads brought
        self.piece = 0  # bytes now in the parser
        self._read = False  # a part of the head came before
        self._chunked = 0  # bytes of a chunked body with its framing
        self._body = -1  # bytes of it without; -1: none of it was read yet
        self._still = 0  # bytes since it last grew

    def whole_head(self) -> None:
        """The head has ended: what is counted from here on is its body's."""
        self.before = self._chunked = self._still = 0
        self._body = -1
        self._read = False

    def part_of_head(self) -> Refusal | None:
        """Bound a head that comes in several reads; the first may hold other requests too and is not counted."""
        if self._read:
            self.before += self.piece
            if self.before > self._header_bytes:
                return Refusal(431, "the head is too large")
        self._read = True
        return None

    def part_of_chunked(self, body_bytes: int) -> Refusal | None:
        """Bound the framing of a chunked body: extensions, trailers and tiny chunks cost us, not the sender."""
        self._chunked += self.piece
        if body_bytes > self._body:
            self._body, self._still = body_bytes, 0
        else:
            self._still += self.piece  # the parser may hold them all: a trailer that does not end
        most = CHUNK_SLACK_BYTES + (CHUNK_FRAMING + 1) * body_bytes
        if self._still > self._header_bytes or self._chunked > most:
            return Refusal(400, "the chunked body is nearly all framing")
        return None
