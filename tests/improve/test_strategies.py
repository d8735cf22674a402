"""What strategies propose for a workflow of told times, and what they refuse."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

import tauten as tt
from improve.kit_golden import ToldFacts, ToldStep
from simulate.kit_desk import FIRST_MS, NAIVE, TOKEN_MS, TOKENS, desk, learned
from tauten.describe.slo import Slo
from tauten.examples.help_desk.desk import help_desk
from tauten.improve.drawn import drawn
from tauten.improve.optimizer.baseline import zero_effort
from tauten.improve.optimizer.facts import TapedFacts
from tauten.improve.optimizer.pricing import Pricer
from tauten.improve.optimizer.search import Search
from tauten.improve.simulate.machine import Shared
from tauten.improve.simulate.tape import Event, Level, Visit
from tauten.improve.situation import NO_TOKENS, Proposal, Refusal, Situation, Strategy, computes_in
from tauten.improve.strategies.backend import Backend
from tauten.improve.strategies.batch import Batching
from tauten.improve.strategies.compact import Compact
from tauten.improve.strategies.overlap import Overlap
from tauten.improve.strategies.quantize import Quantize
from tauten.improve.strategies.reduce import Reduce
from tauten.plan.hardware import Hardware, processors
from tauten.plan.lower import lower
from tauten.plan.plan import ModelChoice, Plan, StagePlan

TWO_CORES = Hardware(2, ("avx512", "amx"), 24)


@pytest.fixture(scope="module")
def library() -> Any:
    return learned(NAIVE)


def seen(library: Any, plan: Plan = NAIVE, rate: float = 1.0, machine: Hardware = TWO_CORES) -> Situation:
    assert desk.graph is not None
    facts = TapedFacts(library, lower(desk.graph, plan))
    return Situation(desk.graph, plan, machine, Slo(p95_ms=500.0), rate, facts)


def parts(library: Any, plan: Plan, machine: Hardware) -> dict[str, Any]:
    """The fields of a situation at one request a second."""
    found = seen(library, plan, machine=machine)
    names = ("graph", "plan", "hardware", "slo", "rate", "facts")
    return {name: getattr(found, name) for name in names}


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


FOUR_CORES = Hardware(4, ("avx512", "amx"), 24)


def test_replicas_are_bound_to_processors_of_their_own(library: Any) -> None:
    plan = NAIVE.edit("hear", replicas=2)
    proposals, refusals = said(Batching(), seen(library, plan))
    bound = proposals["hear, each replica on processors of its own"]
    assert bound.stage("hear").cpus == ("0", "1")
    assert not any("processors" in change for change in refusals), (
        "look has one replica: there is nothing to part"
    )
    again, _ = said(Batching(), seen(library, bound))
    assert "hear, each replica on processors of its own" not in again
    two = NAIVE.edit("hear", replicas=2, threads=2)
    known = parts(learned(two), two, FOUR_CORES)
    wide, _ = said(Batching(), Situation(**known, processors=(0, 1, 4, 6)))
    assert wide["hear, each replica on processors of its own"].stage("hear").cpus == ("0-1", "4,6")


def test_processors_that_others_are_bound_to_are_left_to_them(library: Any) -> None:
    for locked in (False, True):  # whether somebody may change that stage or not
        plan = NAIVE.edit("hear", replicas=2).edit("look", cpus=("0",), locked=locked)
        proposals, _ = said(Batching(), seen(library, plan, machine=FOUR_CORES))
        assert proposals["hear, each replica on processors of its own"].stage("hear").cpus == ("1", "2")


def test_more_replicas_than_processors_are_not_bound() -> None:
    two, every = (NAIVE.edit("hear", replicas=2, threads=threads) for threads in (2, 0))
    library = learned(two, every)
    _, refusals = said(Batching(), seen(library, two))
    why = refusals["hear, each replica on processors of its own"]
    assert why == "2 replicas of 2 threads each want more than the 2 that there are"
    _, all_cores = said(Batching(), seen(library, every))
    assert "all processors each" in all_cores["hear, each replica on processors of its own"]


def test_other_replicas_let_sets_fall_that_were_for_others(library: Any) -> None:
    plan = NAIVE.edit("hear", replicas=2, cpus=("0", "1"))
    proposals, _ = said(Batching(), seen(library, plan))
    assert proposals["hear on 1 thread"].stage("hear").cpus == ()
    yours = NAIVE.edit("hear", cpus=("1",))
    kept, _ = said(Batching(), seen(library, yours))
    assert kept["hear on 2 threads"].stage("hear").cpus == ("1",), "as many sets as replicas"


def test_bound_replicas_gain_nothing_in_simulation_where_threads_find_their_way(library: Any) -> None:
    """The search refuses it with that figure: sets only take room away from whoever else would use it."""
    here = Hardware(2, ("avx512", "amx"), 24)
    plan = NAIVE.edit("hear", replicas=2)
    price = Pricer(desk, library, Shared(cores=2), rate=6.0)

    def look(present: Plan) -> Situation:
        return Situation(**parts(library, present, here), processors=processors()[:2])

    class Sets(Batching):
        def propose(self, seen: Situation) -> Any:
            return (each for each in super().propose(seen) if "processors of its own" in each.change)

    found = Search([Sets()], look, price, Slo(p95_ms=100.0)).run(plan)
    [tried] = found.tried
    assert not tried.taken
    if tried.objective is not None:  # this process may use two processors
        assert "in simulation: not worth a change" in tried.why
    assert found.plan.stage("hear").cpus == ()


def test_full_precision_is_not_shorter_where_it_is_what_the_engine_takes() -> None:
    """The language model's engine offers f32 beside its own choice, which is bf16 only where there are units for it."""
    assert help_desk.graph is not None

    def told(machine: Hardware, **choice: Any) -> dict[str, str]:
        plan = Plan().edit("generate", **choice)
        facts = ToldFacts({"generate": ToldStep(work_ms=900.0)})
        every = Quantize().propose(
            Situation(help_desk.graph, plan, machine, Slo(p95_ms=500.0), 1.0, facts)  # type: ignore[arg-type]
        )
        return {
            each.change: each.why if isinstance(each, Refusal) else each.answers
            for each in every
            if each.change.startswith("generate in f32")
        }

    plain, wide = Hardware(2, ("avx2",), 24), Hardware(2, ("avx512", "amx"), 24)
    assert "computes in f32 here by itself" in told(plain)["generate in f32"]
    assert told(plain, precision="f32") == {}
    assert told(wide) == {"generate in f32": "lossy"}
    assert told(wide, precision="f32") == {}


