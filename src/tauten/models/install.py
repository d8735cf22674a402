"""Put a variant together: fetch its files, convert, and link them into one folder."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from tauten.errors import StoreError
from tauten.models.blobs import Blobs, disk_errors, sha256_of, wrong_bytes
from tauten.models.catalog import Fetched, Made, Model
from tauten.models.convert import run_converter
from tauten.models.fetch import Fetcher, Progress, ProgressCallback
from tauten.models.installed import SCHEMA, Entry, Installed, Recipe, read_recipe, write_record
from tauten.models.locks import Locks


class Installer:
    """Builds variants out of blobs; one per pull."""

    def __init__(
        self, root: Path, blobs: Blobs, locks: Locks, fetcher: Fetcher, progress: ProgressCallback
    ) -> None:
        self._recipes = root / "recipes"
        self._blobs, self._locks, self._fetcher, self._progress = blobs, locks, fetcher, progress

    def install(self, name: str, variant: str, model: Model, folder: Path, manifest: Path) -> Installed:
        """Fill `folder` and write `manifest`; the caller holds the variant's lock."""
        blobs: dict[str, Path] = {}
        origins: dict[str, str] = {}
        for file, item in model.variants[variant].files.items():
            blobs[file] = self._item(name, item, model)
            origins[file] = model.origin(item)
        with disk_errors(folder):
            put_together(self._blobs, blobs, folder)
            entries = {file: entry_of(folder / file, blobs[file].name, origins[file]) for file in blobs}
            fingerprint = model.fingerprint(variant)
            installed = Installed(SCHEMA, name, variant, model.licence, fingerprint, entries)
            write_record(manifest, installed)
        self._progress(Progress(name, variant, "done"))
        return installed

    def _item(self, name: str, item: str, model: Model) -> Path:
        if item in model.fetched:
            return self._fetcher.obtain(name, item, model.fetched[item])
        return self._made(name, item, model)

    def _made(self, name: str, item: str, model: Model) -> Path:
        """The converted file: from an earlier conversion, by converting, or ready from a source of its own."""
        made, key = model.made[item], model.recipe(item)
        record = self._recipes / f"{key}.json"
        with self._locks.hold(f"made-{key}"):
            known = read_recipe(record)
            sha256 = made.sha256 or (known.sha256 if known else None)
            if sha256 and self._blobs.has(sha256):
                return self._blobs.path(sha256)
            try:
                inputs = [self._item(name, part, model) for part in made.inputs]
            except StoreError as error:
                if not (made.sources and made.sha256 and made.size_bytes) or error.code in ("E310", "E313"):
                    raise
                return self._fetcher.obtain(name, item, Fetched(made.sha256, made.size_bytes, made.sources))
            return self._convert(name, item, made, inputs, record)

    def _convert(self, name: str, item: str, made: Made, inputs: list[Path], record: Path) -> Path:
        self._progress(Progress(name, f"{item} ({made.converter})", "convert"))
        staged = self._blobs.stage(f"{record.stem}.made")
        try:
            with disk_errors(self._blobs.partial):
                run_converter(made.converter, inputs, staged)
            sha256, size_bytes = sha256_of(staged), staged.stat().st_size
            if made.sha256 and sha256 != made.sha256:
                raise wrong_bytes(
                    f"{name}: {item} made by {made.converter}", f"SHA-256 {sha256}", made.sha256
                )
            with disk_errors(self._blobs.partial):
                blob = self._blobs.admit(staged, sha256)
                names = [path.name for path in inputs]
                write_record(record, Recipe(made.converter, names, sha256, size_bytes))
            return blob
        finally:
            staged.unlink(missing_ok=True)


def put_together(blobs: Blobs, files: Mapping[str, Path], folder: Path) -> None:
    """Make a folder of links to these files aside, and swap it in."""
    aside = blobs.stage(f"folder-{uuid.uuid4().hex}")
    aside.mkdir()
    try:
        for file, path in files.items():
            try:
                os.link(path, aside / file)
            except OSError:  # a file system without hard links
                shutil.copy2(path, aside / file)
        if folder.exists():
            folder.rename(blobs.stage(f"old-{uuid.uuid4().hex}"))
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def entry_of(path: Path, sha256: str, origin: str) -> Entry:
    """The record of a file whose hash is known."""
    facts = path.stat()
    return Entry(sha256, facts.st_size, facts.st_mtime_ns, origin)
