"""Every command line of these tests has a store and a folder for temporary files of its own."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.kit_cli import FLOW, SLOW, written


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; a test that leaves one there fails."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir())


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "models" not in request.keywords:
        monkeypatch.setenv("TAUTEN_STORE", str(tmp_path / "store"))


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    """A file with one workflow: a blocking, an awaited and a streaming stage."""
    return written(tmp_path, "flow.py", FLOW)


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A file with endless workflows: `drawn`, `threaded`, `observed`."""
    return written(tmp_path, "slow.py", SLOW)
