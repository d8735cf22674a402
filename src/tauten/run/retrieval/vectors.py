"""The dense half of an index: vectors of length one in a memory-mapped array, compared exactly.

Exact search over 100,000 vectors of 384 numbers reads 150 MB, some 20 ms on one core; it misses nothing
and is the same on every run. Why no library does it: docs/decisions/0107-exact-vectors.md.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FILE = "vectors.f32"


class Vectors:
    """The vectors of one generation; row n belongs to the n-th key."""

    def __init__(self, folder: Path, keys: NDArray[np.uint64], dim: int) -> None:
        self.rows: NDArray[np.float32] = mapped(folder / _FILE, np.dtype("<f4")).reshape(-1, dim)
        self._keys = keys
        if len(self.rows) != len(keys):
            raise ValueError(f"{len(self.rows)} vectors for {len(keys)} chunks")

    def nearest(self, query: NDArray[np.float32], limit: int) -> list[tuple[int, float]]:
        """(key, cosine) of the nearest, best first; equal ones in the order of their keys."""
        cosines = self.rows @ unit(query)
        if limit < len(cosines):
            chosen = np.sort(np.argpartition(-cosines, limit)[:limit])
        else:
            chosen = np.arange(len(cosines))
        best = chosen[np.argsort(-cosines[chosen], kind="stable")]
        return [(int(self._keys[row]), float(cosines[row])) for row in best]

    def get(self, key: int) -> NDArray[np.float32]:
        """The vector of one key."""
        return np.array(self.rows[int(np.searchsorted(self._keys, key))])

    def cosines(self, query: NDArray[np.float32], keys: Sequence[int]) -> list[float]:
        """The cosine of the query with each of some keys."""
        if not keys:
            return []
        places = np.searchsorted(self._keys, np.array(keys, np.uint64))
        return [float(value) for value in self.rows[places] @ unit(query)]


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale vectors to length one; zero stays zero."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    scaled: NDArray[np.float32] = (rows / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled


def write_vectors(folder: Path, kept: NDArray[np.float32], added: NDArray[np.float32]) -> None:
    """Write the rows that stay and then the new ones."""
    with open(folder / _FILE, "wb") as file:
        file.write(np.ascontiguousarray(kept, "<f4").data)
        file.write(np.ascontiguousarray(unit(added), "<f4").data)


def mapped(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The rows of a raw file, read when they are touched.

    Not ``.npy``: its header is parsed by `ast`, which CPython 3.11 does not survive in two threads at once.
    """
    if path.stat().st_size % dtype.itemsize:
        raise ValueError(f"{path.name} is cut off")
    if not path.stat().st_size:
        return np.zeros(0, dtype)  # an empty file cannot be mapped
    return np.memmap(path, dtype, "r")
