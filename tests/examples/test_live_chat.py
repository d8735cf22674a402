"""The live chat: handbooks in every form hold what is asked, the chat tells machines apart, documents come in meanwhile."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from typing import Any

import pytest

import tauten as tt
from examples.kit_recordings import digest, digest_elsewhere
from serve.kit_asgi import Answered, ask, site
from tauten.describe.passages import Block, Chunk, Document, Found, Passage
from tauten.describe.stages.chunk import chunks_of
from tauten.describe.stages.clean import sections_of
from tauten.describe.stages.pages import laid_out
from tauten.errors import InputError
from tauten.examples.explained import REFUSED, SHORT
from tauten.examples.help_desk.scoring import accepts
from tauten.examples.live_chat import tour
from tauten.examples.live_chat.adding import FORMATS, add_document, embedded, sections
from tauten.examples.live_chat.chat import (
    MARGIN,
    about,
    as_good,
    certainty,
    live_chat,
    metric,
    names,
    quotation,
    said_by,
)
from tauten.examples.live_chat.handbook import HALVES, Half, Handbook, handbooks
from tauten.examples.live_chat.library import HERE, documents, ensure_library, newcomers
from tauten.examples.live_chat.recording import items_of, recording
from tauten.examples.live_chat.rendered import file_names, files
from tauten.improve.labelled import WHOLE, labelled, metric_of, open_recording
from tauten.improve.recording import Document as Place
from tauten.improve.recording import Label
from tauten.plan.lower import lower
from tauten.plan.plan import load_plan
from tauten.run.codecs.pages import PagesCodec
from tauten.serve.service import Service

WITH_LETTERS = ("pdf", "columns", "md", "rst", "txt")


# -- the handbooks ---------------------------------------------------------------------------------------------


@functools.cache
def passages(half: Half) -> dict[str, list[Chunk]]:
    """The passages of the handbooks whose letters are in their files, by machine."""
    return {book.name: _passages(book) for book in handbooks(half) if book.form in WITH_LETTERS}


def _passages(book: Handbook) -> list[Chunk]:
    [(name, file)] = files(book)
    if isinstance(file, tt.Text):
        suffix = name.rpartition(".")[2]
        return chunks_of(sections_of(Document(name, file.text, FORMATS.get(suffix, "text"))))  # type: ignore[arg-type]
    sheets = PagesCodec().decode(file.data, file.type, {}, "s")
    return chunks_of(laid_out.function(name, sheets, []))


@pytest.mark.parametrize("half", HALVES)
def test_every_question_is_answered_by_a_passage_that_speaks_of_its_machine(half: Half) -> None:
    lost, unnamed = [], []
    for book in (each for each in handbooks(half) if each.form in WITH_LETTERS):
        for item in items_of(book):
            own = [each for each in passages(half)[book.name] if accepts(item.label, each.text)]
            lost += [] if own else [item.id]
            spoken = [each for each in own if set(book.name.casefold().split()) <= said_by(each)]
            unnamed += [] if spoken or not own else [item.id]
    assert lost == []
    assert unnamed == []


@pytest.mark.parametrize("form", ["pdf", "columns"])
def test_a_pages_structure_comes_back(form: str) -> None:
    book = next(each for each in handbooks("dev") if each.form == form)
    found = _passages(book)
    titles = {each.titles[0] for each in found}
    assert titles == {book.name}
    captions = [each.titles[-1] for each in found if each.titles[-1].startswith("Table")]
    assert [caption.split(".")[0] for caption in dict.fromkeys(captions)] == ["Table 1", "Table 2", "Table 3"]
    assert any(each.titles == (book.name, "Setting up") for each in found)
    assert any("Figure 1." in each.text for each in found)
    assert not any("handbook\n" in each.body or each.body.strip().isdigit() for each in found)
    assert all(each.url.startswith(f"{book.slug}.pdf#page=") for each in found)
    care = next(each for each in found if each.titles[-1].startswith("Table 2"))
    assert any(
        line.startswith("Drive belt: Interval ") and ", Tool " in line for line in care.text.splitlines()
    )


def test_every_form_is_there_in_each_half() -> None:
    for half in HALVES:
        forms = Counter(book.form for book in handbooks(half))
        assert {"pdf", "columns", "scan", "picture"} <= set(forms)
        assert forms["md"] + forms["txt"]
        assert forms["rst"]
    assert {book.form for book in newcomers()} == {"pdf", "scan", "picture"}


def test_files_are_as_their_names_say() -> None:
    for book in (*handbooks("dev"), *newcomers()):
        made = files(book)
        assert [name for name, _ in made] == file_names(book)
        kinds = {"pdf": tt.Pdf, "columns": tt.Pdf, "scan": tt.Pdf, "picture": tt.Image}
        assert all(isinstance(file, kinds.get(book.form, tt.Text)) for _, file in made)
        assert all(file.size_bytes < 1_000_000 for _, file in made)


def test_scans_have_no_letters_and_as_many_pictures_as_pages() -> None:
    book = next(each for each in handbooks("dev") if each.form == "scan")
    [(_, file)] = files(book)
    sheets = PagesCodec().decode(file.data, file.type, {}, "s")
    assert len(sheets.sheets) >= 1
    assert all(sheet.seen for sheet in sheets.sheets)


# -- the recording ---------------------------------------------------------------------------------------------


def test_it_is_found_and_every_item_has_a_label() -> None:
    own = open_recording(live_chat, "", usual=WHOLE)
    assert own.name == "live_chat"
    assert len(own) == len(labelled(own)) >= 220
    assert metric_of(live_chat) is metric
    assert len(recording(split="dev")) + len(recording(split="held_out")) == len(own)


def test_it_is_the_same_every_time() -> None:
    assert digest(recording()) == digest_elsewhere("tauten.examples.live_chat.recording")


def test_the_halves_share_no_question_and_no_machine() -> None:
    asked = {half: {str(item.inputs["question"]) for item in recording(split=half)} for half in HALVES}
    assert asked["dev"].isdisjoint(asked["held_out"])
    machines = {half: {book.name for book in handbooks(half)} for half in HALVES}
    assert machines["dev"].isdisjoint(machines["held_out"])
    assert not {book.name for book in newcomers()} & (machines["dev"] | machines["held_out"])


@pytest.mark.parametrize("half", HALVES)
def test_simple_complex_and_refused_are_mixed(half: Half) -> None:
    items = list(recording(split=half))
    share = {kind: sum(kind in item.tags for item in items) / len(items) for kind in tour.KINDS}
    assert sum(share.values()) == pytest.approx(1.0)
    assert 0.5 <= share["simple"] <= 0.75
    assert 0.2 <= share["complex"] <= 0.4
    assert 0.04 <= share["refused"] <= 0.12
    repeated = sum("repeated" in item.tags for item in items) / len(items)
    assert 0.08 <= repeated <= 0.22


def test_a_repeat_comes_after_what_it_repeats() -> None:
    seen: set[str] = set()
    for item in recording():
        asked = str(item.inputs["question"])
        assert ("repeated" in item.tags) == (asked in seen)
        seen.add(asked)


def test_the_quick_set_is_of_both_halves() -> None:
    assert [len(recording(split=half, quick=True)) for half in HALVES] == [24, 24]


# -- the chat --------------------------------------------------------------------------------------------------


def passage(text: str, source: str = "corvus-40.pdf", *titles: str, score: float = 0.2) -> Passage:
    chunk = Chunk(source, titles or ("Corvus 40", "Data"), (Block(text),), url=f"{source}#page=2")
    return Passage(chunk, score, 0.6, 3.0, 1)


RIGHT = passage("Rated power: 1450 W.")
OTHER = passage("Rated power: 900 W.", "alder-7.pdf", "Alder 7", "Data", score=0.25)
ASKED = tt.Text("What is the rated power of the Corvus 40?")


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is the rated power of the Corvus 40?", ["Corvus", "40"]),
        ("Corvus 40: how loud?", ["Corvus", "40"]),
        ("The Tundra 15 shows F2, what is wrong?", ["Tundra", "15", "F2"]),
        ("How do I start it, and may I?", []),
        ("Why?", []),
        ("", []),
    ],
)
def test_names_of_a_question(question: str, expected: list[str]) -> None:
    assert names(question) == expected


def test_another_machines_passage_is_no_answer_however_near_it_is() -> None:
    found = about.function(Found("q", (OTHER, RIGHT)), ASKED)
    assert found.passages == (RIGHT,)
    refused = about.function(Found("q", (OTHER,)), ASKED)
    assert refused.refused
    assert refused.reason == "no passage speaks of Corvus, 40"
    assert not about.function(Found("q", (), True, "the index is empty"), ASKED)


def test_a_question_without_names_keeps_what_was_found() -> None:
    found = about.function(Found("q", (OTHER, RIGHT)), tt.Text("how loud is it?"))
    assert found.passages == (OTHER, RIGHT)


def test_certainty_is_the_share_of_the_questions_words_and_the_lead() -> None:
    sure, lead = certainty.function(Found("q", (RIGHT,)), ASKED)
    unsure, _ = certainty.function(Found("q", (RIGHT,)), tt.Text("How many volts feed the Corvus 40?"))
    assert sure > 0.75 > unsure
    assert lead == 1.0
    _, less = certainty.function(Found("q", (OTHER, RIGHT)), ASKED)
    assert less == pytest.approx(0.2)
    assert certainty.function(Found("q", (RIGHT,), True, "no"), ASKED) == (-1.0, 0.0)


QUOTED = "Rated power: 1450 W.\n\n[corvus-40.pdf: Corvus 40 > Data > page 2]"
LABEL = Label(documents=(Place("corvus-40.pdf"),), accept=((r"(?<!\d)1450 W\b",),))


def test_a_quotation_names_its_page() -> None:
    answer = tt.Answer(
        "Rated power: 1450 W.",
        True,
        source="corvus-40.pdf",
        url="corvus-40.pdf#page=2",
        titles=("Corvus 40", "Data"),
    )
    assert quotation(answer) == QUOTED
    plain = tt.Answer("Yes.", True, source="a.md", titles=("A",))
    assert quotation(plain) == "Yes.\n\n[a.md: A]"
    assert quotation(tt.Answer("Not found.", False)) == "Not found."


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (QUOTED, True),
        (QUOTED + SHORT + "The rated power is 1450 W.", True),
        (QUOTED + SHORT + "A database server must be restarted.", False),
        (QUOTED + SHORT, False),
        (QUOTED.replace("1450", "11450"), False),
        (QUOTED.replace("corvus-40", "alder-7"), False),
        ("Rated power: 1450 W.", False),
        (f"{REFUSED} in the documents: no passage speaks of it. 1450 W", False),
    ],
    ids="quoted explained foreign silent longer-number elsewhere no-place refused".split(),
)
def test_a_right_answer_quotes_the_right_machine_and_adds_nothing(answer: str, right: bool) -> None:
    assert metric(tt.Text(answer), LABEL) == right


def test_what_has_no_answer_must_be_refused() -> None:
    assert metric(tt.Text(f"{REFUSED} in the documents of x: nothing fits."), Label(answerable=False)) == 1.0
    assert metric(tt.Text(QUOTED), Label(answerable=False)) == 0.0


def test_the_search_would_have_done_where_the_model_adds_nothing() -> None:
    short = tt.Text(QUOTED)
    assert as_good(short, tt.Text(QUOTED + SHORT + "The rated power is 1450 W."))
    assert as_good(short, short)
    assert not as_good(short, tt.Text(QUOTED + SHORT + "It is made of gold and silver."))
    assert not as_good(short, tt.Text("Something else."))


def test_the_plans_fit_and_only_the_tuned_one_has_a_gate() -> None:
    graph = live_chat.graph
    assert graph is not None
    naive, tuned = (lower(graph, load_plan(HERE / f"{name}.toml")) for name in ("naive", "tuned"))
    steps = {step.name: step for step in tuned.steps}
    assert steps["route"].plan.settings == {"risk_gate": tour.GATE}
    assert steps["retrieve"].plan.cache is steps["generate"].plan.cache is True
    assert not {step.name: step for step in naive.steps}["route"].plan.settings
    assert add_document.graph is not None
    adding = {step.name: step for step in lower(add_document.graph, load_plan(HERE / "adding.toml")).steps}
    assert adding["pages.file"].plan.decode == "process"
    assert live_chat.streams


# -- documents come in -----------------------------------------------------------------------------------------


def test_a_name_is_a_label_on_one_line() -> None:
    for name in ("", "   ", "a\nb", "x" * 201, "a\0b"):
        with pytest.raises(InputError) as caught:
            sections.function(tt.Text("Some words."), name, None, [])
        assert caught.value.code == "E222"
    assert sections.function(tt.Text("# Head\n\nSome words."), "../../etc/passwd.md", None, [])[0].titles == (
        "Head",
    )


def test_a_document_without_a_word_is_refused() -> None:
    with pytest.raises(InputError, match="says nothing") as caught:
        sections.function(tt.Text(" \n"), "empty.txt", None, [])
    assert caught.value.code == "E222"
    with pytest.raises(InputError, match="too little"):
        embedded.function([])


def form(**parts: tuple[str, bytes] | str) -> tuple[bytes, dict[str, str]]:
    """A multipart form: (file name, bytes) or text by the name of the field."""
    body = b""
    for name, part in parts.items():
        file, data = part if isinstance(part, tuple) else ("", part.encode())
        named = f'; filename="{file}"' if file else ""
        body += (
            f'--bound\r\ncontent-disposition: form-data; name="{name}"{named}\r\n\r\n'.encode()
            + data
            + b"\r\n"
        )
    return body + b"--bound--\r\n", {"content-type": "multipart/form-data; boundary=bound"}


PATIENT = tt.Slo(p95_ms=300_000)  # nobody is refused because a test's machine is slow
CHAT, ADDING = "/v1/workflows/live_chat", "/v1/workflows/add_document"


async def come_in(app: Any, book: Handbook) -> list[tuple[Answered, str, Label]]:
    """Send a handbook's files, and ask about it before and after."""
    item = next(items_of(book))
    question = str(item.inputs["question"])
    before = await ask(app, "POST", CHAT, {"inputs": {"question": question}})
    assert _text(before).startswith(REFUSED)
    sent = [ask(app, "POST", ADDING, *form(file=(name, file.data), name=name)) for name, file in files(book)]
    for done in await asyncio.gather(*sent):
        assert done.status == 200, done.body
        assert done.json["output"]["chunks"] > 0
    return [(await ask(app, "POST", CHAT, {"inputs": {"question": question}}), question, item.label)]


