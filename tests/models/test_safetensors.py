"""The safetensors reader checks every offset against the file."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tauten.errors import StoreError
from tauten.models.convert.safetensors import read_safetensors

DATA = np.arange(6, dtype="<f4")


def write(path: Path, data: bytes = DATA.tobytes(), **changes: Any) -> Path:
    index = {
        "__metadata__": {"format": "pt"},
        "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **changes},
    }
    head = json.dumps(index).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)
    return path


def test_arrays_come_out(tmp_path: Path) -> None:
    assert np.array_equal(read_safetensors(write(tmp_path / "m"))["w"], DATA.reshape(2, 3))


@pytest.mark.parametrize(
    "changes",
    [
        {"data_offsets": [0, 28]},
        {"data_offsets": [-4, 20]},
        {"data_offsets": [24, 0]},
        {"shape": [2, 4]},
        {"shape": [-2, -3]},
        {"dtype": "F64"},
        {"shape": "six"},
    ],
)
def test_contradictions_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(StoreError) as caught:
        read_safetensors(write(tmp_path / "m", **changes))
    assert caught.value.code == "E314"


@pytest.mark.parametrize(
    "content", [b"", b"short", struct.pack("<Q", 1 << 62), struct.pack("<Q", 4) + b"junk"]
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(StoreError) as caught:
        read_safetensors(tmp_path / "m")
    assert caught.value.code == "E314"
