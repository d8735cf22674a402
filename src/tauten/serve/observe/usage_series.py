"""The book of usage as Prometheus sees it: calls, units and money by workflow, provider and model; and its own health."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tauten.run.usage.cost import NANO
from tauten.serve.observe.exposition import Exposition

if TYPE_CHECKING:
    from tauten.run.usage.book import Book

_OF = ("workflow", "provider", "model")


def of_the_book(book: Book | None, page: Exposition) -> Iterator[str]:
    """Families of a server that keeps a book; labels come from plans and files, never from clients."""
    if book is None:
        return
    totals = book.totals
    lines, units, cost = (
        totals.lines.copy(),
        totals.units.copy(),
        totals.cost.copy(),
    )  # at once: a thread writes them
    yield from page.counter(
        "tauten_usage_lines",
        "Calls to providers and steps of this machine that were booked.",
        (*_OF, "outcome"),
        lines.items(),
    )
    yield from page.counter("tauten_usage_units", "What they took, by unit.", (*_OF, "unit"), units.items())
    yield from page.counter(
        "tauten_usage_dollars",
        "What that cost, as far as prices are known.",
        _OF,
        [(of, each.nano / NANO) for of, each in cost.items()],
    )
    yield from page.counter(
        "tauten_usage_unpriced",
        "Calls and steps whose price nobody knows.",
        _OF,
        [(of, each.unknown) for of, each in cost.items()],
    )
    yield from _health(book, page)
    if book.budgets is not None:
        refused, over = book.budgets.refused.copy(), book.budgets.over.copy()
        names = list(book.budgets.limits)
        yield from page.counter(
            "tauten_budget_refusals",
            "Calls that a budget had no room for.",
            ("budget",),
            [((name,), refused[name]) for name in names],
        )
        yield from page.counter(
            "tauten_budget_overruns",
            "Calls that took more than was held for them.",
            ("budget",),
            [((name,), over[name]) for name in names],
        )


def _health(book: Book, page: Exposition) -> Iterator[str]:
    """Whether the book is written."""
    waiting = [((), book.waiting)]
    yield from page.gauge("tauten_usage_waiting", "Requests and lines that are not written yet.", (), waiting)
    counts = (
        ("tauten_usage_written", "Lines that the database has.", book.written),
        ("tauten_usage_dropped", "Requests and calls that nobody has a line of.", book.dropped),
        ("tauten_usage_failures", "Tries that the database did not take.", book.failures),
    )
    for name, text, value in counts:
        yield from page.counter(name, text, (), [((), value)])
