"""Evidence: written beside a plan, read back, and believed only when its scores say what it says."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tauten.errors import InputError, MachineError
from tauten.improve.quality import Evidence, compare, compare_many, evidence_path, scored

BEFORE = {f"q{i}": True for i in range(80)}
AFTER = BEFORE | {"q3": False}


def evidence(**more: Any) -> Evidence:
    given = {
        "metric": "right",
        "confidence": 0.95,
        "items": scored(BEFORE, AFTER, hashes={"q3": ("aa", "bb")}),
        "verdict": compare(BEFORE, AFTER, 0.08),
        "recording": "asked",
        "plan_before": "naive",
        "plan_after": "tuned",
    }
    return Evidence(**{**given, **more})


def test_it_lies_beside_its_plan_and_reads_back_whole(tmp_path: Path) -> None:
    path = evidence_path(tmp_path / "tuned.toml")
    assert path == tmp_path / "tuned.evidence.json"
    kept = evidence()
    kept.save(path)
    raw = json.loads(path.read_text())
    assert raw["schema"] == "tauten.evidence/1"
    assert raw["items"]["q3"] == {"before": 1.0, "after": 0.0, "answer_before": "aa", "answer_after": "bb"}
    found = Evidence.load(path)
    assert found == msgspec.structs.replace(kept, seal=kept.hash)
    assert found.hash == kept.hash
    assert [flip.item for flip in found.verdict.bad_flips] == ["q3"]
    assert (found.verdict.margin, found.verdict.method) == (0.08, "exact paired test")


def test_scores_clusters_and_many_candidates_are_checked_by_the_same_method(tmp_path: Path) -> None:
    before = {f"q{i}": 0.8 for i in range(40)}
    after = {item: 0.8 - 0.01 * (int(item[1:]) % 3) for item in before}
    clusters = {item: f"speaker {int(item[1:]) % 20}" for item in before}
    verdict = compare(before, after, 0.05, clusters=clusters, seed=4)
    items = scored(before, after, clusters=clusters)
    path = evidence(items=items, verdict=verdict, seed=4).save(tmp_path / "a.json")
    assert Evidence.load(path).verdict == verdict
    corrected = compare_many(BEFORE, {"a": AFTER, "b": AFTER}, 0.08)["a"]
    path = evidence(verdict=corrected, candidates=2).save(tmp_path / "b.json")
    assert Evidence.load(path).verdict.confidence == pytest.approx(corrected.confidence)


def changed(path: Path, change: Any) -> Path:
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw["items"]["q5"].update(after=0.0), "was changed"),
        (lambda raw: raw["verdict"].update(decision="reject"), "was changed"),
        (lambda raw: raw.update(plan_after="other"), "was changed"),
        (lambda raw: raw.update(schema="tauten.evidence/9"), "is not evidence"),
        (lambda raw: raw.pop("items"), "is not evidence"),
        (lambda raw: raw.update(odd=1), "is not evidence"),
    ],
)
def test_a_change_by_hand_is_found(change: Any, message: str, tmp_path: Path) -> None:
    path = changed(evidence().save(tmp_path / "a.json"), change)
    with pytest.raises(InputError, match=message) as raised:
        Evidence.load(path)
    assert raised.value.code == "E258"


def test_a_seal_does_not_make_a_wrong_verdict_right(tmp_path: Path) -> None:
    flattering = compare(BEFORE, BEFORE, 0.08)
    path = evidence(verdict=flattering).save(tmp_path / "a.json")
    with pytest.raises(InputError, match="but its scores say"):
        Evidence.load(path)


def test_a_verdict_held_to_less_than_is_claimed_is_refused(tmp_path: Path) -> None:
    path = evidence(verdict=compare(BEFORE, AFTER, 0.08, 0.8)).save(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"claims a confidence of 0\.95; its verdict was held to 0\.8"):
        Evidence.load(path)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not evidence"):
        Evidence.load(tmp_path / "none.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError):
        evidence().save(tmp_path / "file" / "a.json")
