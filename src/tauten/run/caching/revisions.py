"""What files hold, by content: a hash each, computed once for as long as a file looks the same.

Two machines that hold the same files name them alike, whenever these were copied. A file of the store has its hash in
the store's own record; of others it is kept in one file of the store, beside their size, times and number, so that
weights of gigabytes are read once, and not at each start.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tauten.clock import Clock
from tauten.errors import MachineError
from tauten.models.blobs import sha256_of
from tauten.models.installed import read_installed
from tauten.models.store import default_root
from tauten.plan import files

YOUNG_S: Final = (
    2.0  # a file that changed so lately may change again within one tick of its clock, and look the same
)
MOST: Final = 2000  # files that are remembered: some hundred KB, and more than anybody's models


class Look(NamedTuple):
    """What tells without reading that a file may be another one."""

    size_bytes: int
    mtime_ns: int
    ctime_ns: int  # which nobody sets back
    inode: int


class _Known(msgspec.Struct, frozen=True, array_like=True):
    look: Look
    sha256: str


class Revisions:
    """`store` is the folder whose records are read, and where what was hashed is remembered."""

    def __init__(
        self,
        store: Path | None = None,
        *,
        hash: Callable[[Path], str] = sha256_of,
        wall: Clock = time.time,
    ) -> None:
        self.store = (store or default_root()).absolute()
        self._hash = hash
        self._wall = wall
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._read = False

    def of(self, path: Path) -> str:
        """The hash of a file, or of all files in a folder with their names. Blocks: a new file is read whole."""
        path = path.absolute()
        if not path.is_dir():
            return self._of_file(path)
        members = sorted(each for each in path.rglob("*") if each.is_file())
        listed = "".join(f"{each.relative_to(path).as_posix()}\0{self._of_file(each)}\n" for each in members)
        return hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()

    def _of_file(self, path: Path) -> str:
        look = _look(path)
        with self._lock:
            self._remember_others()
            known = self._known.get(_name(path))
        if known is not None and known.look == look:
            return known.sha256
        return self._of_store(path) or self._hashed(path, look)

    def _of_store(self, path: Path) -> str:
        """What the store says of one of its files that is unchanged since it was checked; else nothing."""
        try:
            kind, model, variant, name = path.relative_to(self.store).parts
        except ValueError:  # it lies elsewhere, or is no file of a model
            return ""
        if kind != "models":
            return ""
        manifest = read_installed(self.store / "installed" / model / f"{variant}.json")
        entry = manifest.files.get(name) if manifest is not None else None
        return entry.sha256 if entry is not None and entry.unchanged(path) else ""

    def _hashed(self, path: Path, look: Look) -> str:
        sha256 = self._hash(path)
        settled = self._wall() - max(look.mtime_ns, look.ctime_ns) / 1e9 >= YOUNG_S
        if settled and _look(path) == look:  # it did not change while it was read
            with self._lock:
                self._known[_name(path)] = _Known(look, sha256)
                self._keep()
        return sha256

    # -- what is remembered -----------------------------------------------------------------------------------

    @property
    def _place(self) -> Path:
        return self.store / "revisions.json"

    def _remember_others(self) -> None:
        """What earlier processes hashed."""
        if not self._read:
            self._read = True
            self._known = {**self._found(), **self._known}

    def _found(self) -> dict[str, _Known]:
        try:
            return msgspec.json.decode(self._place.read_bytes(), type=dict[str, _Known])
        except (OSError, msgspec.MsgspecError):  # none, or not one of ours: files are hashed once more
            return {}

    def _keep(self) -> None:
        """For those that come; where the store cannot be written, they hash again."""
        known = {**self._found(), **self._known}
        for path in list(known)[: max(0, len(known) - MOST)]:
            del known[path]
        try:
            files.replace(self._place, msgspec.json.encode(known))
        except MachineError:  # a store that is read-only: what was hashed is known to this process
            return


def _name(path: Path) -> str:
    """The path as JSON can hold it, whatever bytes it is made of."""
    return os.fsencode(path).decode("latin-1")


def _look(path: Path) -> Look:
    facts = path.stat()
    return Look(facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)


_lock = threading.Lock()
_of_stores: dict[Path, Revisions] = {}


def revision(path: Path) -> str:
    """The hash of a file or folder, as this machine's store remembers it."""
    root = default_root().absolute()
    with _lock:
        found = _of_stores.setdefault(root, Revisions(root))
    return found.of(path)
