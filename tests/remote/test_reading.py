"""What comes from providers, read: events however they are cut, counts, errors, and the file that names them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote.kit_lines import ToldReply, event
from tauten.errors import InputError, MachineError, PlanError
from tauten.run.backends.remote import RemoteBackend, question
from tauten.run.contracts import ModelSpec
from tauten.run.remote import chat
from tauten.run.remote.failure import Failure, of_status, retry_after_s
from tauten.run.remote.providers import Provider, find_provider, providers_file, read_providers
from tauten.run.remote.question import NOTHING, Delta
from tauten.run.remote.sse import MOST_BYTES, Events
from tauten.run.remote.units import counted, most_prompt_tokens, prompt_tokens
from tauten.run.usage.prices import Prices

# -- events --------------------------------------------------------------------------------------------------

STREAM = b": hello\n\ndata: one\r\n\r\nevent: x\ndata:two\ndata: three\n\n\n\ndata: {}\nid: 4\n\n"
EVENTS = [b"one", b"two\nthree", b"{}"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    events = Events()
    found = [data for start, end in itertools.pairwise(places) for data in events.feed(STREAM[start:end])]
    assert found + events.last() == EVENTS


def test_an_event_whose_last_line_never_came_is_given_at_the_end() -> None:
    events = Events()
    assert events.feed(b"data: [DONE]") == []
    assert events.last() == [b"[DONE]"]
    assert events.last() == []


def test_an_event_without_end_is_refused() -> None:
    events = Events()
    for _ in range(MOST_BYTES // 65536):
        events.feed(b"data: " + b"x" * 65536 + b"\n")
    with pytest.raises(Failure, match="more than 8 MiB"):
        events.feed(b"data: x\n")


@given(st.binary(max_size=400))
def test_any_bytes_are_events_or_a_failure(data: bytes) -> None:
    events = Events()
    for each in [*events.feed(data), *events.last()]:
        assert b"\r\n" not in each


PLAIN_OR_NOT = st.sampled_from((None, "", "word", 7, [], {}, False))
CHOICES = st.fixed_dictionaries(
    {},
    optional={
        "delta": st.none()
        | st.dictionaries(
            st.sampled_from(("content", "refusal", "reasoning", "reasoning_content", "tool_calls", "role")),
            PLAIN_OR_NOT,
        ),
        "finish_reason": st.sampled_from((None, "stop", "")),
        "logprobs": st.sampled_from((None, {"content": []}, {})),
        "index": st.integers(0, 2),
    },
)


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "choices": st.lists(CHOICES, max_size=2),
                "error": st.sampled_from((None, {}, {"message": "no"}, "no")),
                "usage": st.sampled_from((None, {"prompt_tokens": 3}, {})),
                "model": st.just("m"),
            },
        ),
        max_size=4,
    )
)
def test_words_are_read_as_all_else_is(events: list[dict[str, Any]]) -> None:
    """An event that only adds words takes a shorter way, which nobody must notice."""
    short, fields = chat._Reading(), chat._Reading()
    for each in events:
        found, wanted = _outcome(short.event, msgspec.json.encode(each)), _outcome(fields._event, each)
        assert found == wanted
        if isinstance(wanted, str):
            break


def _outcome(read: Callable[[Any], list[Delta]], event: Any) -> list[Delta] | str:
    try:
        return read(event)
    except Failure as failure:
        return failure.what


# -- counts --------------------------------------------------------------------------------------------------

USAGES: list[tuple[dict[str, Any], dict[str, float]]] = [
    ({"prompt_tokens": 9, "completion_tokens": 3}, {"input_tokens": 9.0, "output_tokens": 3.0}),
    ({"input_tokens": 9, "output_tokens": 3}, {"input_tokens": 9.0, "output_tokens": 3.0}),
    (
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 5},
            "completion_tokens_details": {"reasoning_tokens": 40, "audio_tokens": 2},
        },
        {
            "input_tokens": 100.0,
            "output_tokens": 50.0,
            "cached_tokens": 64.0,
            "input_audio_tokens": 5.0,
            "reasoning_tokens": 40.0,
            "output_audio_tokens": 2.0,
        },
    ),
    (
        {
            "input_tokens": 20,
            "output_tokens": 1,
            "input_tokens_details": {"cached_tokens": 16, "cache_write_tokens": 4},
            "output_tokens_details": None,
        },
        {"input_tokens": 20.0, "output_tokens": 1.0, "cached_tokens": 16.0, "cache_write_tokens": 4.0},
    ),
    ({"type": "duration", "seconds": 12.5}, {"audio_seconds": 12.5}),
    ({"prompt_tokens": "9", "completion_tokens": -1, "prompt_tokens_details": 7}, {}),
    ({"prompt_tokens": True, "completion_tokens": float("nan")}, {}),
]


@pytest.mark.parametrize(("said", "units"), USAGES)
def test_a_providers_count_in_either_spelling(said: dict[str, Any], units: dict[str, float]) -> None:
    assert counted(said) == units


def test_a_prompt_is_estimated_by_its_characters() -> None:
    assert prompt_tokens([{"role": "user", "content": "12345"}, {"role": "assistant", "content": ""}]) == 10.0


# -- failures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, "wrong") for status in (400, 413, 422)),
        *((status, "denied") for status in (401, 402, 403, 404)),
        *((status, "fault") for status in (204, 302, 408, 409, 500, 503, 529)),
        (429, "limit"),
    ],
)
def test_a_status_says_whose_fault_it_is(status: int, kind: str) -> None:
    assert of_status(status, {}, b"<html>").kind == kind


def test_a_quota_that_is_used_up_is_no_limit_to_wait_for() -> None:
    body = msgspec.json.encode({"error": {"message": "no money", "code": "insufficient_quota"}})
    assert of_status(429, {}, body).kind == "denied"


@pytest.mark.parametrize("status", [401, 403])
def test_an_answer_about_a_key_is_not_repeated(status: int) -> None:
    body = msgspec.json.encode({"error": {"message": "bad key sk-secret"}})
    assert "sk-secret" not in of_status(status, {}, body).what


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "soon"}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "inf"}, 0.0),
        # a date is compared with theirs: our own clock may be wrong
        (
            {"retry-after": "Wed, 21 Oct 2015 07:28:10 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"},
            10.0,
        ),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:10 GMT"}, 0.0),
    ],
)
def test_when_to_come_again(headers: Mapping[str, str], seconds: float) -> None:
    assert retry_after_s(headers) == seconds


# -- questions -----------------------------------------------------------------------------------------------

PROVIDER = Provider(url="http://told", name="told", prefill={"continue_final_message": True})


def sent(item: Mapping[str, Any], provider: Provider = PROVIDER) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(question(item).content(provider, "m", NOTHING).body)
    return found


def test_a_chat_as_it_is_sent() -> None:
    item = {"prompt": "hi", "max_tokens": 5, "temperature": 0.0, "stop": ["."], "seed": 3, "ngram": 4}
    assert sent(item) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
        "temperature": 0.0,
        "stop": ["."],
        "seed": 3,
    }


def test_what_a_provider_calls_the_bound_and_the_schema() -> None:
    newer = msgspec.structs.replace(PROVIDER, output_limit="max_completion_tokens")
    assert sent({"prompt": "hi", "max_tokens": 5}, newer)["max_completion_tokens"] == 5
    schema = {"type": "object", "properties": {}}
    asked = sent({"prompt": "hi", "json_schema": schema})["response_format"]
    assert asked["json_schema"]["schema"] == schema


@pytest.mark.parametrize(
    ("item", "code"),
    [
        ({}, "E232"),
        ({"prompt": "x", "colour": "red"}, "E232"),
        ({"prompt": "x", "regex": "a+"}, "E234"),
        ({"prompt": "x", "grammar": "root ::= a"}, "E234"),
        ({"embed": []}, "E232"),
        ({"embed": ["a", 1]}, "E232"),
        ({"embed": ["a"], "prompt": "x"}, "E232"),
        ({"transcribe": "text"}, "E232"),
        ({"speak": "hi", "temperature": 1}, "E232"),
    ],
)
def test_an_item_that_is_malformed_is_not_sent(item: dict[str, Any], code: str) -> None:
    with pytest.raises(InputError) as caught:
        question(item)
    assert caught.value.code == code


def read(item: Mapping[str, Any], *pieces: bytes) -> list[Delta]:
    async def run() -> list[Delta]:
        deltas: AsyncGenerator[Delta, None] = question(item).deltas(
            ToldReply([(0.0, each) for each in pieces], 200, {})
        )
        return [each async for each in deltas]

    return asyncio.run(run())


def vectors(*rows: list[float], coded: bool = True) -> bytes:
    data = [
        {
            "index": index,
            "embedding": base64.b64encode(np.asarray(row, "<f4").tobytes()).decode() if coded else row,
        }
        for index, row in enumerate(rows)
    ]
    return msgspec.json.encode({"data": data[::-1], "usage": {"prompt_tokens": 3, "total_tokens": 3}})


@pytest.mark.parametrize("coded", [True, False])
def test_vectors_in_the_order_of_their_texts(coded: bool) -> None:
    [delta] = read({"embed": ["a", "b"]}, vectors([1.0, 2.0], [3.0, 4.0], coded=coded))
    assert delta.value.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert (delta.finish, delta.units) == ("stop", {"input_tokens": 3.0})
    assert sent({"embed": ["a"], "dimensions": 8})["dimensions"] == 8


@pytest.mark.parametrize("answer", [b"{}", b"[]", b"no", b'{"data": [{"index": 0, "embedding": "!"}]}'])
def test_vectors_that_are_missing_are_a_failure(answer: bytes) -> None:
    with pytest.raises(Failure):
        read({"embed": ["a"]}, answer)


def test_the_words_of_a_recording() -> None:
    body = msgspec.json.encode({"text": "hello", "usage": {"type": "duration", "seconds": 2}})
    item = {"transcribe": b"RIFF", "media_type": "audio/mpeg", "language": "en", "seconds": 2.0}
    [delta] = read(item, body[:9], body[9:])
    assert (delta.text, delta.finish, delta.units) == ("hello", "stop", {"audio_seconds": 2.0})
    form = question(item).content(PROVIDER, "m", NOTHING).form
    assert form is not None
    assert form["file"] == ("sound.mp3", b"RIFF", "audio/mpeg")
    assert form["language"] == "en"
    with pytest.raises(Failure, match="without its text"):
        read(item, b'{"words": 3}')


def test_the_sound_of_words() -> None:
    deltas = read({"speak": "hi", "voice": "v"}, b"RI", b"FF")
    assert [each.value for each in deltas] == [b"RI", b"FF", None]
    assert deltas[-1].finish == "stop"
    assert sent({"speak": "hi", "voice": "v"}) == {
        "model": "m",
        "input": "hi",
        "voice": "v",
        "response_format": "wav",
    }
    with pytest.raises(Failure, match="without sound"):
        read({"speak": "hi"})


ANSWER = [
    *[event(choices=[{"index": 0, "delta": {"content": word}}]) for word in ("one ", "two ", "three")],
    event(choices=[{"index": 0, "delta": {"reasoning_content": "hm"}}]),
    event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]),
    event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 4}),
    b"data: [DONE]\n\n",
]


def pieces_of(*pieces: bytes | Failure) -> list[Delta]:
    """What a stream gives whose bytes come so, up to its end or its failure."""

    async def main() -> list[Delta]:
        found = []
        with contextlib.suppress(Failure):
            reply = ToldReply([(0.0, piece) for piece in pieces], 200, {})
            async for delta in question({"prompt": "x"}).deltas(reply):
                found.append(delta)
        return found

    return asyncio.run(main())


@given(st.lists(st.integers(1, len(b"".join(ANSWER)) - 1), max_size=8))
def test_an_answer_is_the_same_however_its_bytes_come(cuts: list[int]) -> None:
    stream = b"".join(ANSWER)
    places = [0, *sorted(set(cuts)), len(stream)]
    found = pieces_of(*[stream[start:end] for start, end in itertools.pairwise(places)])
    assert "".join(delta.text for delta in found) == "one two three"
    assert sum(delta.tokens for delta in found) == 4
    assert [delta.finish for delta in found if delta.finish] == ["stop"]
    assert found[-1].units == {"input_tokens": 7.0, "output_tokens": 4.0}


def test_words_that_come_together_are_one_piece() -> None:
    assert [delta.text for delta in pieces_of(b"".join(ANSWER))] == ["one two three", ""]
    assert [delta.text for delta in pieces_of(*ANSWER)][:3] == ["one ", "two ", "three"]


def test_what_was_said_before_an_error_comes_before_it() -> None:
    wrong = event(error={"message": "overloaded"})
    assert [delta.text for delta in pieces_of(b"".join((*ANSWER[:2], wrong)))] == ["one two "]


def test_thoughts_count_and_log_probabilities_are_those_of_our_engines() -> None:
    events = [
        {"choices": [{"delta": {"reasoning_content": "hm"}}]},
        {
            "choices": [
                {
                    "delta": {"content": "é"},
                    "logprobs": {"content": [{"token": "é", "bytes": [195, 169], "logprob": -0.5}]},
                }
            ]
        },
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    ]
    data = b"".join(b"data: " + msgspec.json.encode(each) + b"\n\n" for each in events) + b"data: [DONE]\n\n"
    deltas = read({"prompt": "x", "logprobs": True}, data)
    assert [(each.text, each.tokens) for each in deltas] == [("", 1), ("é", 1), ("", 0)]
    assert deltas[1].value == {"pieces": [[195, 169]], "logprobs": [-0.5]}


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_a_failure(data: bytes) -> None:
    for item in ({"prompt": "x"}, {"embed": ["a"]}, {"transcribe": b"x"}):
        with contextlib.suppress(Failure):
            assert read(item, b"data: " + data + b"\n\n", data)[-1].finish


# -- providers -----------------------------------------------------------------------------------------------

FILE = """
[openai]
url = "https://api.openai.com/v1"
key = "OPENAI_API_KEY"
region = "us"
models = ["gpt-small"]
priced_as = "openai"
limits = { requests_per_minute = 500, tokens_per_minute = 200_000, concurrency = 32 }

