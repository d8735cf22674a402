"""Built variants: forms of a model that were made on this machine, named by what they were made of and how.

They lie in the store beside those that were pulled, hold what the source held where the recipe left it alone,
and are opened by the same names. Their hashes are those of what was made here: no other machine vouches for
them, so a store that others can write to is to be trusted as much as they are.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from tauten.errors import StoreError
from tauten.models.blobs import Blobs, disk_errors, sha256_of
from tauten.models.catalog import is_built as is_built
from tauten.models.checks import whole
from tauten.models.install import entry_of, put_together
from tauten.models.installed import SCHEMA, Built, Installed, read_installed, write_record
from tauten.models.locks import Locks
from tauten.plan.card import Card, card_from_toml

Make = Callable[[Path], Mapping[str, Path]]
"""Writes files into an empty folder; gives them by the names that they shall have."""


class Variants:
    """The built variants of a store, and the cards of all. Safe to use from several processes at once."""

    def __init__(self, root: Path, blobs: Blobs, locks: Locks) -> None:
        self._root, self._blobs, self._locks = root, blobs, locks

    def folder(self, model: str, variant: str) -> Path:
        """Where the files of a variant lie."""
        return self._root / "models" / model / variant

    def record(self, model: str, variant: str) -> Path:
        """Where its manifest lies."""
        return self._root / "installed" / model / f"{variant}.json"

    def names(self, model: str) -> list[str]:
        """The built variants of a model that are here, sorted."""
        found = self.record(model, "").parent.glob("*.json")
        return sorted(path.stem for path in found if is_built(path.stem))

    def find(self, model: str, variant: str) -> Installed | None:
        """The manifest, if it says what its name says and every file is what it was; else None."""
        manifest = self._manifest(model, variant)
        record, folder = self.record(model, variant), self.folder(model, variant)
        return manifest if manifest and whole(manifest, folder, record) else None

    def require(self, model: str, variant: str) -> Installed:
        """As `find`; StoreError E310 for a variant that was not built here, E312 for one that was changed."""
        found = self.find(model, variant)
        if found is not None:
            return found
        name = f"{model}:{variant}"
        recipe = variant.rpartition("-")[0]
        again = f"tauten model build {model} --recipe {recipe}"
        if not self.record(model, variant).exists():
            raise StoreError(
                f"{name} is not in the store {self._root}: built variants are made on each machine",
                help=f"{again}, with the settings, items and versions that gave it this name",
                code="E310",
            )
        raise StoreError(
            f"{name} is not what it was when it was built",
            help=f"tauten model rm {name}, then {again}",
            code="E312",
        )

    def build(
        self, model: str, licence: str, built: Built, make: Make, kept: Mapping[str, Path]
    ) -> Installed:
        """Make a variant unless it is here; several that build the same at once end with one.

        `kept` are files of the source that belong to the variant, too. When `make` raises, or the process is
        killed, nothing of the variant can be seen; what was written is swept by the next pull. StoreError
        E313 for a full or closed disk.
        """
        variant = built.variant
        with (
            disk_errors(self._root),
            self._locks.hold("store", shared=True),
            self._locks.hold(f"variant-{model}:{variant}"),
        ):
            here = self.find(model, variant)
            if here is not None:
                return here
            aside = self._blobs.stage(f"building-{uuid.uuid4().hex}")
            aside.mkdir()
            try:
                return self._take_in(model, licence, built, make(aside), kept)
            finally:
                shutil.rmtree(aside, ignore_errors=True)

    def _take_in(
        self, model: str, licence: str, built: Built, made: Mapping[str, Path], kept: Mapping[str, Path]
    ) -> Installed:
        hashes = {file: sha256_of(path) for file, path in made.items()}
        blobs = {file: self._blobs.admit(path, hashes[file]) for file, path in made.items()}
        folder = self.folder(model, built.variant)
        put_together(self._blobs, {**kept, **blobs}, folder)
        origin = f"made by {built.recipe} of {model}:{built.source}"
        entries = {file: entry_of(folder / file, sha256, origin) for file, sha256 in hashes.items()}
        for file in kept:
            entries[file] = entry_of(folder / file, built.sources[file], f"of {model}:{built.source}")
        manifest = Installed(SCHEMA, model, built.variant, licence, built.fingerprint, entries, built)
        write_record(self.record(model, built.variant), manifest)
        return manifest

    def _manifest(self, model: str, variant: str) -> Installed | None:
        """The manifest of that name; None as well where it describes another variant than its name does."""
        manifest = read_installed(self.record(model, variant))
        if manifest is None or manifest.built is None or not manifest.files:
            return None
        built = manifest.built
        same = (manifest.model, built.variant, built.fingerprint) == (model, variant, manifest.fingerprint)
        return manifest if same else None

    # --- cards -------------------------------------------------------------------------------------

    def card(self, model: str, variant: str) -> Card | None:
        """What was measured of a variant, pulled or built; None where nothing was. PlanError E151 if damaged."""
        path = self.record(model, variant).with_suffix(".toml")
        try:
            return card_from_toml(path.read_text(encoding="utf-8"), where=path.name)
        except FileNotFoundError:
            return None

    def write_card(self, card: Card) -> None:
        """Keep a card beside its variant, in the place of the one before. StoreError E313 on a closed disk."""
        record = self.record(card.model, card.variant)
        aside = record.with_name(f".{card.variant}.{uuid.uuid4().hex[:8]}")
        with disk_errors(self._root):
            record.parent.mkdir(parents=True, exist_ok=True)
            try:
                aside.write_text(card.to_toml(), encoding="utf-8")
                aside.replace(record.with_suffix(".toml"))
            finally:
                aside.unlink(missing_ok=True)
