"""The checks of the semantic tier, one by one and together: no trap of the development half passes."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections import Counter

import pytest

from tauten.examples.paraphrases import KINDS, Pair, pairs
from tauten.run.caching.semantic.amounts import amounts
from tauten.run.caching.semantic.asked import asked
from tauten.run.caching.semantic.checks import CHECKS, LONGEST, Check, refusal, stands_alone
from tauten.run.caching.semantic.follow_up import follow_up
from tauten.run.caching.semantic.language import language
from tauten.run.caching.semantic.lexicon import root
from tauten.run.caching.semantic.names import names
from tauten.run.caching.semantic.order import order
from tauten.run.caching.semantic.polarity import polarity
from tauten.run.caching.semantic.quantity import quantity
from tauten.run.caching.semantic.wording import wording

SHARE = 0.75  # of paraphrases of the development half that pass: what the checks are for


def passes(check: Check, one: str, other: str) -> bool:
    forth, back = check(wording(one), wording(other)), check(wording(other), wording(one))
    assert bool(forth) == bool(back), "which of the two is kept makes no difference"
    return not forth


# -- the recording ----------------------------------------------------------------------------------------


def test_the_recording_has_enough_of_every_kind_and_is_split_by_topic() -> None:
    every = pairs()
    kinds = Counter(pair.kind for pair in every)
    assert len(every) >= 320
    assert kinds["paraphrase"] >= 170
    assert set(kinds) == set(KINDS)
    for split in ("dev", "held_out"):
        own = Counter(pair.kind for pair in every if pair.split == split)
        assert set(own) == set(KINDS), split
        assert min(own.values()) >= 7, split
    assert len([pair for pair in every if pair.split == "held_out" and pair.same]) >= 149
    topics = {split: {pair.topic for pair in pairs(split)} - {"anything"} for split in ("dev", "held_out")}  # type: ignore[arg-type]
    assert not topics["dev"] & topics["held_out"]


def test_no_pair_is_there_twice_and_none_is_of_equal_questions() -> None:
    every = pairs()
    assert len({(pair.kept, pair.asked) for pair in every}) == len(every)
    assert all(pair.kept != pair.asked and pair.kept.strip() and pair.asked.strip() for pair in every)
    labels: dict[frozenset[str], set[bool]] = {}
    for pair in every:
        labels.setdefault(frozenset((pair.kept, pair.asked)), set()).add(pair.same)
    assert all(len(each) == 1 for each in labels.values()), "a pair is a trap or it is not"


@pytest.mark.parametrize(
    "pair", [pair for pair in pairs("dev") if not pair.same], ids=lambda pair: pair.asked
)
def test_no_trap_passes(pair: Pair) -> None:
    assert refusal(pair.kept, pair.asked)[0], (pair.kind, pair.kept)
    assert refusal(pair.asked, pair.kept)[0], (pair.kind, pair.kept)


def test_no_question_passes_for_one_about_something_else_or_for_a_trap_of_its_own() -> None:
    """Every question of the half against every other one; two traps of one question may mean the same."""
    meant: dict[str, tuple[str, bool]] = {}
    for pair in pairs("dev"):
        meant.setdefault(pair.kept, (pair.kept, True))
        meant.setdefault(pair.asked, (pair.kept, pair.same))
    asked = [question for question in meant if stands_alone(question)]
    wrong = [
        (one, other)
        for place, one in enumerate(asked)
        for other in asked[:place]
        if (meant[one][0] != meant[other][0] or meant[one][1] != meant[other][1])
        and not refusal(one, other)[0]
    ]
    assert wrong == []


def test_most_paraphrases_pass() -> None:
    same = [pair for pair in pairs("dev") if pair.same]
    passed = [pair for pair in same if not refusal(pair.kept, pair.asked)[0]]
    assert len(passed) >= SHARE * len(same)


# -- one by one -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Can I pay?", "Can't I pay?", False),
        ("Why isn't it found?", "Why is it not found?", True),
        ("Is it never kept?", "Is it not kept?", False),
        ("Turn on the light", "Turn off the light", False),
        ("Turn on the light", "Switch on the light", True),
        ("Open the file", "Close the file", False),
        ("Sort with the key", "Sort without the key", False),
    ],
)
def test_polarity(one: str, other: str, same: bool) -> None:
    assert passes(polarity, one, other) is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("wait 5 seconds", "wait five seconds", True),
        ("wait 5 seconds", "wait 5 s", True),
        ("wait 5 seconds", "wait 5000 ms", True),
        ("wait 2 days", "wait 48 hours", True),
        ("wait 30 minutes", "wait half an hour", True),
        ("wait 1 year", "wait 12 months", True),
        ("wait 1 month", "wait 30 days", False),
        ("wait 5 seconds", "wait 5 minutes", False),
        ("pay 50 euros", "pay €50", True),
        ("pay 50 euros", "pay 50 dollars", False),
        ("pay 1,000 euros", "pay 1000 EUR", True),
        ("20 kg", "20 pounds", False),
        ("1.5 kg", "1500 g", True),
        ("10 percent", "10%", True),
        ("10%", "10", False),
        ("twice a day", "2 times a day", True),
        ("Python 3.1", "Python 3.10", False),
        ("the 1st of May", "the 2nd of May", False),
        ("1 MB", "1 MiB", False),
        ("no number", "nothing", True),
    ],
)
def test_amounts(one: str, other: str, same: bool) -> None:
    assert passes(amounts, one, other) is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("all files", "every file", True),
        ("all files", "some files", False),
        ("at least 3 files", "at most 3 files", False),
        ("more than 3 files", "fewer than 3 files", False),
        ("only files", "files", False),
        ("How many files are there?", "How many files exist?", True),
        ("most files", "files", False),
        ("each time I ask", "whenever I ask", True),
    ],
)
def test_quantity(one: str, other: str, same: bool) -> None:
    assert passes(quantity, one, other) is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("How do I delete a folder?", "How can I remove directories?", True),
        ("How do I delete a folder?", "How do I delete a file?", False),
        ("Why does json.loads() fail?", "Why does json.load() fail?", False),
        ("Why do I see a KeyError?", "Why do I see an IndexError?", False),
        ("How do I get to Paris?", "How do I get to Lisbon?", False),
        ("How do I do that?", "How is that done?", False),
    ],
)
def test_names(one: str, other: str, same: bool) -> None:
    assert passes(names, one, other) is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a train from Paris to London", "a train from London to Paris", False),
        ("Is A1 faster than B2?", "Is B2 faster than A1?", False),
        ("Does A1 call B2?", "Does B2 call A1?", False),
        ("Does A1 run before B2?", "Does A1 run after B2?", False),
        ("Can I change a character in place?", "Can a character be changed in place?", True),
        ("On Windows, how do I start a server?", "How do I start a server on Windows?", True),
        ("the difference between A1 and B2", "the difference between B2 and A1", True),
        ("cancel a task in asyncio", "cancel an asyncio task", True),
        ("Does a list return a new item?", "Is a new item returned by a list?", True),
        ("Can a list be used as a dictionary key?", "Can a dictionary be used as a list key?", False),
    ],
)
def test_order(one: str, other: str, same: bool) -> None:
    assert passes(order, one, other) is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("How do I pay?", "What is the way to pay?", True),
        ("How do I pay?", "Can I pay?", False),
        ("Why was I charged?", "I was charged. Why?", True),
        ("Where will my order arrive?", "When will my order arrive?", False),
        ("Can I pay by card?", "Must I pay by card?", False),
        ("Can I pay by card?", "Is it possible to pay by card?", True),
        ("When did it arrive?", "When will it arrive?", False),
        ("How long does it take?", "How much does it take?", False),
        ("Please tell me how to pay.", "How do I pay?", True),
        ("When I pay, what happens?", "What happens if I pay?", True),
    ],
)
def test_asked(one: str, other: str, same: bool) -> None:
    assert passes(asked, one, other) is same


@pytest.mark.parametrize(
    ("text", "stands"),
    [
        ("How do I reset my password?", True),
        ("I want to delete my account. How do I do that?", True),
        ("Can I return a book that is on loan?", True),
        ("Is it possible to pay by card here?", True),
        ("How do I undo it?", False),
        ("And for strings?", False),
        ("Why does that happen?", False),
        ("Is the other one faster?", False),
        ("Why not?", False),
        ("What is its default?", False),
        ("Wie lösche ich mein Konto?", False),
        ("Comment supprimer mon compte ?", False),
        ("", False),
        ("x" * (LONGEST + 1), False),
    ],
)
def test_what_stands_alone(text: str, stands: bool) -> None:
    assert stands_alone(text) is stands


def test_a_follow_up_and_another_language_do_not_pass_even_word_for_word() -> None:
    for check, text in ((follow_up, "How do I undo it?"), (language, "Wie lösche ich mein Konto?")):
        assert not passes(check, text, text)


def test_words_that_say_the_same_have_one_root_and_opposites_have_not() -> None:
    assert root("elements") == root("item")
    assert root("deleting") == root("removed")
    for one, other in (("open", "close"), ("import", "export"), ("list", "tuple"), ("faster", "slower")):
        assert root(one) != root(other)


def test_each_check_has_a_trap_that_it_alone_refuses_or_is_the_first_to() -> None:
    first = Counter(refusal(pair.kept, pair.asked)[0] for pair in pairs("dev") if not pair.same)
    assert {"language", "follow-up", "asked", "polarity", "amounts", "quantity", "names", "order"} <= set(
        first
    )
    assert set(CHECKS) >= set(first)
