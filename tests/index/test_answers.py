"""retrieve, store and quote around a stand-in for the embedding model."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from index.kit_index import DIM, DOCUMENTS, SETTINGS, BagOfWords
from kit.direct import DirectContext, direct
from tauten.describe.passages import Answer, Block, Chunk, Found, Passage
from tauten.describe.payload import Tensor, Text
from tauten.describe.stages.quote import answer, chosen, confidence, quote
from tauten.describe.stages.retrieve import retrieve
from tauten.describe.stages.store import store
from tauten.errors import InputError, NotFound
from tauten.run.retrieval.building import build
from tauten.run.retrieval.index import Index

MINILM = msgspec.structs.replace(SETTINGS, model="minilm-l6-v2")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    monkeypatch.setenv("TAUTEN_STORE", str(tmp_path / "store"))
    build("manuals", DOCUMENTS, BagOfWords(), settings=MINILM)
    return Index.open("manuals")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A tokenizer that knows the words of the questions below."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = "[UNK] KeyError : mapping key not found decorator returns another function What does it mean eggs".split()
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def context(kind: Any, tokenizer: Path) -> DirectContext:
    """Answers with the bag of the words that the tokens stand for."""
    from tokenizers import Tokenizer

    reader, bag = Tokenizer.from_file(str(tokenizer)), BagOfWords()

    def embed(item: dict[str, Any]) -> dict[str, Any]:
        ids = item["input_ids"][item["attention_mask"] == 1]
        return {"embedding": bag.one(reader.decode(ids.tolist()))}

    return DirectContext(kind, fakes={"embed": embed}, files={"embed": {"tokenizer.json": tokenizer}})


def test_retrieve_embeds_the_error_with_the_question(index: Index, tokenizer: Path) -> None:
    ctx = context(retrieve, tokenizer)
    found = direct(retrieve, "What does it mean", index, "KeyError: 'a'", k=2, context=ctx)
    assert found.passages[0].chunk.title == "KeyError"
    assert len(found.passages) == 2
    [item] = ctx.items["embed"]
    assert item["input_ids"].shape == (16,)
    assert 0 < ctx.spent["input_tokens"] == item["attention_mask"].sum() < 16


def test_retrieve_takes_an_index_by_name(index: Index, tokenizer: Path) -> None:
    found = direct(retrieve, "mapping key not found", "manuals", context=context(retrieve, tokenizer))
    assert found.index == index.name
    with pytest.raises(NotFound):
        direct(retrieve, "mapping", "other", context=context(retrieve, tokenizer))


def test_retrieve_checks_its_settings(index: Index, tokenizer: Path) -> None:
    with pytest.raises(InputError) as caught:
        direct(retrieve, "x", index, k=0, context=context(retrieve, tokenizer))
    assert caught.value.code == "E226"
    other = Index.create("other", SETTINGS)
    with pytest.raises(InputError, match="holds vectors of bag"):
        direct(retrieve, "x", other, context=context(retrieve, tokenizer))


def test_quote_answers_with_source_and_code(index: Index, tokenizer: Path) -> None:
    found = direct(
        retrieve, "decorator returns another function", index, context=context(retrieve, tokenizer)
    )
    said = direct(quote, found, context=context(quote, tokenizer))
    assert said.text == "A function that returns another function:"
    assert said.code == "@wrap\ndef f(): pass"
    assert (said.found, said.source, said.titles) == (True, "glossary.rst", ("Glossary", "decorator"))
    assert said.url.endswith("#term-decorator")
    assert said.passage.startswith(said.text)


def test_quote_names_the_closest_passage_when_nothing_fits(index: Index, tokenizer: Path) -> None:
    found = direct(retrieve, "eggs", index, context=context(retrieve, tokenizer))
    ctx = context(quote, tokenizer)
    said = direct(quote, found, "eggs", context=ctx)
    assert not said.found
    assert said.text.startswith(
        "Not found in the documents of manuals: the closest passage is not close enough"
    )
    assert said.source in said.text
    assert said.passage == ""
    assert (said.confidence, ctx.items) == (0.0, {})


def test_quote_survives_an_empty_index() -> None:
    said = direct(quote, Found("x", refused=True, reason="the index is empty"))
    assert said == Answer(
        "Not found in the documents: the index is empty.", False, reason="the index is empty"
    )


def test_store_is_the_last_step_of_building(index: Index) -> None:
    chunks = [chunk for chunk in index if chunk.source == "glossary.rst"]
    vectors = [Tensor(np.ones(DIM, np.float32)) for _ in chunks]
    report = direct(store, chunks, vectors, index, context=DirectContext(store))
    assert (report.added, report.kept, report.removed) == (0, 2, 5)
    assert store.effects == "once"
    index.refresh()
    assert set(index.sources) == {"glossary.rst"}


def definition(*said: str) -> Chunk:
    return Chunk("a.rst", ("A", "b()"), tuple(Block(text) for text in said), "definition")


FIRST = "Return the value that belongs to the key in this table."
LONG = [FIRST, "It never raises.", "The default is None unless another one is given."]


def test_a_definition_is_quoted_from_its_first_sentence() -> None:
    chunk = definition(*LONG)
    assert chosen(chunk, LONG, [0.2, 0.1, 0.4]) == FIRST
    assert chosen(chunk, LONG, [0.2, 0.1, 0.6]) == f"{FIRST} {LONG[2]}"
    assert chosen(chunk, LONG, [0.7, 0.1, 0.6]) == FIRST


def test_a_first_sentence_that_says_little_takes_the_next_along() -> None:
    said = ["This is derived from RuntimeError.", "It is raised when the recursion is too deep."]
    assert chosen(definition(*said), said, [0.3, 0.2]) == " ".join(said)


def test_prose_is_quoted_from_the_two_nearest_neighbours() -> None:
    chunk = Chunk("a.rst", ("A",), ())
    assert chosen(chunk, ["a", "b", "c"], [0.5, 0.1, 0.7]) == "b c"
    assert chosen(chunk, ["a", "b", "c"], [0.5, 0.5, 0.1]) == "a b"
    assert chosen(chunk, ["a"], [1.0]) == "a"


def found_first(chunk: Chunk, *scores: float) -> Found:
    return Found("q", tuple(Passage(chunk, score, 0.6, 9.0, n) for n, score in enumerate(scores, 1)))


def test_the_code_quoted_follows_the_words_quoted() -> None:
    blocks = (Block("One."), Block("1", "code"), Block("Two."), Block("2", "code"))
    chunk = Chunk("a.rst", ("A",), blocks)
    assert answer(found_first(chunk, 0.2), ["One.", "Two."], [0.1, 0.1]).code == "1"
    assert answer(found_first(chunk, 0.2), ["Two."], [0.9]).code == "2"


def test_a_passage_of_code_alone_is_shown() -> None:
    chunk = Chunk("a.rst", ("Looping",), (Block("for x in y: ...", "code"),))
    said = answer(found_first(chunk, 0.2), [], [])
    assert (said.text, said.code) == ("See the example under Looping.", "for x in y: ...")


def test_confidence_grows_with_the_lead_and_for_definitions() -> None:
    prose, defined = Chunk("a.rst", ("A",), ()), definition("x")
    steps = [found_first(prose, 0.2, 0.19), found_first(prose, 0.2, 0.1), found_first(defined, 0.2, 0.19)]
    values = [confidence(each) for each in [*steps, found_first(defined, 0.2, 0.1)]]
    assert values == sorted(values)
    assert confidence(found_first(defined, 0.2)) == values[-1] == 0.9


def test_an_answer_prints_its_words() -> None:
    assert str(Answer("Words.", True)) == "Words."
    assert Text(str(Answer("Words.", True))).text == "Words."
