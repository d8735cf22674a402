"""Providers that speak the Responses API: answers, ends, failures and books, whole and in events; beside chat."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote.kit_lines import Told, ToldReply
from remote.kit_provider import (
    StandIn,
    calls_tool,
    cuts,
    embeds,
    fails,
    garbage,
    raw,
    says,
    status,
    stops,
)
from tauten.clock import real
from tauten.describe.said import ToolCall
from tauten.errors import BackendError, InputError, TautenError
from tauten.run.backends.remote import RemoteBackend, question
from tauten.run.contracts import ModelSpec
from tauten.run.remote.embedding import in_batches
from tauten.run.remote.failure import Failure
from tauten.run.remote.providers import Provider
from tauten.run.remote.question import NOTHING, Delta, Said
from tauten.run.request import Request

TYPED = Provider(url="http://told", name="typed", speaks="responses")
WORDS = ("The ", "sea ", "is ", "deep")
ITEM: dict[str, Any] = {"messages": [{"role": "user", "content": "How is the sea?"}], "max_tokens": 8}
PROMPT = 8.0  # tokens of it: four for the message, four for 15 characters


def sent(item: Mapping[str, Any], provider: Provider = TYPED, said: Said = NOTHING) -> dict[str, Any]:
    asked = question(item).spoken_to(provider)
    assert asked.path == "/responses"
    found: dict[str, Any] = msgspec.json.decode(asked.content(provider, "m", said).body)
    return found


# -- what is sent --------------------------------------------------------------------------------------------


def test_a_conversation_in_items() -> None:
    item = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "why?"},
        ],
        "max_tokens": 5,
        "temperature": 0.5,
    }
    assert sent(item) == {
        "model": "m",
        "store": False,
        "stream": True,
        "max_output_tokens": 5,
        "temperature": 0.5,
        "input": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "hello"}]},
            {"role": "user", "content": "why?"},
        ],
    }


def test_forms_tools_and_log_probabilities_in_its_words() -> None:
    schema = {"type": "object", "properties": {}}
    body = sent({"prompt": "x", "json_schema": schema, "logprobs": True, "reasoning_effort": "low"})
    assert body["text"]["format"] == {
        "type": "json_schema",
        "name": "answer",
        "schema": schema,
        "strict": True,
    }
    assert body["include"] == ["message.output_text.logprobs"]
    assert body["reasoning"] == {"effort": "low"}
    function = {"name": "look", "parameters": {"type": "object"}}
    tools = [{"type": "function", "function": function}]
    body = sent({"prompt": "x", "tools": tools, "tool_choice": tools[0]})
    assert body["tools"] == [{"type": "function", **function}]
    assert body["tool_choice"] == {"type": "function", **function}
    called = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "tool", "content": "a boat", "tool_call_id": "call_1"},
    ]
    assert sent({"messages": turns, "tools": tools})["input"][1:] == [
        {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "a boat"},
    ]


def test_half_an_answer_is_given_on_as_what_the_assistant_said() -> None:
    body = sent({"prompt": "x", "max_tokens": 9}, said=Said("so far", 2))
    assert body["input"][-1] == {"role": "assistant", "content": [{"type": "output_text", "text": "so far"}]}
    assert body["max_output_tokens"] == 7


def test_what_the_protocol_has_no_word_for_is_not_dropped_in_silence() -> None:
    with pytest.raises(Failure, match="takes no seed"):
        sent({"prompt": "x", "seed": 3})
    told = msgspec.structs.replace(TYPED, without=["seed", "temperature"])
    assert "temperature" not in sent({"prompt": "x", "seed": 3, "temperature": 0.0}, told)


# -- what comes ----------------------------------------------------------------------------------------------


def read(item: Mapping[str, Any], *pieces: bytes, whole: bool = False) -> list[Delta]:
    async def run() -> list[Delta]:
        headers = {"content-type": "application/json"} if whole else {}
        asked = question(item).spoken_to(TYPED)
        deltas: AsyncGenerator[Delta, None] = asked.deltas(
            ToldReply([(0.0, each) for each in pieces], 200, headers)
        )
        return [each async for each in deltas]

    return asyncio.run(run())


def event(kind: str, **fields: Any) -> bytes:
    return b"data: " + msgspec.json.encode({"type": kind, **fields}) + b"\n\n"


def ended(state: str = "completed", text: str = "", **more: Any) -> bytes:
    part = {"type": "output_text", "text": text}
    output = [{"type": "message", "content": [part]}] if text else []
    usage = {"input_tokens": 9, "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 2}}
    return event(f"response.{state}", response={"status": state, "output": output, "usage": usage, **more})


UNITS = {"input_tokens": 9.0, "output_tokens": 4.0, "reasoning_tokens": 2.0}


def test_pieces_thoughts_and_the_count_at_the_end() -> None:
    deltas = read(
        {"prompt": "x"},
        event("response.created", response={"status": "in_progress"}),
        event("response.reasoning_text.delta", delta="hm"),
        event("response.output_text.delta", delta="so"),
        event("response.something.new", delta="?"),
        ended(text="so"),
    )
    assert [(each.text, each.tokens) for each in deltas] == [("", 1), ("so", 1), ("", 0)]
    assert (deltas[-1].finish, deltas[-1].units) == ("stop", UNITS)


def test_an_answer_in_one_piece_is_the_same_answer() -> None:
    document = msgspec.json.decode(ended(text="so it is")[6:])["response"]
    deltas = read({"prompt": "x"}, msgspec.json.encode(document), whole=True)
    assert "".join(each.text for each in deltas) == "so it is"
    assert (deltas[-1].finish, deltas[-1].units) == ("stop", UNITS)


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("max_output_tokens", "length"), ("content_filter", "content_filter"), (None, "incomplete")],
)
def test_an_answer_that_is_not_complete_says_why(reason: str | None, finish: str) -> None:
    details = None if reason is None else {"reason": reason}
    deltas = read(
        {"prompt": "x"},
        event("response.output_text.delta", delta="so"),
        ended("incomplete", "so", incomplete_details=details),
    )
    assert (deltas[-1].finish, deltas[-1].units) == (finish, UNITS)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("server_error", "fault"),
        ("rate_limit_exceeded", "limit"),
        ("insufficient_quota", "denied"),
        ("invalid_prompt", "wrong"),
        ("image_too_large", "wrong"),
    ],
)
def test_an_answer_that_failed_says_whose_fault_it_is_and_what_it_took(code: str, kind: str) -> None:
    with pytest.raises(Failure, match="it broke") as caught:
        read({"prompt": "x"}, ended("failed", error={"code": code, "message": "it broke"}))
    assert (caught.value.kind, caught.value.units) == (kind, UNITS)
    with pytest.raises(Failure, match="it broke") as caught:
        read({"prompt": "x"}, event("error", code=code, message="it broke"))
    assert (caught.value.kind, caught.value.units) == (kind, {})


@pytest.mark.parametrize(
    "pieces",
    [
        [event("response.output_text.delta", delta="so")],
        [event("response.output_text.delta", delta="so"), b"data: [DONE]\n\n"],
        [event("response.output_text.delta", delta="so"), ended(text="not so")],
        [event("response.output_text.delta", delta=3)],
        [event("response.completed")],
        [event("response.completed", response={"status": "in_progress"})],
        [
            event("response.output_text.delta", delta="so", sequence_number=4),
            event("response.output_text.delta", delta="so", sequence_number=4),
        ],
    ],
)
def test_a_stream_that_is_not_whole_is_a_failure(pieces: list[bytes]) -> None:
    with pytest.raises(Failure):
        read({"prompt": "x"}, *pieces)


def test_text_that_no_event_brought_comes_with_the_end() -> None:
    deltas = read({"prompt": "x"}, event("response.output_text.delta", delta="so "), ended(text="so it is"))
    assert [each.text for each in deltas] == ["so ", "it is", ""]


def test_stop_strings_cut_here_and_nobody_counted_what_it_took() -> None:
    item = {"prompt": "x", "stop": ["is"]}
    deltas = read(
        item,
        event("response.output_text.delta", delta="so it i"),
        event("response.output_text.delta", delta="s deep"),
        ended(text="so it is deep"),
    )
    assert "".join(each.text for each in deltas) == "so it "
    assert (deltas[-1].finish, deltas[-1].units) == ("stop", {})
    document = msgspec.json.decode(ended(text="so it is deep")[6:])["response"]
    whole = read(item, msgspec.json.encode(document), whole=True)
    assert "".join(each.text for each in whole) == "so it "
    assert (whole[-1].finish, whole[-1].units) == ("stop", UNITS)


def test_calls_of_tools_and_a_refusal_are_part_of_the_answer() -> None:
    item = {"type": "function_call", "call_id": "c", "name": "look", "arguments": '{"at": 1}'}
    deltas = read(
        {"prompt": "x"},
        event("response.function_call_arguments.delta", delta='{"at"'),
        event("response.output_item.done", output_index=0, item=item),
        ended(),
    )
    assert [each.value for each in deltas if each.value is not None] == [ToolCall("look", '{"at": 1}', "c")]
    assert deltas[-1].finish == "tool_calls"
    broken = {**item, "arguments": '{"at'}
    with pytest.raises(Failure, match="no JSON"):
        read({"prompt": "x"}, event("response.output_item.done", output_index=0, item=broken), ended())
    said = read({"prompt": "x"}, event("response.refusal.delta", delta="I will not"), ended())
    assert said[0].text == "I will not"


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_a_failure(data: bytes) -> None:
    for whole in (False, True):
        with contextlib.suppress(Failure):
            assert read({"prompt": "x"}, b"data: " + data + b"\n\n", data, whole=whole)[-1].finish


@given(
    st.dictionaries(
        st.sampled_from(["type", "response", "output", "item", "delta", "error", "output_index", "status"]),
        st.sampled_from(
            ["response.completed", "response.output_item.done", "error", "completed", 1, None, [], {}, [{}]]
        ),
    )
)
def test_any_event_is_read_or_a_failure(fields: dict[str, Any]) -> None:
    with contextlib.suppress(Failure):
        assert read({"prompt": "x"}, b"data: " + msgspec.json.encode(fields) + b"\n\n")[-1].finish


# -- over sockets --------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "providers.toml"
    monkeypatch.setenv("TAUTEN_PROVIDERS", str(path))
    return path


def asked(
    file: Path,
    *stands: StandIn,
    item: Mapping[str, Any] = ITEM,
    speaks: str = "responses",
    more: str = "",
    **options: Any,
) -> Told:
    """One call to providers in this order, and what was seen and booked of it."""

    async def scene() -> Told:
        async with contextlib.AsyncExitStack() as stack:
            tables = []
            for place, stand in enumerate(stands):
                await stack.enter_async_context(stand)
                tables.append(f'[p{place}]\nurl = "{stand.url}"\nspeaks = "{speaks}"\n{more}\n')
            file.write_text("\n".join(tables))
            names = [f"p{place}" for place in range(len(stands))]
            backend = RemoteBackend(ModelSpec("m", options={"provider": names, **options}))
            await backend.open()
            told = Told(Request(real))
            try:
                async for chunk in backend.start_for(told.request, "ask", item):
                    told.chunks.append(chunk)
            except TautenError as error:
                told.error = error
            finally:
                await backend.close()
            return told

    return asyncio.run(scene())


@pytest.mark.parametrize("speaks", ["chat", "responses"])
@pytest.mark.parametrize("more", ["", "streams = false"])
def test_each_way_to_ask_gives_the_same_answer_and_the_same_books(file: Path, speaks: str, more: str) -> None:
    stand = StandIn(says(*WORDS, cached=4, thought=6))
    told = asked(file, stand, speaks=speaks, more=more)
    assert (told.text, told.whole, told.chunks[-1].finish) == ("The sea is deep", True, "stop")
    [call] = told.request.trace.provider_calls
    assert (call.outcome, call.counted) == ("ok", "provider")
    assert dict(call.units) == {
        "input_tokens": PROMPT,
        "cached_tokens": 4.0,
        "output_tokens": 10.0,
        "reasoning_tokens": 6.0,
        "requests": 1.0,
    }
    assert stand.billed() == (PROMPT, 10.0)
    assert told.chunks[-1].usage["reasoning_tokens"] == 6.0
    assert stand.calls[0].typed == (speaks == "responses")
    assert stand.calls[0].streamed == (not more)


def test_an_answer_that_is_cut_at_its_bound_is_whole_and_says_length(file: Path) -> None:
    told = asked(file, StandIn(says(*WORDS)), item={**ITEM, "max_tokens": 2})
    assert (told.text, told.chunks[-1].finish) == ("The sea ", "length")


def test_before_the_first_word_failing_over_is_free(file: Path) -> None:
    told = asked(file, StandIn(status(500)), StandIn(says(*WORDS)))
    assert told.text == "The sea is deep"
    assert told.calls == [
        ("p0", "", "failed", 0.0, 0.0, "estimate"),
        ("p1", "fallback", "ok", PROMPT, 4.0, "provider"),
    ]


@pytest.mark.parametrize(
    "act",
    [cuts(*WORDS[:2]), cuts(*WORDS[:2], clean=True), garbage(*WORDS[:2])],
    ids=["cut", "clean", "garbage"],
)
def test_after_it_a_cut_answer_is_an_error_and_its_tokens_are_booked(file: Path, act: Any) -> None:
    stand = StandIn(act)
    told = asked(file, stand)
    assert isinstance(told.error, BackendError)
    assert (told.error.code, told.text, told.whole) == ("E461", "The sea ", False)
    assert told.calls == [("p0", "", "cut", PROMPT, 2.0, "estimate")]
    assert stand.billed() == (PROMPT, 2.0)


def test_an_answer_that_fails_half_way_is_booked_as_they_count_it(file: Path) -> None:
    told = asked(file, StandIn(fails(*WORDS[:3])))
    assert isinstance(told.error, BackendError)
    assert told.error.code == "E461"
    assert told.calls == [("p0", "", "cut", PROMPT, 3.0, "provider")]


def test_a_cut_answer_is_gone_on_with_where_the_plan_allows_it(file: Path) -> None:
    first, second = StandIn(cuts(*WORDS[:2])), StandIn(says(*WORDS[2:]))
    told = asked(file, first, second, **{"continue": True})
    assert (told.text, told.whole) == ("The sea is deep", True)
    assert second.calls[0].json["input"][-1]["content"][0]["text"] == "The sea "
    assert second.calls[0].json["max_output_tokens"] == 6
    assert [call[1] for call in told.calls] == ["", "continue"]


def test_a_chain_may_speak_both(file: Path) -> None:
    async def scene() -> str:
        async with StandIn(raw(b"")) as typed, StandIn(says(*WORDS)) as plain:
            file.write_text(f'[a]\nurl = "{typed.url}"\nspeaks = "responses"\n[b]\nurl = "{plain.url}"\n')
            backend = RemoteBackend(ModelSpec("m", options={"provider": ["a", "b"]}))
            await backend.open()
            try:
                chunks = [each async for each in backend.start(ITEM)]
            finally:
                await backend.close()
            assert (typed.calls[0].typed, plain.calls[0].typed) == (True, False)
            return "".join(each.text for each in chunks)

    assert asyncio.run(scene()) == "The sea is deep"


def test_who_leaves_closes_the_connection_and_is_booked(file: Path) -> None:
    async def scene() -> list[tuple[str, float]]:
        async with StandIn(stops(*WORDS[:2])) as stand:
            file.write_text(f'[p]\nurl = "{stand.url}"\nspeaks = "responses"\n')
            backend = RemoteBackend(ModelSpec("m", options={"provider": "p"}))
            await backend.open()
            request = Request(real)
            stream = backend.start_for(request, "ask", ITEM)
            seen = ""
            while seen != "The sea ":
                seen += (await anext(stream)).text
            await stream.aclose()
            async with asyncio.timeout(20):  # no figure is asserted: it must come to this at all
                await stand.calls[0].closed.wait()
            await backend.close()
            return [(each.outcome, each.units["output_tokens"]) for each in request.trace.provider_calls]

    assert asyncio.run(scene()) == [("cancelled", 2.0)]


@pytest.mark.parametrize("speaks", ["chat", "responses"])
def test_tools_go_there_and_their_calls_come_back(file: Path, speaks: str) -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    stand = StandIn(calls_tool("look", '{"at": ', '"sea"}'))
    told = asked(file, stand, item={**ITEM, "tools": tools, "tool_choice": "auto"}, speaks=speaks)
    values = [each.value for each in told.chunks if each.value is not None]
    assert values == [ToolCall("look", '{"at": "sea"}', "call_1")]
    assert told.chunks[-1].finish == "tool_calls"
    assert told.calls == [("p0", "", "ok", PROMPT, 2.0, "provider")]


def test_a_tool_that_is_none_is_not_sent(file: Path) -> None:
    stand = StandIn(says(*WORDS))
    told = asked(file, stand, item={**ITEM, "tools": [{"type": "web_search"}]})
    assert isinstance(told.error, InputError)
    assert (told.error.code, stand.calls) == ("E232", [])


# -- embeddings in batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("coded", [True, False])
def test_many_texts_are_several_calls_and_one_array(file: Path, coded: bool) -> None:
    texts = ["a", "bb", "ccc", "dddd", "eeeee"]
    more = "limits = { texts = 2 }" + ("" if coded else '\nwithout = ["encoding_format"]')
    stand = StandIn(embeds())
    told = asked(file, stand, item={"embed": texts}, speaks="chat", more=more)
    [rows] = [each.value for each in told.chunks if each.value is not None]
    assert rows.tolist() == [[1.0, 0.0], [2.0, 1.0], [3.0, 0.0], [4.0, 1.0], [5.0, 0.0]]
    assert [call.json["input"] for call in stand.calls] == [texts[:2], texts[2:4], texts[4:]]
    assert [call.json.get("encoding_format") for call in stand.calls] == ["base64" if coded else None] * 3
    booked = sum(each.units["input_tokens"] for each in told.request.trace.provider_calls)
    assert booked == sum(call.prompt_tokens for call in stand.calls) == told.chunks[-1].usage["input_tokens"]


@given(st.lists(st.text(max_size=30), min_size=1, max_size=20), st.integers(1, 5))
def test_batches_hold_all_texts_in_their_order(texts: list[str], most: int) -> None:
    parts = in_batches(texts, most)
    assert [text for part in parts for text in part] == texts
    assert all(1 <= len(part) <= most for part in parts)
