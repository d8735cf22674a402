"""The Responses API through the official client: answers in items, typed events, usage, ends, refusals."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pydantic
import pytest

import tauten as tt
from serve.kit_openai import Served, eventually, serving, talking
from serve.kit_workflows import shout
from tauten.describe.said import Said, TokenLogprob, ToolCall
from tauten.plan.plan import Plan, StagePlan
from tauten.run.backends.remote import RemoteBackend
from tauten.run.contracts import ModelSpec
from tauten.serve.service import Service


@tt.workflow
def shouting(text: str) -> str:
    return shout(text)


@tt.workflow
async def echoing(messages: list[dict[str, Any]], reasoning: dict[str, Any] | None = None) -> tt.Json:
    return tt.Json({"messages": messages, "reasoning": reasoning})


@tt.workflow
async def looking(question: tt.Text, photo: tt.Image | None = None) -> str:
    return f"{question}|{photo.size_bytes if photo else None}"


@tt.workflow
async def remembering(question: str, session: tt.Session) -> tt.Json:
    return tt.Json({"question": question, "history": session.history})


@tt.workflow
async def acting(
    messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None
) -> AsyncIterator[Any]:
    yield tt.Text("let me ")
    yield tt.Text("see")
    for tool in tools or []:
        yield ToolCall(tool["function"]["name"], '{"of": 1}')
    if tools:
        yield tt.Text("done")


@tt.workflow
async def probable(question: str, logprobs: bool | None = None) -> AsyncIterator[tt.Text]:
    yield Said("yes", (TokenLogprob(b"yes", -0.5),))


@tt.workflow
async def breaking(question: str) -> AsyncIterator[str]:
    yield "so far"
    raise openai.OpenAIError("a secret place")


@tt.stage(pure=True)
async def thinking(ctx: tt.Context, text: str) -> str:
    booked = {"input_tokens": 10.0, "cached_tokens": 4.0, "output_tokens": 7.0, "reasoning_tokens": 5.0}
    for unit, amount in booked.items():
        ctx.spend(unit, amount)
    return text


@tt.workflow
def pricing(text: str) -> str:
    return thinking(text)


ALL = (shouting, echoing, looking, remembering, acting, probable, breaking, pricing)
FUNCTION: Any = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": True}


@pytest.fixture(scope="module")
def parrot() -> Service:
    return talking(ms_per_token=1)


@pytest.fixture(scope="module")
def served(parrot: Service) -> Iterator[Served]:
    with serving(parrot, *(Service(each) for each in ALL), apis=("openai", "responses")) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with served.client() as client:
        yield client


def refused(client: openai.OpenAI, **asked: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        client.responses.create(**{"model": "parrot", "input": "x", **asked})
    return caught.value


# -- whole ---------------------------------------------------------------------------------------------------


def test_an_answer_has_the_form_and_the_counts_that_clients_expect(client: openai.OpenAI) -> None:
    raw = client.responses.with_raw_response.create(
        model="parrot", input="one two three", temperature=0.0, max_output_tokens=9, metadata={"a": "b"}
    )
    answer = raw.parse()
    assert (answer.object, answer.status, answer.model) == ("response", "completed", "parrot")
    assert answer.output_text == "one two three"
    [item] = answer.output
    assert (item.type, item.role, item.status) == ("message", "assistant", "completed")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (3, 3, 6)
    assert answer.usage.input_tokens_details.cached_tokens == 0
    assert answer.usage.output_tokens_details.reasoning_tokens == 0
    assert (answer.error, answer.incomplete_details, answer.store) == (None, None, False)
    assert (answer.max_output_tokens, answer.metadata, answer.tool_choice) == (9, {"a": "b"}, "auto")
    assert answer.id == f"resp_{raw.headers['x-request-id']}"


def test_the_body_is_what_the_official_types_accept(client: openai.OpenAI) -> None:
    from openai.types.responses import Response

    raw = client.responses.with_raw_response.create(model="parrot", input="a b")
    strict = pydantic.TypeAdapter(Response).validate_json(raw.content)
    assert strict.output_text == "a b"


def test_cached_and_reasoning_tokens_are_counted(client: openai.OpenAI) -> None:
    usage = client.responses.create(model="pricing", input="x").usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (10, 7, 17)
    assert usage.input_tokens_details.cached_tokens == 4
    assert usage.output_tokens_details.reasoning_tokens == 5


def test_an_answer_cut_at_its_limit_is_incomplete_and_says_why(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="parrot", input="a b c d", max_output_tokens=2)
    assert (answer.output_text, answer.status) == ("a b", "incomplete")
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output[0].status == "incomplete"


def test_a_workflow_that_knows_nothing_of_this_api_answers(client: openai.OpenAI) -> None:
    raw = client.responses.with_raw_response.create(model="shouting", input="halt", temperature=0.3)
    assert raw.parse().output_text == "HALT"
    assert "temperature" in raw.headers["x-tauten-ignored"]


def test_items_are_a_conversation(client: openai.OpenAI) -> None:
    given: Any = [
        {"role": "user", "content": "hi"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hello"}]},
        {"type": "reasoning", "id": "r", "summary": []},
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "a boat"},
        {"role": "user", "content": [{"type": "input_text", "text": "why?"}]},
    ]
    answer = client.responses.create(
        model="echoing", input=given, instructions="Be brief.", reasoning={"effort": "low"}
    )
    said = json.loads(answer.output_text)
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    assert said["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "text", "text": "hello"}], "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "a boat"},
        {"role": "user", "content": [{"type": "text", "text": "why?"}]},
    ]
    assert said["reasoning"] == {"effort": "low"}


def test_pictures_and_history_have_their_places(client: openai.OpenAI) -> None:
    image = tt.Image.from_array(np.zeros((4, 4, 3), np.uint8))
    url = f"data:image/png;base64,{base64.b64encode(image.data).decode()}"
    part: Any = {"type": "input_image", "image_url": url, "detail": "auto"}
    given: Any = [{"role": "user", "content": [{"type": "input_text", "text": "what"}, part]}]
    assert client.responses.create(model="looking", input=given).output_text == f"what|{image.size_bytes}"
    turns: Any = [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
    said = json.loads(client.responses.create(model="remembering", input=turns).output_text)
    assert (said["question"], said["history"]) == ("two", [{"role": "user", "content": "one"}])


# -- events --------------------------------------------------------------------------------------------------


def test_a_stream_tells_of_the_answer_in_order(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="parrot", input="one two", stream=True))
    assert [each.type for each in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [each.sequence_number for each in events] == list(range(len(events)))
    last: Any = events[-1]
    assert last.response.output_text == "one two"
    assert (last.response.usage.input_tokens, last.response.usage.output_tokens) == (2, 2)
    first: Any = events[0]
    assert (first.response.status, first.response.usage, first.response.output) == ("in_progress", None, [])
    assert first.response.id == last.response.id


def test_each_event_has_its_name_and_is_what_the_official_types_accept(client: openai.OpenAI) -> None:
    from openai.types.responses import ResponseStreamEvent

    adapter: Any = pydantic.TypeAdapter(ResponseStreamEvent)
    with client.responses.with_streaming_response.create(
        model="acting", input="x", tools=[FUNCTION], stream=True
    ) as reply:
        lines = list(reply.iter_lines())
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    bodies = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    read = [adapter.validate_json(each) for each in bodies]
    assert [each.type for each in read] == names
    assert "[DONE]" not in bodies


def test_the_clients_own_accumulator_gives_the_answer_of_the_last_event(client: openai.OpenAI) -> None:
    with client.responses.stream(model="acting", input="x", tools=[FUNCTION]) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    assert [each.type for each in final.output] == ["message", "function_call", "message"]
    message, call, rest = final.output
    assert (message.content[0].text, rest.content[0].text) == ("let me see", "done")
    assert (call.name, call.arguments, call.status) == ("look", '{"of": 1}', "completed")
    whole = client.responses.create(model="acting", input="x", tools=[FUNCTION])
    assert [each.type for each in whole.output] == ["message", "function_call", "message"]


def test_a_stream_that_is_cut_at_its_limit_ends_incomplete(client: openai.OpenAI) -> None:
    *_, item, last = client.responses.create(model="parrot", input="a b c", stream=True, max_output_tokens=2)
    told: Any = last
    assert (told.type, told.response.status) == ("response.incomplete", "incomplete")
    assert told.response.incomplete_details.reason == "max_output_tokens"
    ended: Any = item
    assert (ended.type, ended.item.status) == ("response.output_item.done", "incomplete")


def test_a_stream_that_breaks_ends_with_its_failure_and_is_no_success(client: openai.OpenAI) -> None:
    events: list[Any] = list(client.responses.create(model="breaking", input="x", stream=True))
    last = events[-1]
    assert (last.type, last.response.status) == ("response.failed", "failed")
    assert last.response.error.code == "server_error"
    assert "a secret place" not in last.response.error.message
    assert last.response.output_text == "so far"
    assert [each.sequence_number for each in events] == list(range(len(events)))
    with client.responses.stream(model="breaking", input="x") as stream:
        for _ in stream:
            pass
        with pytest.raises(RuntimeError, match="completed"):
            stream.get_final_response()


def test_log_probabilities_are_asked_for_by_include(client: openai.OpenAI) -> None:
    include: Any = ["message.output_text.logprobs"]
    answer: Any = client.responses.create(model="probable", input="x", include=include)
    [token] = answer.output[0].content[0].logprobs
    assert (token.token, token.logprob, token.bytes) == ("yes", -0.5, [121, 101, 115])
    events: list[Any] = list(
        client.responses.create(model="probable", input="x", include=include, stream=True)
    )
    [delta] = [each for each in events if each.type == "response.output_text.delta"]
    assert [(each.token, each.logprob) for each in delta.logprobs] == [("yes", -0.5)]
    assert refused(client, include=include).param == "include"


def test_a_reader_who_leaves_stops_the_work(served: Served, parrot: Service) -> None:
    async def main() -> None:
        async with served.async_client() as client:
            stream = await client.responses.create(
                model="parrot", input=" ".join(["word"] * 5000), stream=True
            )
            async for event in stream:
                if event.type == "response.output_text.delta":
                    break
            await stream.close()

    asyncio.run(main())
    [backend] = served.slots(parrot)
    assert eventually(lambda: backend.active == 0)


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [FUNCTION]}, "tools"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input"),
        ({"input": [{"role": "user", "content": []}]}, "input"),
        ({"input": [{"type": "reasoning", "id": "r", "summary": []}]}, "input"),
        ({"input": []}, "input"),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {}}}}, "text.format"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_field(
    client: openai.OpenAI, asked: dict[str, Any], param: str
) -> None:
    error = refused(client, **asked)
    assert error.status_code == 400
    assert (error.param or "").startswith(param), error.message


def test_a_model_that_is_not_here(client: openai.OpenAI) -> None:
    error = refused(client, model="nobody")
    assert (error.status_code, error.code) == (404, "model_not_found")


def test_a_schema_reaches_a_model_that_takes_one(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    text: Any = {"format": {"type": "json_schema", "name": "a", "schema": schema, "strict": True}}
    answer = client.responses.create(model="parrot", input="x", text=text)
    assert answer.text is not None
    assert answer.text.format.type == "json_schema"


# -- our own server as a provider of this kind -----------------------------------------------------------------


def test_our_own_server_is_such_a_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: Served
) -> None:
    path = tmp_path / "providers.toml"
    path.write_text(f'[ours]\nurl = "{served.url}"\nspeaks = "responses"\n')
    monkeypatch.setenv("TAUTEN_PROVIDERS", str(path))

    async def scene(model: str, item: dict[str, Any]) -> list[Any]:
        backend = RemoteBackend(ModelSpec(model, options={"provider": "ours"}))
        await backend.open()
        try:
            return [chunk async for chunk in backend.start(item)]
        finally:
            await backend.close()

    chunks = asyncio.run(scene("parrot", {"prompt": "the sea is deep", "max_tokens": 3}))
    assert "".join(each.text for each in chunks) == "the sea is"
    assert (chunks[-1].finish, chunks[-1].usage["output_tokens"]) == ("length", 3.0)
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    chunks = asyncio.run(scene("acting", {"prompt": "x", "tools": tools}))
    [call] = [each.value for each in chunks if each.value is not None]
    assert (call.name, call.arguments) == ("look", '{"of": 1}')
    assert "".join(each.text for each in chunks) == "let me seedone"


def test_a_remote_stage_behind_this_api_counts_what_its_provider_thought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from remote.kit_provider import StandIn, says

    @tt.workflow
    def ask(question: tt.Text) -> tt.Stream[tt.Text]:
        return tt.generate("{{ question }}", question=question)

    async def scene() -> Any:
        async with StandIn(says("the ", "sea", cached=2, thought=6)) as stand:
            file = tmp_path / "providers.toml"
            file.write_text(f'[p]\nurl = "{stand.url}"\nspeaks = "responses"\n')
            monkeypatch.setenv("TAUTEN_PROVIDERS", str(file))
            assert ask.graph is not None
            stage = StagePlan(model="m", backend="remote", settings={"provider": "p"})
            plan = Plan(graph=ask.graph.hash, stages={"generate": stage})
            loop = asyncio.get_running_loop()

            def call() -> Any:
                with serving(Service(ask, plan), apis=("responses",)) as running, running.client() as client:
                    return client.responses.create(model="ask", input="hi")

            return await loop.run_in_executor(None, call)

    answer = asyncio.run(scene())
    assert answer.output_text == "the sea"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (5, 8)
    assert answer.usage.input_tokens_details.cached_tokens == 2
    assert answer.usage.output_tokens_details.reasoning_tokens == 6