@pytest.mark.models
def test_documents_come_in_while_questions_are_answered_and_no_request_fails() -> None:
    """The whole way: forms to the native API, questions beside them, answers from the new documents at once."""
    ensure_library()
    books = newcomers()
    tour.forget(books)
    known = [str(item.inputs["question"]) for item in recording(split="dev", quick=True)][:8]

    async def main() -> tuple[list[Answered], list[tuple[Answered, str, Label]]]:
        services = (
            Service(live_chat, load_plan(HERE / "tuned.toml"), slo=PATIENT),
            Service(add_document, load_plan(HERE / "adding.toml"), slo=PATIENT),
        )
        meanwhile: list[Answered] = []
        over = asyncio.Event()

        async def keep_asking(questions: list[str]) -> None:
            while not over.is_set():
                for question in questions:
                    meanwhile.append(await ask(app, "POST", CHAT, {"inputs": {"question": question}}))
                    await asyncio.sleep(0.05)  # the machine has documents to read, too

        async with site(*services, apis=["native"]) as app:
            askers = [asyncio.create_task(keep_asking(known[place::3])) for place in range(3)]
            try:
                after = [each for book in books for each in await come_in(app, book)]
            finally:
                over.set()
                await asyncio.gather(*askers)
        return meanwhile, after

    meanwhile, after = asyncio.run(main())
    assert {each.status for each in meanwhile} == {200}
    assert len(meanwhile) >= len(known)
    wrong = [question for done, question, label in after if metric(tt.Text(quote(done)), label) != 1.0]
    assert wrong == []
    assert {name for book in books for name in file_names(book)} <= set(documents.sources)


