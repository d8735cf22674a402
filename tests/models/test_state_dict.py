"""The restricted reader: plain weights come out; anything else is refused before it can act."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tauten.errors import StoreError
from tauten.models.convert.state_dict import read_state_dict

WEIGHTS = np.arange(12, dtype="<f4")


class Named:
    """Pickles as a global of another module."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Storage:
    def __init__(self, count: int, key: str = "0", kind: str = "FloatStorage") -> None:
        self.pid = ("storage", Named("torch", kind), key, "cpu", count)


class Tensor:
    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any) -> None:
        self.arguments = (storage, offset, size, stride, False, OrderedDict())


class Writer(pickle._Pickler):  # type: ignore[misc,name-defined]  # the pure one: globals are written by hand
    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def persistent_id(self, obj: Any) -> Any:
        return obj.pid if isinstance(obj, Storage) else None

    def save_named(self, obj: Named) -> None:
        self.write(f"c{obj.module}\n{obj.name}\n".encode())

    def save_tensor(self, obj: Tensor) -> None:
        self.save_named(Named("torch._utils", "_rebuild_tensor_v2"))
        self.save(obj.arguments)
        self.write(pickle.REDUCE)

    dispatch[Named] = save_named
    dispatch[Tensor] = save_tensor


def dumps(value: Any) -> bytes:
    out = io.BytesIO()
    Writer(out, 2).dump(value)
    return out.getvalue()


def legacy(path: Path, index: bytes, data: bytes = WEIGHTS.tobytes(), count: int = 12) -> Path:
    head = [dumps(0x1950A86A20F9469CFC6C), dumps(1001), dumps({"little_endian": True})]
    path.write_bytes(b"".join([*head, index, dumps(["0"]), struct.pack("<q", count), data]))
    return path


def zipped(path: Path, index: bytes, data: bytes = WEIGHTS.tobytes()) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", index)
        archive.writestr("m/data/0", data)
    return path


def one(offset: Any = 0, size: Any = (3, 4), stride: Any = (4, 1), **storage: Any) -> bytes:
    return dumps(OrderedDict(w=Tensor(Storage(**{"count": 12, **storage}), offset, size, stride)))


@pytest.mark.parametrize("write", [legacy, zipped])
def test_both_formats_and_strides(tmp_path: Path, write: Any) -> None:
    assert np.array_equal(read_state_dict(write(tmp_path / "a", one()))["w"], WEIGHTS.reshape(3, 4))
    turned = read_state_dict(write(tmp_path / "b", one(size=(4, 3), stride=(1, 4))))["w"]
    assert np.array_equal(turned, WEIGHTS.reshape(3, 4).T)
    assert turned.flags.c_contiguous
    assert read_state_dict(write(tmp_path / "c", one(offset=11, size=(), stride=())))["w"] == 11
    assert read_state_dict(write(tmp_path / "d", one(size=(0, 4))))["w"].shape == (0, 4)


@pytest.mark.parametrize("write", [legacy, zipped])
@pytest.mark.parametrize(
    "shape",
    [
        {"offset": 1},  # one number beyond the end
        {"offset": -1},
        {"stride": (5, 1)},
        {"stride": (4, 2)},
        {"stride": (-4, 1), "offset": 11},
        {"size": (1 << 40, 4), "stride": (0, 0)},  # a small storage blown up to terabytes
        {"size": (3, 4), "stride": (4,)},
        {"size": ("3", 4)},
        {"size": 12, "stride": 1},
        {"offset": None},
        {"count": 13},  # the storage is smaller than it says
        {"count": 11},
        {"count": -1},
        {"count": 1 << 60},
        {"kind": "DoubleStorage"},
    ],
)
def test_tensors_outside_of_their_storage_are_refused(
    tmp_path: Path, write: Any, shape: dict[str, Any]
) -> None:
    with pytest.raises(StoreError, match="refused") as caught:
        read_state_dict(write(tmp_path / "m", one(**shape)))
    assert caught.value.code == "E314"


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("echo struck > struck",)


@pytest.mark.parametrize("write", [legacy, zipped])
@pytest.mark.parametrize(
    "index",
    [
        pickle.dumps(Hostile(), 2),
        pickle.dumps(Hostile(), 0),
        pickle.dumps(Hostile(), 5),
        b"\x80\x02cbuiltins\neval\nX\x04\x00\x00\x001+12\x85R.",
        b"\x80\x02ctorch\nload\n.",
        b"\x80\x02cnumpy\nndarray\n.",
        b"\x80\x02(ios\nsystem\n.",  # INST
        b"\x80\x02\x82\x01.",  # extension registry
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # memo index of two thousand million
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__K\x01s\x86b.",  # BUILD on our own callable
        b"\x80\x02ccollections\nOrderedDict\nN}X\x01\x00\x00\x00xK\x01s\x86b.",  # BUILD on a type
        dumps(["a", "list"]),
        dumps({"w": 1}),
        dumps({1: Tensor(Storage(12), 0, (12,), (1,))}),
        dumps({"w": Tensor("no storage", 0, (1,), (1,))}),
        dumps({"w": Tensor(Storage(12, key="../../secret"), 0, (12,), (1,))}),
        b"",
        b"\x80\x02",
        b"junk",
    ],
)
def test_hostile_pickles_do_nothing(
    tmp_path: Path, write: Any, index: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError) as caught:
        read_state_dict(write(tmp_path / "m", index))
    assert caught.value.code == "E314"
    assert not (tmp_path / "struck").exists()


@pytest.mark.parametrize("keep", [0, 1, 10, 20, 60, 150, -1, -47])
def test_truncated_files_are_refused(tmp_path: Path, keep: int) -> None:
    path = legacy(tmp_path / "m", one())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StoreError) as caught:
        read_state_dict(path)
    assert caught.value.code == "E314"


def test_a_storage_that_contradicts_its_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds 11 numbers; expected 12"):
        read_state_dict(legacy(tmp_path / "m", one(), count=11))


def test_an_archive_without_an_index_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m", "w") as archive:
        archive.writestr("other", b"")
    with pytest.raises(StoreError, match=r"no data\.pkl"):
        read_state_dict(tmp_path / "m")
