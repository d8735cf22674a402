"""Replicas that are killed under load, and the language model's worker in the middle of its streams."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import msgspec
from bench.ground.serving import Served, serving
from bench.serve.scenarios import books
from bench.serve.scenarios.drive import driver, p_ms, run, summary, texts, workflow_target
from bench.serve.scenarios.outcome import Result
from bench.serve.scenarios.served import CHILD_NAME, CHILD_S
from bench.serve.scenarios.settings import FLOWS, Settings

from tauten.improve.load.http import HttpClient, Prepared
from tauten.improve.load.target import Response
from tauten.improve.load.targets.openai import OpenAITarget

REPLICAS = 2
LOAD = 0.6  # of what both replicas can do
SLO_S = 1.0
MODEL, WORKER = "smollm2-135m-instruct", "tauten.run.backends._llm_worker"
STREAMS = 4
TOKENS = 200  # a second or two: long enough to be killed in the middle
TOLD_S = 1.0  # until an open stream has heard of the death
BACK_S = 15.0  # until a new worker answers: it loads the model


def measure(settings: Settings) -> Iterator[Result]:
    yield run(lambda: _replicas(settings))
    yield run(lambda: _worker(settings))


async def _replicas(settings: Settings) -> Result:
    every_s, rate = settings.kill_every_s, LOAD * REPLICAS / CHILD_S
    found = Result(
        "replica_killed",
        f"One of {REPLICAS} replicas killed every {every_s:g} s, {settings.kills} times",
        f"replicas are processes of their own, 20 ms a request, killed by SIGKILL under an open loop of {rate:.0f}/s; "
        "the stage is pure, so what a replica held may run again",
    )
    plans = {"mortal": f"[stage.Child]\nreplicas = {REPLICAS}"}
    killed: list[int] = []
    async with (
        serving([f"{FLOWS}:mortal"], plans) as served,
        aiohttp.ClientSession() as client,
        driver(workflow_target(served.url, "mortal"), texts(), SLO_S, settings.seed) as driven,
    ):
        replicas = len(served.children(CHILD_NAME))
        before = await books.settled(client, served.url)
        killer = asyncio.create_task(_kill_all(served, settings.kills, every_s, killed))
        async with books.watching(client, served.url) as watched:
            samples = await driven.poisson(rate, every_s * (settings.kills + 1))
        await killer
        counted = (await books.settled(client, served.url)).since(before)
        left = len(served.children(CHILD_NAME))
    found.check("replicas that ran", replicas, REPLICAS, at_least=True)
    found.check("replicas killed", len(killed), settings.kills, at_least=True)
    found.check(
        "replicas opened anew", counted.total("tauten_replica_restarts_total"), len(killed), at_least=True
    )
    found.check("accepted requests lost", sum(not one.good for one in samples.measured), 0)
    found.check("p99", p_ms(samples.measured, 0.99), SLO_S * 1e3, "ms")
    found.check("zombie work", watched.most["zombies"], 0)
    found.check("processes left over", left - REPLICAS, 0)
    found.check("the server ended well", served.exit_code, 0)
    found.figures = {
        "run": summary(samples, SLO_S),
        "retried": counted.total("tauten_retried_total"),
        "books": books.balance(driven.sent, counted, "mortal"),
        "most": watched.most,
    }
    return found


async def _kill_all(served: Served, times: int, every_s: float, killed: list[int]) -> None:
    """Kills the oldest replica again and again."""
    for _ in range(times):
        await asyncio.sleep(every_s)
        there = [pid for pid in served.children(CHILD_NAME) if pid not in killed]
        if there:
            with contextlib.suppress(ProcessLookupError):
                os.kill(min(there), signal.SIGKILL)
                killed.append(min(there))


# -- the language model ---------------------------------------------------------------------------------------


async def _worker(settings: Settings) -> Result:
    found = Result(
        "worker_killed",
        f"The language model's worker killed in mid-stream, {settings.worker_kills} times",
        f"{STREAMS} streams that have begun and {STREAMS} that have not (they wait in the engine's prompt or come "
        f"with the kill); then requests until one is answered",
    )
    rounds = []
    async with serving([MODEL]) as served, aiohttp.ClientSession() as client:
        target = OpenAITarget(HttpClient(f"{served.url}/v1"))
        await target.open()
        try:
            for number in range(settings.worker_kills):
                rounds.append(await _one_death(target, served, client, number))
        finally:
            await target.close()
        zombies = (await books.settled(client, served.url)).total("tauten_zombies")
        workers = len(served.children(WORKER))
    hung = sum(each["hung"] for each in rounds)
    found.check("streams without an end", hung, 0)
    found.check("streams cut without a word", sum(each["cut"] for each in rounds), 0)
    found.check("open streams told after", max(each["told_s"] for each in rounds) * 1e3, TOLD_S * 1e3, "ms")
    found.check("requests not begun, and lost", sum(each["waiting_lost"] for each in rounds), 0)
    back = [each["back_s"] for each in rounds]
    found.check("a new worker answers after", None if None in back else max(back), BACK_S, "s")
    found.check("zombie work", zombies, 0)
    found.check("worker processes", workers, 1)
    found.check("the server ended well", served.exit_code, 0)
    found.figures = {"deaths": rounds}
    found.notes.append(
        "A stream that has begun cannot be run again without saying something twice: it ends with an error."
    )
    return found


async def _one_death(
    target: OpenAITarget, served: Served, client: aiohttp.ClientSession, number: int
) -> dict[str, Any]:
    began = [asyncio.create_task(_stream(target, f"{number}-{place}")) for place in range(STREAMS)]
    while (await books.scrape(client, served.url)).total("tauten_deployment_running") < STREAMS:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.7)  # a prompt of thirty tokens is read in a tenth of this
    late = [asyncio.create_task(_stream(target, f"{number}-{place}-late")) for place in range(STREAMS)]
    await asyncio.sleep(0.005)  # they are on their way
    (worker,) = served.children(WORKER)
    os.kill(worker, signal.SIGKILL)
    killed = time.monotonic()
    done, hung = await asyncio.wait(began, timeout=30)
    told_s = time.monotonic() - killed
    back_s = await _answered_again(target, killed)
    waited, hung_late = await asyncio.wait(late, timeout=30)
    for task in [*hung, *hung_late]:
        task.cancel()
    ended = [task.result() for task in done]
    waiting = [task.result() for task in waited]
    return {
        "hung": len(hung) + len(hung_late),
        "cut": sum(one.lost for one in [*ended, *waiting]),
        "told_s": told_s,
        "begun": {"ended": len(ended), "parts": [len(one.outputs) for one in ended]},
        "begun_errors": sorted({one.error[:160] for one in ended}),
        "waiting_lost": sum(one.outcome != "ok" and not one.outputs for one in waiting),
        "waiting": [f"{one.outcome}, {len(one.outputs)} parts {one.error[:160]}" for one in waiting],
        "back_s": back_s,
    }


async def _stream(target: OpenAITarget, mark: str, tokens: int = TOKENS) -> Response:
    text = f"Tell a long story about the city of {mark}."
    request = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": tokens}
    body = msgspec.json.encode({**request, "stream": True})
    return await target.send(Prepared(body, {"content-type": "application/json"}), 60.0)


async def _answered_again(target: OpenAITarget, since: float) -> float | None:
    """Seconds from a death to the next whole answer."""
    while time.monotonic() - since < 2 * BACK_S:
        answer = await _stream(target, f"again {time.monotonic()}", tokens=4)
        if answer.outcome == "ok":
            return time.monotonic() - since
        await asyncio.sleep(0.05)
    return None
