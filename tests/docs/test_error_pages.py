"""Every error code has one meaning, one page, one line in the table; every error says what to do."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tauten import errors
from tauten.errors import InternalError, TautenError

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "tauten"
PAGES = ROOT / "docs" / "errors"
CODE = re.compile(r"E[0-5]\d\d")
ROW = re.compile(r"\| \[(E\d{3})\]\((E\d{3})\.md\) \| (.+) \| (.+?) \| (\d+) \| (\d+) \|")


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def classes() -> dict[str, type[TautenError]]:
    """The tree, and whichever class elsewhere in the source has a code of its own, by name."""
    homes = {"tauten.errors": errors}
    for path, tree in sources():
        if any(isinstance(node, ast.ClassDef) and has_code(node) for node in tree.body):
            module = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
            homes[module] = importlib.import_module(module)
    found = [
        each
        for module, home in homes.items()
        for each in vars(home).values()
        if isinstance(each, type) and issubclass(each, TautenError) and each.__module__ == module
    ]
    own = [each for each in found if each.__module__ == "tauten.errors" or "code" in vars(each)]
    assert len({each.__name__ for each in own}) == len(own)
    return {each.__name__: each for each in own}


def has_code(kind: ast.ClassDef) -> bool:
    """Whether a class gives itself an error code."""
    return any(
        isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and CODE.fullmatch(str(node.value.value)) is not None
        for node in kind.body
    )


CLASSES = classes()


def made() -> Iterator[tuple[str, str, ast.Call]]:
    """Place, class name and call of each error that is made in the source."""
    for path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if name in CLASSES:
                    yield f"{path.relative_to(SOURCE)}:{node.lineno}", name, node


def argument(call: ast.Call, name: str) -> ast.expr | None:
    return next((each.value for each in call.keywords if each.arg == name), None)


MADE = list(made())
# A code may reach its error through a helper's argument: every string that is a code counts as used.
USED = {
    node.value
    for _, tree in sources()
    for node in ast.walk(tree)
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value)
}


def page_names() -> set[str]:
    return {path.stem for path in PAGES.glob("E*.md")}


def title(code: str) -> str:
    return (PAGES / f"{code}.md").read_text(encoding="utf-8").partition("\n")[0]


def table() -> dict[str, tuple[str, tuple[str, ...], int, int]]:
    """Code: meaning, class names, exit code, HTTP status."""
    rows = ROW.findall((PAGES / "README.md").read_text(encoding="utf-8"))
    assert all(code == link for code, link, *_ in rows)
    assert len(rows) == len({code for code, *_ in rows})
    return {
        code: (meaning, tuple(re.findall(r"`(\w+)`", kinds)), int(exit_code), int(status))
        for code, _, meaning, kinds, exit_code, status in rows
    }


def test_the_source_is_read() -> None:
    assert len(MADE) > 200
    assert {"Unauthorized", "Busy", "Refused"} <= set(CLASSES)  # classes of the server, where they stand
    assert {"E101", "E105", "E216", "E500"} <= USED  # E105 reaches its error through a helper


def test_codes_pages_and_the_table_agree() -> None:
    assert {each.code for each in CLASSES.values()} <= USED
    assert page_names() == USED
    assert set(table()) == USED


def test_each_page_begins_with_its_code_and_a_meaning_of_its_own() -> None:
    meanings = {code: title(code) for code in page_names()}
    for code, first in meanings.items():
        assert re.fullmatch(rf"# {code} \S.{{8,68}}[^.]", first), first
    assert len({first[7:].lower() for first in meanings.values()}) == len(meanings)
    assert {code: first[7:] for code, first in meanings.items()} == {
        code: row[0] for code, row in table().items()
    }


def test_each_page_is_whole() -> None:
    for code in page_names():
        text = (PAGES / f"{code}.md").read_text(encoding="utf-8")
        assert 6 <= text.count("\n") <= 20, code
        assert f"\n```text\n{code} " in text, code
        assert "**Why:** " in text, code
        assert "**What to do:** " in text, code
        _, _, exit_code, status = table()[code]
        assert f"Exit code {exit_code}, HTTP status {status}, gRPC " in text, code


def test_the_table_says_what_the_classes_say() -> None:
    for code, (_, kinds, exit_code, status) in table().items():
        assert kinds, code
        for kind in kinds:
            assert (CLASSES[kind].exit_code, CLASSES[kind].http_status) == (exit_code, status), code


def test_each_code_is_raised_by_the_classes_of_its_line() -> None:
    known = table()
    for place, name, call in MADE:
        given = argument(call, "code")
        code = given.value if isinstance(given, ast.Constant) else CLASSES[name].code
        if given is None or isinstance(given, ast.Constant):
            assert name in known[str(code)][1], f"{place}: {name} with {code!r}"


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_the_code_of_a_class_is_its_own(kind: type[TautenError]) -> None:
    assert [each for each in CLASSES.values() if each.code == kind.code] == [kind]
    assert kind.__name__ in table()[kind.code][1]


def test_every_error_says_what_to_do() -> None:
    silent = [
        f"{place}: {name}"
        for place, name, call in MADE
        if CLASSES[name] is not InternalError
        and isinstance(argument(call, "help"), ast.Constant | None)
        and not getattr(argument(call, "help"), "value", "")
    ]
    assert silent == []


def test_an_error_reads_code_place_message_and_help() -> None:
    error = errors.PlanError(
        "unknown key `thread`", help="did you mean `threads`?", code="E109", where="a.toml:3"
    )
    assert str(error) == "E109 a.toml:3: unknown key `thread`\nhelp: did you mean `threads`?"
    assert str(errors.InputError("no file", help="check the path")) == "E200 no file\nhelp: check the path"
    assert str(InternalError("rows do not add up")) == "E500 rows do not add up"
