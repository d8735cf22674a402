"""Cut sections into chunks of at most `max_words`, each code block beside the sentence that leads to it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tauten.describe.markup import sentences
from tauten.describe.passages import Block, Chunk, Section
from tauten.describe.stage import stage

MAX_WORDS = 120  # about 170 tokens: all of it is seen by a 256-token encoder; longer chunks blur the vector
_SLACK = 1.6  # a block may exceed the limit by this much before it is cut: half a thought helps nobody
_LEAST_CHARACTERS = 25  # shorter sections hold a cross reference and nothing else


def chunks_of(sections: Iterable[Section], max_words: int = MAX_WORDS) -> list[Chunk]:
    """Cut sections; identical text under the same titles is kept once."""
    chunks: dict[str, Chunk] = {}
    for section in sections:
        for part, blocks in enumerate(_pack(section.blocks, max_words)):
            chunk = Chunk(
                section.source, section.titles, blocks, section.kind, section.signature, section.url, part
            )
            if len(chunk.body) >= _LEAST_CHARACTERS:
                chunks.setdefault(chunk.id, chunk)
    return list(chunks.values())


def _words(blocks: Iterable[Block]) -> int:
    return sum(len(block.text.split()) for block in blocks)


def _pack(blocks: tuple[Block, ...], max_words: int) -> Iterator[tuple[Block, ...]]:
    held: list[Block] = []
    for group in _groups(blocks, max_words):
        if held and _words(held) + _words(group) > max_words:
            yield tuple(held)
            held = []
        held.extend(group)
    if held:
        yield tuple(held)


def _groups(blocks: tuple[Block, ...], max_words: int) -> Iterator[list[Block]]:
    """Blocks that must not be parted: prose with the code that follows it, within the limit."""
    group: list[Block] = []
    for block in blocks:
        for piece in _cut(block, max_words):
            follows = group and piece.kind != "prose" and _words([*group, piece]) <= max_words * _SLACK
            if follows:
                group.append(piece)
                continue
            if group:
                yield group
            group = [piece]
    if group:
        yield group


def _cut(block: Block, max_words: int) -> Iterator[Block]:
    if _words([block]) <= max_words * _SLACK:
        yield block
        return
    joint = " " if block.kind == "prose" else "\n"
    parts = sentences(block.text) if block.kind == "prose" else block.text.splitlines()
    held: list[str] = []
    words = 0
    for part in parts:
        words += (more := len(part.split()))
        if held and words > max_words:
            yield Block(joint.join(held), block.kind)
            held, words = [], more
        held.append(part)
    yield Block(joint.join(held), block.kind)


@stage(pure=True)
def chunk(sections: list[Section], *, max_words: int = MAX_WORDS) -> list[Chunk]:
    """Cut sections into chunks of about `max_words`."""
    return chunks_of(sections, max_words)