[local]
url = "http://127.0.0.1:8000/v1"
models = { "small" = "vendor/small-instruct" }
prefill = { continue_final_message = true }
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "providers.toml"
    path.write_text(FILE)
    monkeypatch.setenv("TAUTEN_PROVIDERS", str(path))
    return path


def test_the_file_is_where_it_is_told_to_be(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert providers_file() == file
    monkeypatch.delenv("TAUTEN_PROVIDERS")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert providers_file() == tmp_path / "tauten" / "providers.toml"
    assert read_providers() == {}


def test_a_provider_knows_its_models_limits_and_price(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = find_provider("openai")
    assert (provider.region, provider.priced_as, provider.limits.concurrency) == ("us", "openai", 32)
    assert provider.model("gpt-small") == "gpt-small"
    assert find_provider("local").model("small") == "vendor/small-instruct"
    with pytest.raises(PlanError, match=r"E145 .*lists no model 'gpt-smal'\nhelp: did you mean `gpt-small`"):
        provider.model("gpt-smal")
    with pytest.raises(PlanError, match="E145 no provider is called 'opena'"):
        find_provider("opena")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(MachineError, match=r"E348 .*OPENAI_API_KEY, which is not set"):
        provider.secret()
    monkeypatch.setenv("OPENAI_API_KEY", "s")
    assert (provider.secret(), find_provider("local").secret()) == ("s", "")


@pytest.mark.parametrize(
    "text",
    [
        "[a]\n",
        "[a",
        "a = 3",
        '[a]\nurl = "http://x"\ncolour = 3',
        '[a]\nurl = "ftp://x"',
        '[a]\nurl = "http://user:sk-secret@x"',
        '[a]\nurl = "http://x?key=sk-secret"',
        '[a]\nurl = "http://x"\nkey = "sk-secret"',
        '["a/b"]\nurl = "http://x"',
        '[a]\nurl = "http://x"\nlimits = { tokens = 3 }',
    ],
)
def test_a_file_that_is_wrong_says_where_and_shows_no_key(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(MachineError) as caught:
        read_providers()
    assert caught.value.code == "E348"
    assert "sk-secret" not in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"provider": []},
        {"provider": ["a", "a"]},
        {"provider": "a", "slots": 0},
        {"provider": "a", "patience_ms": 0},
        {"provider": "a", "mirror_share": 2},
    ],
)
def test_options_that_cannot_be_honoured_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(PlanError) as caught:
        RemoteBackend(ModelSpec("m", options=options))
    assert caught.value.code == "E122"


