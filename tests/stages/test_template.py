"""Templates: fields, sections, what disappears, and every mistake with its line."""
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from tauten.describe.payload import Image, Json, Text
from tauten.describe.template import Template, as_text, load, parse
from tauten.errors import WorkflowError

DESK = """[system]
Answer from the passages.

[user]
What is 1/0?
[assistant]
An error.
[user]
{{ passages }}

Screen: {{ screen? }}

Question: {{ question }}
"""


def only(source: str, **values: Any) -> str:
    (message,) = parse(source).render(values)
    assert message["role"] == "user"
    return message["content"]


def refused(source: str, **values: Any) -> WorkflowError:
    with pytest.raises(WorkflowError) as caught:
        parse(source, "answer.md").render(values)
    return caught.value


def test_sections_start_messages_and_repeat() -> None:
    messages = parse(DESK).render({"passages": [Text("one"), "two"], "question": Text("why?")})
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[-1]["content"] == "one\n\ntwo\n\nQuestion: why?"


def test_present_optional_field_keeps_its_line() -> None:
    messages = parse(DESK).render({"passages": "p", "screen": "KeyError", "question": "q"})
    assert messages[-1]["content"] == "p\n\nScreen: KeyError\n\nQuestion: q"


def test_fields_are_optional_only_where_every_use_is() -> None:
    assert parse(DESK).fields == {"passages": False, "screen": True, "question": False}
    assert parse("{{ a? }}\n{{ a }}").fields == {"a": False}


def test_a_line_with_a_present_field_stays() -> None:
    assert only("{{ a? }} and {{ b? }}", b="two") == " and two"
    assert only("x\n{{ a? }} and {{ b }}", b="two") == "x\n and two"


def test_empty_text_counts_as_absent_for_an_optional_field() -> None:
    assert only("ask\nheard: {{ words? }}", words=Text("")) == "ask"


def test_parts_of_structs_mappings_and_json() -> None:
    class Answer(msgspec.Struct):
        text: str
        score: float

    source = "{{ answer.score }} {{ answer.text }}"
    assert only(source, answer=Answer("yes", 0.5)) == "0.5 yes"
    assert only(source, answer={"text": "yes", "score": 1}) == "1 yes"
    assert only(source, answer=Json({"text": "yes", "score": 1})) == "1 yes"
    assert only("{{ answer }}", answer=Answer("whole", 0.5)) == "whole"
    assert only("{{ missing?}}x", missing=3) == "3x"


def test_braces_are_written_with_a_backslash() -> None:
    assert only(r'{"a": \{{"b": {{ n }}}}', n=1) == '{"a": {{"b": 1}}'


def test_prompt_is_a_raw_completion() -> None:
    template = parse("[prompt]\nQ: {{ q }}\nA:")
    assert template.is_prompt
    assert template.render({"q": "why"}) == [{"role": "prompt", "content": "Q: why\nA:"}]


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("", "empty"),
        ("\n \n", "empty"),
        ("hello\n[user]\nx", "before the first section"),
        ("[prompt]\nx\n[user]\ny", "beside other sections"),
        ("[user]\nx\n[assistant]\ny", "ends with [assistant]"),
        ("[sytem]\nx", "[sytem]"),
        ("one\n{{ 1x }}", "{{ 1x }}"),
        ("one\n{{ open", "{{"),
    ],
)
def test_misshapen_templates_are_refused(source: str, seen: str) -> None:
    error = refused(source)
    assert error.code == "E104"
    assert seen in error.message
    assert error.help
    assert error.where.startswith("answer.md")


def test_a_bracketed_word_that_is_no_section_is_text() -> None:
    assert only("[note]\nread this") == "[note]\nread this"


def test_missing_part_and_missing_value_name_the_line() -> None:
    error = refused("one\n{{ answer.txt }}", answer=Text("x"))
    assert (error.where, error.code) == ("answer.md:2", "E104")
    assert "`text`" in error.help
    assert refused("one\n{{ a }}", a=None).code == "E103"
    assert refused("{{ a? }}", a=None).code == "E103"


def test_check_reports_unknown_unused_and_reserved_names() -> None:
    template = parse("x\n{{ contxt }}", "answer.md")
    with pytest.raises(
        WorkflowError, match=r"answer.md:2: \{\{ contxt \}\} is not given; given: context"
    ) as bad:
        template.check(["context"])
    assert "did you mean `context`" in bad.value.help
    with pytest.raises(WorkflowError, match="`kind` is given but never used"):
        parse("{{ a }}").check(["a", "kind"])
    with pytest.raises(WorkflowError, match="is a setting"):
        parse("{{ seed }}").check(["seed"], reserved=["seed"])
    parse("{{ a }} {{ b? }}").check(["a"])
    parse("{{ a }} {{ b? }}").check(["a", "b"], maybe=["b"])
    with pytest.raises(WorkflowError, match="may be absent") as absent:
        parse("{{ a }}\n{{ b }}", "answer.md").check(["a", "b"], maybe=["b"])
    assert (absent.value.code, absent.value.where) == ("E103", "answer.md:2")
    assert "{{ b? }}" in absent.value.help


