"""Whether the files of a variant are what they were when they came in: by stat where it suffices, else by hash."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import errno
from pathlib import Path
from typing import NamedTuple

import msgspec

from tauten.models.blobs import sha256_of
from tauten.models.installed import Installed, write_record


class Check(NamedTuple):
    """What `verify` found for one file; `seen` is None if the file is gone."""

    model: str
    variant: str
    file: str
    expected: str
    seen: str | None

    @property
    def ok(self) -> bool:
        """True if the file is what it was when it came in."""
        return self.seen == self.expected


def whole(manifest: Installed, folder: Path, record: Path) -> bool:
    """True if every file is unchanged, or hashes right after all. Costs a few stats, mostly."""
    if all(entry.unchanged(folder / file) for file, entry in manifest.files.items()):
        return True
    return all(check.ok for check in verify(manifest, folder, record))


def verify(manifest: Installed, folder: Path, record: Path) -> list[Check]:
    """Hash the files and renew their marks in the record; a wrong one loses its mark."""
    checks, marked = [], {}
    for file, entry in manifest.files.items():
        path = folder / file
        seen = sha256_of(path) if path.is_file() else None
        checks.append(Check(manifest.model, manifest.variant, file, entry.sha256, seen))
        mtime_ns = path.stat().st_mtime_ns if seen == entry.sha256 else 0
        marked[file] = msgspec.structs.replace(entry, mtime_ns=mtime_ns)
    if marked != manifest.files:
        _renew(record, msgspec.structs.replace(manifest, files=marked))
    return checks


def _renew(record: Path, manifest: Installed) -> None:
    """Keep the marks, where the store can be written; one that cannot be is hashed each time."""
    try:
        write_record(record, manifest)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
