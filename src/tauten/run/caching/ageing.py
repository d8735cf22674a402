"""How old a result may be: fresh, due to be computed anew early, stale but given, or over.

Early is by lot (XFetch: Vattani, Chierichetti and Lowenstein, "Optimal Probabilistic Cache Stampede Prevention",
VLDB 2015): the nearer the end and the dearer the work, the likelier. So one request computes what all others go on
to be given, and nobody waits when the time is over. What is stale is given for a while and computed anew behind.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from tauten.plan.plan import CachePlan
from tauten.run.caching.refused import Refused
from tauten.run.contracts import Kept

Age = Literal["fresh", "early", "stale", "over"]
Draw = Callable[[], float]  # from 0 to 1, 1 left out


def ttl_s(rules: CachePlan, value: object) -> float:
    """Seconds that a result is fresh; infinity where nothing grows old."""
    if isinstance(value, Refused):
        return rules.negative_s
    return rules.ttl_s or math.inf


def lives_s(rules: CachePlan, value: object) -> float:
    """Seconds that it may be given at all, stale ones included; 0 is for ever."""
    fresh_s = ttl_s(rules, value)
    if fresh_s == math.inf:
        return 0.0
    return fresh_s if isinstance(value, Refused) else fresh_s + rules.stale_s


def age_of(rules: CachePlan, kept: Kept, now: float, draw: Draw) -> Age:
    """What may be done with a result that was found."""
    fresh_s = ttl_s(rules, kept.value)
    if fresh_s == math.inf:
        return "fresh"
    old_s = max(0.0, now - kept.made_at)  # another machine's clock may be ahead of ours
    if old_s >= fresh_s:
        stale_s = 0.0 if isinstance(kept.value, Refused) else rules.stale_s
        return "stale" if old_s < fresh_s + stale_s else "over"
    if rules.refresh and old_s - kept.saved_s * rules.refresh * math.log(1.0 - draw()) >= fresh_s:
        return "early"
    return "fresh"
