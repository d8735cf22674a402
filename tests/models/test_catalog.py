"""The catalog is checked when it is read, and a mistake comes with a suggestion."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

import pytest

from tauten.errors import InputError
from tauten.models.catalog import Catalog, FileSource, HubSource, PackageSource, default_catalog, source_of

from .conftest import catalog_text

GOOD = catalog_text({"a.bin": b"a"}, {"a.bin": ["file:/a"]})


def test_the_shipped_catalog_is_sound() -> None:
    catalog = default_catalog()
    assert len(catalog.models) == 10
    used = {
        source.requirement
        for model in catalog.models.values()
        for entry in [*model.fetched.values(), *model.made.values()]
        for text in entry.sources
        if isinstance(source := source_of(text), PackageSource)
    }
    assert used == catalog.package_bytes.keys()
    for model in catalog.models.values():
        reachable = {item for variant in model.variants for item in model.needs(variant)}
        assert reachable == model.fetched.keys()
        assert model.provenance.endswith(".")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("licence =", "license =", "did you mean `licence`"),
        ("size_bytes = 1", 'size_bytes = "1"', "int"),
        ("join@1", "joyn@1", "did you mean `join@1`"),
        ("join@1", "join@9", "unknown converter"),
        ("['a.bin']", "['b.bin']", "input 'b.bin' is not fetched"),
        ('"a.bin" = "a.bin"', '"a.bin" = "a.bim"', "did you mean `a.bin`"),
        ('{ "a.bin" =', '{ "../a.bin" =', "is not a file name"),
        ("file:/a", "ftp:/a", "is not a source"),
        ("sha256 = \"", "sha256 = \"z", "64 hexadecimal"),
        ("tauten.catalog/1", "tauten.catalog/2", "schema"),
        ("variants.cut]", "variants.cut-01234567]", "belong to built variants"),
        ("[models.tiny]", "[models.Tiny", "TOML|Invalid|Expected"),
    ],
)  # fmt: skip
def test_mistakes_are_errors(old: str, new: str, expected: str) -> None:
    assert old in GOOD
    with pytest.raises(InputError, match=expected) as caught:
        Catalog.parse(GOOD.replace(old, new), where="mine.toml")
    assert caught.value.code == "E319"


def test_an_unreadable_catalog_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        Catalog.read(tmp_path / "none.toml")


def test_sources() -> None:
    assert source_of("package:a-b==1.0!a/b.bin") == PackageSource("a-b==1.0", "a/b.bin")
    assert source_of("hub:o/r@main!x/y.bin") == HubSource("o/r", "main", "x/y.bin")
    assert source_of("file:/x/y") == FileSource(Path("/x/y"))
    for text in ("package:a!b", "package:--index-url==1!b", "hub:o/r@main!../x", "file:", "x"):
        assert source_of(text) is None
