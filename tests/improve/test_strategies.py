"""What strategies propose for a workflow of told times, and what they refuse."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from simulate.kit_desk import FIRST_MS, NAIVE, TOKEN_MS, TOKENS, desk, learned
from tauten.describe.slo import Slo
from tauten.improve.optimizer.facts import TapedFacts
from tauten.improve.situation import NO_TOKENS, Proposal, Refusal, Situation, Strategy
from tauten.improve.strategies.backend import Backend
from tauten.improve.strategies.batch import Batching
from tauten.improve.strategies.compact import Compact
from tauten.improve.strategies.overlap import Overlap
from tauten.improve.strategies.quantize import Quantize
from tauten.improve.strategies.reduce import Reduce
from tauten.plan.hardware import Hardware
from tauten.plan.lower import lower
from tauten.plan.plan import Plan, StagePlan

TWO_CORES = Hardware(2, ("avx512", "amx"), 24)


@pytest.fixture(scope="module")
def library() -> Any:
    return learned(NAIVE)


def seen(library: Any, plan: Plan = NAIVE, rate: float = 1.0, machine: Hardware = TWO_CORES) -> Situation:
    assert desk.graph is not None
    facts = TapedFacts(library, lower(desk.graph, plan))
    return Situation(desk.graph, plan, machine, Slo(p95_ms=500.0), rate, facts)


def said(strategy: Strategy, situation: Situation) -> tuple[dict[str, Plan], dict[str, str]]:
    """(proposals, refusals) by what they change."""
    every: Iterable[Proposal | Refusal] = list(strategy.propose(situation))
    assert {each.strategy for each in every} <= {strategy.name}
    proposals = {each.change: each.plan for each in every if isinstance(each, Proposal)}
    for plan in proposals.values():
        assert desk.graph is not None
        lower(desk.graph, plan)  # each can be opened
        assert plan != situation.plan
    return proposals, {each.change: each.why for each in every if isinstance(each, Refusal)}


def test_facts_are_what_was_seen(library: Any) -> None:
    facts = seen(library).facts
    assert facts.work_s("hear") == pytest.approx(0.104, abs=1e-4)
    assert facts.run_s("hear", "model") == pytest.approx(0.1)
    assert facts.asks("hear", "model") == pytest.approx((1.0, 1.0, 1.0))
    assert facts.asks("look", "see") == pytest.approx((2 / 3, 1.0, 1.0))
    assert facts.asks("look", "read") == pytest.approx((2 / 3, 4.0, 4.0))


def test_facts_count_the_tokens_of_streams(library: Any) -> None:
    tokens = seen(library).facts.tokens("tell", "llm")
    assert tokens.answer == tokens.longest == TOKENS
    assert tokens.first_s == pytest.approx((FIRST_MS + TOKEN_MS) / 1e3, abs=1e-3)
    assert tokens.token_s == pytest.approx(TOKEN_MS / 1e3, abs=1e-4)
    assert seen(library).facts.tokens("hear", "model") == NO_TOKENS


def test_of_what_was_never_seen_so_there_are_no_facts(library: Any) -> None:
    """A side that no recorded request takes, or settings that nobody has run yet."""
    facts = seen(library, NAIVE.edit("hear", settings={"ms_per_batch": 1.0})).facts
    assert (facts.work_s("hear"), facts.run_s("hear", "model")) == (0.0, 0.0)
    assert facts.asks("hear", "model") == (0.0, 0.0, 0.0)
    assert facts.work_s("look") > 0.0


def test_answers_that_nobody_kept_are_not_known_to_quote(library: Any) -> None:
    facts = seen(library).facts
    assert facts.quoted("tell") is None, "a stream's text is not kept"
    assert facts.quoted("find") == pytest.approx(2 / 3), (
        "what it gives is its words and rows, of three requests"
    )
    assert facts.quoted("nowhere") is None


def test_stages_that_do_not_need_one_another_may_run_side_by_side(library: Any) -> None:
    proposals, refusals = said(Overlap(), seen(library))
    assert refusals == {}
    assert proposals["all that can be side by side"].stage("hear").beside == ("look",)
    again, why = said(Overlap(), seen(library, proposals["all that can be side by side"]))
    assert again == {}
    assert why == {}


def test_what_is_locked_is_left_alone(library: Any) -> None:
    plan = NAIVE.edit("look", locked=True)
    proposals, refusals = said(Overlap(), seen(library, plan))
    assert proposals == {}
    assert list(refusals) == ["stages side by side"]


def test_a_batch_that_would_stay_empty_is_refused(library: Any) -> None:
    proposals, refusals = said(Batching(), seen(library, rate=0.5))
    assert "hear in batches" in refusals
    assert "finds 1.05 items" in refusals["hear in batches"]
    assert any(change.startswith("look.read in batches of") for change in proposals), "its own rows fill it"
    busy, _ = said(Batching(), seen(library, rate=30.0))
    assert any(change.startswith("hear in batches of") for change in busy)


def test_threads_and_replicas_share_the_cores(library: Any) -> None:
    proposals, _ = said(Batching(), seen(library))
    one = proposals["hear on 1 thread, 2 replicas"].stage("hear")
    assert (one.threads, one.replicas) == (1, 2)
    assert proposals["look.see on 2 threads"].stage("look").roles["see"].threads == 2
    assert "one thread for every model" not in proposals, "they have one"


def test_a_stage_that_knows_one_engine_says_so(library: Any) -> None:
    proposals, refusals = said(Backend(), seen(library))
    assert proposals == {}
    assert set(refusals.values()) == {"its stage knows no other"}


def test_where_nobody_offers_a_setting_nothing_is_made_up(library: Any) -> None:
    for strategy in (Reduce(), Compact()):
        proposals, refusals = said(strategy, seen(library))
        assert (proposals, list(refusals)) == ({}, ["any stage"])
    proposals, refusals = said(Quantize(), seen(library))
    assert proposals == {}
    assert all("runs the file as it is" in why for why in refusals.values())


def test_a_plans_own_settings_stay(library: Any) -> None:
    plan = NAIVE.edit("look", settings={}, why="by hand")
    proposals, _ = said(Overlap(), seen(library, plan))
    assert all(each.stage("look").why == "by hand" for each in proposals.values())
    assert isinstance(plan.stage("look"), StagePlan)
