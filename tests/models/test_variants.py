"""Built variants: named by content, whole or absent, found by `Store.files`, and never half there."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from tauten.errors import NotFound, StoreError
from tauten.models import Store
from tauten.models.catalog import Catalog
from tauten.models.installed import Built, Installed
from tauten.models.variants import is_built
from tauten.plan.card import Card

from .conftest import sha256

SMALL = b"small" * 100


@pytest.fixture
def store(tmp_path: Path, catalog: Catalog) -> Store:
    store = Store(tmp_path / "s", catalog=catalog)
    store.pull("tiny:cut")
    return store


def built_of(store: Store, **changes: object) -> Built:
    here = store.installed("tiny:cut")
    assert here is not None
    sources = {file: entry.sha256 for file, entry in here.files.items()}
    built = Built("halve", "cut", sources, {"share": 0.5}, {"halver": "1.0"})
    return msgspec.structs.replace(built, **changes)


def halved(folder: Path) -> Mapping[str, Path]:
    (folder / "half.bin").write_bytes(SMALL)
    return {"half.bin": folder / "half.bin"}


def build(store: Store, built: Built | None = None) -> Installed:
    files = store.files("tiny:cut")
    return store.variants.build("tiny", "MIT", built or built_of(store), halved, {"b.bin": files["b.bin"]})


def left(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "partial").iterdir())


def test_a_variant_is_found_by_its_name_with_what_it_kept_of_its_source(
    store: Store, parts: dict[str, bytes]
) -> None:
    made = build(store)
    files = store.files("tiny", made.variant)
    assert {name: path.read_bytes() for name, path in files.items()} == {
        "half.bin": SMALL,
        "b.bin": parts["b.bin"],
    }
    assert store.files(f"tiny:{made.variant}") == files
    assert sorted(path.name for path in store.directory("tiny", made.variant).iterdir()) == sorted(files)
    assert not any(path.is_symlink() for path in files.values())
    assert left(store.root) == []


def test_the_name_is_the_recipe_and_a_hash_that_stays(store: Store) -> None:
    built = built_of(store)
    assert built.variant == build(store).variant == built_of(store).variant
    assert is_built(built.variant)
    assert built.variant.startswith("halve-")
    assert built.variant[6:] == built.fingerprint[:8]


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": "quarter"},
        {"sources": {"a.bin": "0" * 64}},
        {"settings": {"share": 0.25}},
        {"tools": {"halver": "1.1"}},
        {"calibration": "1" * 64},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_whatever_shapes_the_result_changes_the_name(store: Store, changes: dict[str, object]) -> None:
    assert built_of(store, **changes).fingerprint != built_of(store).fingerprint


def test_the_same_files_under_another_name_are_the_same_source(store: Store) -> None:
    assert built_of(store, source="other").variant == built_of(store).variant


@pytest.mark.parametrize("name", ["fp32", "en-us", "q4_1", "fp32-1234", "int8-1234567g", "Int8-12345678", ""])
def test_names_of_the_catalog_are_no_names_of_built_variants(name: str) -> None:
    assert not is_built(name)


def test_a_second_build_makes_nothing(store: Store) -> None:
    first = build(store)
    files = store.files("tiny:cut")
    again = store.variants.build(
        "tiny", "MIT", built_of(store), lambda _: pytest.fail("made again"), {"b.bin": files["b.bin"]}
    )
    assert again == first


def test_builds_at_once_end_with_one(store: Store) -> None:
    made: list[Path] = []

    def make(folder: Path) -> Mapping[str, Path]:
        made.append(folder)
        return halved(folder)

    built = built_of(store)
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda _: store.variants.build("tiny", "MIT", built, make, {}), range(8)))
    assert len(made) == 1
    assert len({result.fingerprint for result in results}) == 1
    assert store.variants.names("tiny") == [built.variant]
    assert left(store.root) == []


@pytest.mark.parametrize(
    "failure", [ValueError("no"), KeyboardInterrupt()], ids=lambda each: type(each).__name__
)
def test_a_build_that_fails_leaves_nothing(store: Store, failure: BaseException) -> None:
    def make(folder: Path) -> Mapping[str, Path]:
        halved(folder)
        raise failure

    with pytest.raises(type(failure)):
        store.variants.build("tiny", "MIT", built_of(store), make, {})
    assert store.variants.names("tiny") == []
    assert left(store.root) == []
    assert not store.variants.folder("tiny", built_of(store).variant).exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from tauten.models import Store
from tauten.models.catalog import Catalog
from tauten.models.installed import Built
store = Store(Path(sys.argv[1]), catalog=Catalog.parse(Path(sys.argv[2]).read_text()))
def make(folder):
    (folder / "half.bin").write_bytes(b"h")
    os.kill(os.getpid(), signal.SIGKILL)
store.variants.build("tiny", "MIT", Built("halve", "cut", {}, {}, {}), make, {})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_build_that_is_killed_leaves_nothing_after_the_next_pull(
    tmp_path: Path, store: Store, parts: dict[str, bytes]
) -> None:
    from .conftest import catalog_text

    text = catalog_text(parts, {name: [f"file:{tmp_path}/origin/{name}"] for name in parts})
    (tmp_path / "catalog.toml").write_text(text)
    words = [sys.executable, "-c", KILLED, str(store.root), str(tmp_path / "catalog.toml")]
    assert subprocess.run(words, capture_output=True, timeout=60).returncode == -signal.SIGKILL
    assert store.variants.names("tiny") == []
    store.pull("tiny:cut")
    assert left(store.root) == []
    assert build(store).variant in store.variants.names("tiny")


# --- tampering -------------------------------------------------------------------------------------


def changed(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def test_a_changed_file_is_found_when_it_is_opened(store: Store) -> None:
    made = build(store)
    changed(store.files("tiny", made.variant)["half.bin"], SMALL.swapcase())
    with pytest.raises(StoreError, match="not what it was when it was built") as raised:
        store.files("tiny", made.variant)
    assert raised.value.code == "E312"
    assert (
        raised.value.help
        == f"tauten model rm tiny:{made.variant}, then tauten model build tiny --recipe halve"
    )
    wrong = [check for check in store.verify(f"tiny:{made.variant}") if not check.ok]
    assert [check.file for check in wrong] == ["half.bin"]


def test_a_missing_file_is_found_when_it_is_opened(store: Store) -> None:
    made = build(store)
    store.files("tiny", made.variant)["b.bin"].unlink()
    with pytest.raises(StoreError) as raised:
        store.files("tiny", made.variant)
    assert raised.value.code == "E312"


@pytest.mark.parametrize("field", ["settings", "recipe", "fingerprint", "variant"])
def test_a_record_that_tells_another_story_than_its_name_is_refused(store: Store, field: str) -> None:
    made = build(store)
    record = store.variants.record("tiny", made.variant)
    assert made.built is not None
    told = {
        "settings": {"built": msgspec.structs.replace(made.built, settings={"share": 0.9})},
        "recipe": {"built": msgspec.structs.replace(made.built, recipe="quarter")},
        "fingerprint": {"fingerprint": made.fingerprint[:8] + "0" * 56},
        "variant": {"model": "other"},
    }[field]
    record.write_bytes(msgspec.json.encode(msgspec.structs.replace(made, **told)))
    with pytest.raises(StoreError) as raised:
        store.files("tiny", made.variant)
    assert raised.value.code == "E312"


def test_a_damaged_variant_is_built_again(store: Store) -> None:
    made = build(store)
    changed(store.files("tiny", made.variant)["half.bin"], b"x")
    assert build(store).variant == made.variant
    assert store.files("tiny", made.variant)["half.bin"].read_bytes() == SMALL


def test_a_touched_file_is_hashed_and_accepted(store: Store) -> None:
    made = build(store)
    path = store.files("tiny", made.variant)["half.bin"]
    os.utime(path, ns=(1, 1))
    assert store.files("tiny", made.variant)["half.bin"] == path


# --- the store around them -------------------------------------------------------------------------


def test_they_are_listed_verified_and_removed_with_their_card(store: Store) -> None:
    made = build(store)
    store.variants.write_card(Card("tiny", made.variant, "bin", size_bytes=made.size_bytes))
    [row] = [row for row in store.list() if row.variant == made.variant]
    assert (row.installed, row.default, row.size_bytes) == (True, False, made.size_bytes)
    assert {check.variant for check in store.verify()} == {"cut", made.variant}
    assert store.rm(f"tiny:{made.variant}") == len(SMALL)
    assert store.variants.names("tiny") == []
    assert store.variants.card("tiny", made.variant) is None
    assert store.files("tiny:cut")["b.bin"].exists()


def test_a_bare_name_removes_them_too(store: Store) -> None:
    build(store)
    store.rm("tiny")
    assert list((store.root / "models").iterdir()) == []
    assert list((store.root / "installed").iterdir()) == []


def test_one_that_is_not_here_says_how_to_build_it(store: Store) -> None:
    with pytest.raises(StoreError) as raised:
        store.files("tiny:halve-01234567")
    assert raised.value.code == "E310"
    assert raised.value.help.startswith("tauten model build tiny --recipe halve")
    with pytest.raises(StoreError, match="not in the store"):
        store.rm("tiny:halve-01234567")
    with pytest.raises(StoreError, match="not in the store"):
        store.verify("tiny:halve-01234567")
    with pytest.raises(NotFound):
        store.files("tinny:halve-01234567")


def test_one_cannot_be_pulled_nor_bundled(store: Store, tmp_path: Path) -> None:
    name = f"tiny:{build(store).variant}"
    for work in (lambda: store.pull(name), lambda: store.write_bundle(tmp_path / "b.tar", name)):
        with pytest.raises(StoreError, match="made on each machine") as raised:
            work()
        assert (raised.value.code, raised.value.help) == ("E310", "tauten model build tiny --recipe halve")


def test_a_card_is_read_as_it_was_written(store: Store) -> None:
    made = build(store)
    card = Card("tiny", made.variant, "bin", size_bytes=7, load_ms=1.5, made_how="by hand")
    store.variants.write_card(card)
    assert store.variants.card("tiny", made.variant) == card
    assert store.variants.card("tiny", "cut") is None


def test_a_store_that_cannot_be_written_is_read(
    store: Store, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build(store)
    os.utime(store.files("tiny", made.variant)["half.bin"], ns=(1, 1))  # as a copy of the store may have it

    def closed(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tauten.models.checks.write_record", closed)
    reader = Store(store.root, catalog=catalog, offline=True)
    assert reader.files("tiny", made.variant)["half.bin"].read_bytes() == SMALL
    assert sha256(SMALL) == made.files["half.bin"].sha256