def test_a_provider_is_priced_as_its_file_says(file: Path) -> None:
    file.write_text('[mine]\nurl = "http://x"\npriced_as = "openai"\n')
    units, now = {"input_tokens": 1000.0, "output_tokens": 10.0}, datetime(2026, 6, 1, tzinfo=UTC)
    prices = Prices()
    known = prices.call("openai", "gpt-4o-mini", units, now)
    assert known.nano
    assert prices.call("mine", "gpt-4o-mini", units, now) == known
    assert prices.call("nobody", "gpt-4o-mini", units, now).nano is None


@given(st.lists(st.text(max_size=50), min_size=1, max_size=4))
def test_budgets_hold_more_than_any_prompt_can_have(texts: list[str]) -> None:
    messages = [{"role": "user", "content": each} for each in texts]
    assert question({"messages": messages, "max_tokens": 7}).most_units["output_tokens"] == 7.0
    assert most_prompt_tokens(messages) >= sum(len(each.encode()) for each in texts) >= 0
    assert most_prompt_tokens(messages) >= prompt_tokens(messages)


def test_a_plan_of_an_unknown_provider_does_not_open(file: Path) -> None:
    backend = RemoteBackend(ModelSpec("m", options={"provider": ["local/small", "nobody"]}))
    with pytest.raises(PlanError, match="nobody"):
        asyncio.run(backend.open())
