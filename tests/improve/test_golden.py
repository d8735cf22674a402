"""Every strategy says of its golden situations what it said when somebody last read it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import tomllib

import pytest

from improve.kit_golden import GOLDEN, cases, said, situation
from tauten.improve.optimizer.order import ORDER
from tauten.improve.situation import Proposal, Refusal, Strategy

UPDATE = os.environ.get("UPDATE_GOLDEN") == "1"
HERE = {path.name.removesuffix(".in.toml") for path in GOLDEN.glob("*.in.toml")}


@pytest.mark.parametrize("strategy", ORDER, ids=lambda each: str(each.name))
def test_it_says_what_it_said(strategy: Strategy) -> None:
    path = GOLDEN / f"{strategy.name}.out.toml"
    found = "\n".join(said(strategy, case) for case in cases(strategy.name))
    if UPDATE:
        path.write_text(found)
    assert found == path.read_text(), "read what changed; UPDATE_GOLDEN=1 keeps it"


@pytest.mark.parametrize("strategy", ORDER, ids=lambda each: str(each.name))
def test_its_golden_file_shows_proposals_and_refusals(strategy: Strategy) -> None:
    shown = tomllib.loads((GOLDEN / f"{strategy.name}.out.toml").read_text())
    assert shown.get("proposal") or strategy.name == "preload", (
        "which has no setting: it says why none is needed"
    )
    assert shown["refusal"]
    assert all(each["why"] for each in shown["refusal"])


@pytest.mark.parametrize("strategy", ORDER, ids=lambda each: str(each.name))
def test_it_says_something_of_every_situation(strategy: Strategy) -> None:
    """Also of those of the others; nothing that it proposes is the plan that it was given, and none comes twice."""
    for name in sorted(HERE):
        for case in cases(name):
            seen = situation(case)
            told = list(strategy.propose(seen))
            assert all(each.strategy == strategy.name for each in told)
            plans = [each.plan for each in told if isinstance(each, Proposal)]
            assert seen.plan not in plans
            assert len(plans) == len(set(map(repr, plans))), f"{strategy.name} on {case.name}"
            assert all(each.why for each in told if isinstance(each, Refusal))


def test_every_strategy_says_why_it_stands_where_it_stands() -> None:
    assert all(each.reason for each in ORDER)
    assert len({each.reason for each in ORDER}) == len(ORDER)
