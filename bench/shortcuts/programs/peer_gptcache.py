"""GPTCache as its documentation sets it up: an exact cache in memory, and a similar one over SQLite and faiss.

Vectors are given, so that all caches of the comparison see the same ones.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import time
from typing import Any

import numpy as np
from gptcache import Cache
from gptcache.adapter.api import get, init_similar_cache, put
from gptcache.manager import get_data_manager, manager_factory
from gptcache.processor.pre import get_prompt
from lines import answer, timed

exact = Cache()
similar = Cache()
vectors: dict[str, list[float]] = {}


class Given:
    """An embedding that knows the vectors of all questions."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def to_embeddings(self, data: str, **_: Any) -> Any:
        return np.array(vectors[data], dtype="float32")


def open_exact(questions: list[str], answers: list[str]) -> dict[str, Any]:
    exact.init(pre_embedding_func=get_prompt, data_manager=get_data_manager(data_path="exact.txt"))
    for question, said in zip(questions, answers, strict=True):
        put(question, said, cache_obj=exact)
    wrong = [
        each for each, said in zip(questions, answers, strict=True) if get(each, cache_obj=exact) != said
    ]
    return {"wrong": len(wrong)}


def hit(questions: list[str], count: int) -> dict[str, Any]:
    """Exact hits."""
    return {"us": timed(lambda number: get(questions[number % len(questions)], cache_obj=exact), count)}


def open_similar(kept: list[str], known: dict[str, list[float]]) -> dict[str, Any]:
    """Every kept question with itself as its answer, so that a hit says what was found."""
    vectors.update(known)
    given = Given(len(next(iter(known.values()))))
    manager = manager_factory(
        "sqlite,faiss", data_dir="similar", vector_params={"dimension": given.dimension}
    )
    init_similar_cache(cache_obj=similar, embedding=given, data_manager=manager)
    for question in kept:
        put(question, question, cache_obj=similar)
    similar.flush()
    return {}


def ask(questions: list[str]) -> dict[str, Any]:
    """What each question finds, None for a miss, and how long that took."""
    found, us = [], []
    for question in questions:
        began = time.perf_counter_ns()
        found.append(get(question, cache_obj=similar))
        us.append((time.perf_counter_ns() - began) / 1e3)
    return {"found": found, "us": us}


if __name__ == "__main__":
    answer({"open_exact": open_exact, "hit": hit, "open_similar": open_similar, "ask": ask})
