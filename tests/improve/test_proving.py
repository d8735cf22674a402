"""Labelled pairs that open a gate, that do not, and files of them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kit.likeness import letters
from tauten.errors import InputError
from tauten.improve.proving import Pair, Proved, passes, prove, read_pairs
from tauten.run.gating.gate import Gate, Terms

WANTED = Terms(epsilon=0.1, eta=0.1)  # 22 hits without an error prove it


def paraphrase(number: int, **more: Any) -> Pair:
    asked, kept = f"How can I reset my password {number}?", f"How do I reset my password {number}?"
    return Pair(kept, asked, True, **more)


def trap(number: int, **more: Any) -> Pair:
    return Pair(f"How do I reset my password {number}?", f"How do I reset my router {number}?", False, **more)


def wrong(number: int) -> Pair:
    """One that the checks let pass, and whose label says that it needs another answer."""
    return Pair(
        f"How do I reset my password {number}?", f"How can I reset my password {number}?", False, "held_out"
    )


def proved(gate: Gate, pairs: list[Pair], *, again: bool = False) -> Proved:
    return asyncio.run(prove(gate, letters, pairs, again=again))


def halves(count: int) -> list[Pair]:
    dev = [paraphrase(number, split="dev") for number in range(10, 10 + count)]
    return dev + [paraphrase(number) for number in range(50, 50 + count)]


def test_the_pairs_of_these_tests_are_what_they_say() -> None:
    assert passes(paraphrase(7))
    assert passes(wrong(7))
    assert not passes(trap(7))


def test_enough_hits_without_an_error_open_the_gate() -> None:
    gate = Gate(WANTED)
    assert gate.needed == 22
    found = proved(gate, [*halves(30), *(trap(number) for number in range(100))])
    assert (found.pairs, found.held_out, found.hits, found.wrong, found.found) == (160, 130, 30, 0, 1.0)
    assert found.open
    [verdict] = found.verdicts
    assert verdict.bound <= WANTED.epsilon
    assert gate.opens()


def test_pairs_that_the_checks_refuse_prove_nothing() -> None:
    gate = Gate(WANTED)
    with pytest.raises(InputError, match=r"E292.*21 of the held-out pairs"):
        proved(gate, [*halves(21), *(trap(number) for number in range(100))])
    assert proved(gate, halves(30)).open, "no try was spent"


def test_errors_among_the_hits_keep_it_closed() -> None:
    gate = Gate(WANTED)
    found = proved(gate, [*halves(30), *(wrong(number) for number in range(200, 210))])
    assert (found.hits, found.wrong, found.open) == (40, 10, False)
    assert not gate.opens()


def test_a_gate_is_proved_again_on_other_pairs_only_where_that_is_said() -> None:
    gate = Gate(WANTED)
    assert proved(gate, halves(30)).open
    with pytest.raises(InputError, match="tries"):
        proved(gate, halves(30))
    assert proved(gate, halves(30), again=True).open
    with pytest.raises(InputError, match="held-out"):
        proved(gate, halves(3), again=True)
    assert gate.opens(), "what could not suffice forgets nothing"


def test_without_a_half_for_thresholds_the_first_fifth_gives_them() -> None:
    gate = Gate(WANTED)
    found = proved(gate, [paraphrase(number) for number in range(40)])
    [verdict] = found.verdicts
    assert verdict.open
    assert verdict.n <= 32


def test_tenants_and_categories_are_proved_by_their_own_pairs() -> None:
    gate = Gate(WANTED)
    pairs = [paraphrase(number, tenant="one", category="accounts") for number in range(80)]
    assert proved(gate, pairs).open
    assert gate.opens("one", "accounts")
    assert not gate.opens("one")
    assert not gate.opens()


def test_files_of_pairs(tmp_path: Path) -> None:
    lines, toml = tmp_path / "pairs.jsonl", tmp_path / "pairs.toml"
    lines.write_text('{"kept": "a", "asked": "b", "same": true, "tenant": "one"}\n\n')
    toml.write_text('[[pair]]\nkept = "a"\nasked = "b"\nsame = false\nsplit = "dev"\n')
    assert read_pairs(lines) == [Pair("a", "b", True, tenant="one")]
    assert read_pairs(toml) == [Pair("a", "b", False, "dev")]


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("pairs.jsonl", '{"kept": "a", "asked": "b"}', "E292"),
        ("pairs.jsonl", '{"kept": "a", "asked": "b", "same": true, "colour": "red"}', "E292"),
        ("pairs.toml", "[[pair]]\nkept = ", "E292"),
        ("pairs.toml", '[[pair]]\nkept = "a"\nasked = "b"\nsame = "yes"\n', "E292"),
        ("pairs.toml", None, "E203"),
    ],
)
def test_files_that_hold_no_pairs_are_refused(
    tmp_path: Path, name: str, content: str | None, code: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as refused:
        read_pairs(tmp_path / name)
    assert refused.value.code == code
