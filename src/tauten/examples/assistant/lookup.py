"""Orders: a question that names orders is answered with what the slow service says of them, in plain sentences.

No model is asked. What is looked up is the *number*: "Where is T-1010?" and "any news of order 1010" are one lookup,
so a cache of lookups has both, whatever words they come in.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from typing import Any, Final

import tauten as tt
from tauten.errors import InputError
from tauten.examples.assistant.orders import LOOKUP_CENTS, Order
from tauten.examples.assistant.source import current
from tauten.improve.recording import Recording

MOST = 5  # orders that one question looks up: a pasted list is no question
NONE_NAMED = "Which order is it? Its number begins with T-."
_NUMBER = re.compile(r"\bT-?(\d{4})\b|(?:\border(?: (?:no\.?|number))?|#)\s*(\d{4})\b", re.IGNORECASE)
_SAYS: Final = {
    "received": "has been received; it is packed next",
    "packed": "is packed and waits for {carrier}, since {day}",
    "on its way": "is on its way with {carrier} and should be there on {day}",
    "delivered": "was delivered by {carrier} on {day}",
    "sent back": "was sent back to us on {day}; the money follows",
}


@tt.stage(pure=True, inline=True)
def order_numbers(question: tt.Text) -> list[str]:
    """The orders that a question names, each once, in one spelling."""
    found = (first or second for first, second in _NUMBER.findall(question.text))
    return list(dict.fromkeys(f"T-{digits}" for digits in found))[:MOST]


@tt.stage(pure=True)
async def order_status(ctx: tt.Context, number: str) -> Order:
    """What the service says of an order.

    Pure: asking twice, or not at all, is harmless. That the world behind it changes is for the plan: how old an answer
    may be (`ttl_s`), how long an unknown number stays one (`negative_s`). Raises InputError for such a number, and
    BackendError where the service cannot say: only the first may be kept.
    """
    found = await current().find(number)
    ctx.spend("cents", LOOKUP_CENTS)
    if found is None:
        raise InputError(f"There is no order {number}.", help="look at the number again")
    return found


@tt.stage(pure=True, inline=True)
def told(found: list[Any]) -> tt.Text:
    """A sentence for each order; raises what kept one of them from being looked up."""
    return tt.Text(" ".join(map(_sentence, found)) or NONE_NAMED)


def _sentence(found: Any) -> str:
    if isinstance(found, Order):
        return f"Order {found.number} ({found.thing}) {says(found)}."
    if found.__class__ is InputError:
        return str(found.message)
    raise found


def says(order: Order) -> str:
    """What becomes of an order."""
    return _SAYS[order.state].format(carrier=order.carrier, day=order.day)


def about_orders(numbers: Any) -> Any:
    """The part of a drawing that looks orders up. An unknown one does not stop the others."""
    return told(tt.map(order_status, numbers, errors="keep"))


@tt.workflow(slo=tt.Slo(p95_ms=1000))
def order_desk(question: tt.Text) -> tt.Text:
    return about_orders(order_numbers(question))


def recording(*, split: str | None = None, repeats: float | None = None) -> Recording:
    """What the assistant's recording asks about orders."""
    from tauten.examples.assistant.recording import REPEATS
    from tauten.examples.assistant.recording import recording as whole

    items = whole(split=split, repeats=REPEATS if repeats is None else repeats)
    return Recording("order_desk", [item for item in items if item.tags[0] in ("order", "unknown")])
