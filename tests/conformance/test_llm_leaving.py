"""A language model's clients that leave: how much the engine still computes for them, counted, not timed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tauten.models import Store
from tauten.run.backends import _frames
from tauten.run.backends._llm_config import STEP_TOKENS, WorkerConfig
from tauten.run.backends._llm_engine import Engine
from tauten.run.backends._llm_item import LlmItem
from tauten.run.backends._llm_load import load
from tauten.run.backends._llm_worker import _Pipe
from tauten.run.backends.llm import LlmBackend
from tauten.run.contracts import ModelSpec

LONG = "The harbour was built by salt traders. " * 60  # several steps' worth


class Watched:
    """The worker's engine in this process, and what its pipeline scheduled in each step."""

    def __init__(self) -> None:
        name = "smollm2-135m-instruct"
        spec = ModelSpec(name, files=Store().files(name), threads=1, options={"cache_size_gb": 0.1})
        config: WorkerConfig = LlmBackend(spec)._config
        loaded = load(config)
        self.pipeline = loaded.pipeline
        self.said: list[dict[str, Any]] = []
        self.engine = Engine(config, loaded, self.said.append)
        self.scheduled: list[int] = []  # requests that were given work, step by step

    def step(self) -> None:
        self.engine.step()
        self.scheduled.append(self.pipeline.get_metrics().scheduled_requests)

    def add(self, id: int, text: str = LONG) -> None:
        self.engine.add(id, LlmItem(prompt=f"{id} {text}", max_tokens=40))

    def ended(self) -> dict[int, str]:
        return {each["id"]: each["finish"] for each in self.said if each.get("done")}


@pytest.fixture(scope="module")
def loaded() -> Watched:
    return Watched()


@pytest.fixture
def watched(loaded: Watched) -> Iterator[Watched]:
    yield loaded
    assert not loaded.engine.busy
    loaded.said.clear()
    loaded.scheduled.clear()


@pytest.mark.models
def test_a_step_reads_no_more_of_a_prompt_than_it_should(watched: Watched) -> None:
    watched.add(1)
    while not watched.said:
        watched.step()
    watched.engine.cancel(1)
    tokens = watched.said[-1]["usage"]["input_tokens"]
    watched.step()
    assert tokens > 4 * STEP_TOKENS
    assert len(watched.scheduled) - 1 >= tokens / STEP_TOKENS


@pytest.mark.models
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_nothing_is_computed_for_those_who_left(watched: Watched, steps: int) -> None:
    """Whether their prompts were not begun, half read, or waiting for the turn of others."""
    for id in range(1, 9):
        watched.add(id)
    for _ in range(steps):
        watched.step()
    for id in range(1, 9):
        watched.engine.cancel(id)
    assert watched.ended() == dict.fromkeys(range(1, 9), "cancel")
    watched.scheduled.clear()
    while watched.engine.busy:
        watched.step()
    assert watched.scheduled == [0] * bool(steps)  # one step that clears up


@pytest.mark.models
def test_prompts_that_a_step_can_hold_are_never_cut(watched: Watched) -> None:
    """What is said does not depend on who else asks at that moment."""
    texts = {1: "Tell me a story about rain and wind.", 2: "Name three animals.", 3: "What is rain?"}

    def answers(ids: list[int]) -> dict[int, str]:
        watched.said.clear()
        for id in ids:
            watched.engine.add(id, LlmItem(messages=[{"role": "user", "content": texts[id]}], max_tokens=12))
        while watched.engine.busy:
            watched.step()
        found = dict.fromkeys(ids, "")
        for each in watched.said:
            found[each["id"]] += each.get("text", "")
        return found

    alone = answers([1]) | answers([2]) | answers([3])
    assert answers([1, 2, 3]) == alone
    assert answers([3, 1, 2]) == alone


@pytest.mark.models
def test_those_who_stay_have_the_next_step_for_themselves(watched: Watched) -> None:
    watched.add(1, "Hello.")
    for id in (2, 3):
        watched.add(id)
    watched.step()
    watched.engine.cancel(2)
    watched.engine.cancel(3)
    watched.scheduled.clear()
    while watched.engine.busy:
        watched.step()
    assert set(watched.scheduled) <= {0, 1}  # 0: the step after the last token clears up
    assert watched.ended()[1] in ("length", "stop")


def test_a_stop_behind_long_prompts_is_seen_in_the_same_look() -> None:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    with ours:
        pipe = _Pipe(theirs.detach())
        sent = [{"id": id, "item": {"prompt": "word " * 8000}} for id in range(3)]
        for message in [*sent, {"cancel": 0}]:
            ours.sendall(_frames.encode(message))
        messages = pipe.receive(wait=True)
        assert [each.get("id", "stop") for each in messages] == [0, 1, 2, "stop"]
        assert pipe.receive(wait=False) == []
