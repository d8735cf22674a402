"""What Prometheus sees of the book: by model, stage, payer and kind, in no more series than are allowed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families as families

from tauten.run.usage.row import UsageRow
from tauten.run.usage.totals import OTHER, Sums, Totals
from tauten.serve.observe.exposition import Exposition
from tauten.serve.observe.usage_series import of_the_book
from usage.kit_usage import quiet

LINES = [
    UsageRow(
        id="1",
        at_ms=0,
        day="",
        workflow="desk",
        step="ask",
        tenant="lab",
        key="front",
        tags="beta",
        client="app",
        provider="house",
        model="small",
        nano=2_000_000_000,
        units={"input_tokens": 7, "output_tokens": 2},
    ),
    UsageRow(
        id="2",
        at_ms=0,
        day="",
        workflow="desk",
        step="embed",
        tenant="lab",
        key="back",
        provider="local",
        model="minilm",
        nano=None,
        units={"core_seconds": 0.5},
    ),
    UsageRow(
        id="3",
        at_ms=0,
        day="",
        workflow="desk",
        step="ask",
        tenant="lab",
        key="front",
        provider="house",
        model="small",
        kind="refresh",
        nano=1_000_000_000,
        units={"input_tokens": 7, "output_tokens": 2},
    ),
]


def page(folder: Path, lines: list[UsageRow]) -> dict[tuple[str, ...], float]:
    """Samples by their name and their labels' values."""
    book = quiet(folder)
    for line in lines:
        book.totals.add(line)
    text = "".join(of_the_book(book, Exposition(openmetrics=False)))
    return {
        (each.name, *(f"{name}={value}" for name, value in sorted(each.labels.items()))): each.value
        for family in families(text)
        for each in family.samples
    }


def test_tokens_and_money_are_there_by_model_stage_payer_and_kind(tmp_path: Path) -> None:
    found = page(tmp_path, LINES)
    model = ("model=small", "provider=house", "workflow=desk")
    assert found["tauten_usage_dollars_total", *model] == pytest.approx(3.0)
    assert found["tauten_usage_units_total", *model[:2], "unit=input_tokens", model[2]] == 14
    assert found["tauten_usage_stage_dollars_total", "stage=ask", "workflow=desk"] == pytest.approx(3.0)
    assert found["tauten_usage_stage_units_total", "stage=embed", "unit=core_seconds", "workflow=desk"] == 0.5
    assert found["tauten_usage_stage_unpriced_total", "stage=embed", "workflow=desk"] == 1
    assert found["tauten_usage_payer_dollars_total", "key=front", "tenant=lab"] == pytest.approx(3.0)
    assert found["tauten_usage_payer_units_total", "key=back", "tenant=lab", "unit=core_seconds"] == 0.5
    assert found["tauten_usage_behind_dollars_total", "kind=refresh", "workflow=desk"] == pytest.approx(1.0)
    assert (
        found["tauten_usage_behind_units_total", "kind=refresh", "unit=output_tokens", "workflow=desk"] == 2
    )


def test_nothing_that_a_client_says_is_a_label(tmp_path: Path) -> None:
    words = {word for sample in page(tmp_path, LINES) for word in sample}
    assert not any("beta" in word or "app" in word for word in words)


def test_its_health_is_there(tmp_path: Path) -> None:
    names = {name for name, *_ in page(tmp_path, [])}
    for each in ("written", "aside", "dropped", "failures", "clock_set_back"):
        assert f"tauten_usage_{each}_total" in names
    assert "tauten_usage_waiting" in names


ROW = st.builds(
    lambda step, nano, tokens: UsageRow(
        id="", at_ms=0, day="", workflow="w", step=step, nano=nano, units={"input_tokens": tokens}
    ),
    st.sampled_from([f"s{n}" for n in range(9)]),
    st.none() | st.integers(0, 10**12),
    st.integers(0, 1000),
)


@given(st.lists(ROW, max_size=60), st.integers(1, 6))
def test_series_are_bounded_and_no_sum_loses_anything(lines: list[UsageRow], most: int) -> None:
    sums = Sums("workflow", "step", most=most)
    for line in lines:
        sums.add(line)
    named = {of for of in sums.cost if of != (OTHER, OTHER)}
    assert len(named) <= most
    assert len(sums.cost) <= most + 1
    assert sum(sums.lines.values()) == len(lines)
    assert sum(sums.units.values()) == sum(line.units["input_tokens"] for line in lines)
    assert sum(each.nano for each in sums.cost.values()) == sum(line.nano or 0 for line in lines)
    assert sum(each.unknown for each in sums.cost.values()) == sum(line.nano is None for line in lines)
    exact: Counter[str] = Counter()
    for line in lines:
        exact[line.step] += int(line.units["input_tokens"])
    assert all(
        sums.units["w", step, "input_tokens"] == exact[step] for workflow, step in named if workflow == "w"
    )


def test_all_ways_to_add_up_have_the_same_sum() -> None:
    totals = Totals(most=1)
    for line in LINES:
        totals.add(line)
    for sums in (totals.models, totals.stages, totals.payers):
        assert sum(each.nano for each in sums.cost.values()) == 3_000_000_000
    assert sum(each.nano for each in totals.kinds.cost.values()) == 1_000_000_000
