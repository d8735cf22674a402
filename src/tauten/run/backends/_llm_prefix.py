"""How many tokens of a prompt the engine had in its cache: our own account, because it reports none."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence

BLOCK_TOKENS = 32  # the block of OpenVINO's paged attention on processors


class PrefixAccount:
    """Which whole blocks of earlier prompts and answers are still there, oldest out first.

    A lower bound by construction: the engine may also share part of a block.
    """

    def __init__(self, blocks: int) -> None:
        self._room = blocks
        self._blocks: OrderedDict[bytes, None] = OrderedDict()

    def cached(self, ids: Sequence[int]) -> int:
        """Tokens at the start of `ids` that need no computing; the last token always does."""
        count = 0
        for name in _names(ids):
            if name not in self._blocks:
                break
            self._blocks.move_to_end(name)
            count += BLOCK_TOKENS
        return max(min(count, len(ids) - 1), 0)

    def remember(self, ids: Sequence[int]) -> None:
        """The engine now holds the keys and values of `ids`."""
        for name in _names(ids):
            self._blocks[name] = None
            self._blocks.move_to_end(name)
        while len(self._blocks) > self._room:
            self._blocks.popitem(last=False)


def _names(ids: Sequence[int]) -> Iterator[bytes]:
    """One name a whole block, each depending on all tokens before it."""
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        block = ids[start : start + BLOCK_TOKENS]
        digest.update(b"".join(token.to_bytes(4, "little") for token in block))
        yield digest.digest()
