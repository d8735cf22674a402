"""Parameters of the Open Inference Protocol: sequences, details, and names that nobody takes; by its clients."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as http_aio
from tritonclient.utils import InferenceServerException

import tauten as tt
from serve.kit_http import run
from serve.kit_openai import synthetic
from serve.kit_workflows import endless, remember, shouted
from tauten.describe.said import Said, TokenLogprob
from tauten.describe.stages.generate import chat
from tauten.run.oip.messages import SERVICE, message
from tauten.serve.app import App, Site
from tauten.serve.http.listener import serve
from tauten.serve.oip.grpc import serve_grpc
from tauten.serve.service import Service


@tt.workflow
def parrot(
    messages: list[dict[str, Any]], max_tokens: int | None = None, logprobs: bool | None = None
) -> tt.Stream[tt.Text]:
    return chat(messages, max_tokens=max_tokens, logprobs=logprobs)


@tt.stage(pure=True)
async def likely(text: str, logprobs: bool | None = None) -> tt.Stream[tt.Text]:  # type: ignore[misc]
    for place, word in enumerate(text.split()):
        yield Said(word, (TokenLogprob(word.encode(), -place / 2),)) if logprobs else tt.Text(word)


@tt.workflow
def guess(text: str, logprobs: bool | None = None) -> tt.Stream[tt.Text]:
    return likely(text, logprobs=logprobs)


@asynccontextmanager
async def served(*more: Service) -> AsyncIterator[tuple[App, str, str]]:
    plan = synthetic(parrot, "chat", value="one two three", answer="constant")
    services = [Service(remember), Service(shouted), Service(guess), Service(parrot, plan), *more]
    app = App(Site(services), names=["oip"])
    await app.site.services.open()
    http = await serve(app, host="127.0.0.1", lifespan=False)
    made = await serve_grpc(app.site, "127.0.0.1")
    try:
        yield app, f"127.0.0.1:{http.port}", f"127.0.0.1:{made.port}"
    finally:
        await http.close()
        await made.stop(0.1)
        await app.site.services.close()


CLIENTS = {"http": (http_aio, triton_http), "grpc": (grpc_aio, triton_grpc)}


def text(module: Any, value: str) -> Any:
    made = module.InferInput("text", [1], "BYTES")
    made.set_data_from_numpy(np.array([value], object))
    return made


@pytest.mark.parametrize("protocol", CLIENTS)
@pytest.mark.parametrize("name", [7, "seven"])
def test_a_sequence_is_a_session_of_a_workflow_that_takes_one(protocol: str, name: int | str) -> None:
    client_of, module = CLIENTS[protocol]

    async def main() -> None:
        async with (
            served() as (app, http, grpc_),
            client_of.InferenceServerClient(http if protocol == "http" else grpc_) as client,
        ):

            async def say(word: str, model: str = "remember", id: int | str = name, **flags: bool) -> str:
                answer = await client.infer(model, [text(module, word)], sequence_id=id, **flags)
                return str(answer.as_numpy("output")[0].decode())

            with pytest.raises(InferenceServerException, match="E283"):
                await say("early")
            assert await say("a", sequence_start=True) == "a"
            assert await say("b") == "a b"
            assert await say("x", id=8, sequence_start=True) == "x"
            assert await say("c", sequence_end=True) == "a b c"
            with pytest.raises(InferenceServerException, match="sequence_start"):
                await say("late")
            assert await say("y", id=8, sequence_start=True) == "y"  # begun anew
            assert await say("z", id=8, sequence_end=True) == "y z"
            assert len(app.site.door.sessions) == 0
            with pytest.raises(InferenceServerException, match="E297 'shouted' keeps nothing"):
                await say("a", model="shouted", sequence_start=True)
            plain = await client.infer("shouted", [text(module, "a")])
            assert plain.as_numpy("output")[0] == b"A"

    run(main)


def test_the_requests_of_a_sequence_on_a_stream_follow_one_another() -> None:
    async def main() -> None:
        async with served() as (app, _, grpc_), grpc_aio.InferenceServerClient(grpc_) as client:

            async def requests() -> AsyncIterator[Any]:
                for place, word in enumerate("abcd"):
                    yield {
                        "model_name": "remember",
                        "inputs": [text(triton_grpc, word)],
                        "sequence_id": 1,
                        "sequence_start": place == 0,
                        "sequence_end": place == 3,
                    }

            heard = [(answer, error) async for answer, error in client.stream_infer(requests())]
            assert [error for _, error in heard] == [None] * 4
            assert heard[-1][0].as_numpy("output")[0] == b"a b c d"
            assert len(app.site.door.sessions) == 0

    run(main)


def test_parameters_that_nobody_takes_are_named_in_the_reply() -> None:
    async def main() -> None:
        async with served() as (_, http, grpc_), aiohttp.ClientSession() as session:

            async def post(path: str, body: Any) -> tuple[int, Any, str | None]:
                async with session.post(f"http://{http}/v2/models/{path}", json=body) as answer:
                    return answer.status, await answer.json(), answer.headers.get("x-tauten-ignored")

            inputs = [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}]
            infer = {"inputs": inputs, "parameters": {"timeout": 10_000_000, "tmeout": 1, "weird\r\n": 2}}
            assert [(await post("shouted/infer", infer))[index] for index in (0, 2)] == [200, "tmeout"]
            infer["parameters"] = {"timeout": 10_000_000}
            assert (await post("shouted/infer", infer))[2] is None
            infer["parameters"] = {"sequence_start": True}
            assert "E298" in (await post("remember/infer", infer))[1]["error"]
            asked = {"text_input": "a", "parameters": {"temperature": 0.5, "priority": 1}, "stream": True}
            status, said, named = await post("shouted/generate", asked)
            assert (status, said["text_output"], named) == (200, "A", "stream, temperature")
            for wrong in ({"timeout": "soon"}, {"priority": 5000}, {"details": "yes"}, 3):
                status, said, _ = await post("shouted/generate", {"text_input": "a", "parameters": wrong})
                assert status == 400, wrong
            late = {"text_input": "a", "parameters": {"timeout": -1}}
            assert "E298" in (await post("shouted/generate", late))[1]["error"]
            async with grpc.aio.insecure_channel(grpc_) as channel:
                ask = channel.unary_unary(f"/{SERVICE}/ModelInfer")
                request = message("ModelInferRequest")(model_name="shouted")
                request.inputs.add(name="text", datatype="BYTES", shape=[1]).contents.bytes_contents.append(
                    b"a"
                )
                request.parameters["tmeout"].int64_param = 1
                call = ask(request.SerializeToString())
                assert message("ModelInferResponse").FromString(await call).outputs[0].name == "output"
                assert ("x-tauten-ignored", "tmeout") in list(await call.trailing_metadata())

    run(main)


def test_details_say_why_an_answer_ended_and_what_it_took() -> None:
    messages = [{"role": "user", "content": "hello"}]

    async def main() -> None:
        async with served() as (_, http, _), aiohttp.ClientSession() as session:
            path = f"http://{http}/v2/models/parrot/generate"
            body: dict[str, Any] = {"messages": messages, "parameters": {"details": True, "max_tokens": 2}}
            async with session.post(path, json=body) as answer:
                said = await answer.json()
                assert answer.headers.get("x-tauten-ignored") is None
            assert said["details"]["finish_reason"] == "length"
            assert said["details"]["output_tokens"] == 2
            assert said["details"]["input_tokens"] > 0
            likely = {"text_input": "a b", "parameters": {"details": True}}
            async with session.post(f"http://{http}/v2/models/guess/generate", json=likely) as answer:
                told = (await answer.json())["details"]["logprobs"]
            assert told == [{"text": "a", "logprob": 0.0}, {"text": "b", "logprob": -0.5}]
            body["parameters"] = {"details": True}
            async with session.post(path, json=body) as answer:
                whole = await answer.json()
            assert whole["details"]["finish_reason"] == "eos_token"
            async with session.post(f"{path}_stream", json=body) as answer:
                events = [line async for line in answer.content if line.startswith(b"data: ")]
            assert [b"details" in each for each in events] == [False] * (len(events) - 1) + [True]
            body["parameters"] = {}
            async with session.post(path, json=body) as answer:
                assert await answer.json() == {key: whole[key] for key in whole if key != "details"}

    run(main)


def test_a_timeout_that_is_longer_than_the_slo_allows_puts_nothing_off() -> None:
    async def main() -> None:
        stopped = asyncio.Event()
        service = Service(endless(stopped), slo=tt.Slo(p95_ms=20))
        async with served(service) as (_, http, grpc_), aiohttp.ClientSession() as session:
            inputs = [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}]
            body = {"inputs": inputs, "parameters": {"timeout": 3_600_000_000}}
            async with session.post(f"http://{http}/v2/models/wait/infer", json=body) as answer:
                assert answer.status == 504
            await asyncio.wait_for(stopped.wait(), 30)
            async with grpc.aio.insecure_channel(grpc_) as channel:
                request = message("ModelInferRequest")(model_name="wait")
                request.inputs.add(name="text", datatype="BYTES", shape=[1]).contents.bytes_contents.append(
                    b"a"
                )
                ask = channel.unary_unary(f"/{SERVICE}/ModelInfer")
                with pytest.raises(grpc.aio.AioRpcError, match="E4") as late:
                    await ask(request.SerializeToString(), timeout=3600)
                assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    run(main)
