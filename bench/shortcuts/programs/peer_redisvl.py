"""redisvl's SemanticCache with its default threshold, on the Redis server with search at BENCH_REDIS_PORT.

Vectors are given, so that all caches of the comparison see the same ones.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import time
from typing import Any

from lines import answer, timed
from redisvl.extensions.cache.llm import SemanticCache
from redisvl.utils.vectorize import CustomTextVectorizer

vectors: dict[str, list[float]] = {}
caches: dict[str, SemanticCache] = {}


def _opened(name: str, known: dict[str, list[float]]) -> SemanticCache:
    vectors.update(known)
    size = len(next(iter(known.values())))
    given = CustomTextVectorizer(embed=lambda text, **_: vectors.get(text, [1.0] + [0.0] * (size - 1)))
    url = f"redis://127.0.0.1:{os.environ['BENCH_REDIS_PORT']}"
    caches[name] = SemanticCache(name=name, redis_url=url, vectorizer=given, overwrite=True)
    return caches[name]


def open_exact(questions: list[str], answers: list[str], known: dict[str, list[float]]) -> dict[str, Any]:
    """It has no lookup by equality: the same question's vector is looked for."""
    cache = _opened("exact", known)
    for question, said in zip(questions, answers, strict=True):
        cache.store(prompt=question, response=said, vector=known[question])
    wrong = [each for each, said in zip(questions, answers, strict=True) if _found("exact", each) != said]
    return {"wrong": len(wrong)}


def _found(name: str, question: str) -> Any:
    hits = caches[name].check(vector=vectors[question], num_results=1)
    return hits[0]["response"] if hits else None


def hit(questions: list[str], count: int) -> dict[str, Any]:
    """Hits on questions that are equal."""
    return {"us": timed(lambda number: _found("exact", questions[number % len(questions)]), count)}


def open_similar(kept: list[str], known: dict[str, list[float]]) -> dict[str, Any]:
    """Every kept question with itself as its answer, so that a hit says what was found."""
    cache = _opened("similar", known)
    for question in kept:
        cache.store(prompt=question, response=question, vector=known[question])
    return {}


def ask(questions: list[str]) -> dict[str, Any]:
    """What each question finds, None for a miss, and how long that took."""
    found, us = [], []
    for question in questions:
        began = time.perf_counter_ns()
        found.append(_found("similar", question))
        us.append((time.perf_counter_ns() - began) / 1e3)
    return {"found": found, "us": us}


if __name__ == "__main__":
    answer({"open_exact": open_exact, "hit": hit, "open_similar": open_similar, "ask": ask})
