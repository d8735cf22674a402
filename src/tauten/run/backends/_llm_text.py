"""From tokens to text as it grows: no half characters."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence

_META_SPACE = "\u2581".encode()  # how SentencePiece writes a space
_BYTE_PIECES = {f"<0x{value:02X}>".encode(): bytes([value]) for value in range(256)}


def spelled(pieces: Mapping[bytes, int]) -> dict[int, bytes]:
    """What each token stands for in a text; special tokens stand for the text that means them."""
    if not any(piece.startswith(_META_SPACE) for piece in pieces):
        return {id: piece for piece, id in pieces.items()}
    return {id: _BYTE_PIECES.get(piece) or piece.replace(_META_SPACE, b" ") for piece, id in pieces.items()}


class Vocabulary:
    """The bytes of each token. Special tokens have none."""

    def __init__(self, pieces: Mapping[bytes, int], shown: Sequence[str]) -> None:
        """`pieces` is the tokenizer's vocabulary, `shown` what it decodes each single token to."""
        self.spaced = any(piece.startswith(_META_SPACE) for piece in pieces)
        self._bytes = [b""] * (max(pieces.values(), default=-1) + 1)
        for piece, id in pieces.items():
            if not self._is_special(piece, shown[id] if id < len(shown) else ""):
                self._bytes[id] = self._plain(piece)

    def _plain(self, piece: bytes) -> bytes:
        if not self.spaced:
            return piece
        return _BYTE_PIECES.get(piece) or piece.replace(_META_SPACE, b" ")

    def _is_special(self, piece: bytes, shown: str) -> bool:
        """Whole text that is decoded to nothing; half a character is decoded to nothing too."""
        if shown or piece in _BYTE_PIECES or piece == _META_SPACE:
            return False
        try:
            piece.decode()
        except UnicodeDecodeError:
            return False
        return True

    def piece(self, id: int) -> bytes:
        return self._bytes[id] if 0 <= id < len(self._bytes) else b""


class Detokenizer:
    """Decodes incrementally: gives whole characters only, and drops half a one at the very end."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = vocabulary.spaced  # such a tokenizer writes a space before the first word, too

    def feed(self, ids: Sequence[int]) -> str:
        """Text that `ids` complete."""
        text = self._decoder.decode(b"".join(map(self._vocabulary.piece, ids)))
        if self._strip and text:
            self._strip = False
            return text.removeprefix(" ")
        return text
