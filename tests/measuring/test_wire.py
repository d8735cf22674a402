"""Messages to the process that measures: arrays come back as they went, and nothing else slips through."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tauten.errors import InputError
from tauten.improve.measuring import wire


def crossed(message: Any) -> Any:
    data = wire.encode(message)
    assert wire.size_of(data[: wire.HEAD.size]) == len(data) - wire.HEAD.size
    return wire.decode(data[wire.HEAD.size :])


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
        np.array(3.5),
        np.zeros((0, 4), np.uint8),
        np.array([True, False]),
        np.array(["ab", "ä"]),
        np.arange(3, dtype=">i2"),
    ],
)
def test_arrays_come_back_as_they_went(array: Any) -> None:
    back = crossed({"x": [array]})["x"][0]
    assert (back.shape, back.dtype) == (array.shape, array.dtype)
    assert (back == array).all()


def test_the_rest_is_plain() -> None:
    message = {"prompt": "x", "n": np.float32(2.5), "file": Path("a/b"), "none": None, "bytes": b"\0"}
    assert crossed(message) == {**message, "n": 2.5, "file": "a/b"}


@pytest.mark.parametrize("value", [object(), np.array([object()]), {1, object()}])
def test_what_cannot_cross_is_named(value: object) -> None:
    with pytest.raises(InputError, match="E255"):
        wire.encode({"x": value})


def test_a_stream_out_of_step_is_noticed() -> None:
    with pytest.raises(ValueError, match="at most"):
        wire.size_of(b"\xff" * wire.HEAD.size)
    with pytest.raises(ValueError, match="extension 9"):
        wire.decode(msgspec.msgpack.encode(msgspec.msgpack.Ext(9, b"")))
