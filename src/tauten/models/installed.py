"""What the store remembers about a variant it holds: files, hashes, origins, and when they were last checked."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import msgspec

SCHEMA = "tauten.installed/1"


class Entry(msgspec.Struct, frozen=True):
    """One file: its hash, and the size and time it had when the hash was last checked (0: check again)."""

    sha256: str
    size_bytes: int
    mtime_ns: int
    origin: str

    def unchanged(self, path: Path) -> bool:
        """True if the file looks as it did when its hash was checked; costs one stat."""
        try:
            facts = path.stat()
        except OSError:
            return False
        return (facts.st_size, facts.st_mtime_ns) == (self.size_bytes, self.mtime_ns)


class Built(msgspec.Struct, frozen=True):
    """What a built variant was made of, and how. It is named by this, before it exists.

    `source` is the variant it was made of, `sources` the SHA-256 of its files, `calibration` one over the
    items that were given, "" without any.
    """

    recipe: str
    source: str
    sources: dict[str, str]
    settings: dict[str, bool | int | float | str]
    tools: dict[str, str]
    calibration: str = ""

    @property
    def fingerprint(self) -> str:
        """A SHA-256 over all of it, but for the source's name: equal files are equal under any."""
        content = msgspec.structs.replace(self, source="")
        return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()

    @property
    def variant(self) -> str:
        """The variant's name: the recipe, and 8 hexadecimal digits of the fingerprint."""
        return f"{self.recipe}-{self.fingerprint[:8]}"


class Installed(msgspec.Struct, frozen=True, omit_defaults=True):
    """The manifest of one variant in the store; `built` where it was built here and not pulled."""

    schema: str
    model: str
    variant: str
    licence: str
    fingerprint: str
    files: dict[str, Entry]
    built: Built | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(entry.size_bytes for entry in self.files.values())


class Recipe(msgspec.Struct, frozen=True):
    """How a made file was made, and what came out: enough to repeat it."""

    converter: str
    inputs: list[str]
    sha256: str
    size_bytes: int


def read_installed(path: Path) -> Installed | None:
    """The manifest, or None if there is none that this release can read (it is then pulled again)."""
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Installed)
    except (FileNotFoundError, ValueError):  # of msgspec, and of bytes that are no UTF-8
        return None
    return manifest if manifest.schema == SCHEMA else None


def read_recipe(path: Path) -> Recipe | None:
    """The record of a conversion, or None."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Recipe)
    except (FileNotFoundError, ValueError):  # of msgspec, and of bytes that are no UTF-8
        return None


def write_record(path: Path, record: msgspec.Struct) -> None:
    """Write a manifest or recipe atomically, also where threads write the same one at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        aside.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
