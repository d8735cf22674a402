"""Runs the code of a documentation page, top to bottom, as a reader would: `python -m kit.pages PAGE`.

Python blocks share one namespace. In `console` blocks the lines `$ tauten ...` and `$ python ...` are run, and
lines of the shown output that hold no digit, and those of errors, must be in the real one. A comment on the line above a block
changes what happens to it:

    <!-- file: notes.py -->       it is written to that file
    <!-- not run: reason -->      it is only checked to be Python, if it says so
    <!-- exit: 2 -->              its last command ends with that code
    <!-- models -->               it needs real models, so the page is tested under the marker `models`
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

FENCE = re.compile(r"^( *)```(\w*)\s*$")
COMMENT = re.compile(r"<!--\s*(file|not run|exit|models)(?::\s*(.*?))?\s*-->")
ERROR = re.compile(r"tauten: E\d{3} ")
SHELLS = ("console", "bash", "sh", "shell")
LONGEST_S = 300  # one command of a page; the slowest loads a language model


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is where its first line stands."""

    language: str
    text: str
    line: int
    marks: dict[str, str]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    lines = page.read_text().splitlines()
    opened: tuple[int, str, str] | None = None
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        if fence is None:
            continue
        if opened is None:
            opened = (number, fence[2], fence[1])
            continue
        start, language, indent = opened
        text = "\n".join(each.removeprefix(indent) for each in lines[start + 1 : number])
        found.append(Block(language, text + "\n", start + 2, _marks(lines, start)))
        opened = None
    if opened is not None:
        raise ValueError(f"{page.name}:{opened[0] + 1}: a block is not closed")
    return found


def _marks(lines: list[str], start: int) -> dict[str, str]:
    """The comments on the lines right above a block."""
    marks: dict[str, str] = {}
    while start and (match := COMMENT.fullmatch(lines[start - 1].strip())):
        marks[match[1]] = match[2] or ""
        start -= 1
    return marks


def run_page(page: Path) -> None:
    """Run all blocks of a page in the current folder; raises at the first that does not do as it says."""
    module = ModuleType("page")
    sys.modules["page"] = module
    for block in blocks(page):
        if "not run" in block.marks:
            if block.language == "python":
                ast.parse(block.text)
        elif name := block.marks.get("file"):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(block.text)
        elif block.language == "python":
            _run_python(block, page, module)
        elif block.language in SHELLS:
            _run_commands(block, page)


def _run_python(block: Block, page: Path, module: ModuleType) -> None:
    padded = "\n" * (block.line - 1) + block.text  # so that a traceback names the page's own line
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(padded, page.name, "exec", flags=flags, dont_inherit=True)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, module.__dict__))
    else:
        exec(code, module.__dict__)


def commands(block: Block) -> list[tuple[str, list[str]]]:
    """Each command of a console block with the output that is shown below it."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        elif found and found[-1][0].endswith("\\"):
            found[-1] = (f"{found[-1][0].removesuffix(chr(92))}{line.strip()}", [])
        elif found:
            found[-1][1].append(line)
    return found


def _run_commands(block: Block, page: Path) -> None:
    listed = [each for each in commands(block) if each[0].split()[0] in ("tauten", "python")]
    for command, shown in listed:
        wanted = int(block.marks.get("exit", "0")) if command == listed[-1][0] else 0
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, timeout=LONGEST_S, env=_environment()
        )
        where = f"{page.name}:{block.line}: $ {command}"
        if done.returncode != wanted:
            raise AssertionError(f"{where}\nexit {done.returncode}, not {wanted}\n{done.stdout}{done.stderr}")
        real = {plain(line) for line in f"{done.stdout}\n{done.stderr}".splitlines()}
        for line in shown:
            if _steady(line) and plain(line) not in real:
                raise AssertionError(f"{where}\nprints no line {line!r}\n{done.stdout}{done.stderr}")


def _steady(line: str) -> bool:
    """Whether a shown line should be the same in every run: words, no figures, nothing left out; or an error."""
    changes = r"\.\.\." if ERROR.match(line) else r"\d|\.\.\."
    return re.search(r"[a-z]", line) is not None and re.search(changes, line) is None


def plain(line: str) -> str:
    """A line without its columns' widths."""
    return " ".join(line.split())


def _environment() -> dict[str, str]:
    """This interpreter's own `tauten` and `python` come first."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


if __name__ == "__main__":
    run_page(Path(sys.argv[1]).resolve())
