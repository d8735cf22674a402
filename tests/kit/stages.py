"""Stages whose time and result are plain to see."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio

import tauten as tt


@tt.stage(pure=True)
async def wait(text: str, *, s: float = 1.0) -> str:
    await asyncio.sleep(s)
    return text


@tt.stage(pure=True)
async def both(a: str, b: str) -> str:
    return a + b
