"""What `exact_hit` serves: one stage that takes as long as a model far away, under four plans."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import os

import tauten as tt

BACKEND_S = float(os.environ.get("TAUTEN_BENCH_BACKEND_S", "0.4"))  # the bottleneck of the published claim
ANSWER = "Dictionaries keep the order in which their keys came. " * 5  # some fifty words, as answers have


@tt.stage(pure=True)
async def slow(text: tt.Text) -> tt.Text:
    """A backend of known duration that uses no core."""
    await asyncio.sleep(BACKEND_S)
    return tt.Text(f"{ANSWER}{text.text}")


@tt.workflow
def uncached(text: tt.Text) -> tt.Text:
    return slow(text)


@tt.workflow
def in_memory(text: tt.Text) -> tt.Text:
    return slow(text)


@tt.workflow
def on_disk(text: tt.Text) -> tt.Text:
    return slow(text)


@tt.workflow
def in_redis(text: tt.Text) -> tt.Text:
    return slow(text)


PLANS = {
    "in_memory": "[stage.slow]\ncache = true",
    "on_disk": '[stage.slow]\ncache = { tiers = ["disk"] }',
    "in_redis": '[stage.slow]\ncache = { tiers = ["redis"] }',
}
