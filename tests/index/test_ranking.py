"""Fusion, votes and refusal, as plain functions."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import doctest

import pytest

from kit.effort import within_bounds
from tauten.run.retrieval import lexical, ranking
from tauten.run.retrieval.lexical import words
from tauten.run.retrieval.ranking import (
    Candidate,
    IndexSettings,
    agreement,
    exception_names,
    foreign_words,
    fuse,
    is_generic,
    refusal,
)

PLAIN = IndexSettings(title_vote=0, name_vote=0, generic_vote=0)


def test_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(lexical).failed == 0
    assert doctest.testmod(ranking).failed == 0


def test_camel_case_is_found_whole_and_in_parts() -> None:
    assert words("JSONDecodeError") == ["jsondecodeerror", "json", "decod", "error"]
    assert words("the FileNotFoundError, why?") == ["filenotfounderror", "file", "not", "found", "error"]
    assert words("What does this mean?") == []
    assert words("0.1 dictionaries") == ["0.1", "dictionari"]


def test_reciprocal_ranks_are_weighted() -> None:
    first_dense = Candidate(1, "a", dense_rank=1)
    first_lexical = Candidate(2, "a", lexical_rank=1)
    both = Candidate(3, "a", dense_rank=2, lexical_rank=2)
    ordered = fuse([first_dense, first_lexical, both], PLAIN)
    assert [each.key for each in ordered] == [3, 2, 1]
    assert ordered[0].score == pytest.approx(1 / 12 + 1.5 / 12)


def test_equal_scores_stand_in_the_order_of_their_keys() -> None:
    tied = [Candidate(9, "a", dense_rank=4), Candidate(2, "a", dense_rank=4)]
    assert [each.key for each in fuse(tied, PLAIN)] == [2, 9]


def test_a_named_definition_has_a_vote_and_no_veto() -> None:
    settings = IndexSettings(title_vote=0)
    named = Candidate(1, "a", named=True)
    best = Candidate(2, "a", dense_rank=1, lexical_rank=1)
    assert [each.key for each in fuse([named, best], settings)] == [2, 1]
    assert [each.key for each in fuse([named, best], settings, generic=True)] == [2, 1]
    third = Candidate(3, "a", lexical_rank=1)
    assert [each.key for each in fuse([named, third], settings, generic=True)] == [1, 3]


def test_a_title_that_is_the_question_is_lifted() -> None:
    asked = frozenset({"copi", "list"})
    titled = Candidate(1, "a", dense_rank=3, title=frozenset({"copi", "list"}))
    other = Candidate(2, "a", dense_rank=1, title=frozenset({"tupl"}))
    assert fuse([titled, other], IndexSettings(), asked)[0].key == 1
    titled.part = 1
    assert fuse([titled, other], IndexSettings(), asked)[0].key == 2


def test_priors_are_by_source_pattern() -> None:
    settings = IndexSettings(title_vote=0, priors={"tutorial/*": 2.0})
    ordered = fuse(
        [Candidate(1, "b.rst", dense_rank=1), Candidate(2, "tutorial/a.rst", dense_rank=2)], settings
    )
    assert [each.key for each in ordered] == [2, 1]


def test_agreement_is_between_nothing_and_all() -> None:
    assert agreement(frozenset(), frozenset({"a"})) == 0
    assert agreement(frozenset({"a"}), frozenset({"a"})) == 1
    assert agreement(frozenset({"a", "b"}), frozenset({"a"})) == pytest.approx(2 / 3)


def test_exceptions_are_recognised_by_their_names() -> None:
    seen = exception_names("subprocess.TimeoutExpired: 3 s", "a StopIteration, KeyError or Error")
    assert seen == ["TimeoutExpired", "StopIteration", "KeyError"]


def test_modules_in_front_of_exceptions_cost_no_more_than_their_length() -> None:
    within_bounds(
        "from tauten.run.retrieval.ranking import exception_names\n"
        "assert exception_names('a.' * 500_000 + 'KeyError') == ['KeyError']"
    )


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("KeyError.args of json.decoder.JSONDecodeError", ["KeyError", "JSONDecodeError"]),
        ("FooError.BarError", ["BarError"]),
        ("..KeyError..x 2KeyError KeyErrors", ["KeyError"]),
        ("a." * 200_000 + "KeyError", ["KeyError"]),  # looked through once: half an hour of a server, it was
        ("A." * 200_000, []),
    ],
)
def test_exceptions_are_the_last_of_dotted_names(text: str, names: list[str]) -> None:
    assert exception_names(text) == names


def test_a_generic_question_asks_about_what_is_on_screen() -> None:
    assert is_generic(words("What does this KeyError mean?"), ["keyerror"])
    assert is_generic(words("What did I do wrong?"), [])
    assert not is_generic(words("How do I read a file?"), ["keyerror"])


@pytest.mark.parametrize(
    ("question", "tools"),
    [
        ("How do I merge in pandas?", ["pandas"]),
        ("a pointer in C++", ["c++"]),
        ("Node.js or npm", ["npm", "node.js"]),
        ("How do I rust-proof a car?", []),
        ("copy a list", []),
    ],
)
def test_other_tools_are_noticed(question: str, tools: list[str]) -> None:
    assert foreign_words(question, IndexSettings()) == tools


def test_refusal_needs_both_halves_to_be_weak() -> None:
    settings = IndexSettings()
    assert refusal("boil an egg", "", "Loops", False, 0.2, 0.2, settings).startswith("the closest passage")
    assert refusal("a loop", "", "Loops", False, 0.6, 0.1, settings) == ""
    assert refusal("a loop", "", "Loops", False, 0.4, 0.6, settings) == ""


def test_an_error_that_the_documents_define_is_trusted_sooner() -> None:
    settings = IndexSettings()
    assert refusal("why", "KeyError: 1", "KeyError", False, 0.5, 0.1, settings)
    assert not refusal("why", "KeyError: 1", "KeyError", True, 0.5, 0.1, settings)


def test_other_languages_are_refused_however_near_the_passage() -> None:
    settings = IndexSettings()
    assert "pandas" in refusal("merge in pandas", "", "dict.update()", False, 0.9, 0.9, settings)
    assert "java." in refusal("what is this", "java.lang.X", "Null", True, 0.9, 0.9, settings)
    known = "ModuleNotFoundError: No module named 'pandas'"
    assert refusal("why is pandas missing", known, "ModuleNotFoundError", True, 0.6, 0.5, settings) == ""
    assert refusal("generating html", "", "What module generates HTML?", False, 0.6, 0.5, settings) == ""
