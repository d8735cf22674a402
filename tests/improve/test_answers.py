"""Files of answers: what is kept of a replay, what makes two answers the same, and what is refused."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

import pytest

from improve.kit_labels import plans, served
from tauten.describe.payload import Image, Json, Text
from tauten.errors import InputError, MediaError, Overloaded
from tauten.improve.labels.answers import Answer, Answers, keep_answers, paired
from tauten.improve.quality import Evidence, compare, scored

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


def test_what_a_replay_yielded_is_kept(tmp_path: Path) -> None:
    kept = keep_answers(
        tmp_path / "naive.jsonl",
        [
            served("words", Text("a "), "stream"),
            served("value", Json({"total": 3})),
            served("list", [1, 2]),
            served("picture", Image(PNG), Text("of a cat")),
            served("late", Text("half"), error=Overloaded("full", help="later")),
        ],
        plan="naive",
        recording="asked",
    )
    found = Answers.load(tmp_path / "naive.jsonl")
    assert found.by_item == kept.by_item
    assert (found.plan, found.recording, len(found)) == ("naive", "asked", 5)
    assert found.by_item["words"].text == "a stream"
    assert found.by_item["value"].text == '{\n  "total": 3\n}'
    assert found.by_item["late"] == Answer("late", error="E402")
    picture = found.by_item["picture"]
    assert (picture.text, picture.type) == ("of a cat", "image/png")
    assert found.medium(picture).data == PNG
    assert picture.hash == Image(PNG).hash


def test_answers_are_the_same_when_a_reader_could_not_tell_them_apart() -> None:
    first = Answer("a", "yes")
    assert first.content == Answer("b", "yes").content
    others = [Answer("a", "Yes"), Answer("a", error="E402"), Answer("a", "yes", "m/x.png", "image/png", "ff")]
    assert len({each.content for each in [first, *others]}) == 4
    moved = Answer("a", "yes", "elsewhere/x.png", "image/png", "ff")
    assert moved.content == others[2].content


def test_evidence_stands_for_the_answers_that_it_names(tmp_path: Path) -> None:
    _, before, after = plans(tmp_path, 4, 1)
    scores = {f"q{i}": True for i in range(4)}
    evidence = Evidence(
        metric="right",
        confidence=0.95,
        items=scored(scores, scores),
        verdict=compare(scores, scores, 0.1),
        answers_before=before.name,
        answers_after=after.name,
    )
    path = evidence.save(tmp_path / "tuned.evidence.json")
    assert Answers.load(path).by_item == Answers.load(after).by_item
    after.write_text(after.read_text().replace("answer 2", "answer two"))
    assert Answers.load(path).by_item["q2"].text == "old answer two"  # it named the file, not its hashes
    nameless = Evidence(
        metric="right", confidence=0.95, items=scored(scores, scores), verdict=compare(scores, scores, 0.1)
    )
    with pytest.raises(InputError, match="names no file of answers"):
        Answers.load(nameless.save(tmp_path / "other.json"))


def test_answers_that_changed_since_they_were_judged_are_refused(tmp_path: Path) -> None:
    _, before, after = plans(tmp_path, 4, 1)
    scores = {f"q{i}": True for i in range(4)}
    pairs = paired(Answers.load(before), Answers.load(after))
    hashes = {item: (old.content, new.content) for item, (old, new) in pairs.items()}
    path = Evidence(
        metric="right",
        confidence=0.95,
        items=scored(scores, scores, hashes=hashes),
        verdict=compare(scores, scores, 0.1),
        answers_after=after.name,
    ).save(tmp_path / "tuned.evidence.json")
    assert len(Answers.load(path)) == 4
    after.write_text(after.read_text().replace("answer 2", "answer two"))
    with pytest.raises(InputError, match="does not hold the answer to q2"):
        Answers.load(path)
    after.unlink()
    with pytest.raises(InputError, match="does not hold the answer to q0"):
        Answers.load(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}\n",
        '{"schema":"tauten.recording/1"}\n',
        '{"schema":"tauten.answers/1"}\n{"id":\n',
        '{"schema":"tauten.answers/1"}\n{"id":"a","txt":"b"}\n',
        '{"schema":"tauten.answers/1"}\n{"id":"a"}\n{"id":"a"}\n',
        '{"schema":"tauten.answers/1"}\n{"id":"a","file":"a.png","type":"image/png\\r\\nx: y"}\n',
    ],
)
def test_a_file_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(InputError, match="cannot read answers") as raised:
        Answers.load(tmp_path / "a.jsonl")
    assert raised.value.code == "E249"


def test_media_are_checked_and_stay_inside_their_folder(tmp_path: Path) -> None:
    kept = keep_answers(tmp_path / "sub" / "a.jsonl", [served("p", Image(PNG))])
    answer = kept.by_item["p"]
    (tmp_path / "sub" / answer.file).write_bytes(b"other")
    with pytest.raises(MediaError, match="other bytes"):
        kept.medium(answer)
    (tmp_path / "sub" / answer.file).unlink()
    with pytest.raises(MediaError, match="lack"):
        kept.medium(answer)
    (tmp_path / "secret.png").write_bytes(PNG)
    outside = Answer("p", "", "../secret.png", "image/png", Image(PNG).hash)
    with pytest.raises(MediaError, match="lack"):
        kept.medium(outside)


def test_sides_must_answer_the_same_items() -> None:
    with pytest.raises(InputError, match="1 items were answered by one side only: b") as raised:
        paired(Answers([Answer("a"), Answer("b")]), Answers([Answer("a")]))
    assert raised.value.code == "E254"
    with pytest.raises(InputError, match="no answers"):
        paired(Answers([]), Answers([]))
