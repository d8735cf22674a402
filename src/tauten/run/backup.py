"""Backup and restore of what cannot be fetched again: indexes and books of usage, as one tar with a manifest.

A backup is consistent while others serve and write: an index is copied as the generation that is current, a book by
SQLite's own backup. A restore looks at the whole archive, every hash of it, before it replaces anything; what it
replaces stands aside until all is in place, and comes back if anything fails.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Final

import msgspec

from tauten.errors import InputError, MachineError
from tauten.plan.files import written
from tauten.run.retrieval import generations
from tauten.run.usage import sqlite
from tauten.version import __version__

FORMAT: Final = "tauten.backup/1"
_MANIFEST: Final = "manifest.json"
_MANIFEST_BYTES: Final = 64 * 1024 * 1024  # half a million files; more is no manifest of ours
_PART: Final = re.compile(
    r"(?!\.\.?$)[A-Za-z0-9._][A-Za-z0-9._ +=@-]{0,127}"
)  # of a path: no way up, no drive
_BOOK: Final = "usage/book.db"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TRIES: Final = 3  # a generation that goes while it is read: writers commit seconds apart at most


class Member(msgspec.Struct, frozen=True):
    """One file of a backup: where it belongs in the store, and what it is."""

    path: str
    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup says of itself."""

    format: str = FORMAT
    made_at: str
    made_by: str
    members: list[Member]

    @property
    def indexes(self) -> list[str]:
        return sorted(
            {PurePosixPath(each.path).parts[1] for each in self.members if each.path.startswith("indexes/")}
        )

    @property
    def books(self) -> list[str]:
        return [each.path for each in self.members if each.path == _BOOK]


# -- backup --------------------------------------------------------------------------------------------------


def back_up(root: Path, target: Path, *, book: Path | None = None) -> Manifest:
    """Write a backup of the store at `root`, whole or not at all; `book` is one that lies elsewhere.

    Raises MachineError where something cannot be read or written.
    """
    target = target.absolute()
    with tempfile.TemporaryDirectory(prefix="tauten-backup-") as place:
        folder = Path(place)
        _copy_indexes(root / "indexes", folder / "indexes")
        source = book or root / _BOOK
        if source.is_file():
            (folder / _BOOK).parent.mkdir(parents=True)
            sqlite.copy(source, folder / _BOOK)
        members = [_member(folder, path) for path in sorted(folder.rglob("*")) if path.is_file()]
        manifest = Manifest(
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            made_by=f"tauten {__version__}",
            members=members,
        )
        written(target, lambda file: _pack(file, folder, manifest))
    return manifest


def _copy_indexes(source: Path, target: Path) -> None:
    for index in sorted(source.glob("*")) if source.is_dir() else ():
        if index.is_dir() and _PART.fullmatch(index.name) and generations.current(index):
            _copy_index(index, target / index.name)


def _copy_index(index: Path, target: Path) -> None:
    """The current generation; if its writer takes it away meanwhile, the next one."""
    for turn in range(_TRIES):
        name = generations.current(index)
        if not name:
            return  # it was removed meanwhile
        try:
            shutil.copytree(index / name, target / name)
        except (OSError, shutil.Error) as error:
            shutil.rmtree(target, ignore_errors=True)
            if turn == _TRIES - 1:
                raise MachineError(
                    f"index {index.name!r} cannot be copied: {error}", help="try again", code="E302"
                ) from error
            continue
        (target / "CURRENT").write_text(f"{name}\n")
        return


def _member(folder: Path, path: Path) -> Member:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Member(path.relative_to(folder).as_posix(), path.stat().st_size, digest)


def _pack(file: IO[bytes], folder: Path, manifest: Manifest) -> None:
    with tarfile.open(fileobj=file, mode="w|") as archive:
        said = msgspec.json.format(msgspec.json.encode(manifest))
        head = tarfile.TarInfo(_MANIFEST)
        head.size = len(said)
        archive.addfile(head, io.BytesIO(said))
        for member in manifest.members:
            info = tarfile.TarInfo(member.path)
            info.size = member.size_bytes
            with (folder / member.path).open("rb") as source:
                archive.addfile(info, source)


# -- restore -------------------------------------------------------------------------------------------------


def restore(root: Path, source: Path, *, replace: bool = False) -> Manifest:
    """Put a backup in the store's place. Indexes and books that it does not hold stay.

    Raises InputError E244 for an archive that is not whole or holds what no backup does, and for what stands in its
    place already without `replace`. Then nothing has been changed.
    """
    with _aside(root) as place:
        folder = Path(place)
        manifest = _unpack(source, folder / "new")
        _check_book(source, folder / "new")
        parts = [f"indexes/{name}" for name in manifest.indexes] + manifest.books
        there = [part for part in parts if (root / part).exists()]
        if there and not replace:
            raise InputError(
                f"{there[0]} is in the store already",
                help="restore with --replace to put the backup in its place, or set TAUTEN_STORE to another folder",
                code="E244",
            )
        _put(root, folder, parts)
    return manifest


