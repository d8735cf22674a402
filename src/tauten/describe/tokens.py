"""Texts to the token arrays that an encoder reads."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_TOKENS = 256  # what MiniLM's authors publish; a chunk of 120 words has about 170


@functools.lru_cache(maxsize=8)  # a workflow has one or two; each holds a few megabytes
def load_tokenizer(path: Path, most_tokens: int = MOST_TOKENS) -> Any:
    """Read a tokenizer.json; what it says about padding is dropped, it would make every text 128 long."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(most_tokens)
    tokenizer.no_padding()
    return tokenizer


def token_items(
    path: Path, texts: Sequence[str], pad_to: int = 16, most_tokens: int = MOST_TOKENS
) -> list[dict[str, NDArray[np.int64]]]:
    """One item of `input_ids` and `attention_mask` for each text, without a batch axis.

    Lengths are rounded up to a multiple of `pad_to`, masked out and never past `most_tokens`: texts of
    similar length share a batch.
    """
    import numpy as np

    items: list[dict[str, NDArray[np.int64]]] = []
    for encoded in load_tokenizer(path, most_tokens).encode_batch(list(texts)):
        used = len(encoded.ids)
        padded = np.zeros((2, max(used, min(-(-used // pad_to) * pad_to, most_tokens))), np.int64)
        padded[0, : len(encoded.ids)] = encoded.ids
        padded[1, : len(encoded.ids)] = 1
        items.append({"input_ids": padded[0], "attention_mask": padded[1]})
    return items
