"""Bundles carry models to machines without network, and are not trusted there."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tauten.errors import StoreError
from tauten.models import Store
from tauten.models.catalog import Catalog

from .conftest import sha256


def tar_of(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


INDEX = (tarfile.TarInfo("tauten-bundle.json"), b'{"schema": "tauten.bundle/1", "models": ["tiny:cut"]}')


def test_a_bundle_installs_without_any_source(
    tmp_path: Path, catalog: Catalog, parts: dict[str, bytes]
) -> None:
    size = Store(tmp_path / "s", catalog=catalog).write_bundle(tmp_path / "b.tar", ["tiny"])
    assert size == (tmp_path / "b.tar").stat().st_size > len(parts["a.bin"] + parts["b.bin"])
    (tmp_path / "origin/a.bin").unlink()
    away = Store(tmp_path / "t", catalog=catalog, offline=True)
    assert [(each.model, each.variant) for each in away.read_bundle(tmp_path / "b.tar")] == [
        ("tiny", "whole")
    ]
    assert away.files("tiny")["model.bin"].read_bytes() == parts["a.bin"] + parts["b.bin"]


def test_the_same_models_give_the_same_bytes(tmp_path: Path, catalog: Catalog) -> None:
    store = Store(tmp_path / "s", catalog=catalog)
    store.write_bundle(tmp_path / "1.tar", ["tiny:cut"])
    store.write_bundle(tmp_path / "2.tar", ["tiny:cut"])
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()


def test_wrong_bytes_in_a_bundle_leave_nothing(
    tmp_path: Path, catalog: Catalog, parts: dict[str, bytes]
) -> None:
    members = [INDEX] + [
        (tarfile.TarInfo(f"blobs/{sha256(data)}"), b"x" * len(data)) for data in parts.values()
    ]
    store = Store(tmp_path / "s", catalog=catalog)
    with pytest.raises(StoreError) as caught:
        store.read_bundle(tar_of(tmp_path / "b.tar", members))
    assert caught.value.code == "E312"
    assert not (tmp_path / "s/models").exists()
    assert not list((tmp_path / "s/blobs").glob("*"))


@pytest.mark.parametrize("name", ["../slipped", "/tmp/slipped", "blobs/../../slipped", "blobs/short"])
def test_odd_names_are_refused(tmp_path: Path, catalog: Catalog, name: str) -> None:
    path = tar_of(tmp_path / "b.tar", [INDEX, (tarfile.TarInfo(name), b"out")])
    with pytest.raises(StoreError, match="does not belong") as caught:
        Store(tmp_path / "s", catalog=catalog).read_bundle(path)
    assert caught.value.code == "E316"
    assert not list(tmp_path.rglob("slipped"))


def test_links_are_refused(tmp_path: Path, catalog: Catalog, parts: dict[str, bytes]) -> None:
    link = tarfile.TarInfo(f"blobs/{sha256(parts['a.bin'])}")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(StoreError, match="does not belong"):
        Store(tmp_path / "s", catalog=catalog).read_bundle(tar_of(tmp_path / "b.tar", [INDEX, (link, b"")]))


@pytest.mark.parametrize("content", [b"", b"not a tar", b"x" * 2048])
def test_what_is_no_bundle_is_told(tmp_path: Path, catalog: Catalog, content: bytes) -> None:
    (tmp_path / "b.tar").write_bytes(content)
    with pytest.raises(StoreError) as caught:
        Store(tmp_path / "s", catalog=catalog).read_bundle(tmp_path / "b.tar")
    assert caught.value.code == "E316"


def test_a_bundle_that_lacks_files_is_told(tmp_path: Path, catalog: Catalog) -> None:
    with pytest.raises(StoreError, match="lacks 2 of the files"):
        Store(tmp_path / "s", catalog=catalog).read_bundle(tar_of(tmp_path / "b.tar", [INDEX]))
    with pytest.raises(StoreError, match="there is no bundle"):
        Store(tmp_path / "s", catalog=catalog).read_bundle(tmp_path / "none.tar")


@pytest.mark.parametrize("kept", [520, 700, 2400, 10_800])  # in the index, behind it, in either blob
def test_a_bundle_that_was_cut_short_is_told(tmp_path: Path, catalog: Catalog, kept: int) -> None:
    Store(tmp_path / "s", catalog=catalog).write_bundle(tmp_path / "b.tar", ["tiny:cut"])
    whole = (tmp_path / "b.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[:kept])
    with pytest.raises(StoreError) as caught:
        Store(tmp_path / "t", catalog=catalog, offline=True).read_bundle(tmp_path / "b.tar")
    assert caught.value.code == "E316"
    assert "bundle b.tar" in caught.value.message


def test_a_folder_is_no_bundle(tmp_path: Path, catalog: Catalog) -> None:
    with pytest.raises(StoreError, match="cannot be read: Is a directory") as caught:
        Store(tmp_path / "s", catalog=catalog).read_bundle(tmp_path)
    assert caught.value.code == "E316"


def test_an_index_that_is_no_text_is_told(tmp_path: Path, catalog: Catalog) -> None:
    index = (tarfile.TarInfo("tauten-bundle.json"), b'{"schema": "\xff", "models": []}')
    with pytest.raises(StoreError, match="its index is damaged") as caught:
        Store(tmp_path / "s", catalog=catalog).read_bundle(tar_of(tmp_path / "b.tar", [index]))
    assert caught.value.code == "E316"
