"""A backup comes back as it was, while others write; and no archive, however made, changes more than it should."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import io
import resource
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tauten.errors import InputError, MachineError
from tauten.run import backup
from tauten.run.backup import back_up, restore
from tauten.run.usage.sqlite import Sqlite, is_whole
from usage.kit_usage import quiet, stored
from usage.test_writing import turn_away


def index(root: Path, name: str, generation: str = "g000003", text: str = "chunks") -> Path:
    folder = root / "indexes" / name / generation
    (folder / "words").mkdir(parents=True)
    (folder / "chunks.bin").write_text(text)
    (folder / "words" / ".managed.json").write_text("[]")
    (folder.parent / "CURRENT").write_text(f"{generation}\n")
    (folder.parent / "g000001").mkdir()
    (folder.parent / "g000001" / "old.bin").write_text("of an earlier generation")
    return folder


def booked(root: Path, count: int) -> Sqlite:
    (root / "usage").mkdir(parents=True, exist_ok=True)
    book, database = quiet(root / "usage"), Sqlite(root / "usage" / "book.db")
    turn_away(book, count)
    book.note()
    book.write(database)
    return database


def files(root: Path) -> dict[str, bytes]:
    """All that a store holds but for books, whose bytes differ from one copy to the next."""
    found = (path for path in sorted(root.rglob("*")) if path.is_file() and "usage" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def test_indexes_and_the_book_come_back_as_they_were(tmp_path: Path) -> None:
    old, new, file = tmp_path / "old", tmp_path / "new", tmp_path / "b.tar"
    index(old, "manuals")
    booked(old, 30).close()
    made = back_up(old, file)
    assert (made.indexes, made.books) == (["manuals"], ["usage/book.db"])
    assert restore(new, file).indexes == ["manuals"]
    assert files(new) == {name: data for name, data in files(old).items() if "g000001" not in name}
    assert len(stored(Sqlite(new / "usage" / "book.db"))) == 30
    assert not list(new.glob(".restore-*"))


def test_a_store_with_nothing_gives_an_empty_backup(tmp_path: Path) -> None:
    assert back_up(tmp_path / "none", tmp_path / "b.tar").members == []
    assert restore(tmp_path / "new", tmp_path / "b.tar").members == []


def test_a_backup_of_a_book_that_is_being_written_is_whole(tmp_path: Path) -> None:
    (tmp_path / "old" / "usage").mkdir(parents=True)
    booked(tmp_path / "old", 1).close()
    stop = threading.Event()

    def write() -> None:
        """As a server does: by one connection, batch by batch."""
        book, database = quiet(tmp_path / "old" / "usage"), Sqlite(tmp_path / "old" / "usage" / "book.db")
        while not stop.is_set():
            turn_away(book, 40)
            book.note()
            book.write(database)
        database.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for turn in range(5):
            back_up(tmp_path / "old", tmp_path / f"{turn}.tar")
    finally:
        stop.set()
        writer.join()
    for turn in range(5):
        restore(tmp_path / f"new{turn}", tmp_path / f"{turn}.tar")
        book = tmp_path / f"new{turn}" / "usage" / "book.db"
        assert is_whole(book)
        assert len(stored(Sqlite(book))) % 40 == 1  # whole batches only


def test_what_is_there_already_is_only_replaced_when_asked(tmp_path: Path) -> None:
    old, new, file = tmp_path / "old", tmp_path / "new", tmp_path / "b.tar"
    index(old, "manuals")
    booked(old, 3).close()
    back_up(old, file)
    index(new, "manuals", "g000009", "others")
    index(new, "kept", "g000001x")
    database = booked(new, 8)  # open, with its log beside it
    before = files(new)
    with pytest.raises(InputError, match="in the store already") as raised:
        restore(new, file)
    assert raised.value.code == "E244"
    assert files(new) == before
    database.close()
    restore(new, file, replace=True)
    assert (new / "indexes" / "manuals" / "CURRENT").read_text() == "g000003\n"
    assert (new / "indexes" / "kept" / "CURRENT").exists()
    assert len(stored(Sqlite(new / "usage" / "book.db"))) == 3


def test_when_the_store_cannot_be_written_half_way_all_is_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, file = tmp_path / "old", tmp_path / "new", tmp_path / "b.tar"
    for name in ("a", "b"):
        index(old, name)
        index(new, name, "g000009", f"others of {name}")
    back_up(old, file)
    before, real, moved = files(new), backup.os.replace, list[Path]()

    def replace(source: Path, target: Path) -> None:
        if "new" in Path(source).parts[-3:] and len(moved) == 1:
            raise OSError(28, "No space left on device")
        if Path(source).parts[-3] == "new":
            moved.append(Path(target))
        real(source, target)

    monkeypatch.setattr(backup.os, "replace", replace)
    with pytest.raises(backup.MachineError, match="No space left"):
        restore(new, file, replace=True)
    assert len(moved) == 1
    assert files(new) == before


# -- archives that somebody made ------------------------------------------------------------------------------


def test_an_index_that_is_removed_meanwhile_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index(tmp_path / "old", "manuals")
    seen = iter(["g000003", ""])  # when it is listed, and when it is to be copied
    monkeypatch.setattr(backup.generations, "current", lambda _: next(seen))
    assert back_up(tmp_path / "old", tmp_path / "b.tar").members == []


def test_a_store_that_is_full_or_no_folder_is_told(tmp_path: Path) -> None:
    index(tmp_path / "old", "manuals", text="chunks" * 10_000)
    back_up(tmp_path / "old", tmp_path / "b.tar")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(MachineError) as raised:
        restore(tmp_path / "file", tmp_path / "b.tar")
    assert raised.value.code == "E302"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # as a quota: no file grows beyond that
    try:
        with pytest.raises(MachineError) as raised:
            restore(tmp_path / "new", tmp_path / "b.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.code == "E302"
    assert list((tmp_path / "new").iterdir()) == []


def forged(path: Path, members: dict[str, bytes]) -> Path:
    """An archive whose manifest says of each member what it is."""
    import hashlib

    said = [
        {"path": name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in members.items()
    ]
    manifest = msgspec.json.encode({"format": backup.FORMAT, "made_at": "", "made_by": "", "members": said})
    with tarfile.open(path, "w") as archive:
        for name, data in {"manifest.json": manifest, **members}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    "name",
    [
        "../outside.txt",
        "indexes/../../outside.txt",
        "/tmp/outside.txt",
        "indexes/a/../../../outside.txt",
        "indexes/a",
        "models/minilm/x.onnx",
        "usage/other.db",
        "indexes/a/./b",
        "indexes/a//b",
        "indexes/a/b\\..\\c",
        "indexes/a/x\ny",
        "C:/indexes/a/b",
    ],
)
def test_no_path_of_an_archive_leads_out_of_its_place(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="which no backup does") as raised:
        restore(tmp_path / "store", forged(tmp_path / "f.tar", {name: b"data"}))
    assert raised.value.code == "E244"
    assert not (tmp_path / "outside.txt").exists()
    assert files(tmp_path / "store") == {}


def linked(kind: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        said = [{"path": "indexes/a/CURRENT", "size_bytes": 0, "sha256": "0" * 64}]
        manifest = msgspec.json.encode(
            {"format": backup.FORMAT, "made_at": "", "made_by": "", "members": said}
        )
        with tarfile.open(path, "w") as archive:
            head = tarfile.TarInfo("manifest.json")
            head.size = len(manifest)
            archive.addfile(head, io.BytesIO(manifest))
            link = tarfile.TarInfo("indexes/a/CURRENT")
            link.type, link.linkname = kind, "/etc/passwd"
            archive.addfile(link)

    return write


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_links_and_other_things_are_not_taken(tmp_path: Path, kind: bytes) -> None:
    linked(kind)(tmp_path / "f.tar")
    with pytest.raises(InputError, match="E244"):
        restore(tmp_path / "store", tmp_path / "f.tar")
    assert files(tmp_path / "store") == {}


def good(tmp_path: Path) -> bytes:
    index(tmp_path / "old", "manuals")
    booked(tmp_path / "old", 5).close()
    back_up(tmp_path / "old", tmp_path / "b.tar")
    return (tmp_path / "b.tar").read_bytes()


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:700],
        lambda data: data.replace(b"chunks", b"chunkz"),
        lambda data: data.replace(b"tauten.backup/1", b"tauten.backup/2"),
        lambda data: data.replace(b"SQLite format 3", b"SQLite format 4"),
        lambda data: b"not a tar at all" * 100,
        lambda data: data[512:],
    ],
    ids=["empty", "half", "head", "content", "format", "book", "other", "no manifest"],
)
def test_an_archive_that_is_not_whole_changes_nothing(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    (tmp_path / "f.tar").write_bytes(harm(good(tmp_path)))
    index(tmp_path / "new", "manuals", "g000009", "others")
    before = files(tmp_path / "new")
    with pytest.raises(InputError) as raised:
        restore(tmp_path / "new", tmp_path / "f.tar", replace=True)
    assert raised.value.code == "E244"
    assert files(tmp_path / "new") == before


def test_a_book_that_is_none_is_refused_though_its_hash_is_right(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no book"):
        restore(
            tmp_path / "store",
            forged(tmp_path / "f.tar", {"usage/book.db": b"SQLite format 3\0" + b"x" * 4000}),
        )


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="E244"):
        restore(tmp_path / "store", tmp_path / "none.tar")
