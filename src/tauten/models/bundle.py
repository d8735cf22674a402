"""Models in one tar file, for machines without network: an index, then blobs named by their SHA-256.

Reading trusts nothing: a member that is not a plain file with an expected name is refused, and a file is
kept only if it has the hash and size that the reader's own catalog wants. No name in the tar is ever
used as a path.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from tauten.errors import StoreError
from tauten.models.blobs import Blobs
from tauten.models.catalog import Fetched

SCHEMA = "tauten.bundle/1"
_INDEX = "tauten-bundle.json"
_MAX_INDEX_BYTES = 1 << 20  # names and hashes only
_MEMBER = re.compile(r"blobs/([0-9a-f]{64})")


class Index(msgspec.Struct, forbid_unknown_fields=True):
    """The first member of a bundle."""

    schema: str
    models: list[str]


def write(path: Path, names: list[str], blobs: Mapping[str, Path]) -> int:
    """Write a bundle (same content, same bytes) and return its size; never half written."""
    aside = path.with_name(f".{path.name}.part")
    try:
        with tarfile.open(aside, "w", format=tarfile.USTAR_FORMAT) as tar:
            index = msgspec.json.encode(Index(SCHEMA, names))
            tar.addfile(_plain(_INDEX, len(index)), io.BytesIO(index))
            for sha256, blob in sorted(blobs.items()):
                with blob.open("rb") as stream:
                    tar.addfile(_plain(f"blobs/{sha256}", blob.stat().st_size), stream)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path.stat().st_size


def _plain(name: str, size_bytes: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size_bytes
    return info


def _bad(path: Path, message: str) -> StoreError:
    return StoreError(
        f"bundle {path.name}: {message}",
        help="write it again with `tauten model pull --bundle FILE NAMES`",
        code="E316",
    )


def names(path: Path) -> list[str]:
    """The `model:variant` names that a bundle says it holds."""
    with _opened(path) as tar:
        for member in _members(path, tar):
            if member.name != _INDEX or member.size > _MAX_INDEX_BYTES:
                break
            stream = tar.extractfile(member)
            try:
                index = msgspec.json.decode(stream.read() if stream else b"", type=Index)
            except ValueError as error:  # of msgspec, and of bytes that are no UTF-8
                raise _bad(path, f"its index is damaged: {error}") from error
            if index.schema != SCHEMA:
                raise _bad(path, f"schema {index.schema!r}; expected {SCHEMA!r}")
            return index.models
    raise _bad(path, f"it does not begin with {_INDEX}; this is not a bundle")


def read(path: Path, wanted: Iterable[Fetched], blobs: Blobs) -> None:
    """Take the wanted files into the store; E312 for wrong bytes, E316 for anything odd or missing."""
    missing = {file.sha256: file for file in wanted if not blobs.has(file.sha256, file.size_bytes)}
    with _opened(path) as tar:
        for member in _members(path, tar):
            match = _MEMBER.fullmatch(member.name)
            file = missing.pop(match[1], None) if match else None
            stream = tar.extractfile(member) if file else None
            if file and stream:
                origin = f"{path.name}:{member.name}"
                blobs.copy_in(stream, file.sha256, file.size_bytes, origin, lambda _: None)
    if missing:
        raise _bad(
            path, f"it lacks {len(missing)} of the files that this catalog wants: {', '.join(missing)}"
        )


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    """An uncompressed tar; E316 for what is none, also where that shows only while it is read."""
    with ExitStack() as stack:
        try:
            tar = stack.enter_context(tarfile.open(path, "r:"))
        except FileNotFoundError:
            raise StoreError(
                f"there is no bundle {path}",
                code="E316",
                help="check the path; `tauten model pull --bundle FILE NAMES` writes one",
            ) from None
        except OSError as error:
            raise StoreError(
                f"bundle {path} cannot be read: {error.strerror}",
                code="E316",
                help="give a file that you may read",
            ) from error
        except tarfile.TarError as error:
            raise _no_tar(path, error) from error
        try:
            yield tar
        except tarfile.TarError as error:
            raise _no_tar(path, error) from error


def _no_tar(path: Path, error: tarfile.TarError) -> StoreError:
    return _bad(path, f"it is not a readable tar file: {error}")


def _members(path: Path, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of a bundle; links, devices and unknown names are refused."""
    for member in tar:
        if not member.isreg() or not (member.name == _INDEX or _MEMBER.fullmatch(member.name)):
            raise _bad(path, f"it contains {member.name!r}, which does not belong into a bundle")
        yield member
