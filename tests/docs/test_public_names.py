"""The public names are real, documented and where the editor's stubs say; every command has a help text."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import tauten
from kit.pages import blocks, commands
from tauten.cli import main as dispatcher

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [name for name in tauten.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(tauten, name)
    documented = inspect.getdoc(value) or ""
    assert len(documented.split()) > 2, f"tauten.{name} has no docstring of its own"
    assert not documented.startswith(f"{name}("), f"tauten.{name} shows a generated docstring"


def test_what_editors_see_is_what_is_imported() -> None:
    """The imports under TYPE_CHECKING, the table behind `__getattr__` and `__all__` name the same."""
    tree = ast.parse(Path(tauten.__file__).read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    real = {name: f"tauten.{home}" for name, home in tauten._HOME.items()}
    assert seen == real
    assert sorted(tauten.__all__) == sorted([*real, "__version__"])
    assert list(tauten.__all__) == sorted(tauten.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tauten.nothing


# -- commands ------------------------------------------------------------------------------------------------


def _subcommands(name: str) -> list[str]:
    import importlib

    app = importlib.import_module(f"tauten.cli.{name}").app
    listed = [
        command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands
    ]
    return listed if len(listed) > 1 else []


LINES = [[name] for name in dispatcher.COMMANDS]
LINES += [[name, each] for name in dispatcher.COMMANDS for each in _subcommands(name)]


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_every_command_explains_itself(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatcher.run([*line, "--help"]) == 0
    shown = capsys.readouterr()
    assert "Usage:" in shown.out
    assert " ".join(["tauten", *line]) in " ".join(shown.out.split())
    assert shown.err == ""


def test_the_overview_lists_the_subcommands_that_are_there() -> None:
    for name, text in dispatcher.COMMANDS.items():
        if _subcommands(name):
            assert set(text.split(" | ")) == set(_subcommands(name))


def _written_commands() -> list[tuple[str, list[str]]]:
    """Each `tauten ...` that a page writes, in a block or in the running text."""
    found: list[tuple[str, list[str]]] = []
    for page in PAGES:
        where = page.relative_to(ROOT).as_posix()
        lines = [
            command
            for block in blocks(page)
            if block.language == "console"
            for command, _ in commands(block)
            if command.startswith("tauten")
        ]
        lines += re.findall(r"`(tauten [a-z][^`]*)`", page.read_text())
        found += [(where, line.split()) for line in lines]
    return found


def test_every_command_on_a_page_exists() -> None:
    written = _written_commands()
    assert written, "the pages name no command"
    for where, (_, *words) in written:
        if not words or words[0].startswith("-"):
            continue
        assert words[0] in dispatcher.COMMANDS, f"{where}: tauten {words[0]}"
        known = _subcommands(words[0])
        if known and len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]):
            assert words[1] in known, f"{where}: tauten {words[0]} {words[1]}"
