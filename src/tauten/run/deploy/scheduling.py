"""When a batch leaves, how many run together, what is padded or trimmed: pure functions over plain data.

Nothing here reads a clock, waits, or knows a deployment; the same functions serve the engine, the
simulator and the tests. Times are float seconds on one line, durations float seconds.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple

Reason = Literal["full", "slack", "alone", "gain", "siblings", "off", "fixed", "inline", "spread"]
"""Why a batch left: it was full · its earliest deadline leaves no more time · nobody is likely to come ·
waiting gains less than it costs · all members of a map were there · the plan forbids waiting · the plan's
fixed wait was over · it is so short that it runs on the event loop itself, sooner than a thread would
have taken it · it is one of the parts that idle replicas run side by side."""

Wait = Literal["slack", "off"] | float
"""How a plan lets a batch wait: by slack, not at all, or a fixed number of milliseconds."""

WAIT_OF_BUDGET: Final = 0.10  # of a stage's budget at most: the rest is for its queue and its work
WAIT_OF_RUN: Final = 2.0  # run times at most: beyond that a further batch would have come and gone
TRIED: Final = 0.5  # of what a wait may save is spent to see whether they come
WORTH: Final = 1.02  # of the present rate: estimates are no better than that
HAND_S: Final = 0.00004  # that a thread's taking over and giving back costs at the least
INLINE_MOST_S: Final = 0.0005  # whatever a hand-off costs: others, too, have work for the loop
FEW: Final = 1000.0  # arrivals/s that are taken for granted: what else the loop has to do is not counted
SPREAD: Final = 0.8  # of a whole batch's run at most: parts that run side by side share memory and caches
HALF: Final = 0.5  # of a place: those who came as one and were parted weigh whole places but for rounding
WORTH_S: Final = 0.00025  # saved at least: loops round timers to 1 ms, a no-show costs that much


class Queue(NamedTuple):
    """What a release looks at: the waiting items that may share the next batch."""

    items: int  # of the group whose turn it is
    most: int  # that one batch may hold, by number and by weight
    weight: float  # of the items; who comes is taken to weigh as these do in the mean
    due: float  # when the first of them must be done here: its deadline less what is downstream
    budget_s: float  # the least that one had here when it came: its `due` less its arrival
    since: float  # when holding could begin: an idle replica, and this batch not gone
    others: int = 0  # waiting items of other groups
    siblings: int = 0  # members of the most urgent one's map that wait here
    missing: int = 0  # members of that map that run and may still come
    gap_s: float = math.inf  # between the members of maps as they come here


class Forecast(NamedTuple):
    """Who is likely to come: clients that were just answered, and a stream of strangers."""

    returning: int = 0  # answered a moment ago, not yet back
    returning_s: float | None = 0.0  # until they are all back, in the mean; None: to be tried
    latest_s: float = 0.0  # until they are almost surely back
    rate: float = 0.0  # arrivals a second, of late


class Release(NamedTuple):
    """`members` leave now for `reason`; with 0 the batch is held until `wake_at` or `target` wait.

    Whoever makes it heavier than `weight`, or must be done before `due`, was not reckoned with.
    """

    members: int
    reason: Reason
    wake_at: float = 0.0
    target: int = 0
    weight: float = math.inf
    due: float = -math.inf


def release(
    now: float,
    queue: Queue,
    seconds: Callable[[float], float],
    high: Callable[[float], float],
    forecast: Forecast,
    wait: Wait = "slack",
) -> Release:
    """Decide about a batch for which a replica is idle.

    `seconds(weight)` and `high(weight)` give the mean and a high quantile of what a batch of that weight runs;
    0.0 where nothing is known.
    """
    n = min(queue.items, queue.most)
    if queue.items >= queue.most:
        return Release(queue.most, "full")
    if wait == "off":
        return Release(n, "off")
    each = queue.weight / queue.items
    last_call = queue.due - high(queue.weight + each)  # one more would make it late after this
    if wait != "slack":
        return _fixed(now, queue, n, last_call, wait / 1000.0)
    if queue.siblings > 1 and not queue.missing:
        return Release(n, "siblings")
    run_s = seconds(queue.weight)
    if not run_s or queue.others:
        return Release(n, "alone" if not queue.others else "gain")
    if not (queue.missing or forecast.returning or forecast.rate):
        return Release(n, "alone")
    cap = queue.since + min(WAIT_OF_RUN * run_s, WAIT_OF_BUDGET * queue.budget_s)
    if now >= last_call:
        return Release(n, "slack")
    k, until = _worth_waiting(now, queue, n, seconds, forecast)
    if not k:
        return Release(n, "gain" if queue.missing or forecast.returning else "alone")
    if now >= cap:
        return Release(n, "gain")
    full = queue.weight + k * each
    last_call = queue.due - high(full)  # nobody looks again until all have come
    if now >= last_call:
        return Release(n, "slack")
    return Release(0, "gain", min(until, cap, last_call), n + k, full, queue.due)


def _fixed(now: float, queue: Queue, n: int, last_call: float, wait_s: float) -> Release:
    until = queue.since + wait_s
    if now >= until:
        return Release(n, "fixed")
    if now >= last_call:
        return Release(n, "slack")
    one_more = queue.weight * (n + 1) / n
    return Release(0, "fixed", min(until, last_call), queue.most, one_more, queue.due)


def _worth_waiting(
    now: float, queue: Queue, n: int, seconds: Callable[[float], float], forecast: Forecast
) -> tuple[int, float]:
    """How many more to wait for, and until when; (0, now) where that gains nothing."""
    room = queue.most - n
    weight = queue.weight
    each, run_s = weight / n, seconds(weight)
    gaps_s = queue.gap_s * min(queue.missing, room)
    sources: list[tuple[int, float | None, float]] = [
        (min(queue.missing, room), gaps_s, gaps_s),
        (min(forecast.returning, room), forecast.returning_s, forecast.latest_s),
    ]
    for k, wait_s, latest_s in sources:
        if not k:
            continue
        apart_s, together_s = run_s + seconds(k * each), seconds(weight + k * each)
        if wait_s is None:
            wait_s = latest_s = TRIED * (apart_s - together_s) + queue.since - now
        if wait_s > 0.0 and _raises_rate(wait_s, apart_s, together_s):
            return k, now + latest_s
    if forecast.rate > 0:
        next_s = 1.0 / forecast.rate
        if _saves_time(n, next_s, run_s, seconds(each), seconds(weight + each)):
            return 1, now + 2 * next_s  # the mean gap twice: seven of eight strangers come by then
    return 0, now


def _raises_rate(wait_s: float, apart_s: float, together_s: float) -> bool:
    """Whether all in one batch after a wait are over sooner than those who are here, and then those who come.

    Those who were just answered come back, whatever is done: for them the rate is all that counts, and two crowds
    in turn pay the fixed share of a run twice. With a run of ``a + b n`` this is ``wait_s < a``.
    """
    return apart_s - together_s - wait_s > WORTH_S and apart_s > WORTH * (wait_s + together_s)


def _saves_time(n: int, wait_s: float, run_s: float, alone_s: float, together_s: float) -> bool:
    """Whether waiting for one stranger shortens the sum of all latencies, his next run included."""
    gain_s = n * (run_s - together_s - wait_s) + (run_s + alone_s - together_s - wait_s)
    return gain_s > (n + 1) * WORTH_S


def part(weight: float, whole: float, parts: int, seconds: Callable[[float], float]) -> float:
    """What each of so many idle replicas gets of a weight that waits, so that all are answered sooner than in a
    batch of the weight `whole`; `whole` where they are not. Parts cost the fixed share of a run once each, of
    processors that nobody else uses now.

    >>> part(32.0, 32.0, 2, lambda weight: 0.002 + 0.0005 * weight)
    16.0
    >>> part(32.0, 32.0, 2, lambda weight: 0.020 + 0.0001 * weight)
    32.0
    """
    each = weight / parts
    if each >= whole:
        return whole
    whole_s, each_s = seconds(whole), seconds(each)
    return each if each_s < SPREAD * whole_s and whole_s - each_s > WORTH_S else whole


def runs_inline(run_s: float, items: int, behind: int, hand_s: float, rate: float) -> bool:
    """Whether a batch runs on the event loop itself: a short one with nobody behind it.

    A hand-off to a thread and back costs each of its items `hand_s`. A run of r seconds on the loop keeps those
    waiting for r / 2 each who come meanwhile, r x rate of them; that and no more it may cost.
    """
    return not behind and 0.0 < run_s < inline_most(items * hand_s, rate)


def inline_most(hand_s: float, rate: float) -> float:
    """Seconds of a run that are worth hand-offs of `hand_s` in all at so many arrivals a second."""
    return min(INLINE_MOST_S, math.sqrt(2.0 * max(hand_s, HAND_S) / max(rate, FEW)))


# -- sizes ---------------------------------------------------------------------------------------------------


def fit(count: int, sizes: Sequence[int], expected: Callable[[int], float]) -> tuple[int, int]:
    """(items to take, size to run) where a backend runs only certain sizes: pad up or trim down.

    Chosen by the cost of one real item; without estimates it pads, which leaves nobody behind.

    >>> fit(5, (1, 2, 4, 8), lambda size: 0.010 + 0.001 * size)
    (5, 8)
    >>> fit(5, (1, 2, 4, 8), lambda size: 0.001 * size)
    (4, 4)
    """
    up = min((size for size in sizes if size >= count), default=0)
    down = max((size for size in sizes if size <= count), default=0)
    if up == count or not down:
        return min(count, up or count), up or count
    if not up or (expected(up) / count > expected(down) / down):
        return down, down
    return count, up


def padded(count: float, sizes: Sequence[int]) -> float:
    """What runs for so many where only certain sizes run: the next one of them."""
    for size in sizes:
        if size > count - HALF:
            return float(size)
    return count


def stepped(of: Callable[[float], float], sizes: Sequence[int]) -> Callable[[float], float]:
    """An estimate for a weight where that is of places, and batches are padded up to certain sizes."""
    return (lambda weight: of(padded(weight, sizes))) if sizes else of


def halves(count: int) -> tuple[int, int]:
    """How a failed batch is split to find the item that poisons it."""
    return count // 2, count - count // 2


# -- predictions ---------------------------------------------------------------------------------------------


def queue_wait(
    ahead: int, most: int, replicas: int, batch_s: float, first_free_s: float, spread: float = 0.0
) -> float:
    """Seconds until an item with `ahead` items before it is given to a replica.

    `spread` is how far a run may exceed its mean, as a share of it; of k runs the square root of k adds up.
    """
    batches = ahead // most
    return first_free_s + batch_s * (batches / replicas + spread * math.sqrt(batches + 1))


def retry_after(predicted_s: float, left_s: float, run_s: float = 0.0) -> float:
    """Seconds after which the same request would just be in time, as the queue drains now; not before a run
    of `run_s` has ended."""
    return max(predicted_s - left_s, run_s, 0.001)
