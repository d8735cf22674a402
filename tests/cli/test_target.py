"""What a command line's `name=value` becomes: files, standard input, JSON, and mistakes with their way out."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

import tauten as tt
from tauten.cli.target import load_workflow, read_inputs
from tauten.errors import InputError, NotFound

BMP = b"BM" + bytes(64)


@tt.stage(pure=True)
def told(question: tt.Audio | tt.Text, picture: tt.Image | None, extra: tt.Json | None) -> tt.Text:
    return tt.Text("ok")


@tt.workflow
def ask(
    question: tt.Audio | tt.Text, picture: tt.Image | None = None, extra: tt.Json | None = None
) -> tt.Text:
    return told(question, picture, extra)


@dataclasses.dataclass
class Visit:
    city: str
    days: int


class Closed:
    """What nothing on a command line can make."""


@tt.workflow
async def typed(
    texts: list[str] | None = None,
    notes: list[tt.Text] | None = None,
    pictures: list[tt.Image] | None = None,
    messages: list[dict[str, Any]] | None = None,
    count: int = 1,
    loud: bool = True,
    either: str | int = "",
    visit: Visit | None = None,
    tone: Literal["plain", "warm"] = "plain",
    place: Path | None = None,
    raw: bytes = b"",
    closed: Closed | None = None,
) -> str:
    return ""


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ('texts=["one", "two"]', ["one", "two"]),
        ("texts=one", ["one"]),
        ("texts=5", ["5"]),
        ("notes=one", [tt.Text("one")]),
        ('notes=["one"]', [tt.Text("one")]),
        ('messages=[{"role": "user"}]', [{"role": "user"}]),
        ("count=3", 3),
        ("loud=false", False),
        ("loud=False", False),
        ("either=x", "x"),
        ("either=3", 3),
        ('visit={"city": "Rome", "days": 2}', Visit("Rome", 2)),
        ("visit=null", None),
        ("tone=warm", "warm"),
        ("place=a/b", Path("a/b")),
        ("raw=abc", b"abc"),
    ],
)
def test_a_value_is_what_its_input_is_declared_as(pair: str, value: object) -> None:
    assert read_inputs(typed, [pair])[pair.partition("=")[0]] == value


def test_a_file_for_a_list_and_for_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a.bmp"
    file.write_bytes(BMP)
    assert [each.type for each in read_inputs(typed, [f"pictures=@{file}"])["pictures"]] == ["image/bmp"]
    assert read_inputs(typed, [f"raw=@{file}"])["raw"] == BMP


@pytest.mark.parametrize(
    ("pair", "seen"),
    [
        ("count=many", "`count`: Expected `int`"),
        ("loud=yes", "`loud`: Expected `bool`"),
        ("visit=Rome", "`visit`: Expected `object"),
        ("messages=hello", "`messages`: Expected `object`"),
        ("tone=angry", "`tone`: Invalid enum value 'angry'"),
        ("closed=x", "`closed`: Closed() takes no arguments"),
        ("notes=[1]", "int given"),
    ],
)
def test_a_value_of_another_type_is_refused_before_it_runs(pair: str, seen: str) -> None:
    with pytest.raises(InputError) as raised:
        read_inputs(typed, [pair])
    assert seen in str(raised.value)
    assert raised.value.help


def test_a_bare_value_is_text() -> None:
    assert read_inputs(ask, ["question=a=b @c"])["question"].text == "a=b @c"


def test_a_file_is_what_its_bytes_are(tmp_path: Path) -> None:
    words, picture = tmp_path / "words.wav", tmp_path / "shot.txt"
    words.write_text("why?")
    picture.write_bytes(BMP)
    given = read_inputs(ask, [f"question=@{words}", f"picture=@{picture}"])
    assert given["question"].text == "why?"
    assert given["picture"].type == "image/bmp"


def test_standard_input_is_text_where_text_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"from a pipe")))
    assert read_inputs(ask, ["question=@-"])["question"].text == "from a pipe"


def test_json_is_read_from_a_value_and_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "extra.json"
    file.write_text('{"a": [1]}')
    assert read_inputs(ask, ["question=x", "extra=[1, 2]"])["extra"].value == [1, 2]
    assert read_inputs(ask, ["question=x", f"extra=@{file}"])["extra"].value == {"a": [1]}


@pytest.mark.parametrize(
    ("pair", "code", "seen"),
    [
        ("question", "E205", "NAME=VALUE"),
        ("qestion=@no.wav", "E205", "did you mean `question`?"),
        ("question=@no.wav", "E203", "no.wav"),
        ("picture=@no.png", "E203", "no.png"),
        ("extra=@no.json", "E203", "no.json"),
        ("extra=@.", "E203", "readable file"),
    ],
)
def test_mistakes_say_what_to_do(pair: str, code: str, seen: str) -> None:
    with pytest.raises(InputError) as raised:
        read_inputs(ask, ["question=x", pair])
    assert raised.value.code == code
    assert seen in str(raised.value)


def test_text_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "latin.txt"
    file.write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="not UTF-8"):
        read_inputs(ask, [f"question=@{file}"])


def test_a_file_with_two_workflows_wants_a_name(tmp_path: Path) -> None:
    file = tmp_path / "two_workflows.py"
    one = "@tt.workflow\ndef {}(x: tt.Text) -> tt.Text:\n    return x\n"
    file.write_text("import tauten as tt\n" + one.format("a") + one.format("b"))
    with pytest.raises(NotFound, match="2 workflows"):
        load_workflow(str(file))
    assert load_workflow(f"{file}:b").name == "b"
    with pytest.raises(NotFound, match="known: a, b"):
        load_workflow(f"{file}:zzz")


def test_a_file_of_a_package_is_its_member(tmp_path: Path) -> None:
    package = tmp_path / "shop_of_files"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "prices.py").write_text("PRICE = 3\n")
    (package / "shop.py").write_text(
        "import tauten as tt\nfrom .prices import PRICE\n\n\n"
        "@tt.workflow\ndef shop(question: tt.Text) -> tt.Text:\n    return question\n"
    )
    found = load_workflow(f"{package / 'shop.py'}:shop")
    assert found.function.__module__ == "shop_of_files.shop"


def test_a_file_beside_another_package_of_its_name_stands_alone(tmp_path: Path) -> None:
    package = tmp_path / "json"  # Python's own comes first
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "shop.py").write_text(
        "import tauten as tt\n\n\n@tt.workflow\ndef shop(question: tt.Text) -> tt.Text:\n    return question\n"
    )
    assert load_workflow(str(package / "shop.py")).name == "shop"
