"""A server's event loop gets the interpreter soon, whatever threads of stages compute."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest

from tauten.cli import serve as command
from tauten.serve.server import Server


class Noting:
    """A server that ends at once."""

    cut = signal = 0
    seen: float = 0.0

    def __init__(self, *_: Any) -> None:
        self.forced = threading.Event()

    async def run(self, ready: Any) -> None:
        Noting.seen = sys.getswitchinterval()


def test_threads_that_compute_let_the_loop_in_within_a_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.getswitchinterval()
    monkeypatch.setattr(f"{Server.__module__}.Server", Noting)
    monkeypatch.setattr(command, "build", lambda *_: ([], {}))
    try:
        assert command.serve(["flow.py:flow"]) == 0
    finally:
        sys.setswitchinterval(before)
    assert Noting.seen == pytest.approx(0.001)