@pytest.mark.parametrize(
    ("backend", "precision", "flags", "computes"),
    [
        ("openvino", "", ("avx512", "amx"), "bf16"),
        ("openvino", "", ("avx2",), "f32"),
        ("openvino", "f32", ("avx512", "amx"), "f32"),
        ("llm", "", ("avx512", "amx"), "bf16"),
        ("onnx", "", ("avx512", "amx"), "f32"),
        ("whisper", "", ("avx512", "amx"), "f32"),
        ("whisper", "int8", ("avx2",), "int8"),
        ("", "", ("avx512", "amx"), "f32"),
    ],
)
def test_what_a_model_computes_in(
    backend: str, precision: str, flags: tuple[str, ...], computes: str
) -> None:
    choice = ModelChoice(backend=backend, precision=precision)
    assert computes_in(choice, Hardware(2, flags, 24)) == computes


def test_a_stage_that_knows_one_engine_says_so(library: Any) -> None:
    proposals, refusals = said(Backend(), seen(library))
    assert proposals == {}
    assert set(refusals.values()) == {"its stage knows no other"}


@tt.workflow
def pinned(text: tt.Text) -> tt.Tensor:
    return tt.embed(text, backend="onnx")


@tt.workflow
def open_to_all(text: tt.Text) -> tt.Tensor:
    return tt.embed(text)


def of(workflow: Any, plan: Plan) -> Situation:
    return Situation(workflow.graph, plan, TWO_CORES, Slo(p95_ms=500.0), 1.0, ToldFacts({"embed": BUSY}))


BUSY = ToldStep(work_ms=10.0, run_ms={"model": 9.0})


def test_an_engine_that_the_workflow_writes_is_not_changed() -> None:
    refusal, *others = Backend().propose(of(pinned, Plan()))
    assert isinstance(refusal, Refusal)
    assert 'the workflow writes backend = "onnx"' in refusal.why
    assert not others
    for plan in zero_effort(of(pinned, Plan())):
        assert lowered_choice(pinned, plan).backend == "onnx"
        assert not lowered_choice(pinned, plan).precision
    proposed = [each for each in Backend().propose(of(open_to_all, Plan())) if isinstance(each, Proposal)]
    assert {lowered_choice(open_to_all, each.plan).backend for each in proposed} == {"openvino"}


def test_a_change_is_said_where_it_counts() -> None:
    """What a plan says of a role goes before what it says of the stage."""
    role = {"model": ModelChoice(backend="onnx", threads=2)}
    plan = Plan().edit("embed", roles=role)
    for each in Backend().propose(of(open_to_all, plan)):
        assert isinstance(each, Proposal)
        chosen = lowered_choice(open_to_all, each.plan)
        assert (chosen.backend, chosen.precision, chosen.threads) == ("openvino", "f32", 2)


def lowered_choice(workflow: Any, plan: Plan) -> ModelChoice:
    return next(step.models["model"] for step in lower(workflow.graph, plan).steps if step.models)


@tt.workflow
def mapped(texts: list[tt.Text]) -> list[tt.Tensor]:
    return tt.map(tt.embed, texts, concurrency=3)


def test_members_of_a_map_come_together() -> None:
    once = Visit((Level(0.0, ((Event("model", 0.02),),)),))
    lowered = lower(drawn(mapped), Plan())
    step = next(each for each in lowered.steps if each.control == "map")
    members = {f"{step.name}[{place}]": once for place in range(8)}
    library = SimpleNamespace(seen=lambda *_: {"a": members}, inputs={"a": {}})
    assert TapedFacts(library, lowered).asks(step.name, "model") == (1.0, 8.0, 3.0)  # type: ignore[arg-type]


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