def test_load_takes_a_file_or_inline_text(tmp_path: Path) -> None:
    (tmp_path / "answer.md").write_text("Say {{ word }}", encoding="utf-8")
    assert load("answer.md", tmp_path).name == "answer.md"
    assert load("Say {{ word }}", tmp_path).fields == {"word": False}
    assert load("one\ntwo", tmp_path).fields == {}
    parsed = parse("x {{ a }}")
    assert load(parsed, tmp_path) is parsed
    with pytest.raises(WorkflowError, match=r"answr.md") as caught:
        load("answr.md", tmp_path)
    assert "`answer.md`" in caught.value.help
    (tmp_path / "bytes.md").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WorkflowError, match="UTF-8"):
        load("bytes.md", tmp_path)


def test_media_in_a_prompt_is_refused() -> None:
    picture = Image(b"\x89PNG\r\n\x1a\n")
    assert "Image is not text" in refused("{{ photo }}", photo=picture).message
    assert as_text([1, True, None, {"a": 1}]) == '1\n\nTrue\n\n{"a":1}'


@given(some.text())
def test_any_text_parses_or_is_refused_with_help(source: str) -> None:
    template: Template | WorkflowError
    try:
        template = parse(source)
    except WorkflowError as error:
        template = error
    if isinstance(template, WorkflowError):
        assert template.code in ("E104", "E108")
        assert template.help
    else:
        assert template == parse(source)


@given(some.text(), some.text())
def test_values_are_never_read_as_template_text(first: str, second: str) -> None:
    template = parse("[system]\nS\n[user]\nA {{ first }} B {{ second }} C")
    values = {"first": first + "\n[system]\n{{ second }}", "second": second}
    messages = template.render(values)
    assert [message["role"] for message in messages] == ["system", "user"]
    assert messages[1]["content"] == f"A {values['first']} B {second} C"


@given(some.lists(some.booleans(), min_size=1, max_size=6))
def test_exactly_the_present_optional_lines_remain(present: list[bool]) -> None:
    source = "head\n" + "\n".join(f"f{i}: {{{{ f{i}? }}}}" for i in range(len(present)))
    values = {f"f{i}": f"v{i}" for i, there in enumerate(present) if there}
    expected = ["head", *(f"f{i}: v{i}" for i, there in enumerate(present) if there)]
    assert only(source, **values).split("\n") == expected


# -- what stays the same first ------------------------------------------------------------------------------------


def test_paragraphs_without_a_field_go_before_those_with_one() -> None:
    asked = parse("{{ passages }}\n\nAnswer in one sentence.\nQuote.\n\nQ: {{ question }}\n\nNo greeting.")
    (message,) = asked.fixed_first().render({"passages": "P", "question": "why?"})
    assert message["content"] == "Answer in one sentence.\nQuote.\n\nNo greeting.\n\nP\n\nQ: why?"
    assert asked.head == 0
    assert asked.fixed_first().head > len("Answer in one sentence. Quote. No greeting.")


def test_a_message_keeps_its_place_and_its_lines() -> None:
    asked = parse("[system]\nFor {{ whom }}.\n\nBe brief.\n[user]\n{{ question }}")
    system, user = asked.fixed_first().render({"whom": "me", "question": "why?"})
    assert system == {"role": "system", "content": "Be brief.\n\nFor me."}
    assert user == {"role": "user", "content": "why?"}


def test_a_template_that_begins_with_what_stays_the_same_is_left_alone() -> None:
    asked = parse(DESK)
    assert asked.fixed_first() is asked
    assert asked.head > len("Answer from the passages.")


@settings(deadline=None, max_examples=50)
@given(
    some.lists(
        some.sampled_from(["Be brief.", "{{ a }}", "Q: {{ b }}", "", "Two\nlines", "{{ a }} and {{ b? }}"]),
        min_size=1,
        max_size=6,
    )
)
def test_nothing_is_lost_and_a_second_time_changes_nothing(paragraphs: list[str]) -> None:
    source = "\n\n".join(["Start {{ a }}.", *paragraphs])
    asked = parse(source)
    put = asked.fixed_first()
    assert sorted(map(str, put.uses)) == sorted(map(str, asked.uses))
    values = {"a": "A", "b": "B"}
    (before,), (after,) = asked.render(values), put.render(values)
    assert sorted(before["content"].split()) == sorted(after["content"].split())
    assert put.head >= asked.head
    assert put.fixed_first() is put
