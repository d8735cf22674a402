"""Requests that were one item with others are added up: alike ones are one line, none is lost, whoever takes when."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sys
import threading

from hypothesis import given
from hypothesis import strategies as st

from tauten.run.usage.entry import no_models
from tauten.run.usage.payer import Payer
from tauten.run.usage.together import Alike, Together

ADDED = st.tuples(
    st.sampled_from(["ok", "late"]), st.sampled_from(["", "a"]), st.integers(1, 5), st.booleans()
)


def alike(ended: str = "ok", tenant: str = "") -> Alike:
    return (ended, tenant, Payer("key"), "small", "small@1", "model")


@given(st.lists(ADDED, max_size=60))
def test_sums_are_those_of_a_plain_count(added: list[tuple[str, str, int, bool]]) -> None:
    together, taken = Together(), []
    plain: dict[tuple[str, str], tuple[int, float]] = {}
    for at, (ended, tenant, count, take) in enumerate(added):
        together.add(alike(ended, tenant), no_models, count, 0.25 * count, float(at))
        before = plain.get((ended, tenant), (0, 0.0))
        plain[ended, tenant] = (before[0] + count, before[1] + 0.25 * count)
        if take:
            taken += together.take()
            assert len(together) == 0
    taken += together.take()
    found: dict[tuple[str, str], tuple[int, float]] = {}
    for entry in taken:
        asked, seconds = found.get((entry.ended, entry.tenant), (0, 0.0))
        [(step, unit, amount)] = entry.spent
        assert (step, unit) == ("model", "replica_seconds")
        found[entry.ended, entry.tenant] = (asked + entry.asked, seconds + amount)
    assert found == plain


def test_alike_ones_of_a_moment_are_one_entry_with_the_time_of_the_last() -> None:
    together = Together()
    for at in range(7):
        together.add(alike(), no_models, 2, 0.0, float(at))
    together.add(alike("late"), no_models, 1, 0.0, 3.0)
    assert [(each.ended, each.asked, each.at) for each in together.take()] == [
        ("ok", 14, 6.0),
        ("late", 1, 3.0),
    ]
    assert together.take() == []


def test_none_is_lost_between_threads() -> None:
    """The writer takes while others add: switches are forced often."""
    together, counted, stop = Together(), [], threading.Event()

    def write() -> None:
        while not stop.is_set():
            counted.extend(each.asked for each in together.take())

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        writer = threading.Thread(target=write)
        writer.start()
        for number in range(20_000):
            together.add(alike(tenant=str(number % 3)), no_models, 1, 0.0, 0.0)
        stop.set()
        writer.join()
    finally:
        sys.setswitchinterval(before)
    assert sum(counted) + sum(each.asked for each in together.take()) == 20_000
