"""Constraints that were tried leave a mark of some bytes, and not for ever."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tauten.errors import InputError
from tauten.run.backends import _llm_engine
from tauten.run.backends._llm_config import WorkerConfig
from tauten.run.backends._llm_engine import Engine, EngineFailed
from tauten.run.backends._llm_item import LlmItem
from tauten.run.backends._llm_load import Loaded
from tauten.run.backends._llm_seen import MOST, Seen
from tauten.run.backends.llm import LlmBackend
from tauten.run.contracts import ModelSpec


def test_the_newest_are_known_and_the_oldest_forgotten() -> None:
    seen = Seen(3)
    for number in range(4):
        seen.note(("regex", str(number)), f"reason {number}")
    assert seen.word(("regex", "0")) is None
    seen.note(("regex", "1"), "again")
    seen.note(("regex", "4"))
    assert len(seen) == 3
    assert [seen.word(("regex", str(number))) for number in range(5)] == [None, "again", None, "reason 3", ""]
    assert seen.word(("grammar", "3")) is None
    assert seen.word(None) is None


def item(number: int) -> dict[str, Any]:
    return {"prompt": "x", "grammar": f"root ::= nowhere{number} " + "x" * 1000}


def refuse(backend: LlmBackend, number: int) -> None:
    """The engine's compiler did not take it."""
    answer = {"error": f"the output cannot be constrained: no rule {number}", "code": "E234", "help": "none"}
    with pytest.raises(InputError):
        backend._chunk(answer, LlmItem(**item(number)))


def test_a_backend_tells_what_was_refused_lately_and_keeps_no_texts() -> None:
    async def main() -> None:
        backend = LlmBackend(ModelSpec("m"))
        for number in range(2 * MOST):
            refuse(backend, number)
        assert len(backend._refused) == MOST
        with pytest.raises(InputError, match=f"no rule {2 * MOST - 1}"):
            await anext(backend.start(item(2 * MOST - 1)))

    asyncio.run(main())


class Pipeline:
    """Every step gives each request its first token; one that is told to fails."""

    def __init__(self) -> None:
        self.handles: list[Handle] = []
        self.fails = False

    def add_request(self, id: int, encoded: Any, settings: Any) -> Handle:
        self.handles.append(Handle())
        return self.handles[-1]

    def has_non_finished_requests(self) -> bool:
        return False

    def get_metrics(self) -> Any:
        return SimpleNamespace(max_cache_usage=0.0)

    def step(self) -> None:
        if self.fails:
            raise RuntimeError("it does not compile")
        for handle in self.handles:
            handle.left = 1


class Handle:
    left = 0

    def can_read(self) -> bool:
        return self.left > 0

    def read(self) -> dict[int, Any]:
        self.left = 0
        reason = SimpleNamespace(name="NONE")
        return {0: SimpleNamespace(finish_reason=reason, generated_ids=[0], generated_log_probs=[])}

    def read_all(self) -> list[Any]:
        return []

    def get_status(self) -> Any:
        return SimpleNamespace(name="RUNNING")

    def cancel(self) -> None:
        return


class Tokenizer:
    def get_vocab(self) -> dict[bytes, int]:
        return {b"a": 0}

    def decode(self, ids: Any) -> list[str]:
        return ["a"]

    def encode(self, text: str, **_: Any) -> Any:
        return SimpleNamespace(input_ids=SimpleNamespace(data=np.zeros((1, 4), np.int64)))


def engine(monkeypatch: pytest.MonkeyPatch) -> tuple[Engine, Pipeline, list[Any]]:
    """The engine of a worker around a pipeline that is none."""
    monkeypatch.setattr(Engine, "_settings", lambda self, item, limit: None)
    pipeline, sent = Pipeline(), []
    config = LlmBackend(ModelSpec("m"))._config
    assert isinstance(config, WorkerConfig)
    return Engine(config, Loaded(pipeline, Tokenizer(), "none", 1000), sent.append), pipeline, sent


def test_a_worker_knows_only_the_newest_that_its_compiler_took(monkeypatch: pytest.MonkeyPatch) -> None:
    found, pipeline, _ = engine(monkeypatch)
    for number in range(2 * MOST):
        found.add(number, LlmItem(**item(number)))
        found.step()
        found.cancel(number)
        pipeline.handles.clear()
    assert len(found._proven) == MOST


def test_who_has_begun_to_answer_is_not_blamed_though_its_constraint_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_llm_engine, "Seen", lambda: Seen(1))
    found, pipeline, sent = engine(monkeypatch)
    found.add(1, LlmItem(**item(1)))
    found.add(2, LlmItem(**item(2)))
    found.step()
    found.add(3, LlmItem(**item(3)))
    pipeline.fails = True
    with pytest.raises(EngineFailed):
        found.step()
    assert [each["id"] for each in sent if "error" in each] == [3]
