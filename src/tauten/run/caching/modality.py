"""Of which modality a result is: each has a quota of its own in a cache that holds several."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any, Final

from tauten.describe.payload import Json, Payload, Tensor
from tauten.describe.sheets import Sheets
from tauten.describe.view import Frames, Pixels, Samples

SHARES: Final = {  # of a cache, that nobody else's results push out; what is free of it others borrow
    "text": 0.2,  # a hundred thousand answers in 256 MB: more than most services give in a day
    "embedding": 0.2,  # some thirty thousand vectors of 384 numbers in 256 MB
    "image": 0.25,  # decoded pictures are the largest things that are asked for often
    "audio": 0.1,  # seconds of sound are a fourth of a picture, and repeat less
    "video": 0.15,  # one clip may fill it; ten thousand embeddings stay all the same
    "other": 0.1,  # what nobody here knows: it can still borrow
}
_DEPTH = 3  # of lists in lists: beyond that a result is no list of one thing


def modality_of(value: Any, depth: int = _DEPTH) -> str:
    """The modality of a result; of a list, of its first member.

    >>> modality_of("yes"), modality_of(["a", "b"]), modality_of(7)
    ('text', 'text', 'other')
    """
    kind = value.__class__
    if kind is str or kind is Json or kind is dict:
        return "text"
    if kind is Tensor or kind.__name__ == "ndarray":
        return "embedding"
    if isinstance(value, Payload):
        return value.modality if value.modality in SHARES else "other"
    if kind in _VIEWS:
        return _VIEWS[kind]
    if isinstance(value, list | tuple) and value and depth:
        return modality_of(value[0], depth - 1)
    return "other"


_VIEWS: Final[dict[type, str]] = {Pixels: "image", Samples: "audio", Frames: "video", Sheets: "text"}
