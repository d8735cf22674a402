"""The page about workflows: its code runs, from top to bottom."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import linecache
import re
import sys
import types
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "workflows.md"


def blocks() -> list[tuple[int, str]]:
    """(line, code) of each block."""
    text = PAGE.read_text()
    return [
        (text[: match.start()].count("\n") + 2, match[1])
        for match in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ]


def test_the_code_of_the_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("workflows_page")
    monkeypatch.setitem(sys.modules, "workflows_page", module)
    code = PAGE.read_text().splitlines(keepends=True)
    linecache.cache["workflows_page.py"] = (1, None, code, "workflows_page.py")
    assert len(blocks()) >= 7
    for line, block in blocks():
        exec(compile("\n" * (line - 1) + block, "workflows_page.py", "exec"), vars(module))
