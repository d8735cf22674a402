"""The model store: pinned weights, fetched on demand, checked, converted, and shared by all processes.

root/blobs/<sha256>              whole files, read-only, in place only after their hash was checked
root/models/<name>/<variant>/    the files of a variant under their own names (hard links to blobs)
root/installed/<name>/<variant>.json   hashes, origins, and the marks that save hashing at every start
root/installed/<name>/<variant>.toml   the card: what was measured of the variant
root/recipes/                    how converted files were made
root/partial/ root/locks/        downloads on their way; locks between processes
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tauten.errors import StoreError
from tauten.models import bundle
from tauten.models.blobs import Blobs, disk_errors, disk_full, facts_below, sha256_of
from tauten.models.catalog import Catalog, Fetched, Model, default_catalog
from tauten.models.checks import Check as Check
from tauten.models.checks import verify, whole
from tauten.models.fetch import Fetcher, ProgressCallback, no_progress
from tauten.models.install import Installer
from tauten.models.installed import Entry, Installed, read_installed
from tauten.models.locks import Locks
from tauten.models.variants import Variants, is_built

_SPARE_BYTES = 1 << 20  # manifests, recipes and folders on top of the models themselves


class Listing(NamedTuple):
    """One row of `list`: a variant of the catalog, or one that was built here.

    `size_bytes` is what it takes, or has to be fetched.
    """

    model: str
    variant: str
    task: str
    licence: str
    default: bool
    installed: bool
    size_bytes: int


# `list` is a method below, so the types that use it are named here.
Choices = list[tuple[str, str, Model]]
Names = list[tuple[str, str]]
Manifests = list[Installed]
Checks = list[Check]
Listings = list[Listing]
Files = list[Fetched]


def default_root() -> Path:
    """`$TAUTEN_STORE`, `$XDG_CACHE_HOME/tauten` or `~/.cache/tauten`."""
    if chosen := os.environ.get("TAUTEN_STORE"):
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "tauten"


def _switched_on(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() not in ("", "0", "no", "off", "false")


class Store:
    """Models on this machine. Safe to use from several processes and threads at once."""

    def __init__(
        self,
        root: Path | None = None,
        *,
        catalog: Catalog | None = None,
        offline: bool | None = None,
        hub: str | None = None,
    ) -> None:
        self.root = (root or default_root()).absolute()
        self.catalog = catalog or default_catalog()
        self.offline = _switched_on("TAUTEN_OFFLINE") if offline is None else offline
        self._hub = hub
        self._blobs = Blobs(self.root)
        self._locks = Locks(self.root / "locks")
        self.variants = Variants(self.root, self._blobs, self._locks)

    # --- what callers need -------------------------------------------------------------------------

    def files(
        self, model: str, variant: str | None = None, *, progress: ProgressCallback = no_progress
    ) -> dict[str, Path]:
        """The checked files of a variant by name; pulled when missing, StoreError E310 when offline.

        `model` may be `name:variant`; without a variant it is the model's first. Costs a few stats when
        the files are there: they are hashed when they come in, when they changed, and by `verify`. A built
        variant is not made by this: StoreError E310 where it is missing, E312 where it was changed.
        """
        if built := self._built(model, variant):
            folder = self._folder(built.model, built.variant)
            return {file: folder / file for file in built.files}
        folder = self.directory(model, variant, progress=progress)
        _, chosen, entry = self.catalog.find(model, variant)
        return {file: folder / file for file in entry.variants[chosen].files}

    def directory(
        self, model: str, variant: str | None = None, *, progress: ProgressCallback = no_progress
    ) -> Path:
        """The folder that holds exactly the files of a variant, as `files` gives them."""
        if built := self._built(model, variant):
            return self._folder(built.model, built.variant)
        name, chosen, entry = self.catalog.find(model, variant)
        if self._current(name, chosen, entry) is None:
            self.pull([f"{name}:{chosen}"], progress=progress)
        return self._folder(name, chosen)

    def pull(
        self, names: str | Sequence[str] | None = None, *, progress: ProgressCallback = no_progress
    ) -> Manifests:
        """Fetch, check and convert what is missing; all default models without names.

        A name is `model` (its first variant) or `model:variant`. What fails raises StoreError and leaves
        no part of a file visible; variants that were complete stay, and an interrupted download goes on
        where it stopped.
        """
        chosen = self._resolve(names)
        with self._pulling(self.root):
            self._check_room(chosen)
            fetcher = self._fetcher(_wanted(chosen), progress)
            return [self._pull_one(*one, fetcher, progress) for one in chosen]

    def verify(self, names: str | Sequence[str] | None = None) -> Checks:
        """Hash the files of the named variants (all that are here without names) and compare.

        A file that fails is fetched again by the next `pull` or `files`.
        """
        found: Checks = []
        for name, variant in self._named(names) if names else self._present():
            manifest = read_installed(self._manifest(name, variant))
            if manifest is None:
                raise self._absent(name, variant)
            found += self._verify_one(manifest)
        return found

    def list(self) -> Listings:
        """Every variant of the catalog and whether it is here, and every variant that was built here."""
        return [
            self._listing(name, variant, model)
            for name, model in self.catalog.models.items()
            for variant in [*model.variants, *self.variants.names(name)]
        ]

    def installed(self, model: str, variant: str | None = None) -> Installed | None:
        """What the store holds of a variant, or None. Does not fetch."""
        name, chosen = self.find(model, variant)
        return self._held(name, chosen)

    def find(self, model: str, variant: str | None = None) -> tuple[str, str]:
        """Resolve `name`, `name:variant` or both parts to a variant of the catalog, or the name of a built one.

        NotFound E318 for what can be neither; a built variant need not be here.
        """
        name, _, inline = model.partition(":")
        chosen = variant or inline
        if is_built(chosen):
            return self.catalog.find(name)[0], chosen
        return self.catalog.find(model, variant)[:2]

    def rm(self, names: str | Sequence[str]) -> int:
        """Remove variants (every variant for a bare model name); bytes freed. Waits for running pulls."""
        specs = [names] if isinstance(names, str) else list(names)
        chosen = [one for spec in specs for one in self._every_variant(spec)]
        with disk_errors(self.root), self._locks.hold("store"):
            for name, variant in chosen:
                self._forget(name, variant)
            return self._blobs.sweep()

    def size_bytes(self) -> int:
        """Bytes on disk; a file that several variants share counts once."""
        return sum({(f.st_dev, f.st_ino): f.st_size for f in facts_below(self.root)}.values())

    # --- bundles -----------------------------------------------------------------------------------

    def write_bundle(
        self,
        path: Path,
        names: str | Sequence[str] | None = None,
        *,
        progress: ProgressCallback = no_progress,
    ) -> int:
        """Write the pinned files of variants to one tar for a machine without network; its size in bytes."""
        chosen = self._resolve(names)
        with self._pulling(path.absolute().parent):
            self._check_room(chosen)
            fetcher = self._fetcher(_wanted(chosen), progress)
            blobs: dict[str, Path] = {}
            for name, variant, model in chosen:
                self._pull_one(name, variant, model, fetcher, progress)
                blobs |= self._bundled(name, variant, model, fetcher)
            return bundle.write(path, [f"{name}:{variant}" for name, variant, _ in chosen], blobs)

    def read_bundle(
        self,
        path: Path,
        names: str | Sequence[str] | None = None,
        *,
        progress: ProgressCallback = no_progress,
    ) -> Manifests:
        """Install the named variants (all in the bundle without names) from a bundle; fetches nothing.

        The bundle is not trusted: every file must have the hash and size of this machine's catalog.
        """
        with self._pulling(self.root):
            chosen = self._resolve(names or bundle.names(path))
            self._check_room(chosen)
            bundle.read(
                path,
                [file for _, variant, model in chosen for file in model.pinned(variant).values()],
                self._blobs,
            )
            fetcher = self._fetcher([], progress, offline=True)
            return [self._pull_one(*one, fetcher, progress) for one in chosen]

    # --- inside ------------------------------------------------------------------------------------

    def _folder(self, name: str, variant: str) -> Path:
        return self.variants.folder(name, variant)

    def _manifest(self, name: str, variant: str) -> Path:
        return self.variants.record(name, variant)

    def _resolve(self, names: str | Sequence[str] | None) -> Choices:
        specs = self.catalog.defaults() if names is None else [names] if isinstance(names, str) else names
        return list({one[:2]: one for one in map(self._offered, specs)}.values())

    def _offered(self, spec: str) -> tuple[str, str, Model]:
        """A variant of the catalog; StoreError E310 for a built one, which nobody offers."""
        name, variant = self.find(spec)
        if is_built(variant):
            raise StoreError(
                f"{name}:{variant} is a built variant: it is made on each machine, not fetched",
                help=f"tauten model build {name} --recipe {variant.rpartition('-')[0]}",
                code="E310",
            )
        return name, variant, self.catalog.models[name]

    def _named(self, names: str | Sequence[str]) -> Names:
        specs = [names] if isinstance(names, str) else names
        return list(dict.fromkeys(map(self.find, specs)))

    def _present(self) -> Names:
        every = [one for name in self.catalog.models for one in self._every_variant(name)]
        return [one for one in every if self._manifest(*one).exists()]

    def _every_variant(self, spec: str) -> Names:
        """The one that is named, or all that are known of a model; StoreError E310 for a built one not here."""
        name, variant = self.find(spec)
        if ":" not in spec:
            known = self.catalog.models[name].variants
            return [(name, each) for each in [*known, *self.variants.names(name)]]
        if is_built(variant) and not self._manifest(name, variant).exists():
            raise self._absent(name, variant)
        return [(name, variant)]

    def _built(self, model: str, variant: str | None) -> Installed | None:
        """A built variant that is asked for; None where another kind is."""
        name, chosen = self.find(model, variant)
        return self.variants.require(name, chosen) if is_built(chosen) else None

    def _absent(self, name: str, variant: str) -> StoreError:
        built = f"tauten model show {name} lists the variants that were built here"
        return StoreError(
            f"{name}:{variant} is not in the store {self.root}",
            help=built if is_built(variant) else f"tauten model pull {name}:{variant}",
            code="E310",
        )

    def _held(self, name: str, variant: str) -> Installed | None:
        """What is here and whole of a variant, of either kind."""
        if is_built(variant):
            return self.variants.find(name, variant)
        return self._current(name, variant, self.catalog.models[name])

    def _current(self, name: str, variant: str, model: Model) -> Installed | None:
        """The manifest if it is of this catalog and every file is unchanged (or hashes right after all)."""
        manifest = read_installed(self._manifest(name, variant))
        if manifest is None or manifest.fingerprint != model.fingerprint(variant):
            return None
        here = whole(manifest, self._folder(name, variant), self._manifest(name, variant))
        return manifest if here else None

    def _verify_one(self, manifest: Installed) -> Checks:
        name, variant = manifest.model, manifest.variant
        return verify(manifest, self._folder(name, variant), self._manifest(name, variant))

    @contextmanager
    def _pulling(self, target: Path) -> Iterator[None]:
        """Share the store with other pulls; tidy up at the end, and at once when the disk is full.

        After any other failure whole files stay, so that the next pull need not fetch them again.
        """
        try:
            with disk_errors(target), self._locks.hold("store", shared=True):
                yield
        except StoreError as error:
            if error.code == "E313":
                with suppress(
                    OSError
                ):  # a store that cannot be written cannot be tidied; the first error is told
                    self._sweep()
            raise
        self._sweep()

    def _pull_one(
        self, name: str, variant: str, model: Model, fetcher: Fetcher, progress: ProgressCallback
    ) -> Installed:
        with self._locks.hold(f"variant-{name}:{variant}"):
            current = self._current(name, variant, model)
            if current is not None:
                return current
            self._drop_damaged(name, variant)
            installer = Installer(self.root, self._blobs, self._locks, fetcher, progress)
            return installer.install(
                name, variant, model, self._folder(name, variant), self._manifest(name, variant)
            )

    def _bundled(self, name: str, variant: str, model: Model, fetcher: Fetcher) -> dict[str, Path]:
        """The pinned files of an installed variant; inputs of converters are fetched again if they are gone."""
        here = {
            item: self._folder(name, variant) / file for file, item in model.variants[variant].files.items()
        }
        return {
            file.sha256: here[item] if item in here else fetcher.obtain(f"{name}:{variant}", item, file)
            for item, file in model.pinned(variant).items()
        }

    def _drop_damaged(self, name: str, variant: str) -> None:
        """Take files that failed their hash out of the blobs, so that they are fetched again."""
        manifest = read_installed(self._manifest(name, variant))
        for entry in manifest.files.values() if manifest else ():
            blob = self._blobs.path(entry.sha256)
            if _known_bad(entry, blob):
                blob.unlink(missing_ok=True)

    def _fetcher(self, wanted: Files, progress: ProgressCallback, offline: bool | None = None) -> Fetcher:
        return Fetcher(
            self._blobs,
            self._locks,
            package_bytes=self.catalog.package_bytes,
            wanted=wanted,
            offline=self.offline if offline is None else offline,
            hub_endpoint=self._hub,
            progress=progress,
        )

    def _check_room(self, chosen: Choices) -> None:
        """Refuse before the first byte when the disk cannot hold what is missing."""
        self.root.mkdir(parents=True, exist_ok=True)
        missing = [one for one in chosen if not self._manifest(*one[:2]).exists()]
        sizes = {
            file.sha256: file.size_bytes for file in _wanted(missing) if not self._blobs.has(file.sha256)
        }
        needed = sum(sizes.values()) + sum(model.made_bytes(variant) for _, variant, model in missing)
        if needed and shutil.disk_usage(self.root).free < needed + _SPARE_BYTES:
            raise disk_full(self.root, needed)

    def _listing(self, name: str, variant: str, model: Model) -> Listing:
        manifest = read_installed(self._manifest(name, variant))
        if is_built(variant):
            size = manifest.size_bytes if manifest else 0
            return Listing(name, variant, model.task, model.licence, False, manifest is not None, size)
        here = manifest is not None and manifest.fingerprint == model.fingerprint(variant)
        size = manifest.size_bytes if manifest else sum(f.size_bytes for f in model.needs(variant).values())
        return Listing(name, variant, model.task, model.licence, model.default, here, size)

    def _forget(self, name: str, variant: str) -> None:
        record = self._manifest(name, variant)
        record.unlink(missing_ok=True)
        record.with_suffix(".toml").unlink(missing_ok=True)
        folder = self._folder(name, variant)
        if folder.exists():
            folder.rename(self._blobs.stage(f"old-{uuid.uuid4().hex}"))
        for parent in (folder.parent, self._manifest(name, variant).parent):
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()

    def _sweep(self) -> None:
        """Tidy up unless somebody else is pulling; the last one does it."""
        with self._locks.hold("store", wait=False) as alone:
            if alone:
                self._blobs.sweep()


def _wanted(chosen: Choices) -> Files:
    return [file for _, variant, model in chosen for file in model.needs(variant).values()]


def _known_bad(entry: Entry, blob: Path) -> bool:
    return blob.is_file() and not entry.unchanged(blob) and sha256_of(blob) != entry.sha256
