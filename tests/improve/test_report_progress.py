"""The line that tells how far a search is, on a terminal and in a log."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import io

import pytest

from tauten.improve.report.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Hand:
    """A clock that is moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_on_a_terminal_one_line_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    stream, hand = Terminal(), Hand()
    progress = Progress(1800.0, stream, now=hand)
    progress.tell("simulating: transcribe on int8")
    hand.now += 432.0
    progress.best("p95 790 ms (SLO 800)")
    seen = stream.getvalue()
    assert "\n" not in seen
    assert seen.count("\r\x1b[K") == 2
    assert seen.endswith(
        "[7:12 of 30:00] simulating: transcribe on int8 · best p95 790 ms (SLO 800) · Ctrl-C loses nothing"
    )
    progress.close()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_how_far_it_is_stands_behind_what_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    progress = Progress(1800.0, stream, now=Hand())
    progress.tell("run 12 requests with look.last = 2")
    progress.detail("run 3 of 36: item 7")
    assert stream.getvalue().endswith(
        "run 12 requests with look.last = 2 · run 3 of 36: item 7 · Ctrl-C loses nothing"
    )
    progress.tell("simulate reduce: look: last = 2")
    assert "run 3 of 36" not in stream.getvalue().rpartition("\r")[2]


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_a_narrow_terminal_is_never_wrapped(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    progress = Progress(60.0, stream, now=Hand())
    progress.tell("a very long description of what is being tried\x1b[31m\n just now")
    lines = stream.getvalue().split("\r\x1b[K")[1:]
    assert [len(line) < columns for line in lines] == [True]
    assert "\n" not in lines[0]
    assert "\x1b" not in lines[0]


def test_elsewhere_plain_lines_come_now_and_then() -> None:
    stream, hand = io.StringIO(), Hand()
    progress = Progress(600.0, stream, now=hand)
    for _ in range(25):
        progress.tell("pricing")
        hand.now += 1.0
    assert stream.getvalue().count("\n") == 3  # at 0, 10 and 20 s
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_elsewhere_a_new_best_is_told_at_once_and_once() -> None:
    stream = io.StringIO()
    progress = Progress(600.0, stream, now=Hand())
    progress.tell("pricing")
    progress.best("p95 900 ms")
    progress.best("p95 900 ms")
    progress.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "best p95 900 ms" in lines[1]
