"""Decoded views: what a stage wants to see of an encoded payload, and what it gets.

A `View` is a wish with parameters; `lower` turns each into a decode step. A decoded value is named by
the hash of the encoded bytes and the view, never hashed again.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class View(msgspec.Struct, frozen=True):
    """A wish: the codec's name and its parameters (sizes in pixels, rates in Hz, times in seconds).

    >>> View("pixels", {"max_side": 1280}).name
    'pixels(max_side=1280)'
    """

    codec: str
    params: dict[str, int | float | str | bool] = {}

    @property
    def name(self) -> str:
        inner = ", ".join(f"{key}={value}" for key, value in sorted(self.params.items()))
        return f"{self.codec}({inner})"

    def with_params(self, **params: int | float | str | bool) -> View:
        return View(self.codec, {**self.params, **params})


@dataclass(frozen=True, slots=True)
class Pixels:
    """A decoded picture: RGB uint8 of shape (height, width, 3)."""

    array: NDArray[np.uint8]
    name: str
    width: int  # of the encoded picture, before any reduction
    height: int


@dataclass(frozen=True, slots=True)
class Samples:
    """Decoded sound: float32 mono of shape (n,) in [-1, 1] at `rate` Hz."""

    array: NDArray[np.float32]
    rate: int
    name: str

    @property
    def seconds(self) -> float:
        return len(self.array) / self.rate


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames sampled from a clip, with their times in seconds."""

    pixels: list[Pixels]
    times_s: list[float]
    name: str
    meta: dict[str, Any] = field(default_factory=dict)