def quote(done: Answered) -> str:
    """What was found; the language model's words beside it hang on no document that came in."""
    return _text(done).partition(SHORT)[0]


def _text(done: Answered) -> str:
    output: Any = done.json["output"]
    return output if isinstance(output, str) else "".join(output)


@pytest.mark.models
def test_hostile_documents_are_told_so_and_nothing_comes_in() -> None:
    from media import pdf

    before = documents.revision

    async def main() -> list[Answered]:
        async with site(Service(add_document, load_plan(HERE / "adding.toml")), apis=["native"]) as app:
            path = "/v1/workflows/add_document"
            sent = [
                form(file=("a.pdf", pdf.locked()), name="a.pdf"),
                form(file=("b.pdf", b"%PDF-1.7\n" + b"\0" * 500), name="b.pdf"),
                form(file=("c.pdf", pdf.scan(body=pdf.raw_picture(50_000, 50_000))), name="c.pdf"),
                form(file=("d.pdf", pdf.pdf("")), name="d.pdf"),
                form(file=("e.txt", b"\x80\x81\x82"), name="e.txt"),
                form(file=("f.txt", b"words"), name="two\nlines"),
                form(name="g.txt"),
            ]
            return [await ask(app, "POST", path, *each) for each in sent]

    done = asyncio.run(main())
    assert [each.status for each in done] == [422, 422, 422, 400, 400, 400, 400]
    assert [each.json["error"]["code"] for each in done[:4]] == ["E220", "E216", "E215", "E222"]
    documents.refresh()
    assert documents.revision == before


@pytest.mark.models
@pytest.mark.slow  # more than a hundred questions are answered by the whole of it: a minute
def test_the_gate_is_certified_on_the_development_half_and_routes_the_held_out_one() -> None:
    ensure_library()
    items = list(recording(split="held_out", quick=True))[:10]

    async def body() -> tuple[Any, list[tour.Side]]:
        _, verdict = await tour.certify(list(recording(split="dev")), lambda said: None)
        return verdict, await tour.sides(items, lambda said: None)

    verdict, (naive, tuned) = asyncio.run(body())
    assert verdict.open, verdict.why
    assert verdict.bound <= tour.EPSILON
    assert all(each.chosen != "quoted" for each in naive.routed)
    assert any(each.chosen == "quoted" for each in tuned.routed)
    assert tuned.model_calls < naive.model_calls
    assert all(each.why.startswith("retrieval_first: ") for each in tuned.routed)
    assert not [each for side in (naive, tuned) for each in side.replay.served if each.error]
    assert MARGIN > 0
