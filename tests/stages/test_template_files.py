"""Templates with front matter: what they say of themselves, their blocks, their types, and every mistake with its line."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from kit.direct import DirectContext, direct
from tauten.describe.message import VARIABLE
from tauten.describe.payload import Image, Json, Text
from tauten.describe.stages.generate import generate
from tauten.describe.template import Template, load, parse
from tauten.describe.variable import Variable
from tauten.errors import WorkflowError
from tauten.improve.prompts.folder import in_folder, read
from tauten.run.contracts import Chunk

PNG = b"\x89PNG\r\n\x1a\n"
ASK = """+++
name = "short answers"
description = "One sentence from a passage"

[variables]
passage = "text"
question = { type = "text", sample = "why?" }
tone = { type = "choice", of = ["plain", "warm"] }
words = { type = "number", least = 1, most = 20 }

[formats.short]
answer = "It ends."
+++
[system]
+++ stable
Answer from the passage.
+++ format long
Write {{ words }} words.
+++ format short
Be {{ tone? }}.
+++ example loop
[user]
Loops end.
Do loops end?
[assistant]
They end.
+++ example file
[user]
Files close.
Do files close?
[assistant]
They close.
+++
[user]
{{ passage }}

{{ question }}
"""
GIVEN = {"passage": "P.", "question": Text("Q?"), "tone": "plain", "words": 5}


def template(source: str = ASK) -> Template:
    return parse(source, "ask.md")


def contents(found: Template, **values: Any) -> list[str]:
    return [each["content"] for each in found.render({**GIVEN, **values})]


def refused(source: str) -> WorkflowError:
    with pytest.raises(WorkflowError) as caught:
        template(source)
    assert caught.value.help
    return caught.value


# -- what it says of itself ------------------------------------------------------------------------------------


def test_front_matter_is_no_part_of_the_prompt() -> None:
    found = template()
    assert (found.front.name, found.front.description) == ("short answers", "One sentence from a passage")
    assert contents(found) == [
        "Answer from the passage.\nWrite 5 words.",
        "Loops end.\nDo loops end?",
        "They end.",
        "Files close.\nDo files close?",
        "They close.",
        "P.\n\nQ?",
    ]


def test_a_file_of_an_editor_that_marks_its_encoding_has_front_matter(tmp_path: Path) -> None:
    marked = tmp_path / "ask.md"
    marked.write_bytes(b"\xef\xbb\xbf" + ASK.encode())
    for found in (load("ask.md", tmp_path), read(marked)):
        assert found.source == ASK
        assert found.front.name == "short answers"
    [listed] = in_folder(tmp_path)
    assert listed.name == "short answers"


def test_the_version_is_the_content() -> None:
    assert template().version == template().version
    assert template(ASK.replace("Loops", "Rings")).version != template().version
    assert template().identity == f"template {template().version}"
    assert template().choose("short").identity == template().identity, (
        "a choice is the plan's, not the template's"
    )


def test_a_template_without_front_matter_has_neither_blocks_nor_types() -> None:
    found = parse("Compare\n+++ b/file.py\n+++\n{{ x }}")
    assert found.front.variables == {}
    assert found.render({"x": 3})[0]["content"] == "Compare\n+++ b/file.py\n+++\n3"


def test_three_signs_are_written_with_a_backslash() -> None:
    found = parse("+++\n+++\n\\+++ x\n{{ y }}")
    assert found.render({"y": "z"})[0]["content"] == "+++ x\nz"


# -- blocks ----------------------------------------------------------------------------------------------------


def test_formats_and_examples_are_chosen_by_name() -> None:
    found = template()
    assert (found.formats, found.examples) == (("long", "short"), ("loop", "file"))
    assert found.choose() is found
    short = found.choose("short", ["loop"])
    assert contents(short) == [
        "Answer from the passage.\nBe plain.",
        "Files close.\nDo files close?",
        "They close.",
        "P.\n\nQ?",
    ]
    assert contents(found.choose(without="file"))[1:3] == ["Loops end.\nDo loops end?", "They end."]
    assert len(contents(found.choose(without=["loop", "file"]))) == 2


def test_a_call_gives_what_any_of_the_formats_needs() -> None:
    for found in (template(), template().choose("short"), template().choose(without=["loop", "file"])):
        found.check(["passage", "question", "tone", "words"])
        with pytest.raises(WorkflowError, match=r"\{\{ words \}\} is not given"):
            found.check(["passage", "question", "tone"])


def test_pairs_without_names_are_numbered() -> None:
    found = parse(
        "[user]\na\n[assistant]\nA\n[user]\nb {{ x }}\n[assistant]\nB\n[user]\nc\n[assistant]\nC\n[user]\n{{ x }}"
    )
    assert found.examples == ("1", "2"), "the pair with a field is a conversation"
    said = [each["content"] for each in found.choose(without=["2"]).render({"x": "?"})]
    assert said == ["a", "A", "b ?", "B", "?"]


def test_an_example_inside_a_raw_completion() -> None:
    found = parse("+++\n+++\n[prompt]\nHead\n+++ example one\nQ: 1\nA: 1\n+++\nQ: {{ q }}\nA:")
    assert found.render({"q": 2})[0]["content"] == "Head\nQ: 1\nA: 1\nQ: 2\nA:"
    assert found.choose(without="one").render({"q": 2})[0]["content"] == "Head\nQ: 2\nA:"


def test_what_is_chosen_can_be_put_in_order_too() -> None:
    found = template().choose("short").fixed_first()
    assert contents(found)[-1] == "P.\n\nQ?"
    assert template().opens_with("example loop") is False, "the format before it has a field"
    assert template(ASK.replace("Write {{ words }} words.", "Write five words {{ words }}.")).opens_with(
        "stable"
    )


def test_the_pieces_are_the_whole_and_say_where_they_come_from() -> None:
    found = template().choose("short")
    spans = found.spans(GIVEN)
    assert ["".join(span.text for span in pieces) for _, pieces in spans] == contents(found)
    marks = {span.mark for _, pieces in spans for span in pieces}
    assert marks == {"stable", "format short", "example loop", "example file", VARIABLE, ""}
    assert [span.text for _, pieces in spans for span in pieces if span.mark == VARIABLE] == [
        "plain",
        "P.",
        "Q?",
    ]
    assert found.fixed[0]["content"] == "Answer from the passage.\nBe ."


@given(some.lists(some.sampled_from(["a", "b {{ x }}", "", "{{ x }}{{ x }}", "\n"]), max_size=6), some.text())
def test_pieces_add_up_to_the_text_with_its_values(lines: list[str], value: str) -> None:
    source = "\n".join(["Say {{ x }}.", *lines])
    ((role, pieces),) = parse(source).spans({"x": value})
    assert "".join(span.text for span in pieces) == source.replace("{{ x }}", value).strip("\n")
    assert role == "user"
    assert all(span.text for span in pieces)


# -- mistakes in what it says ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "line", "seen"),
    [
        (('name = "short answers"', "name = short"), 2, "no TOML"),
        (('name = "short answers"', "name = 3"), 2, "`name` is no text"),
        (("description =", "descripton ="), 3, "`descripton`"),
        (('passage = "text"', 'passage = "txt"'), 6, "txt"),
        (('passage = "text"', "passage = 3"), 6, "declared by 3"),
        (('sample = "why?"', 'example = "why?"'), 7, "`example`"),
        (('of = ["plain", "warm"]', "least = 1"), 8, "a choice without `of`"),
        (("least = 1, most = 20", "least = 20, most = 1"), 9, "at least 20 and at most 1"),
        (("least = 1, most = 20", "least = 1, most = 20, sample = 30"), 9, "sample that is 30"),
        (("[formats.short]", "[formats.brief]"), 11, "`brief` is declared and has no block"),
        (("words = {", "wrds = {"), 18, "{{ words }} is not among the variables"),
        (("Write {{ words }} words.", "Write five words."), 9, "`words` is declared and never used"),
        (
            ("Answer from the passage.", "Answer {{ passage }}."),
            16,
            "{{ passage }} stands in the stable part",
        ),
        (("+++ format short", "+++ formt short"), 19, "`+++ formt` is no block"),
        (("+++ format short", "+++ format"), 19, "the format has no name"),
        (("+++ format short", "+++ format 1st"), 19, "the name `1st`"),
        (("+++ stable", "+++ stable core"), 15, "has no name"),
        (("Be {{ tone? }}.\n", ""), 19, "`+++ format short` says nothing"),
        (("+++ example file", "+++ example loop"), 27, "for the second time"),
        (("[user]\n{{ passage }}", "{{ passage }}"), 34, "stands in none"),
    ],
)
def test_a_mistake_names_its_line(change: tuple[str, str], line: int, seen: str) -> None:
    error = refused(ASK.replace(*change))
    assert (error.code, seen in error.message, error.where) == ("E108", True, f"ask.md:{line}"), str(error)


def test_front_matter_that_never_ends_is_refused() -> None:
    error = refused('+++\nname = "x"\n[user]\nx')
    assert ("has no end" in error.message, error.where) == (True, "ask.md:1")


def test_a_mark_that_ends_nothing_is_refused() -> None:
    assert "ends no block" in refused("+++\n+++\nx\n+++\ny").message


@pytest.mark.parametrize(("format", "without", "help"), [("shrt", (), "`short`"), ("", ("lop",), "`loop`")])
def test_an_unknown_choice_is_refused_with_the_nearest(
    format: str, without: tuple[str, ...], help: str
) -> None:
    with pytest.raises(WorkflowError, match="there is no") as caught:
        template().choose(format, without)
    assert (caught.value.code, help in caught.value.help) == ("E108", True)


# -- values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "line", "seen"),
    [
        ("passage", ["a", "b"], 6, "`passage` is 2 members, expected text"),
        ("passage", Image(PNG), 6, "is Image, expected text"),
        ("tone", "cold", 8, "'cold', expected one of plain, warm"),
        ("words", "five", 9, "'five', expected a number, at least 1, at most 20"),
        ("words", True, 9, "True, expected a number"),
        ("words", 21, 9, "21, expected"),
        ("words", float("nan"), 9, "nan, expected"),
    ],
)
def test_a_value_of_the_wrong_type_names_the_declaration(name: str, value: Any, line: int, seen: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        template().render({**GIVEN, name: value})
    assert (caught.value.code, caught.value.where) == ("E119", f"ask.md:{line}")
    assert seen in caught.value.message


class Parts(msgspec.Struct):
    """Something with parts, and no text."""

    score: float = 0.5


@pytest.mark.parametrize(
    ("variable", "good", "bad"),
    [
        (Variable("text"), ["a", Text("a"), Json("a")], [3, ["a"], Parts()]),
        (Variable("number", least=0), [0, 2.5, Json(3), 10**400], [-1, "3", False, float("inf")]),
        (Variable("choice", of=("a", "b")), ["a", Text("b")], ["c", 1]),
        (Variable("list", most=2), [[], ["a", 3], ("a",)], ["a", [1, 2, 3]]),
        (
            Variable("images", least=1, most=2),
            [Image(PNG), [Image(PNG)] * 2, 2],
            [0, 3, "a", [], ["a"], True],
        ),
        (Variable("struct"), [Parts(), {"a": 1}, Json({"a": 1})], ["a", 3, [1], Image(PNG)]),
    ],
)
def test_types(variable: Variable, good: list[Any], bad: list[Any]) -> None:
    assert variable.contradiction() == ""
    assert [variable.problem(value) for value in [*good, None]] == [""] * (len(good) + 1)
    assert all("expected" in variable.problem(value) for value in bad)


def test_images_are_written_as_their_number() -> None:
    found = parse('+++\n[variables]\nphotos = "images"\n+++\nThere are {{ photos }} pictures.\n{{ photos? }}')
    assert found.render({"photos": [Image(PNG), Image(PNG)]})[0]["content"] == "There are 2 pictures.\n2"
    assert found.render({"photos": 0})[0]["content"] == "There are 0 pictures.\n0"


def test_a_command_line_writes_values_as_text() -> None:
    assert Variable("number").read("3.5") == 3.5
    assert Variable("images").read("2") == 2
    assert Variable("list").read('["a", "b"]') == ["a", "b"]
    assert Variable("list").read("a") == ["a"]
    assert Variable("text").read("3") == "3"
    assert Variable("number").problem(Variable("number").read("three"))


# -- the stage -------------------------------------------------------------------------------------------------


def asked(**settings: Any) -> list[str]:
    """What generate asks its model."""
    context = DirectContext(generate, fakes={"model": lambda item: [Chunk(text="x"), Chunk(done=True)]})
    direct(generate, ASK, **GIVEN, **settings, context=context)
    return [each["content"] for each in context.items["model"][0]["messages"]]


def test_a_plan_chooses_format_and_examples() -> None:
    assert asked() == contents(template())
    assert asked(prompt_format="short", without_examples=["loop"]) == contents(
        template().choose("short", ["loop"])
    )
    assert asked(without_examples="loop") == contents(template().choose(without=["loop"]))


@pytest.mark.parametrize(
    ("settings", "code"),
    [({"prompt_format": "shrt"}, "E108"), ({"without_examples": ["x"]}, "E108"), ({"words": 99}, "E119")],
)
def test_a_call_that_does_not_fit_is_refused_when_it_is_written(settings: dict[str, Any], code: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        direct(generate, ASK, context=DirectContext(generate), **{**GIVEN, **settings})
    assert caught.value.code == code
