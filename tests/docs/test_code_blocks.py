"""What the documentation shows is what happens: every block of every page is run, in an empty folder."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kit.pages import COMMENT, blocks, commands, run_page
from tauten.models.store import default_root

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"python", "console", "toml", "text", "json"}
OWN = ("indexes", "measurements.json", "usage")  # parts of a store that a page writes to


def _cases() -> list[object]:
    """One case a page that has something to run; those that load models carry the marker."""
    cases: list[object] = []
    for page in PAGES:
        found = blocks(page)
        if any(block.language in ("python", "console") for block in found):
            marks = [pytest.mark.models] if any("models" in block.marks for block in found) else []
            cases.append(pytest.param(page, marks=marks, id=page.relative_to(ROOT).as_posix()))
    return cases


def _store(folder: Path) -> Path:
    """A store of its own with the models that are here: a page builds indexes and keeps measurements."""
    folder.mkdir()
    if default_root().exists():
        for part in default_root().iterdir():
            if part.name not in OWN:
                (folder / part.name).symlink_to(part)
    return folder


@pytest.mark.parametrize("page", _cases())
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "tests"),
        "TAUTEN_OFFLINE": "1",
        "TAUTEN_STORE": str(_store(tmp_path / "store")),
    }
    done = subprocess.run(
        [sys.executable, "-m", "kit.pages", str(page)],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_blocks_are_closed_in_a_known_language_and_left_out_with_a_reason(page: Path) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{page.name}:{block.line}: a block in {block.language!r}"
        assert block.marks.get("not run", "reason"), f"{page.name}:{block.line}: not run, without a reason"


def test_a_block_is_found_with_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n\n<!-- models -->\n<!-- exit: 2 -->\n```console\n$ tauten x \\\n  y\nno\n```\n")
    [block] = blocks(page)
    assert (block.language, block.line, block.marks) == ("console", 6, {"models": "", "exit": "2"})
    assert commands(block) == [("tauten x y", ["no"])]
    assert COMMENT.fullmatch("<!-- not run: it needs a phone -->")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\nassert 1 == 2\n```\n", "AssertionError"),
        ("```console\n$ tauten --version\nno such line\n```\n", "no such line"),
        ("```console\n$ tauten nonsense\n```\n", "exit 2, not 0"),
        (
            "<!-- exit: 2 -->\n```console\n$ tauten run no.py\ntauten: E207 no file 'no.py'\n```\n",
            "tauten: E207 no file",
        ),
        ("<!-- exit: 2 -->\n```console\n$ tauten --version\n```\n", "exit 0, not 2"),
        ("<!-- not run: why -->\n```python\n1 +\n```\n", "invalid syntax"),
        ("```python\n1\n", "not closed"),
    ],
)
def test_a_page_that_lies_fails(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises((AssertionError, SyntaxError, ValueError)) as raised:
        run_page(page)
    assert message in f"{raised.typename}: {raised.value}"


def test_blocks_share_names_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nasync def three():\n    return 3\n```\n"
        "<!-- file: a/b.txt -->\n```text\nhello\n```\n"
        "```python\nassert await three() == 3\nassert open('a/b.txt').read() == 'hello\\n'\n```\n"
    )
    run_page(page)
