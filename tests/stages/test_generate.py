"""generate: what the model is asked, what is streamed, booked and decoded."""
# SPDX-License-Identifier: Apache-2.0

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from kit.direct import DirectContext, direct
from tauten.describe.payload import Image, Text
from tauten.describe.ports import Stream
from tauten.describe.stages.generate import generate, schema_of
from tauten.describe.stages.ocr import ocr
from tauten.describe.workflow import workflow
from tauten.errors import InputError, StageError, WorkflowError
from tauten.run.contracts import Chunk

ASK = "[system]\nBe brief.\n[user]\n{{ context? }}\n{{ question }}"


class Verdict(msgspec.Struct):
    label: Literal["good", "bad"]
    score: int


def saying(*parts: str) -> Any:
    def fake(item: Any) -> Iterator[Chunk]:
        yield from (Chunk(text=part, tokens=1) for part in parts)
        yield Chunk(done=True, usage={"input_tokens": 9, "cached_tokens": 0, "output_tokens": len(parts)})

    return fake


def test_streams_increments_and_books_tokens() -> None:
    context = DirectContext(generate, fakes={"model": saying("It", " is", " so.")})
    out = direct(generate, ASK, question=Text("why?"), context=context)
    assert [each.text for each in out] == ["It", " is", " so."]
    assert context.spent == {"input_tokens": 9, "output_tokens": 3}


def test_a_plan_may_trim_lists_and_put_first_what_stays_the_same() -> None:
    context = DirectContext(generate, fakes={"model": saying("x")})
    ask = "{{ passages }}\n\nBe brief.\n\n{{ question }}"
    passages = [Text("one"), Text("two"), Text("three")]
    direct(generate, ask, passages=passages, question="why?", top=1, fixed_first=True, context=context)
    direct(generate, ask, passages=passages, question="why?", top=2, context=context)
    direct(generate, ask, passages=passages, question="why?", context=context)
    contents = [item["messages"][0]["content"] for item in context.items["model"]]
    assert contents == [
        "Be brief.\n\none\n\nwhy?",
        "one\n\ntwo\n\nBe brief.\n\nwhy?",
        "one\n\ntwo\n\nthree\n\nBe brief.\n\nwhy?",
    ]


def test_the_item_is_messages_and_documented_defaults() -> None:
    context = DirectContext(generate, fakes={"model": saying("x")})
    direct(generate, ASK, question="why?", stop="\n", context=context)
    assert context.items["model"] == [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "why?"},
            ],
            "max_tokens": 128,
            "temperature": 0.0,
            "top_p": 1.0,
            "stop": ["\n"],
            "seed": None,
            "ngram": None,
        }
    ]


def test_a_prompt_section_is_a_raw_completion() -> None:
    context = DirectContext(generate, fakes={"model": saying("x")})
    direct(generate, "[prompt]\nQ: {{ q }}\nA:", q="2+2", context=context)
    item = context.items["model"][0]
    assert item["prompt"] == "Q: 2+2\nA:"
    assert "messages" not in item


def test_into_yields_the_decoded_value_alone() -> None:
    context = DirectContext(generate, fakes={"model": saying('{"label": "good",', ' "score": 3}')})
    assert direct(generate, "{{ x }}", x="ok", into=Verdict, context=context) == [Verdict("good", 3)]
    schema = context.items["model"][0]["json_schema"]
    assert schema["properties"]["label"] == {"enum": ["bad", "good"]}
    assert "$ref" not in schema


def test_schema_of_plain_types_is_theirs() -> None:
    assert schema_of(int) == {"type": "integer"}


def test_an_answer_that_was_cut_is_an_error_with_its_end() -> None:
    context = DirectContext(generate, fakes={"model": saying('{"label": "go')})
    with pytest.raises(StageError, match="no Verdict") as caught:
        direct(generate, "{{ x }}", x="ok", into=Verdict, context=context)
    assert caught.value.code == "E410"
    assert "max_tokens" in caught.value.help


@pytest.mark.parametrize(
    "setting", [{"max_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}]
)
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(InputError) as caught:
        direct(
            generate,
            "{{ x }}",
            x="ok",
            context=DirectContext(generate, fakes={"model": saying("x")}),
            **setting,
        )
    assert caught.value.code == "E240"


@pytest.mark.parametrize(
    ("fields", "seen"),
    [
        ({"contxt": "a", "question": "q"}, "`contxt` is given but never used"),
        ({}, r"\{\{ question \}\} is not given"),
    ],
)
def test_the_template_is_checked_when_the_call_is_written(fields: dict[str, str], seen: str) -> None:
    with pytest.raises(WorkflowError, match=seen) as caught:
        direct(generate, ASK, context=DirectContext(generate), **fields)
    assert caught.value.code == "E104"


def test_a_template_that_only_a_request_knows_is_refused() -> None:
    with pytest.raises(WorkflowError, match="needs its template when it is written"):
        direct(generate, Text("hello"), context=DirectContext(generate))


def test_a_template_may_not_use_a_settings_name() -> None:
    with pytest.raises(WorkflowError, match="is a setting"):
        direct(generate, "{{ seed }}", seed=3, context=DirectContext(generate))


def test_a_file_beside_the_caller_is_read_once_when_written(tmp_path: Path) -> None:
    (tmp_path / "ask.md").write_text("Say {{ word }}")
    inputs, _ = generate.prepare({"template": "ask.md", "word": "hi"}, {}, tmp_path)  # type: ignore[misc]
    assert inputs["template"].name == "ask.md"


def test_a_drawn_call_may_leave_optional_fields_absent_and_no_others() -> None:
    def draws(template: str) -> object:
        def desk(question: Text, photo: Image | None = None) -> Stream[Text]:
            return generate(template, question=question, screen=ocr(photo))

        return workflow(desk)

    draws("{{ question }}\n{{ screen? }}")
    with pytest.raises(WorkflowError, match="may be absent") as caught:
        draws("{{ question }}\n{{ screen }}")
    assert caught.value.code == "E103"


def test_leaving_the_stream_closes_the_engines() -> None:
    closed = []

    class Endless(DirectContext):
        async def stream(self, role: str, item: Any) -> Any:
            try:
                while True:
                    yield Chunk(text="la ")
            finally:
                closed.append(role)

    async def leave() -> None:
        stream = generate.function(Endless(generate), "{{ x }}", x="sing")
        async for _ in stream:
            break
        await stream.aclose()

    asyncio.run(leave())
    assert closed == ["model"]


@pytest.mark.models
def test_the_real_model_streams_and_keeps_to_a_type() -> None:
    context = DirectContext(generate)
    out = direct(
        generate, "Judge this review: {{ x }}", x="Lovely!", into=Verdict, max_tokens=60, context=context
    )
    assert isinstance(out[0], Verdict)
    assert context.spent["input_tokens"] > 5
    assert 5 < context.spent["output_tokens"] <= 60
