"""What who shares a computation is told of it: the tokens of its answer, and that none were computed for it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

import tauten as tt
from serve.kit_asgi import Answered, ask, site
from serve.kit_openai import synthetic
from serve.kit_stream import Client
from tauten.describe.stage import Context
from tauten.describe.stages.generate import chat
from tauten.serve.app import App
from tauten.serve.observe.genai import usage as otel_usage
from tauten.serve.observe.metrics import Metrics
from tauten.serve.service import Service

WORDS = "one two three"
CHAT = {"model": "parrot", "messages": [{"role": "user", "content": WORDS}]}


@tt.workflow
def parrot(messages: list[dict[str, Any]], max_tokens: int | None = None) -> tt.Stream[tt.Text]:
    return chat(messages, max_tokens=max_tokens)


@tt.stage(pure=True)
async def vector(ctx: Context, text: tt.Text) -> tt.Tensor:
    ctx.spend("input_tokens", 4)
    await asyncio.sleep(0.01)
    return tt.Tensor(np.ones(3, np.float32))


@tt.workflow
def vectors(text: tt.Text) -> tt.Tensor:
    return vector(text)


def served() -> list[Service]:
    return [Service(parrot, synthetic(parrot, "chat", ms_per_token=5.0)), Service(vectors)]


async def at_once(app: App, path: str, body: Any, count: int = 3) -> list[Answered]:
    return list(await asyncio.gather(*(ask(app, "POST", path, body) for _ in range(count))))


def usages(answers: list[Answered], *, stream: bool) -> list[Any]:
    if not stream:
        return [each.json["usage"] for each in answers]
    events = [each.body.decode().split("data: ")[-2] for each in answers]  # the last but [DONE]
    return [json.loads(each)["usage"] for each in events]


def leaders(answers: list[Answered]) -> list[str | None]:
    return [each.headers.get("x-tauten-shared") for each in answers]


@pytest.mark.parametrize("stream", [False, True])
def test_a_follower_is_billed_for_its_answer_and_sees_that_nothing_was_computed(stream: bool) -> None:
    async def main() -> None:
        body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}} if stream else CHAT
        async with site(*served(), apis=["openai"]) as app:
            metrics = Metrics(app.site)
            app.site.observers.append(metrics)
            answers = await at_once(app, "/v1/chat/completions", body)
            metrics.slice(1.0)
            first = answers[0].headers["x-request-id"]
            assert leaders(answers) == [None, first, first]
            tokens = [(u["prompt_tokens"], u["completion_tokens"]) for u in usages(answers, stream=stream)]
            assert tokens == [(3, 3)] * 3
            cached = [u["prompt_tokens_details"]["cached_tokens"] for u in usages(answers, stream=stream)]
            assert cached == [0, 3, 3]
            counted = {kind: value for (_, kind), value in metrics.tokens.series.items()}
            assert counted["input"] == counted["output"] == 3  # those that were computed, once
            assert counted["shared_input"] == counted["shared_output"] == 6
            kept = app.site.traces.find("", answers[1].headers["x-request-id"]).trace
            assert otel_usage({unit: amount for _, unit, amount in kept.spent}) == {}

    asyncio.run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_was_cut_is_cut_for_all(stream: bool) -> None:
    async def main() -> None:
        async with site(*served(), apis=["openai"]) as app:
            body = {**CHAT, "max_tokens": 2, "stream": stream}
            answers = await at_once(app, "/v1/chat/completions", body)
            assert all(b'"finish_reason":"length"' in each.body for each in answers)
            assert leaders(answers)[1] is not None

    asyncio.run(main())


def test_embeddings_count_the_same() -> None:
    async def main() -> None:
        async with site(*served(), apis=["openai"]) as app:
            body = {"model": "vectors", "input": ["same words", "same words"]}
            answers = await at_once(app, "/v1/embeddings", body)
            assert [each.json["usage"]["prompt_tokens"] for each in answers] == [8, 8, 8]
            first = answers[0].headers["x-request-id"]
            assert leaders(answers) == [None, first, first]

    asyncio.run(main())


@pytest.mark.parametrize("query", ["", "?stream=true"])
def test_the_native_api_tells_both_kinds_apart(query: str) -> None:
    async def main() -> None:
        async with site(*served(), apis=["native"]) as app:
            body = {"inputs": {"messages": CHAT["messages"]}}
            clients = [Client(app, "POST", f"/v1/workflows/parrot{query}", body) for _ in range(2)]
            first, second = [await each.done() for each in clients]
            assert second.headers["x-tauten-shared"] == first.headers["x-request-id"]
            told = [each.events[-1][1] if query else each.json for each in (first, second)]
            assert told[0]["usage"]["output_tokens"] == told[1]["usage"]["shared_output_tokens"] == 3
            assert "output_tokens" not in told[1]["usage"]

    asyncio.run(main())


def test_a_follower_whose_leader_failed_and_who_then_computes_shares_nothing() -> None:
    async def main() -> None:
        parts = [Service(parrot, synthetic(parrot, "chat", ms_per_token=5.0, fail_every=2))]
        async with site(*parts, apis=["openai"]) as app:
            await ask(app, "POST", "/v1/chat/completions", {**CHAT, "max_tokens": 1})  # the first succeeds
            failed, second = await at_once(app, "/v1/chat/completions", CHAT, 2)
            assert failed.status == 503
            assert second.status == 200
            assert "x-tauten-shared" not in second.headers
            assert usages([second], stream=False)[0]["prompt_tokens_details"]["cached_tokens"] == 0

    asyncio.run(main())
