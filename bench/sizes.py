"""Watches the house: function lengths and file lengths of the package; fails past the bounds.

Bounds are those of docs/design.md §8: median function at most 10 lines, none over 60, files at most 450.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ast
import statistics
import sys
from pathlib import Path

LONGEST_FUNCTION = 60
MEDIAN_FUNCTION = 10
LONGEST_FILE = 450
SOURCE = Path(__file__).parent.parent / "src" / "tauten"


def lengths(tree: ast.AST) -> list[tuple[str, int]]:
    """(name, lines of code) of each function, its docstring left out."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            docstring = ast.get_docstring(node, clean=False)
            found.append((node.name, lines - (docstring.count("\n") + 1 if docstring else 0)))
    return found


def main() -> int:
    complaints, sizes = [], []
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text()
        name = path.relative_to(SOURCE)
        if text.count("\n") > LONGEST_FILE:
            complaints.append(f"{name}: {text.count(chr(10))} lines, at most {LONGEST_FILE}")
        for function, lines in lengths(ast.parse(text)):
            sizes.append(lines)
            if lines > LONGEST_FUNCTION:
                complaints.append(f"{name}: {function} has {lines} lines, at most {LONGEST_FUNCTION}")
    median = statistics.median(sizes)
    if median > MEDIAN_FUNCTION:
        complaints.append(f"median function has {median:.0f} lines, at most {MEDIAN_FUNCTION}")
    print(f"{len(sizes)} functions, median {median:.0f} lines, longest {max(sizes)}", file=sys.stderr)
    for complaint in complaints:
        print(complaint)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
