"""Chat completions through the official client: answers, streams, settings, ends, refusals."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import numpy as np
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tauten as tt
from serve.kit_openai import Served, eventually, serving, synthetic, talking
from serve.kit_workflows import shout
from tauten.describe.said import Said, TokenLogprob, ToolCall
from tauten.plan.plan import Plan, StagePlan
from tauten.serve.door import Door
from tauten.serve.service import Service


def user(text: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


class Verdict(msgspec.Struct):
    good: bool


class Spot(msgspec.Struct):
    x: int

    def __str__(self) -> str:
        return f"at {self.x}"


@tt.workflow
def shouting(text: str) -> str:
    return shout(text)


@tt.workflow
async def looking(
    question: tt.Text, photo: tt.Image | None = None, pages: list[tt.Image] | None = None
) -> str:
    sizes = [each.size_bytes for each in pages or []]
    return f"{question}|{photo.size_bytes if photo else None}|{sizes}"


@tt.workflow
async def listening(question: tt.Audio | tt.Text) -> str:
    return question.text if isinstance(question, tt.Text) else f"{question.size_bytes} bytes of sound"


@tt.workflow
async def remembering(question: str, session: tt.Session) -> tt.Json:
    return tt.Json({"question": question, "history": session.history})


@tt.workflow
async def acting(
    messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None, tool_choice: str | None = None
) -> AsyncIterator[Any]:
    yield tt.Text("let me see")
    for tool in tools or []:
        yield ToolCall(tool["function"]["name"], f'{{"of": "{tool_choice}"}}')


@tt.workflow
async def probable(question: str, logprobs: bool | None = None) -> AsyncIterator[tt.Text]:
    yield Said("caf\u00e9", (TokenLogprob(b"caf", -0.5), TokenLogprob("\u00e9".encode()[:1], -1.0)))


@tt.workflow
async def mixed(question: str) -> AsyncIterator[Any]:
    for value in ("a", 1, True, None, Spot(3), Verdict(True), {"k": [1]}, tt.Json([2])):
        yield value


@tt.workflow
async def named(question: tt.Text, tongue: str, top_p: float | None = None) -> str:
    return f"{question} {tongue} {top_p}"


@tt.stage(pure=True)
async def priced(ctx: tt.Context, text: str) -> str:
    for unit, amount in (("input_tokens", 10.0), ("cached_tokens", 4.0), ("output_tokens", 3.0)):
        ctx.spend(unit, amount)
    return text


@tt.workflow
def pricing(text: str) -> str:
    return priced(priced(text, name="again"))


counted = 0


@tt.stage(pure=True)
async def slowly(text: str) -> str:
    global counted
    counted += 1
    await asyncio.sleep(0.2)
    return text


@tt.workflow
def slow(text: str) -> str:
    return slowly(text)


@tt.workflow
async def comparing(question: tt.Audio | tt.Text, noise: tt.Audio | None = None) -> str:
    return f"{question} {noise.size_bytes if noise else None}"


@tt.workflow
async def changing(question: str) -> AsyncIterator[Any]:
    yield "words, then"
    yield tt.Image.from_array(np.zeros((4, 4, 3), np.uint8))


@tt.workflow
async def breaking(question: str) -> AsyncIterator[str]:
    yield "so far"
    raise openai.OpenAIError("a secret place")


@tt.workflow
async def pictured(question: str) -> tt.Image:
    return tt.Image.from_array(np.zeros((4, 4, 3), np.uint8))


@tt.workflow
async def measuring(photo: tt.Image) -> str:
    return f"{photo.size_bytes} bytes of picture"


@tt.workflow
async def counting(n: int) -> str:
    return "one " * n


ALL = (
    shouting,
    measuring,
    counting,
    looking,
    listening,
    remembering,
    acting,
    probable,
    mixed,
    named,
    breaking,
    pictured,
    pricing,
    slow,
    comparing,
    changing,
)


@pytest.fixture(scope="module")
def parrot() -> Service:
    return talking(ms_per_token=1)


@pytest.fixture(scope="module")
def served(parrot: Service) -> Iterator[Served]:
    with serving(parrot, *(Service(each) for each in ALL)) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with served.client() as client:
        yield client


def said(client: openai.OpenAI, model: str, content: Any, **more: Any) -> str:
    answer = client.chat.completions.create(model=model, messages=user(content), **more)
    return answer.choices[0].message.content or ""


def refused(client: openai.OpenAI, model: str, content: Any = "x", **more: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=model, messages=user(content), **more)
    return caught.value


# -- answers ------------------------------------------------------------------------------------------------


def test_an_answer_has_the_form_and_the_counts_that_clients_expect(
    client: openai.OpenAI, parrot: Service
) -> None:
    raw = client.chat.completions.with_raw_response.create(model="parrot", messages=user("one two three"))
    answer = raw.parse()
    [choice] = answer.choices
    assert (answer.object, answer.model, answer.system_fingerprint) == (
        "chat.completion",
        "parrot",
        parrot.plan_id,
    )
    assert (choice.message.role, choice.message.content) == ("assistant", "one two three")
    assert (choice.finish_reason, choice.logprobs, choice.index) == ("stop", None, 0)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == answer.usage.completion_tokens == 3
    assert answer.usage.total_tokens == 6
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.id == f"chatcmpl-{raw.headers['x-request-id']}"
    assert abs(answer.created - raw.http_response.elapsed.total_seconds()) > 1.7e9  # seconds since 1970


def test_usage_is_what_all_stages_spent(client: openai.OpenAI) -> None:
    usage = client.chat.completions.create(model="pricing", messages=user("x")).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (20, 6, 26)
    assert usage.prompt_tokens_details.cached_tokens == 8


def test_a_stream_is_one_answer_in_deltas_then_usage_then_done(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="parrot", messages=user("one two three"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert stream.response.headers["content-type"] == "text/event-stream"
    first, *middle, end, usage = chunks
    assert len({each.id for each in chunks}) == 1
    assert {each.object for each in chunks} == {"chat.completion.chunk"}
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert [each.choices[0].delta.content for each in middle] == ["one", " two", " three"]
    assert all(each.choices[0].delta.role is None for each in middle)
    assert all(each.choices[0].finish_reason is None for each in (first, *middle))
    assert (end.choices[0].finish_reason, end.choices[0].delta.content) == ("stop", None)
    assert usage.choices == []
    assert usage.usage is not None
    assert (usage.usage.prompt_tokens, usage.usage.completion_tokens) == (3, 3)
    assert all(each.usage is None for each in (first, *middle, end))


def test_each_chunk_before_the_usage_says_that_it_is_not_the_last(client: openai.OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(
        model="parrot", messages=user("a b"), stream=True, stream_options={"include_usage": True}
    ) as response:
        chunks = [line for line in response.iter_lines() if line.startswith("data: {")]
    assert ['"usage":null' in each for each in chunks] == [True] * (len(chunks) - 1) + [False]


def test_identical_requests_share_one_computation_unless_each_is_owed_a_draw(served: Served) -> None:
    async def both(**more: Any) -> int:
        global counted
        counted = 0
        async with served.async_client() as client:
            asked = [client.chat.completions.create(model="slow", messages=user("x"), **more) for _ in "ab"]  # type: ignore[call-overload]
            assert [each.choices[0].message.content for each in await asyncio.gather(*asked)] == ["x", "x"]
        return counted

    assert asyncio.run(both()) == 1
    assert asyncio.run(both(temperature=0.5)) == 2
    assert asyncio.run(both(temperature=0.5, seed=1)) == 1
    assert asyncio.run(both(stop="y")) == 2


def test_a_stream_without_the_option_has_no_usage_and_ends_with_done(client: openai.OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(
        model="parrot", messages=user("a b"), stream=True
    ) as response:
        text = "".join(response.iter_text())
    assert text.endswith("data: [DONE]\n\n")
    assert "usage" not in text


def test_the_asynchronous_client_streams_beside_itself(served: Served) -> None:
    async def one(client: openai.AsyncOpenAI, text: str) -> str:
        stream = await client.chat.completions.create(model="parrot", messages=user(text), stream=True)
        return "".join([each.choices[0].delta.content or "" async for each in stream])

    async def main() -> list[str]:
        async with served.async_client() as client:
            return await asyncio.gather(*(one(client, f"say {n} words") for n in range(5)))

    assert asyncio.run(main()) == [f"say {n} words" for n in range(5)]


# -- ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_an_answer_cut_at_its_limit_says_length(client: openai.OpenAI, field: str) -> None:
    answer = client.chat.completions.create(model="parrot", messages=user("a b c d"), **{field: 2})  # type: ignore[call-overload]
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("a b", "length")
    assert answer.usage.completion_tokens == 2
    stream = client.chat.completions.create(
        model="parrot", messages=user("a b c d"), stream=True, **{field: 2}
    )  # type: ignore[call-overload]
    assert [each.choices[0].finish_reason for each in stream][-1] == "length"


def test_a_word_that_a_step_before_asked_for_cuts_no_answer() -> None:
    @tt.workflow
    def sorting(question: str) -> tt.Stream[tt.Text]:
        queue = tt.generate("{{ asked }}", asked=question, max_tokens=1, name="queue")
        return tt.generate(
            "{{ queue }} {{ asked }}", queue=queue, asked=question, max_tokens=3, name="answer"
        )

    assert sorting.graph is not None
    told = StagePlan(model="told", backend="synthetic_slots", settings={"slots": 2})
    service = Service(sorting, Plan(graph=sorting.graph.hash, stages={"queue": told, "answer": told}))
    with serving(service, apis=("openai", "responses")) as served, served.client() as client:

        def ended(text: str) -> tuple[str | None, str, str | None]:
            answer = client.chat.completions.create(model="sorting", messages=user(text)).choices[0]
            response = client.responses.create(model="sorting", input=text)
            assert response.output_text == answer.message.content
            return answer.message.content, answer.finish_reason, response.status

        assert ended("a b") == ("a a b", "stop", "completed")
        assert ended("a b c") == ("a a b", "length", "incomplete")


def test_stop_strings_end_an_answer_and_are_no_part_of_it(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="parrot", messages=user("one two three"), stop=["wo th"])
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("one t", "stop")
    assert said(client, "parrot", "one two", stop="one") == ""
    assert (
        said(client, "shouting", "halt here", stop="HE") == "HALT "
    )  # a workflow that knows nothing of stops
    assert said(client, "parrot", "no end", stop="ending") == "no end"


@settings(max_examples=25, deadline=None)
@given(
    words=st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=6),
    stop=st.text("ab ", min_size=1, max_size=4),
)
def test_a_stream_stops_at_the_same_place_wherever_its_chunks_end(
    client: openai.OpenAI, words: list[str], stop: str
) -> None:
    text = " ".join(words)
    stream = client.chat.completions.create(model="parrot", messages=user(text), stop=[stop], stream=True)
    assert "".join(each.choices[0].delta.content or "" for each in stream) == text.partition(stop)[0]


# -- how a workflow is spoken to ----------------------------------------------------------------------------


def test_a_workflow_hears_the_last_user_message(client: openai.OpenAI) -> None:
    messages = [*user("first"), {"role": "assistant", "content": "yes"}, *user("last")]
    answer = client.chat.completions.create(model="shouting", messages=messages)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == "LAST"
    assert (
        said(client, "shouting", [{"type": "text", "text": "two"}, {"type": "text", "text": "parts"}])
        == "TWO\nPARTS"
    )


def test_a_session_holds_what_was_said_before(client: openai.OpenAI) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        *user("a"),
        {"role": "assistant", "content": "b"},
        *user("c"),
    ]
    answer = client.chat.completions.create(model="remembering", messages=messages)  # type: ignore[arg-type]
    assert msgspec.json.decode(answer.choices[0].message.content or "") == {
        "question": "c",
        "history": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
        ],
    }


def test_a_session_that_a_header_names_is_the_callers_own(client: openai.OpenAI, served: Served) -> None:
    session = served.app.site.door.sessions.open("")
    session.say("user", "long ago")
    mine = {"x-tauten-session": session.id}
    raw = client.chat.completions.with_raw_response.create(
        model="remembering", messages=user("now"), extra_headers=mine
    )
    assert raw.headers["x-tauten-session"] == session.id
    assert "long ago" in (raw.parse().choices[0].message.content or "")
    retold = [{"role": "assistant", "content": "another tale"}, *user("go on")]
    client.chat.completions.create(model="remembering", messages=retold, extra_headers=mine)  # type: ignore[arg-type]
    assert session.history == [{"role": "assistant", "content": "another tale"}]
    assert refused(client, "remembering", extra_headers={"x-tauten-session": "stolen"}).status_code == 404


def picture(side: int) -> tuple[str, int]:
    noise = np.random.default_rng(side).integers(0, 255, (side, side, 3), np.uint8)  # does not compress
    image = tt.Image.from_array(noise)
    return f"data:image/png;base64,{base64.b64encode(image.data).decode()}", image.size_bytes


def test_pictures_go_to_image_inputs_in_order_and_the_rest_to_a_list(client: openai.OpenAI) -> None:
    small, one = picture(8)
    large, other = picture(600)
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in (small, large, small)]
    assert (
        said(client, "looking", [{"type": "text", "text": "what"}, *parts]) == f"what|{one}|[{other}, {one}]"
    )
    assert said(client, "looking", "nothing") == "nothing|None|[]"
    assert said(client, "measuring", parts[:1]) == f"{one} bytes of picture", "no words are needed"
    assert refused(client, "measuring", "words").param == "messages"


def test_sound_goes_to_an_audio_input(client: openai.OpenAI) -> None:
    sound = tt.Audio.from_array(np.zeros(100, np.float32), 16000)
    part = {
        "type": "input_audio",
        "input_audio": {"data": base64.b64encode(sound.data).decode(), "format": "wav"},
    }
    assert said(client, "listening", [part]) == f"{sound.size_bytes} bytes of sound"
    assert said(client, "listening", "words") == "words"
    both = refused(client, "listening", [part, {"type": "text", "text": "and words"}])
    assert (both.status_code, both.param) == (400, "messages")


def test_sound_and_words_together_find_the_inputs_that_take_each(client: openai.OpenAI) -> None:
    sound = tt.Audio.from_array(np.zeros(100, np.float32), 16000)
    data = base64.b64encode(sound.data).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    text = {"type": "text", "text": "like this?"}
    assert said(client, "comparing", [part, text]) == f"like this? {sound.size_bytes}"


def test_fields_fill_the_inputs_of_their_name_and_the_others_are_reported(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="named",
        messages=user("hi"),
        top_p=0.5,
        temperature=0.3,
        seed=4,
        user="u",
        extra_body={"tongue": "de"},
    )
    assert raw.parse().choices[0].message.content == "hi de 0.5"
    assert raw.headers["x-tauten-ignored"] == "seed, temperature"
    wrong = refused(client, "named", extra_body={"tongue": 3})
    assert (wrong.status_code, wrong.param) == (400, "tongue")
    absent = refused(client, "named")
    assert "tongue" in absent.message


def test_a_field_never_fills_an_input_of_media(client: openai.OpenAI, tmp_path: Any) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(tt.Image.from_array(np.zeros((4, 4, 3), np.uint8)).data)
    raw = client.chat.completions.with_raw_response.create(
        model="looking", messages=user("x"), extra_body={"photo": str(path), "pages": [str(path)]}
    )
    assert raw.parse().choices[0].message.content == "x|None|[]"
    assert raw.headers["x-tauten-ignored"] == "pages, photo"


def test_values_of_any_kind_become_text(client: openai.OpenAI) -> None:
    assert said(client, "mixed", "x") == 'a1trueat 3{"good":true}{"k":[1]}[2]'


def test_tools_are_passed_to_a_workflow_that_takes_them(client: openai.OpenAI) -> None:
    tools = [
        {"type": "function", "function": {"name": name, "parameters": {}}} for name in ("weather", "time")
    ]
    answer = client.chat.completions.create(
        model="acting", messages=user("x"), tools=tools, tool_choice="auto"
    )  # type: ignore[arg-type]
    [choice] = answer.choices
    calls: Any = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls"
    assert [(each.function.name, each.function.arguments) for each in calls] == [
        ("weather", '{"of": "auto"}'),
        ("time", '{"of": "auto"}'),
    ]
    assert said(client, "parrot", "no tools", tools=tools, tool_choice="none") == "no tools"
    stream: Any = client.chat.completions.create(model="acting", messages=user("x"), tools=tools, stream=True)  # type: ignore[call-overload]
    chunks = [each.choices[0] for each in stream]
    deltas = [each.delta.tool_calls[0] for each in chunks if each.delta.tool_calls]
    assert [(each.index, each.function.name) for each in deltas] == [(0, "weather"), (1, "time")]
    assert len({each.id for each in deltas}) == 2
    assert chunks[-1].finish_reason == "tool_calls"


def test_log_probabilities_come_with_the_bytes_of_each_token(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="probable", messages=user("x"), logprobs=True)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [(each.bytes, each.logprob) for each in logprobs.content] == [([99, 97, 102], -0.5), ([195], -1.0)]
    assert said(client, "probable", "x") == "caf\u00e9"


# -- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"n": 2}, "n", "unsupported_value"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"stop": [""]}, "stop[0]", "invalid_value"),
        ({"extra_body": {"stream_options": {"include_usage": True}}}, "stream_options", "unsupported_value"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format",
            "unsupported_value",
        ),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "invalid_value"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_field(
    client: openai.OpenAI, more: dict[str, Any], param: str, code: str
) -> None:
    error = refused(client, "parrot", **more)
    assert isinstance(error, openai.BadRequestError)
    assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")


def test_a_constraint_that_no_input_takes_is_refused(client: openai.OpenAI) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "v", "schema": {"type": "object"}}}
    assert refused(client, "shouting", response_format=wanted).param == "response_format"
    assert said(client, "parrot", "plain", response_format=wanted) == "plain"
    assert said(client, "shouting", "plain", response_format={"type": "text"}) == "PLAIN"


def test_unknown_models_and_unfit_models_are_refused(client: openai.OpenAI) -> None:
    error = refused(client, "parot")
    assert (error.status_code, error.code, error.param) == (404, "model_not_found", "model")
    assert "parrot" in error.message
    unfit = refused(client, "pictured")
    assert (unfit.status_code, unfit.code) == (400, "unsupported_model")
    deaf = refused(client, "counting")
    assert (deaf.status_code, deaf.code) == (400, "unsupported_model")
    assert "takes n: int, which is no conversation" in deaf.message


def test_media_that_cannot_be_read_or_fetched_are_refused(client: openai.OpenAI) -> None:
    cases = {
        "http://127.0.0.1/a.png": "media_fetch_disabled",
        "file:///etc/passwd": "media_fetch_disabled",
        "data:image/png;base64,!!!": "invalid_value",
        picture(4)[0].replace("base64,", "base64,!"): "invalid_value",
        "data:image/png;base64,aGVsbG8=": "invalid_value",
        "data:image/png;base64": "invalid_value",
    }
    for url, code in cases.items():
        error = refused(client, "looking", [{"type": "image_url", "image_url": {"url": url}}])
        assert (error.status_code, error.code, error.param) == (400, code, "messages"), url
    strange = refused(client, "looking", [{"type": "file", "file": {"file_id": "x"}}])
    assert "file" in strange.message
    assert (
        refused(client, "shouting", [{"type": "image_url", "image_url": {"url": picture(4)[0]}}]).param
        == "messages"
    )


def test_text_that_names_a_file_is_only_text(client: openai.OpenAI, tmp_path: Any) -> None:
    path = tmp_path / "secret.wav"
    path.write_bytes(tt.Audio.from_array(np.zeros(10, np.float32), 16000).data)
    assert said(client, "listening", str(path)) == str(path)


def test_a_door_that_fetches_brings_pictures() -> None:
    asked = []
    image = tt.Image.from_array(np.zeros((4, 4, 3), np.uint8))

    async def fetch(url: str) -> bytes:
        asked.append(url)
        return image.data

    with serving(Service(looking), door=Door(fetch=fetch)) as served, served.client() as client:
        part = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
        assert said(client, "looking", [{"type": "text", "text": "w"}, part]) == f"w|{image.size_bytes}|[]"
    assert asked == ["https://example.org/a.png"]


# -- errors and leaving ----------------------------------------------------------------------------------------


def test_an_error_half_way_is_the_last_event_and_no_done_follows(client: openai.OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(
        model="breaking", messages=user("x"), stream=True
    ) as response:
        text = "".join(response.iter_text())
    assert response.status_code == 200
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert "so far" in events[1]
    assert msgspec.json.decode(events[-1])["error"]["type"] == "server_error"
    assert "[DONE]" not in text
    with pytest.raises(openai.APIError):
        list(client.chat.completions.create(model="breaking", messages=user("x"), stream=True))


def test_what_is_told_inside_a_stream_is_told_to_the_observers(client: openai.OpenAI, served: Served) -> None:
    class Watcher:
        def finished(self, exchange: Any, call: Any, error: Any, seconds: float) -> None:
            seen.append(call.error)

    seen: list[Any] = []
    watcher = Watcher()
    served.app.site.observers.append(watcher)
    try:
        with pytest.raises(openai.APIError, match="no chat can hold"):
            list(client.chat.completions.create(model="changing", messages=user("x"), stream=True))
        assert eventually(lambda: seen)
        assert seen[0].code == "E274"
    finally:
        served.app.site.observers.remove(watcher)


def test_what_fails_before_the_first_word_has_its_own_status() -> None:
    failing = talking(fail_every=1)
    with serving(failing) as served, served.client() as client:
        for stream in (False, True):
            error = refused(client, "parrot", stream=stream)
            assert (error.status_code, error.type) == (503, "server_error")


def test_a_deadline_ends_a_request_with_504_or_an_event() -> None:
    with serving(talking(ms_per_token=50)) as served, served.client() as client:
        header = {"x-tauten-deadline-ms": "120"}
        words = "a b c d e f g h"
        error = refused(client, "parrot", words, extra_headers=header)
        assert (error.status_code, error.code) == (504, "E401")
        with pytest.raises(openai.APIError, match="deadline"):
            list(
                client.chat.completions.create(
                    model="parrot", messages=user(words), stream=True, extra_headers=header
                )
            )


def test_a_client_that_says_its_timeout_has_said_its_deadline() -> None:
    service = talking(ms_per_token=20)
    with serving(service) as served, served.client() as client:
        error = refused(
            client, "parrot", "a b c d e f g h", extra_headers={"x-stainless-read-timeout": "0.05"}
        )
        assert error.status_code == 504


def test_leaving_a_stream_frees_its_slot() -> None:
    service = talking(ms_per_token=20, tokens=1000, slots=1)
    with serving(service) as served, served.client() as client:
        [backend] = served.slots(service)
        stream = client.chat.completions.create(model="parrot", messages=user("on and on"), stream=True)
        next(iter(stream)), next(iter(stream))
        assert backend.active == 1
        stream.close()
        assert eventually(lambda: backend.active == 0)
        assert said(client, "parrot", "again", max_tokens=1) == "again"  # the only slot is free


def test_giving_up_on_a_whole_answer_frees_its_slot() -> None:
    service = talking(ms_per_token=20, tokens=1000, slots=1)
    with serving(service) as served, served.client() as client:
        [backend] = served.slots(service)
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=openai.Timeout(60, read=0.3)).chat.completions.create(
                model="parrot", messages=user("on"), extra_headers={"x-stainless-read-timeout": "60"}
            )
        assert eventually(lambda: backend.active == 0)


def test_a_stop_that_the_engine_does_not_know_frees_its_slot() -> None:
    @tt.workflow
    def plain(question: str) -> tt.Stream[tt.Text]:
        return tt.generate("{{ question }}", question=question, max_tokens=1000)

    service = Service(
        plain, synthetic(plain, "generate", ms_per_token=5, tokens=900, answer="constant", value=" go on")
    )
    with serving(service) as served, served.client() as client:
        [backend] = served.slots(service)
        answer = client.chat.completions.create(model="plain", messages=user("x"), stop="on go")
        assert answer.choices[0].message.content == " go "
        assert answer.usage is not None
        assert 3 <= answer.usage.completion_tokens < 900  # what was made, not what might have been
        assert eventually(lambda: backend.active == 0)


def test_bodies_that_are_too_large_or_no_json_are_refused() -> None:
    with serving(talking(), door=Door(body_bytes=2000)) as served, served.client() as client:
        assert refused(client, "parrot", "x" * 3000).status_code == 413
        with pytest.raises(openai.BadRequestError):
            client.post(
                "/chat/completions",
                cast_to=dict,
                content=b"{",
                options={"headers": {"content-type": "application/json"}},
            )
