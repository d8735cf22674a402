"""What a search must refuse, with the reason: real strategies, real gate; figures as machines and labels would give."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import pytest

from improve.kit_golden import Case, ToldFacts, ToldForms, ToldStep, situation
from simulate.kit_desk import ITEMS, NAIVE, desk, learned
from tauten.describe.slo import Slo
from tauten.improve.optimizer.facts import TapedFacts
from tauten.improve.optimizer.gate import Gate
from tauten.improve.optimizer.order import ORDER
from tauten.improve.optimizer.pricing import figures_of
from tauten.improve.optimizer.search import Figures, Found, Search, Tried
from tauten.improve.optimizer.testbed import Scored
from tauten.improve.simulate.machine import Shared
from tauten.improve.simulate.simulator import Simulator
from tauten.improve.situation import Proposal, Refusal, Situation, Strategy, Unbuilt
from tauten.improve.strategies.batch import Batching
from tauten.improve.strategies.overlap import Overlap
from tauten.plan.card import Card, CardLatency, CardQuality
from tauten.plan.hardware import Hardware
from tauten.plan.lower import lower
from tauten.plan.plan import Plan, parse_plan

MODEL = "efficientnet-lite0"
CHANNEL, TENSOR, ZEROS, CUT = (
    "ort_static-11111111",
    "ort_static-22222222",
    "sparse-33333333",
    "drop_block-44444444",
)
TIMES_MS = {
    "fp32": 6.8,
    "bf16": 4.2,
    CHANNEL: 5.7,
    TENSOR: 3.9,
    ZEROS: 6.8,
    CUT: 5.1,
}  # by form, else precision
PICTURES = Case(
    name="pictures",
    workflow="picture",
    steps={"classify": ToldStep(work_ms=7.0, run_ms={"model": 6.8})},
    plan={"classify": {"backend": "openvino", "precision": "f32"}},
    slo="p95<5ms, quality_loss<5pt",
)


def card(variant: str, *, told: bool = False, **more: Any) -> Card:
    """Of a form; its times stand on it where they were measured."""
    ms = TIMES_MS[variant if variant != "fp32" else "bf16"]  # fp32 as its engine runs it by itself here
    rows = [CardLatency(1, ms, ms * 0.98, ms * 1.02, 40, backend="openvino")] if told else []
    return Card(model=MODEL, variant=variant, format="onnx", latency=rows, **more)


def price(plan: Plan) -> Figures:
    stage = plan.stage("classify")
    ms = TIMES_MS[stage.variant or ("bf16" if stage.precision == "bf16" else "fp32")]
    return Figures({"p95_ms": ms, "p50_ms": ms})


class Labelled:
    """A testbed that knows which of its items each form gets wrong."""

    def __init__(self, wrong: Callable[[Plan], Callable[[int], bool]]) -> None:
        self.wrong = wrong

    def alike(self, before: Plan, after: Plan, ids: Sequence[str]) -> dict[str, bool]:
        return {}

    def scores(self, plan: Plan, ids: Sequence[str]) -> dict[str, Scored]:
        wrong = self.wrong(plan)
        return {id: Scored(0.0 if wrong(int(id)) else 1.0, f"{id} {wrong(int(id))}") for id in ids}


def harmless(plan: Plan) -> Callable[[int], bool]:
    return lambda item: False


def gate(bed: Labelled, before: Plan, items: int, loss: float) -> Gate:
    made = Gate(bed, [str(number) for number in range(items)], loss)  # type: ignore[arg-type]
    made.before = before
    return made


def searched(
    case: Case, wrong: Callable[[Plan], Callable[[int], bool]] = harmless, *, items: int = 400
) -> tuple[Found, Gate]:
    first = situation(case)

    def look(plan: Plan) -> Situation:
        facts = ToldFacts(case.steps)
        return Situation(first.graph, plan, first.hardware, first.slo, first.rate, facts, ToldForms(case))

    judge = gate(Labelled(wrong), first.plan, items, first.slo.quality_loss)
    search = Search(ORDER, look, price, first.slo, allowed=judge.allowed)
    return search.run(first.plan), judge


def told(found: Found, change: str) -> Tried:
    """What was last said of a change."""
    return [each for each in found.tried if each.change == change][-1]


def with_cards(*cards: Card, **more: Any) -> Case:
    import msgspec

    return msgspec.structs.replace(PICTURES, cards=list(cards), **more)


# -- numbers ---------------------------------------------------------------------------------------------------


def test_int8_where_bf16_is_faster_by_its_card() -> None:
    agreed = CardQuality("agreement", 0.81, 0.75, 0.86, 200, "fp32")
    found, _ = searched(with_cards(card("fp32", told=True), card(CHANNEL, told=True, quality=[agreed])))
    assert found.plan.stage("classify").precision == "bf16"
    assert not found.plan.stage("classify").variant
    why = told(found, f"classify as {CHANNEL}").why
    assert "no gain on this engine: a run takes 5.7 ms" in why
    assert "agreement 0.81, 0.75-0.86, n = 200 against fp32" in why
    assert "fp32 4.2 ms" in why
    assert "bf16" in why


def test_int8_where_bf16_is_faster_without_figures_on_its_card() -> None:
    """Then simulation tells: both are priced, and the better is taken."""
    found, _ = searched(with_cards(card("fp32"), card(CHANNEL)))
    assert found.plan.stage("classify").precision == "bf16"
    whys = [each.why for each in found.tried if each.change == f"classify as {CHANNEL}"]
    assert whys[0] == "gains less than classify in bf16"
    assert all("not worth a change" in why for why in whys[1:])


def test_one_scale_a_tensor_flips_half_of_the_answers() -> None:
    """The fastest of all, and so the first that the gate sees where none is enough."""

    def wrong(plan: Plan) -> Callable[[int], bool]:
        return lambda item: plan.stage("classify").variant == TENSOR and item % 2 == 0

    case = with_cards(card("fp32"), card(TENSOR), slo="p95<1ms, quality_loss<5pt")
    found, judge = searched(case, wrong)
    assert found.plan.stage("classify").precision == "bf16"
    assert not found.plan.stage("classify").variant
    why = told(found, f"classify as {TENSOR}").why
    verdict = judge.verdicts["quantize", f"classify as {TENSOR}"]
    assert verdict.loss > 0.3
    flipped = [flip.item for flip in verdict.bad_flips]
    assert f"{len(flipped)} of {verdict.n} answers got worse" in why
    assert why.endswith(", ".join(flipped[:3])), "items by name"


def test_one_scale_a_tensor_that_the_gate_had_rejected_before() -> None:
    agreed = CardQuality("agreement", 0.495, 0.43, 0.56, 200, "fp32")
    found, judge = searched(
        with_cards(card("fp32", told=True), card(TENSOR, told=True, verdict="reject", quality=[agreed]))
    )
    assert told(found, f"classify as {TENSOR}").why == (
        "the gate rejected it (agreement 0.495, 0.43-0.56, n = 200 against fp32)"
    )
    assert ("quantize", f"classify as {TENSOR}") not in judge.verdicts, "nobody was asked again"


def test_an_encoder_without_one_of_its_blocks() -> None:
    def wrong(plan: Plan) -> Callable[[int], bool]:
        return lambda item: plan.stage("classify").variant == CUT and item % 3 == 0

    found, _ = searched(
        with_cards(card("fp32"), card(CUT), flags=("avx2",), slo="p95<6ms, quality_loss<5pt"), wrong
    )
    assert found.plan.stage("classify").variant == ""
    assert "answers got worse" in told(found, f"classify as {CUT}").why


def test_what_had_better_not_be_built_is_said_with_its_reason() -> None:
    doubts = {
        MODEL: [
            Unbuilt("drop_block", "onnx", "an encoder that was not trained for it misses any of its blocks"),
            Unbuilt("sparse", "onnx", "dense engines multiply zeros: no gain on this engine"),
            Unbuilt("ort_static", "onnx", ""),
        ]
    }
    found, _ = searched(with_cards(card("fp32"), unbuilt=doubts))
    assert told(found, "classify by drop_block").why.startswith("an encoder that was not trained")
    assert "no gain on this engine" in told(found, "classify by sparse").why
    assert told(found, "classify in another form").why == (
        f"not built here: ort_static; `tauten model build {MODEL} --recipe ort_static`"
    )


def test_zeros_gain_nothing_on_a_dense_engine() -> None:
    by_card = with_cards(card("fp32", told=True), card(ZEROS, told=True), flags=("avx2",))
    found, _ = searched(by_card)
    why = told(found, f"classify as {ZEROS}").why
    assert why.startswith("no gain on this engine: a run takes 6.8 ms (6.66-6.94) on openvino")
    by_price, _ = searched(with_cards(card("fp32"), card(ZEROS), flags=("avx2",)))
    assert "gains 0.0 % in simulation" in told(by_price, f"classify as {ZEROS}").why
    assert by_price.plan.stage("classify").variant == ""


# -- labels ----------------------------------------------------------------------------------------------------


class Shortcut:
    """Answers of questions that look alike: right as often as nobody knows."""

    name: ClassVar[str] = "shortcut"
    reason: ClassVar[str] = "for this test"

    def propose(self, seen: Situation) -> Iterator[Proposal | Refusal]:
        if seen.plan.stage("classify").threads != 1:
            yield Proposal(
                self.name, "answers of like questions", seen.plan.edit("classify", threads=1), "lossy"
            )


@pytest.mark.parametrize(("items", "proven"), [(80, False), (420, True)])
def test_a_semantic_shortcut_whose_error_cannot_be_bounded(items: int, proven: bool) -> None:
    """No answer gets worse; too few labels bound the loss by more than is allowed, and that is said before any look."""
    first = situation(PICTURES)
    judge = gate(Labelled(harmless), first.plan, items, 0.01)
    search = Search(
        [Shortcut()],
        lambda plan: Situation(first.graph, plan, first.hardware, first.slo, 1.0, ToldFacts({})),
        lambda plan: Figures({"p95_ms": 3.0 if plan.stage("classify").threads == 1 else 6.8}),
        Slo(p95_ms=5.0, quality_loss=0.01),
        allowed=judge.allowed,
    )
    found = search.run(first.plan)
    shortcut = told(found, "answers of like questions")
    assert shortcut.taken is proven
    if not proven:
        assert (
            shortcut.why
            == "cannot conclude: 68 labelled requests bound a loss by 4.3 points at best, n >= 299"
        )
        assert judge.verdicts == {}


def test_no_answer_is_spent_where_none_may_be_lost() -> None:
    found, _ = searched(with_cards(card("fp32"), slo="p95<5ms"))
    assert found.plan.stage("classify").precision == "f32"
    assert told(found, "classify in bf16").why == "the SLO allows no loss of quality"


# -- cores -----------------------------------------------------------------------------------------------------


def tuned(strategies: Sequence[Strategy], rate: float, plan: Plan, *, plans: Sequence[Plan] = ()) -> Found:
    """A search whose prices are simulations of what was recorded, on two cores that are shared."""
    library = learned(plan, *plans)
    simulator = Simulator(desk, library, Shared(cores=2, interrupted=1.3))
    arrivals = [(number / rate, ITEMS[number % len(ITEMS)][0]) for number in range(60)]
    graph = desk.graph
    assert graph is not None

    def look(plan: Plan) -> Situation:
        return Situation(
            graph, plan, Hardware(2), Slo(p95_ms=150.0), rate, TapedFacts(library, lower(graph, plan))
        )

    search = Search(
        strategies, look, lambda plan: figures_of(simulator.run(plan, arrivals), library), Slo(p95_ms=150.0)
    )
    return search.run(plan)


def test_batches_at_a_rate_too_low_to_fill_them() -> None:
    found = tuned([Batching()], 0.5, NAIVE, plans=[NAIVE.edit("hear", threads=2)])
    assert told(found, "hear in batches").why == (
        "at 0.5 requests a second a run of 100 ms finds 1.05 items: too few to share"
    )
    assert not any(each.taken and "hear in batches of" in each.change for each in found.tried)


def test_two_models_of_two_threads_on_two_cores_are_a_loss() -> None:
    """Told models gain nothing by a second thread, and two of them side by side lose by it: one each is found."""
    both = parse_plan(
        f'tauten = "plan/1"\ngraph = "{NAIVE.graph}"\n[stage.hear]\nthreads = 2\n[stage.look]\n'
        "[stage.look.see]\nthreads = 2\n[stage.look.read]\nthreads = 2\n[stage.tell]\nthreads = 1\n"
    )
    found = tuned([Overlap(), Batching()], 2.0, both, plans=[NAIVE])
    chosen = {
        (step.name, role): choice.threads
        for step in lower(desk.graph, found.plan).steps  # type: ignore[arg-type]
        for role, choice in step.models.items()
        if step.name in ("hear", "look")
    }
    assert found.plan.stage("hear").beside == ("look",)
    assert chosen["hear", "model"] + max(chosen["look", "see"], chosen["look", "read"]) <= 2
    taken = [each for each in found.tried if each.taken and each.strategy == "batch"]
    assert taken
    assert all(each.before is not None and each.figures is not None for each in taken)
    assert taken[0].figures.values["p95_ms"] < taken[0].before.values["p95_ms"]  # type: ignore[union-attr]
