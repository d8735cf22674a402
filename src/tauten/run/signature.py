"""What tensors a model takes and gives: names, types, shapes; and whether requests may share its first axis."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable

import msgspec

Axis = int | str
"""A fixed size, or the name of one that each request chooses ("" where the file gives no name)."""


class TensorInfo(msgspec.Struct, frozen=True):
    """One input or output. `dtype` is NumPy's name, ``str`` for text, "" for what is no tensor."""

    name: str
    dtype: str
    shape: tuple[Axis, ...]


class Signature(msgspec.Struct, frozen=True):
    """A model's inputs and outputs, in its own order."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    @property
    def batch_axis(self) -> str:
        """The name of the first axis where every tensor has the same one, else "".

        Only then requests can be joined on it: the file itself says that it is one axis. A model whose
        rows depend on one another (a softmax over the batch) must not name its axis so.
        """
        first = self._first()
        return first if isinstance(first, str) else ""

    @property
    def batch_size(self) -> int:
        """The size of a batch that the file fixes: that of the first axis where every tensor has the same one,
        above 1; else 0. A request that fills it runs as it came; others are filled up, and may share it."""
        first = self._first()
        return first if isinstance(first, int) and first > 1 else 0

    @property
    def joins(self) -> bool:
        """Whether requests may share a run."""
        return bool(self.batch_axis or self.batch_size)

    def _first(self) -> Axis:
        """The first axis, where all have the same one; else ""."""
        firsts = {info.shape[0] if info.shape else "" for info in (*self.inputs, *self.outputs)}
        return firsts.pop() if len(firsts) == 1 else ""

    def text(self) -> str:
        """As JSON, to travel among a backend's properties."""
        return msgspec.json.encode(self).decode()


def parse(text: str) -> Signature:
    """Read what `Signature.text` wrote."""
    return msgspec.json.decode(text, type=Signature)


def axes(shape: Iterable[object]) -> tuple[Axis, ...]:
    """Axes as engines give them: sizes, names, or nothing."""
    return tuple(axis if isinstance(axis, int | str) and axis != -1 else "" for axis in shape)
