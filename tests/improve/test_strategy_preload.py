"""The strategy `preload`: a refusal with what the first requests of a capture were measured to wait for."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest

from simulate.kit_desk import ITEMS, NAIVE, desk, learned
from tauten.describe.slo import Slo
from tauten.improve.optimizer.facts import TapedFacts
from tauten.improve.simulate.library import Library
from tauten.improve.situation import Refusal, Situation
from tauten.improve.strategies.preload import SAMPLES, Preload
from tauten.plan.hardware import Hardware
from tauten.plan.lower import lower


def facts(library: Library) -> TapedFacts:
    assert desk.graph is not None
    return TapedFacts(library, lower(desk.graph, NAIVE))


def refusal(library: Library) -> str:
    assert desk.graph is not None
    seen = Situation(desk.graph, NAIVE, Hardware(2, (), 24), Slo(), 1.0, facts(library))
    [said] = Preload().propose(seen)
    assert isinstance(said, Refusal)
    return said.why


def test_the_round_that_warms_a_capture_up_is_what_was_seen_first() -> None:
    library = learned(NAIVE)
    firsts = facts(library).firsts()
    assert len(firsts) == len(ITEMS)
    assert all(each.seconds == pytest.approx(each.usual_s) for each in firsts), (
        "models of told times are never cold"
    )
    assert "the first 3 requests here took 0 ms longer" in refusal(library)


def test_it_says_what_the_first_ones_took_and_whether_others_still_wait() -> None:
    library = Library()
    assert refusal(library) == "no first requests after a start were seen"
    library.firsts = [(2.5, 0.5)] + [(0.5, 0.5)] * (SAMPLES + 4)
    assert "took 2000 ms longer" in refusal(library)
    assert refusal(library).endswith("nothing is left to move")
    library.firsts[SAMPLES:] = [(0.9, 0.5)] * 3
    assert "400 ms of 500 ms" in refusal(library)
    assert "--samples RECORDING" in refusal(library)


def test_only_the_first_start_counts() -> None:
    library = learned(NAIVE, NAIVE.edit("hear", beside=("look",)))
    assert len(library.firsts) == len(ITEMS)