def _aside(root: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder in the store, on the same disk: moves are moves."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".restore-", dir=root)
    except OSError as error:
        raise _unwritable(error) from error


def _unwritable(error: OSError) -> MachineError:
    return MachineError(
        f"the store cannot be written: {error}",
        help="nothing was changed; check the disk, then try again",
        code="E302",
    )


def _unpack(source: Path, folder: Path) -> Manifest:
    """All of the archive below a folder, each file checked; raises InputError E244."""
    try:
        with tarfile.open(source, mode="r|") as archive:
            members = iter(archive)
            manifest = _manifest(source, archive, next(members, None))
            wanted = {member.path: member for member in manifest.members}
            for info in members:
                _take(source, archive, info, wanted.pop(info.name, None), folder)
    except (OSError, tarfile.TarError, EOFError) as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            raise _unwritable(error) from error
        raise _bad(source, str(error)) from error
    if wanted:
        raise _bad(source, f"{next(iter(wanted))} is missing")
    return manifest


def _manifest(source: Path, archive: tarfile.TarFile, info: tarfile.TarInfo | None) -> Manifest:
    file = archive.extractfile(info) if info is not None and info.isfile() else None
    if info is None or file is None or info.name != _MANIFEST or info.size > _MANIFEST_BYTES:
        raise _bad(source, "it does not begin with a manifest")
    try:
        manifest = msgspec.json.decode(file.read(), type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _bad(source, f"its manifest cannot be read: {error}") from error
    if manifest.format != FORMAT:
        raise _bad(source, f"its format is {manifest.format!r}, and {FORMAT!r} was expected")
    for member in manifest.members:
        _check_path(source, member.path)
    if len({member.path for member in manifest.members}) < len(manifest.members):
        raise _bad(source, "its manifest names a file twice")
    return manifest


def _check_path(source: Path, path: str) -> None:
    """Only what a backup holds: files of named indexes, and the book. Nothing leads out of the store."""
    parts = path.split("/")
    plain = all(_PART.fullmatch(part) for part in parts)
    if not (plain and (path == _BOOK or (parts[0] == "indexes" and len(parts) >= 3))):
        raise _bad(source, f"it holds {path[:80]!r}, which no backup does")


def _take(
    source: Path, archive: tarfile.TarFile, info: tarfile.TarInfo, member: Member | None, folder: Path
) -> None:
    file = archive.extractfile(info) if info.isfile() else None
    if member is None or file is None or info.size != member.size_bytes:
        raise _bad(source, f"it holds {info.name[:80]!r} otherwise than its manifest says")
    target = folder.joinpath(*member.path.split("/"))
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with target.open("xb") as out:
        for block in _blocks(file):
            digest.update(block)
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    if digest.hexdigest() != member.sha256:
        raise _bad(source, f"{member.path} is damaged: its hash is not the manifest's")


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(1 << 20):
        yield block


def _check_book(source: Path, folder: Path) -> None:
    book = folder / _BOOK
    if book.is_file() and not sqlite.is_whole(book):
        raise _bad(source, f"{_BOOK} is no book that can be read")


def _put(root: Path, folder: Path, parts: Sequence[str]) -> None:
    """Move each part into the store; if one fails, all that stood there before comes back."""
    done: list[tuple[Path, Path | None]] = []
    try:
        for part in parts:
            target, aside = root / part, folder / "old" / part
            target.parent.mkdir(parents=True, exist_ok=True)
            kept = _move_aside(target, aside)
            done.append((target, kept))
            os.replace(folder / "new" / part, target)
    except OSError as error:
        for target, kept in reversed(done):
            _move_back(target, kept)
        raise _unwritable(error) from error


def _move_aside(target: Path, aside: Path) -> Path | None:
    """Out of the way, with the log of a book; None where nothing stood."""
    if not target.exists():
        return None
    aside.parent.mkdir(parents=True, exist_ok=True)
    _move(target, aside)
    return aside


def _move(source: Path, target: Path) -> None:
    """A folder, or a book with its log: that is no part of the book that comes, and all of the one that goes."""
    for suffix in ("-wal", "-shm", ""):
        beside = source.with_name(source.name + suffix)
        if beside.exists():
            os.replace(beside, target.with_name(target.name + suffix))


def _move_back(target: Path, kept: Path | None) -> None:
    if target.is_dir():
        shutil.rmtree(target, ignore_errors=True)
    else:
        target.unlink(missing_ok=True)
    if kept is not None:
        _move(kept, target)


def _bad(source: Path, why: str) -> InputError:
    return InputError(
        f"{source} is no backup that can be restored: {why}",
        help="nothing was changed; take another file, or make one: tauten store backup FILE",
        code="E244",
    )
