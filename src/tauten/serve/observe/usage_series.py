"""The book of usage as Prometheus sees it: calls, units and money by model, stage, payer and kind; and its own health."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from tauten.run.usage.cost import NANO
from tauten.run.usage.totals import Sums
from tauten.serve.observe.exposition import Exposition

if TYPE_CHECKING:
    from tauten.run.usage.book import Book


class _Way(NamedTuple):
    """One way to add up: how its families begin, how their labels are called, and whose sums they say."""

    prefix: str
    labels: tuple[str, ...]
    whose: str


_MODELS: Final = _Way("tauten_usage", ("workflow", "provider", "model"), "calls to providers and steps")
_STAGES: Final = _Way("tauten_usage_stage", ("workflow", "stage"), "stages")
_PAYERS: Final = _Way("tauten_usage_payer", ("tenant", "key"), "tenants and their keys")
_KINDS: Final = _Way(
    "tauten_usage_behind",
    ("workflow", "kind"),
    "work that nobody waited for: refresh, stale, learn, verify, mirror",
)


def of_the_book(book: Book | None, page: Exposition) -> Iterator[str]:
    """Families of a server that keeps a book; labels come from plans and files, never from clients."""
    if book is None:
        return
    totals = book.totals
    yield from page.counter(
        "tauten_usage_lines",
        "Calls to providers and steps of this machine that were booked.",
        (*_MODELS.labels, "outcome"),
        totals.models.lines.copy().items(),  # at once: a thread writes it
    )
    for way, sums in (
        (_MODELS, totals.models),
        (_STAGES, totals.stages),
        (_PAYERS, totals.payers),
        (_KINDS, totals.kinds),
    ):
        yield from _summed(way, sums, page)
    yield from _health(book, page)
    if book.budgets is not None:
        yield from _of_budgets(book, page)


def _summed(way: _Way, sums: Sums, page: Exposition) -> Iterator[str]:
    """What they took, what that cost, and of how many nobody knows it."""
    units, cost = sums.units.copy(), sums.cost.copy()
    yield from page.counter(
        f"{way.prefix}_units",
        f"What was taken, by unit, of {way.whose}.",
        (*way.labels, "unit"),
        units.items(),
    )
    yield from page.counter(
        f"{way.prefix}_dollars",
        f"What that cost, as far as prices are known, of {way.whose}.",
        way.labels,
        [(of, each.nano / NANO) for of, each in cost.items()],
    )
    yield from page.counter(
        f"{way.prefix}_unpriced",
        f"Lines whose price nobody knows, of {way.whose}.",
        way.labels,
        [(of, each.unknown) for of, each in cost.items()],
    )


def _of_budgets(book: Book, page: Exposition) -> Iterator[str]:
    assert book.budgets is not None  # who calls has looked
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
        ("tauten_usage_aside", "Lines that were put in files until the database takes them.", book.aside),
        ("tauten_usage_dropped", "Requests and calls that nobody has a line of.", book.dropped),
        ("tauten_usage_failures", "Tries that the database did not take.", book.failures),
        ("tauten_usage_clock_set_back", "Times that the machine's clock was set back.", book.set_back),
    )
    for name, text, value in counts:
        yield from page.counter(name, text, (), [((), value)])
