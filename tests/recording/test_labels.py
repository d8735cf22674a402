"""Labels of the help desk against its documentation, and against what the programs really print."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import re
import sys
from importlib import resources

import pytest

from tauten.examples.help_desk.recording import recording
from tauten.examples.help_desk.scoring import accepts, stands_in
from tauten.examples.help_desk.sites import HALVES, answers, label, questions, refused, sites, tracebacks
from tauten.examples.help_desk.tracebacks import VERSION, run

DOCS = resources.files("tauten.examples.help_desk").joinpath("docs")
_TITLE = re.compile(r"^(={3,}|-{3,}|\^{3,}|~{3,}|\"{3,}|'{3,}|\+{3,})$")
_DEFINED = re.compile(
    r"^( *)\.\. (?:\w+:)?(?:exception|function|class|\w*method|attribute|data|decorator):: *(.+)$"
)
_WORDS = 160  # a passage of the help desk is at most about this long


@functools.cache
def passages(source: str) -> list[tuple[str, str]]:
    """(titles, text) of a file: each section and each definition, cut into runs of paragraphs."""
    lines = DOCS.joinpath(*source.split("/")).read_text(encoding="utf-8").split("\n")
    units: list[tuple[str, list[str]]] = []
    section, defined, indent = source, "", -1
    units.append((section, []))
    for place, line in enumerate(lines):
        below = lines[place + 1].strip() if place + 1 < len(lines) else ""
        if line[:1].strip() and _TITLE.match(below) and not _TITLE.match(line):
            section, defined = line.strip(), ""
        elif found := _DEFINED.match(line):
            defined, indent = found[2], len(found[1])
        elif source == "glossary.rst" and re.match(r"^   \S", line):
            defined, indent = line.strip(), 3
        elif defined and line.strip() and len(line) - len(line.lstrip()) <= indent:
            defined = ""
        titles = f"{section} > {defined}" if defined else section
        if units[-1][0] != titles:
            units.append((titles, []))
        units[-1][1].append(line)
    return [(titles, text) for titles, body in units for text in _runs("\n".join(body))]


def _runs(body: str) -> list[str]:
    paragraphs = [part for part in re.split(r"\n\s*\n", body) if part.strip()]
    runs = []
    for first in range(len(paragraphs)):
        run = ""
        for paragraph in paragraphs[first:]:
            if run and len((run + paragraph).split()) > _WORDS:
                break
            run += paragraph + "\n\n"
        runs.append(run)
    return runs


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
    sample = [text for source in files for _, text in passages(source)[::24]]  # every 24th: 2 s, not 40
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
    """Without what differs from one build of Python 3.11 to the next: line numbers inside the library."""
    text = re.sub(r'("\{lib\}[^"]*", line )\d+', r"\1N", text)
    text = re.sub(r"\{lib\}/lib-dynload/\S+", "{lib}/module)", text)
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
