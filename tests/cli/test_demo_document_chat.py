"""`tauten demo document-chat`: documents come in, a gate is certified, two plans answer, and all of it is told."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tauten.cli.main import run


def test_its_options_are_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "document-chat", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "tauten demo document-chat" in " ".join(shown.split())
    assert "--grow" in shown
    for words in ([], ["document-chat"]):
        assert run(["demo", *words, "--requests", "-1"]) == 2
        assert "--requests -1" in capsys.readouterr().err


@pytest.mark.models
@pytest.mark.slow  # every handbook is read, and both plans answer two dozen questions: two minutes
def test_a_quick_round_tells_what_went_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo.json"
    assert run(["demo", "document-chat", "--requests", "6", "--json", str(out)]) == 0
    told = json.loads(out.read_text())
    assert told["schema"] == "tauten.demo.document_chat/1"
    grown = told["grown"]
    assert grown["failed"] == []
    assert grown["asked"] > 0
    assert all(each["before"].startswith("Not found") and each["right"] for each in grown["newcomers"])
    assert {each["added"]["name"] for each in grown["newcomers"]} >= {"otter-19.pdf", "falcon-23.pdf"}
    assert any(each["added"]["drawn"] for each in grown["newcomers"])
    naive, tuned = told["plans"]
    assert (naive["plan"], tuned["plan"]) == ("naive", "tuned")
    assert naive["requests"] == tuned["requests"] == 6
    assert naive["failed"] == tuned["failed"] == 0
    assert naive["routed"].keys() == tuned["routed"].keys()
    assert tuned["model_calls"] <= naive["model_calls"]
    assert all(each["why"] for each in tuned["requests_routed"])
    shown = capsys.readouterr().out
    for words in (
        "Documents that came in",
        "The gate, on questions",
        "model calls",
        "who answered",
        "why, one of each",
    ):
        assert words in shown
