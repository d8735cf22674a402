"""Labels of the help desk against its documentation, and against what the programs really print."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import re
import sys
from importlib import resources

import pytest

from tauten.describe.passages import Chunk
from tauten.describe.stages.chunk import chunks_of
from tauten.describe.stages.clean import sections_of
from tauten.describe.stages.ingest import read_documents
from tauten.examples.help_desk.recording import recording
from tauten.examples.help_desk.scoring import accepts, stands_in
from tauten.examples.help_desk.sites import HALVES, answers, label, questions, refused, sites, tracebacks
from tauten.examples.help_desk.tracebacks import VERSION, run

DOCS = resources.files("tauten.examples.help_desk").joinpath("docs")


@functools.cache
def _chunks() -> list[Chunk]:
    """The documentation cut as the help desk's index holds it."""
    with resources.as_file(DOCS) as folder:
        documents = read_documents([folder])
    return chunks_of(section for document in documents for section in sections_of(document))


def passages(source: str) -> list[tuple[str, str]]:
    """(titles, text) of each chunk of one file."""
    held = [chunk for chunk in _chunks() if chunk.source == source]
    return [(" > ".join(chunk.titles), f"{chunk.signature}\n{chunk.body}") for chunk in held]


@pytest.mark.parametrize("name", sorted(answers()))
def test_every_answer_stands_in_the_documentation(name: str) -> None:
    known = label(name)
    for document in known.documents:
        alone = label(name).__class__(documents=(document,), accept=known.accept)
        held = [
            text for titles, text in passages(document.source) if stands_in(alone, document.source, titles)
        ]
        assert held, f"{document.source} has nothing titled {document.title!r}"
        assert any(accepts(alone, text) for text in held), f"{document}: no passage says what is accepted"
    for group in known.accept:
        alone = known.__class__(documents=known.documents, accept=(group,))
        assert any(
            stands_in(alone, document.source, titles) and accepts(alone, text)
            for document in known.documents
            for titles, text in passages(document.source)
        ), f"nothing says {group}"


def test_accepted_content_is_not_said_everywhere() -> None:
    """A pattern that most passages match would accept any answer."""
    files = ("library/exceptions.rst", "faq/programming.rst", "library/stdtypes.rst")
    sample = [text for source in files for _, text in passages(source)[::3]]
    for name in answers():
        share = sum(accepts(label(name), text) for text in sample) / len(sample)
        assert share < 0.04, f"{name} accepts {share:.0%} of unrelated passages"


def test_every_answer_is_used() -> None:
    used = {site.means for half in HALVES for site in sites(half)}
    used |= {answer for half in HALVES for site in sites(half) for _, answer in site.questions}
    used |= {answer for half in HALVES for _, answer in questions(half)}
    assert used == set(answers())


def test_stored_tracebacks_end_with_the_expected_exception() -> None:
    for half in HALVES:
        for site in sites(half):
            assert re.search(rf"\b{site.exception}\b", tracebacks()[site.id]), site.id
            assert not re.search(r"/(tmp|root|home|work)/", tracebacks()[site.id]), site.id


@pytest.mark.skipif(sys.version_info[:2] != VERSION, reason="the screens show tracebacks of Python 3.11")
@pytest.mark.skipif(sys.platform != "linux", reason="some programs fail in the way Linux makes them fail")
@pytest.mark.parametrize("half", HALVES)
def test_programs_still_print_what_is_stored(half: str) -> None:
    for site in sites(half):  # type: ignore[arg-type]
        assert _masked(run(site)) == _masked(tracebacks()[site.id]), site.id


def _masked(text: str) -> str:
    """Without what differs from one build of Python 3.11 to the next: line numbers inside the library, and
    whether a module is a file or built in."""
    text = re.sub(r'("\{lib\}[^"]*", line )\d+', r"\1N", text)
    text = re.sub(r"\(\{lib\}/lib-dynload/\S+|\(unknown location\)", "({lib}/module)", text)
    return re.sub(r"0x[0-9a-f]+|\d+\.\d{4,}", "N", text)


def test_halves_share_no_program_no_question_and_no_refusal() -> None:
    dev, held_out = ({q.lower().strip(" ?.!") for q in _asked(half)} for half in HALVES)
    assert not dev & held_out
    programs = [{site.program for site in sites(half)} for half in HALVES]
    names = [{site.id for site in sites(half)} for half in HALVES]
    screens = [{screen.text for screen in refused(half).screens} for half in HALVES]
    assert not programs[0] & programs[1]
    assert not names[0] & names[1]
    assert not screens[0] & screens[1]


def test_held_out_questions_are_not_reworded_dev_questions() -> None:
    """No held-out question repeats more than two thirds of the words of a dev question about the same answer."""
    for text, answer in _with_answers("held_out"):
        for other, same in _with_answers("dev"):
            if answer == same and answer:
                assert _overlap(text, other) < 0.67, (text, other)


def _overlap(one: str, other: str) -> float:
    first, second = (set(re.findall(r"[a-z]{3,}", text.lower())) for text in (one, other))
    return len(first & second) / max(len(first | second), 1)


def _with_answers(half: str) -> list[tuple[str, str]]:
    from_sites = [pair for site in sites(half) for pair in site.questions]  # type: ignore[arg-type]
    return from_sites + questions(half)  # type: ignore[arg-type]


def _asked(half: str) -> list[str]:
    script = refused(half)  # type: ignore[arg-type]
    told = [text for text, _ in _with_answers(half)] + script.near + script.foreign + script.spoken
    told += [text for screen in script.screens for text in screen.questions]
    return [text for text in [*told, *script.pictures] if text]


def test_refused_requests_are_at_least_fifteen_percent_of_each_half() -> None:
    for half in HALVES:
        items = recording(split=half)
        assert len(items.select(tags=["refused"])) >= 0.15 * len(items)
