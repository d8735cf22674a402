"""Files out of packages: a real pip on a local folder of wheels."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tauten.errors import StoreError
from tauten.models import Progress, Store, wheels
from tauten.models.catalog import Catalog

from .conftest import catalog_text


def make_wheel(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "tiny_weights-1.0-py3-none-any.whl", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(
            "tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        archive.writestr("tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_weights-1.0.dist-info/RECORD", "")


@pytest.fixture
def store(tmp_path: Path, parts: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Store:
    """Its packages can only come from a folder: no index is asked."""
    make_wheel(tmp_path / "wheels", {f"tiny_weights/{name}": data for name, data in parts.items()})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    sources = {name: [f"package:tiny-weights==1.0!tiny_weights/{name}"] for name in parts}
    return Store(tmp_path / "s", catalog=Catalog.parse(catalog_text(parts, sources)))


def test_one_download_serves_all_files_of_a_pull(store: Store, parts: dict[str, bytes]) -> None:
    seen: list[Progress] = []
    store.pull(progress=seen.append)
    assert store.files("tiny:cut")["b.bin"].read_bytes() == parts["b.bin"]
    assert {step.file for step in seen if step.phase == "fetch"} <= {"a.bin (tiny-weights==1.0)"}
    assert list((store.root / "partial").iterdir()) == []


def test_an_unknown_package_is_told_and_leaves_nothing(store: Store, tmp_path: Path) -> None:
    (tmp_path / "wheels/tiny_weights-1.0-py3-none-any.whl").unlink()
    with pytest.raises(StoreError, match=r"pip could not fetch tiny-weights==1\.0: .*No matching") as caught:
        store.pull("tiny:cut")
    assert caught.value.code == "E311"
    assert list((store.root / "partial").iterdir()) == []


def test_a_changed_member_is_refused(store: Store, tmp_path: Path) -> None:
    make_wheel(
        tmp_path / "wheels", {"tiny_weights/a.bin": b"x" * 6000, "tiny_weights/b.bin": b"longer" * 2000}
    )
    with pytest.raises(StoreError, match="SHA-256") as caught:
        store.pull("tiny:cut")
    assert caught.value.code == "E312"
    make_wheel(tmp_path / "wheels", {"tiny_weights/a.bin": b"y"})
    with pytest.raises(StoreError, match="has 1 bytes; expected 6000"):
        store.pull("tiny:cut")
    make_wheel(tmp_path / "wheels", {"other": b"y"})
    with pytest.raises(StoreError, match="has no file"):
        store.pull("tiny:cut")


def test_names_inside_a_wheel_are_never_written_to(
    store: Store, tmp_path: Path, parts: dict[str, bytes]
) -> None:
    slip = {"../../../slipped.txt": b"out", **{f"tiny_weights/{name}": data for name, data in parts.items()}}
    make_wheel(tmp_path / "wheels", slip)
    store.pull("tiny:cut")
    assert not list(tmp_path.rglob("slipped.txt"))


def test_a_damaged_wheel_is_told(tmp_path: Path) -> None:
    wheel, data = tmp_path / "tiny-1.0.whl", bytes(range(256)) * 40
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.bin", data)
    raw = bytearray(wheel.read_bytes())
    raw[30 + len("a.bin")] = 0x07  # the compressed bytes begin with a kind of block that there is not
    wheel.write_bytes(raw)
    with (
        pytest.raises(StoreError, match="damaged") as caught,
        wheels.member(wheel, "a.bin", len(data)) as stream,
    ):
        stream.read()
    assert caught.value.code == "E312"


def test_without_pip_the_way_out_is_told(tmp_path: Path) -> None:
    error = wheels._failure("x==1", tmp_path, "/bin/python: No module named pip\n")
    assert error.code == "E317"
    assert "ensurepip" in error.help


def test_pip_on_a_full_disk_and_secrets_in_its_messages(tmp_path: Path) -> None:
    full = "ERROR: Could not install: [Errno 28] No space left on device"
    assert wheels._failure("x==1", tmp_path, full).code == "E313"
    told = wheels._failure("x==1", tmp_path, "ERROR: 403 for https://me:secret@index.example/simple")
    assert "secret" not in str(told)
    assert "index.example" in str(told)
