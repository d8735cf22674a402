"""Models of the catalog served alone: their names, and the real ones through the official client."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import openai
import pytest
import soundfile

import tauten as tt
from kit.direct import DirectContext, direct
from serve.kit_openai import Served, eventually, serving
from tauten.describe.said import Said, TokenLogprob
from tauten.describe.stages.detect_speech import SpeechSpan
from tauten.describe.stages.generate import chat
from tauten.describe.view import Samples
from tauten.errors import InputError, NotFound
from tauten.plan.plan import Plan
from tauten.run.contracts import Chunk
from tauten.serve.openai.ports import Inputs, gives
from tauten.serve.ready_made import _parts, ready_made, speak

LLM = "smollm2-135m-instruct"


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


# -- names and workflows ------------------------------------------------------------------------------------


def test_a_model_is_found_by_its_name_or_the_beginning_of_it() -> None:
    for given, name in (("smollm2", LLM), ("minilm-l6-v2", "minilm-l6-v2"), ("kokoro", "kokoro-82m")):
        [service] = ready_made(given)
        assert service.name == service.workflow.name == name
        assert service.samples
    [named] = ready_made("smollm2", name="helper", slo=tt.Slo(p95_ms=500))
    assert (named.name, named.slo.p95_ms) == ("helper", 500)
    for wrong in ("whisper", "english-g2p", "silero-vad", "", "gpt-4o"):
        with pytest.raises(NotFound) as caught:
            ready_made(wrong)
        assert caught.value.code == "E275"
    with pytest.raises(NotFound, match="minilm") as close:
        ready_made("minilm-l6-v3")
    assert "minilm-l6-v2" in close.value.help


def test_a_language_model_alone_keeps_the_beginnings_of_conversations() -> None:
    [talk] = ready_made("smollm2")
    assert talk._plan is not None
    assert talk._plan.stage("chat").settings == {"prefix_cache": True}
    assert talk._plan.stage("chat").why
    mine = Plan(name="mine")
    assert ready_made("smollm2", plan=mine)[0]._plan is mine  # what you write, it keeps
    assert all(ready_made(name)[0]._plan is None for name in ("minilm", "whisper-tiny", "kokoro"))


def test_each_ready_made_workflow_takes_and_gives_what_its_endpoint_needs() -> None:
    made = {name: ready_made(name)[0].workflow for name in ("smollm2", "minilm", "whisper-tiny", "kokoro")}
    fields = ["max_tokens", "temperature", "top_p", "stop", "seed", "json_schema", "logprobs"]
    talk = Inputs(made["smollm2"])
    assert talk.whole == "messages"
    assert all(map(talk.takes, fields))
    assert not talk.takes("tools")
    assert Inputs(made["minilm"]).list_of_texts() == "input"
    assert all(map(Inputs(made["whisper-tiny"]).takes, ("language", "prompt", "timestamps")))
    assert all(map(Inputs(made["kokoro"]).takes, ("voice", "speed")))
    assert gives(made["kokoro"], [tt.Audio])
    assert not gives(made["kokoro"], [tt.Text])
    assert Inputs(speak("kokoro-82m")[0]).takes_text()


def test_parts_of_a_recording_lie_where_their_times_say() -> None:
    sound = Samples(np.arange(16000 * 60, dtype=np.float32) / 16000 / 60, 16000, "x")
    parts = _parts(sound, [SpeechSpan(1.0, 2.0), SpeechSpan(2.0, 58.0), SpeechSpan(59.0, 59.0)])
    assert [(each["start_s"], each["end_s"]) for each in parts] == [
        (1.0, 2.0),
        (2.0, pytest.approx(20.667, abs=1e-3)),
        (pytest.approx(20.667, abs=1e-3), pytest.approx(39.333, abs=1e-3)),
        (pytest.approx(39.333, abs=1e-3), 58.0),
    ]
    samples, rate = soundfile.read(io.BytesIO(parts[0]["sound"].data))
    assert (len(samples), rate) == (16000, 16000)
    assert samples[0] == pytest.approx(1 / 60, abs=1e-4)


# -- the chat stage -----------------------------------------------------------------------------------------


def test_the_chat_stage_asks_for_what_the_request_says() -> None:
    context = DirectContext(
        chat, fakes={"model": lambda item: iter([Chunk(text="x", tokens=1), Chunk(done=True)])}
    )
    messages = [
        {"role": "developer", "content": "Short."},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    ]
    direct(chat, messages, 7, 0.5, 0.9, ["."], 3, {"type": "object"}, context=context)
    assert context.items["model"] == [
        {
            "messages": [{"role": "system", "content": "Short."}, {"role": "user", "content": "hi"}],
            "max_tokens": 7,
            "temperature": 0.5,
            "top_p": 0.9,
            "stop": ["."],
            "seed": 3,
            "json_schema": {"type": "object"},
            "logprobs": False,
        }
    ]


def test_the_chat_stage_gives_log_probabilities_and_books_a_cut_answer() -> None:
    value = {"logprobs": [-0.5, -0.1], "pieces": [[104, 105], []]}
    chunks = [Chunk(text="hi", tokens=2, value=value), Chunk(done=True, finish="length")]
    context = DirectContext(chat, fakes={"model": lambda item: iter(chunks)})
    [said] = direct(chat, user("x"), logprobs=True, context=context)
    assert isinstance(said, Said)
    assert (said.text, said.tokens) == ("hi", (TokenLogprob(b"hi", -0.5),))
    assert context.spent == {"cut_answers": 1}


def test_an_answer_that_is_left_books_what_was_made() -> None:
    context = DirectContext(chat, fakes={"model": lambda item: (Chunk(text="a", tokens=1) for _ in range(9))})

    async def main() -> None:
        answer = chat.function(context, user("x"))
        await anext(answer)
        await anext(answer)
        await answer.aclose()

    asyncio.run(main())
    assert context.spent == {"output_tokens": 2}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "content": "x"},
        {"role": "user", "content": None},
        {"role": "user", "content": []},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]},
    ],
)
def test_messages_that_a_text_model_cannot_read_are_refused(message: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        direct(chat, [message], context=DirectContext(chat, fakes={"model": lambda item: iter([])}))
    assert caught.value.code == "E232"


# -- real models --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    names = ("smollm2", "minilm", "whisper-tiny", "kokoro")
    with serving(*(service for name in names for service in ready_made(name))) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with served.client(timeout=300.0) as client:
        yield client


@pytest.mark.models
def test_a_language_model_alone_is_a_chat_model(client: openai.OpenAI) -> None:
    ask: Any = {"model": LLM, "messages": user("What is the capital of France?"), "max_tokens": 4}
    whole = client.chat.completions.create(**ask, logprobs=True)
    [choice] = whole.choices
    content = choice.logprobs.content
    assert choice.finish_reason == "length"
    assert whole.usage.completion_tokens == 4 == len(content)
    assert b"".join(bytes(each.bytes) for each in content).decode() == choice.message.content
    assert all(each.logprob <= 0 for each in content)
    stream = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(each.choices[0].delta.content or "" for each in stream[:-1]) == choice.message.content
    counts = [(each.prompt_tokens, each.completion_tokens) for each in (whole.usage, stream[-1].usage)]
    assert counts[0] == counts[1]
    word = choice.message.content.split()[1]
    cut = client.chat.completions.create(**ask, stop=word).choices[0]
    assert (cut.message.content, cut.finish_reason) == (choice.message.content.partition(word)[0], "stop")


@pytest.mark.models
def test_a_conversation_that_goes_on_is_not_read_again(client: openai.OpenAI) -> None:
    def answer(messages: Any) -> Any:
        return client.chat.completions.create(model=LLM, messages=messages, max_tokens=4)

    first = answer(user("Tell me about the river that flows through Paris. " * 8))
    said = {"role": "assistant", "content": first.choices[0].message.content}
    more = [*user("Tell me about the river that flows through Paris. " * 8), said, *user("Go on.")]
    second = answer(more)
    assert first.usage.prompt_tokens_details.cached_tokens < first.usage.prompt_tokens / 2
    assert second.usage.prompt_tokens_details.cached_tokens > second.usage.prompt_tokens / 2


@pytest.mark.models
def test_a_language_model_follows_a_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"good": {"type": "boolean"}},
        "required": ["good"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=LLM,
        messages=user("Is the sky blue?"),
        response_format={"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema}},
    )
    assert set(msgspec.json.decode(answer.choices[0].message.content or "")) == {"good"}


@pytest.mark.models
def test_too_long_a_conversation_says_so(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=LLM,
            messages=user("word " * 9000),
            extra_headers={"x-tauten-deadline-ms": "3600000"},  # so much that no estimate refuses it before
        )
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.models
def test_leaving_a_real_answer_frees_its_slot(served: Served, client: openai.OpenAI) -> None:
    [backend] = served.slots(served.app.site.services[LLM])
    stream = client.chat.completions.create(
        model=LLM, messages=user("Tell me a long story."), max_tokens=2000, stream=True
    )
    next(iter(stream))
    assert backend.active == 1
    stream.close()
    assert eventually(lambda: backend.active == 0)


@pytest.mark.models
def test_texts_of_like_meaning_have_like_vectors(client: openai.OpenAI) -> None:
    found = client.embeddings.create(model="minilm-l6-v2", input=["a cat", "a kitten", "tax law"])
    cat, kitten, law = (np.array(each.embedding) for each in found.data)
    assert cat @ kitten > cat @ law
    assert np.linalg.norm(cat) == pytest.approx(1.0, abs=1e-5)
    assert found.usage.prompt_tokens > 6


@pytest.mark.models
def test_what_is_spoken_is_heard(client: openai.OpenAI) -> None:
    sound = client.audio.speech.create(
        model="kokoro-82m", voice="default", input="Open the second drawer.", response_format="wav"
    ).content
    file = ("a.wav", sound)
    plain = client.audio.transcriptions.create(model="whisper-tiny.en", file=file)
    assert "second drawer" in plain.text.lower()
    full = client.audio.transcriptions.create(
        model="whisper-tiny.en", file=file, response_format="verbose_json"
    )
    assert full.segments
    assert 0 <= full.segments[0].start < full.segments[-1].end <= full.duration + 0.1
    with pytest.raises(openai.BadRequestError):
        client.audio.speech.create(model="kokoro-82m", voice="alloy", input="x")
