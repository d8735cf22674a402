"""What the tests of sections share: measurements that count at once."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest


@pytest.fixture
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every measurement counts at once, whatever else the machine does."""
    from bench.kit_shortcuts import rounds

    async def once(measure: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        return await measure()

    monkeypatch.setattr(rounds.quiet, "quietest_async", once)
