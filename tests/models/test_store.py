"""The store keeps only checked, whole files, whatever happens while it fetches them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from tauten.errors import NotFound, StoreError
from tauten.models import Progress, Store
from tauten.models.catalog import Catalog
from tauten.models.installed import Recipe, read_recipe, write_record

from .conftest import catalog_text, sha256


def visible(root: Path) -> list[str]:
    """Every file but the locks, by name."""
    return (
        sorted(p.name for p in root.rglob("*") if p.is_file() and p.suffix != ".lock")
        if root.exists()
        else []
    )


def test_files_are_pulled_joined_and_named_as_the_variant_says(
    tmp_path: Path, catalog: Catalog, parts: dict[str, bytes]
) -> None:
    store = Store(tmp_path / "s", catalog=catalog)
    seen: list[Progress] = []
    files = store.files("tiny", progress=seen.append)
    assert {name: path.read_bytes() for name, path in files.items()} == {
        "model.bin": parts["a.bin"] + parts["b.bin"]
    }
    assert {step.phase for step in seen} == {"fetch", "convert", "done"}
    assert [step for step in seen if step.file == "a.bin"][-1].done_bytes == len(parts["a.bin"])


def test_inputs_of_converters_are_not_kept(tmp_path: Path, catalog: Catalog, parts: dict[str, bytes]) -> None:
    store = Store(tmp_path / "s", catalog=catalog)
    store.pull("tiny:whole")
    joined = parts["a.bin"] + parts["b.bin"]
    assert sorted(p.name for p in (tmp_path / "s/blobs").iterdir()) == [sha256(joined)]


def test_the_folder_holds_exactly_the_files(tmp_path: Path, catalog: Catalog) -> None:
    folder = Store(tmp_path / "s", catalog=catalog).directory("tiny", "cut")
    assert sorted(p.name for p in folder.iterdir()) == ["a.bin", "b.bin"]


def test_a_second_call_needs_neither_sources_nor_hashing(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(tmp_path / "s", catalog=catalog).pull()
    (tmp_path / "origin/a.bin").unlink()
    monkeypatch.setattr("tauten.models.checks.sha256_of", lambda *_: pytest.fail("hashed again"))
    assert Store(tmp_path / "s", catalog=catalog, offline=True).files("tiny:cut")["a.bin"].exists()


def test_a_touched_file_is_hashed_and_accepted(tmp_path: Path, catalog: Catalog) -> None:
    store = Store(tmp_path / "s", catalog=catalog)
    path = store.files("tiny:cut")["a.bin"]
    os.utime(path, ns=(1, 1))
    (tmp_path / "origin/a.bin").unlink()
    assert store.files("tiny:cut")["a.bin"] == path


def test_a_damaged_file_is_found_by_verify_and_pulled_again(
    tmp_path: Path, catalog: Catalog, parts: dict[str, bytes]
) -> None:
    store = Store(tmp_path / "s", catalog=catalog)
    path = store.files("tiny:cut")["a.bin"]
    facts = path.stat()
    path.chmod(0o644)
    with path.open("rb+") as stream:
        stream.write(b"X")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # bit rot does not touch the time
    assert [(check.file, check.ok) for check in store.verify()] == [("a.bin", False), ("b.bin", True)]
    assert store.files("tiny:cut")["a.bin"].read_bytes() == parts["a.bin"]
    assert all(check.ok for check in store.verify("tiny:cut"))


def test_threads_may_renew_one_manifest_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do where a store was copied, so that every file looks new."""
    both, write = threading.Barrier(2), Path.write_bytes

    def written(path: Path, data: bytes) -> int:
        size = write(path, data)
        both.wait(30)
        return size

    monkeypatch.setattr(Path, "write_bytes", written)
    record = Recipe("join@1", ["a"], "0" * 64, 1)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: write_record(tmp_path / "a.json", record), range(2)))
    assert read_recipe(tmp_path / "a.json") == record
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_store_that_is_closed_says_so_when_something_is_removed(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "s", catalog=catalog)
    store.pull("tiny:cut")

    def closed(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tauten.models.blobs.Blobs.sweep", closed)
    with pytest.raises(StoreError, match="cannot write to the model store") as caught:
        store.rm("tiny")
    assert caught.value.code == "E313"


def test_a_manifest_that_is_no_text_is_written_anew(tmp_path: Path, catalog: Catalog) -> None:
    store = Store(tmp_path / "s", catalog=catalog)
    store.pull("tiny:cut")
    (tmp_path / "s/installed/tiny/cut.json").write_bytes(b'{"schema": "\xff"}')
    assert store.files("tiny:cut")["a.bin"].exists()
    assert store.installed("tiny:cut") is not None


def test_verify_tells_a_missing_file_from_an_absent_model(tmp_path: Path, catalog: Catalog) -> None:
    store = Store(tmp_path / "s", catalog=catalog)
    store.files("tiny:cut")["b.bin"].unlink()
    assert [check.seen is None for check in store.verify("tiny:cut")] == [False, True]
    with pytest.raises(StoreError, match="not in the store") as caught:
        store.verify("tiny:whole")
    assert caught.value.code == "E310"


def test_offline_says_what_to_do(tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAUTEN_OFFLINE", "1")
    with pytest.raises(StoreError, match="fetching is switched off") as caught:
        Store(tmp_path / "s", catalog=catalog).files("tiny")
    assert caught.value.code == "E310"
    assert "--from-bundle" in caught.value.help
    assert visible(tmp_path / "s") == []


@pytest.mark.parametrize("name", ["tinny", "tiny:hole"])
def test_unknown_names_come_with_a_suggestion(tmp_path: Path, catalog: Catalog, name: str) -> None:
    with pytest.raises(NotFound) as caught:
        Store(tmp_path / "s", catalog=catalog).files(name)
    assert caught.value.code == "E318"
    assert "did you mean" in caught.value.help


@pytest.mark.parametrize("content", [b"first!" * 1000, b"short", b"first " * 1001])
def test_wrong_bytes_leave_nothing(tmp_path: Path, catalog: Catalog, content: bytes) -> None:
    (tmp_path / "origin/a.bin").write_bytes(content)
    with pytest.raises(StoreError, match="expected") as caught:
        Store(tmp_path / "s", catalog=catalog).pull("tiny:cut")
    assert caught.value.code == "E312"
    assert visible(tmp_path / "s") == []


def test_a_second_source_is_tried_and_all_reasons_are_told(tmp_path: Path, parts: dict[str, bytes]) -> None:
    good = {name: ["file:/nowhere", f"file:{tmp_path}/origin/{name}"] for name in parts}
    store = Store(tmp_path / "s", catalog=Catalog.parse(catalog_text(parts, good)))
    assert store.files("tiny:cut")["a.bin"].read_bytes() == parts["a.bin"]
    bad = {name: ["file:/nowhere", f"file:{tmp_path}/origin"] for name in parts}
    store = Store(tmp_path / "t", catalog=Catalog.parse(catalog_text(parts, bad)))
    with pytest.raises(
        StoreError, match=r"no source could deliver a\.bin:\n  file:/nowhere.*\n  file:"
    ) as caught:
        store.pull("tiny:cut")
    assert caught.value.code == "E311"


def test_a_disk_that_is_too_small_is_told_before_the_first_byte(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(StoreError, match="MB are needed") as caught:
        Store(tmp_path / "s", catalog=catalog).pull("tiny:cut")
    assert caught.value.code == "E313"
    assert visible(tmp_path / "s") == []


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, catalog: Catalog) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(StoreError, match="no space left") as caught:
            Store(tmp_path / "s", catalog=catalog).pull("tiny:cut")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.code == "E313"
    assert visible(tmp_path / "s") == []


def test_a_full_tmpfs_leaves_nothing(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k", "none", disk], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("mounting is not permitted here; the limit on file sizes is tested instead")
    try:
        monkeypatch.setattr(Store, "_check_room", lambda *_: None)
        with pytest.raises(StoreError, match="no space left") as caught:
            Store(disk / "s", catalog=catalog).pull("tiny:cut")
        assert caught.value.code == "E313"
        assert visible(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path, catalog: Catalog) -> None:
    (tmp_path / "s").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="cannot write") as caught:
        Store(tmp_path / "s", catalog=catalog).pull("tiny:cut")
    assert caught.value.code == "E313"


def test_leftovers_of_a_killed_pull_are_removed_by_the_next(tmp_path: Path, catalog: Catalog) -> None:
    store = Store(tmp_path / "s", catalog=catalog)
    left = tmp_path / "s/partial/folder-dead"
    left.mkdir(parents=True)
    (left / "a.bin").write_bytes(b"half")
    (tmp_path / "s/partial/x.part").write_bytes(b"may be resumed")
    store.pull("tiny:cut")
    assert visible(tmp_path / "s/partial") == ["x.part"]


def test_rm_frees_what_is_not_shared(tmp_path: Path, catalog: Catalog, parts: dict[str, bytes]) -> None:
    store = Store(tmp_path / "s", catalog=catalog)
    store.pull()
    assert store.rm("tiny:whole") == len(parts["a.bin"] + parts["b.bin"])
    assert [row.installed for row in store.list()] == [False, True]
    assert store.rm("tiny") == len(parts["a.bin"] + parts["b.bin"])
    assert (
        visible(tmp_path / "s/blobs")
        == visible(tmp_path / "s/models")
        == visible(tmp_path / "s/installed")
        == []
    )
    assert store.rm("tiny") == 0


def test_size_counts_a_linked_file_once(tmp_path: Path, catalog: Catalog, parts: dict[str, bytes]) -> None:
    store = Store(tmp_path / "s", catalog=catalog)
    store.pull("tiny:cut")
    both = len(parts["a.bin"] + parts["b.bin"])
    assert both <= store.size_bytes() < both + 2000


def test_a_changed_catalog_is_noticed(tmp_path: Path, catalog: Catalog, parts: dict[str, bytes]) -> None:
    Store(tmp_path / "s", catalog=catalog).pull("tiny:cut")
    new = {**parts, "a.bin": b"newer"}
    (tmp_path / "origin/a.bin").write_bytes(b"newer")
    changed = Catalog.parse(catalog_text(new, {name: [f"file:{tmp_path}/origin/{name}"] for name in parts}))
    assert Store(tmp_path / "s", catalog=changed).files("tiny:cut")["a.bin"].read_bytes() == b"newer"


def test_processes_may_pull_at_the_same_time(tmp_path: Path, parts: dict[str, bytes]) -> None:
    text = catalog_text(parts, {name: [f"file:{tmp_path}/origin/{name}"] for name in parts})
    (tmp_path / "catalog.toml").write_text(text)
    program = (
        "import sys; from pathlib import Path; from tauten.models import Store, Catalog;"
        "store = Store(Path(sys.argv[1]) / 's', catalog=Catalog.read(Path(sys.argv[1]) / 'catalog.toml'));"
        "[(store.pull(), store.rm('tiny:whole')) for _ in range(5)]; store.pull();"
        "assert all(check.ok for check in store.verify('tiny:cut'))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [(process.communicate()[1], process.returncode) for process in running] == [("", 0)] * 2
    store = Store(tmp_path / "s", catalog=Catalog.parse(text), offline=True)
    store.pull("tiny:cut")
    assert visible(tmp_path / "s/partial") == []


def test_the_root_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert Store().root == tmp_path / "cache/tauten"
    monkeypatch.setenv("TAUTEN_STORE", str(tmp_path / "mine"))
    assert Store().root == tmp_path / "mine"
