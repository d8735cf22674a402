"""`tauten prompt` and `tauten bench --prompt`: what is printed, what is refused, and what a real tokenizer says."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.kit_cli import written
from improve.kit_golden import SHOTS
from improve.kit_prompts import ASK, WordReader
from tauten.cli import prompt as command
from tauten.cli.main import run
from tauten.describe.payload import Text
from tauten.improve.recording import Item, Label, Recording

FLOW = """
import tauten as tt

@tt.workflow
def asked(question: tt.Text) -> tt.Stream[tt.Text]:
    return tt.generate("ask.md", question=question, max_tokens=8)

@tt.metric
def metric(answer: tt.Text, label: object) -> bool:
    return "b" in answer.text
"""
TOLD = """tauten = "plan/1"
[stage.generate]
model = "told"
backend = "synthetic_slots"
prefill_ms = 2.0
ms_per_token = 0.5
answer = "constant"
value = "a b c"
"""


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Tokens are words, where no model is asked for."""
    if "models" not in request.keywords:
        monkeypatch.setattr(command, "prompt_reader", lambda store, *which: WordReader())


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    written(tmp_path, "ask.md", ASK)
    return written(tmp_path, "asking.py", FLOW)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    items = [
        Item(
            id=f"q{number}",
            render=lambda number=number: {"question": Text(f"why {number}?")},  # type: ignore[misc]
            label=Label(answer="b"),
        )
        for number in range(6)
    ]
    return Recording("told", items).save(tmp_path / "told.rec")


def prompt(*words: object) -> int:
    return run(["prompt", *map(str, words)])


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


# -- looking ---------------------------------------------------------------------------------------------------


def test_a_folder_and_a_workflow_are_listed(
    flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prompt("list", tmp_path) == 0
    assert "question: text   2 examples" in capsys.readouterr().out
    assert prompt("list", flow, "--json") == 0
    found = document(capsys)
    assert (found["schema"], found["templates"][0]["place"]) == ("tauten.prompt.list/1", "generate")
    written(tmp_path, "bad.md", "+++\nname = 1\n+++\nx")
    assert prompt("list", tmp_path) == 2
    assert "E108 bad.md:2" in capsys.readouterr().out


def test_a_template_is_shown_with_what_it_says_of_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "shots.md", SHOTS)
    assert prompt("show", path) == 0
    out = capsys.readouterr().out
    assert "examples: loop, file" in out
    assert "formats: sentence, words, list (the first stands)" in out
    assert SHOTS.rstrip("\n") in out
    assert prompt("show", path, "--json") == 0
    found = document(capsys)
    assert (found["schema"], found["source"]) == ("tauten.prompt.show/1", SHOTS)


def test_a_preview_of_a_file_with_values_of_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "ask.md", ASK)
    value = written(tmp_path, "value.txt", "why not?")
    assert prompt("preview", path, f"question=@{value}", "--without", "grass") == 0
    out = capsys.readouterr().out
    assert "Answer in one word.\nQ: What is blue?\nA: sky\nQ: why not?\nA:" in out
    assert "14 tokens of 1000" in out
    assert prompt("preview", path, "question=why", "--json") == 0
    found = document(capsys)
    assert found["schema"] == "tauten.prompt.preview/1"
    assert sum(found["tokens"]["parts"].values()) == found["tokens"]["total"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["nothing=1"], "E260"),
        (["question"], "E260"),
        ([], "E103"),
        (["question=x", "--format", "long"], "E108"),
        (["question=x", "--stage", "generate"], "E260"),
        (["question=x", "--item", "#3"], "E260"),
    ],
)
def test_what_a_preview_cannot_use_is_refused(
    words: list[str], code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prompt("preview", written(tmp_path, "ask.md", ASK), *words) == 2
    assert f"tauten: {code}" in capsys.readouterr().err


def test_a_value_that_is_no_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "shot.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    for value, said in ((f"@{picture}", "is not UTF-8"), ("@gone.txt", "no file")):
        assert prompt("preview", written(tmp_path, "ask.md", ASK), f"question={value}") == 2
        told = capsys.readouterr().err
        assert "tauten: E203" in told
        assert said in told


def test_a_preview_of_a_recorded_request(
    flow: Path, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prompt("preview", tmp_path / "ask.md", "--recording", kept, "--item", "#3") == 0
    assert "Q: why 2?" in capsys.readouterr().out
    plan = written(tmp_path, "told.toml", TOLD)
    assert prompt("preview", flow, "--recording", kept, "--item", "q4", "--plan", plan) == 0
    out = capsys.readouterr().out
    assert "Q: why 4?" in out
    assert "as told reads it" in out
    assert prompt("preview", flow, "question=why me?", "--plan", plan) == 0
    assert "Q: why me?" in capsys.readouterr().out
    assert prompt("preview", flow, "--recording", kept, "--item", "q9", "--plan", plan) == 2
    assert "tauten: E209" in capsys.readouterr().err
    assert prompt("preview", flow, "question=x", "--recording", kept) == 2
    assert "tauten: E260" in capsys.readouterr().err


def test_a_prompt_that_is_always_the_same_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path, "fixed.md", "Say one word.\nAny word.\n")
    fixed = written(tmp_path, "fixed.py", FLOW.replace('"ask.md", question=question', '"fixed.md"'))
    assert prompt("preview", fixed, "question=x", "--plan", written(tmp_path, "told.toml", TOLD)) == 0
    assert "Any word." in capsys.readouterr().out


def test_two_versions_differ_by_lines_and_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = written(tmp_path, "old.md", ASK)
    new = written(tmp_path, "new.md", ASK.replace("Answer in one word.", "Answer."))
    assert prompt("diff", old, new) == 1
    out = capsys.readouterr().out
    assert "-Answer in one word.\n+Answer." in out
    assert "-3, without values" in out
    assert prompt("diff", old, old) == 0
    capsys.readouterr()
    assert prompt("diff", old, new, "--json") == 1
    found = document(capsys)
    assert (found["schema"], found["tokens"]) == ("tauten.prompt.diff/1", -3)


# -- in turns --------------------------------------------------------------------------------------------------


def test_two_templates_are_run_over_a_recording(
    flow: Path, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shorter = written(tmp_path, "shorter.md", ASK.replace("Answer in one word.", "Answer."))
    plan, figures = written(tmp_path, "told.toml", TOLD), tmp_path / "f.json"
    given = ["bench", flow, "--prompt", shorter, "--recording", kept, "--plan", plan, "--loss", "0.5"]
    assert run([*map(str, given), "--json", str(figures)]) == 0
    out = capsys.readouterr().out
    assert "a  ask.md" in out
    assert "b  shorter.md" in out
    assert "accept: loss below" in out
    assert "no call to a provider has a known price" in " ".join(out.split())
    found = json.loads(figures.read_text())
    assert (found["schema"], found["exit_code"]) == ("tauten.prompts.bench/1", 0)
    tokens = next(each for each in found["figures"] if each["what"] == "tokens in")
    assert (tokens["n"], tokens["diff"]) == (6, -3.0)


@pytest.mark.parametrize(
    ("more", "seen"),
    [
        (["--prompt", "ask.md"], "are the same version"),
        (["--prompt", "x.md"], "cannot read"),
        (["--prompt=other.md", "--rounds", "0"], "--rounds 0"),
        (["--prompt", "other.md", "--stage", "x"], "no step 'x'"),
        (["--prompt", "wrong.md"], "{{ more }} is not given"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    more: list[str],
    seen: str,
    flow: Path,
    kept: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "other.md", "Say {{ question }}")
    written(tmp_path, "wrong.md", "Say {{ question }} {{ more }}")
    assert run(["bench", str(flow), "--recording", str(kept), *more]) == 2
    assert seen in capsys.readouterr().err


# -- a real tokenizer --------------------------------------------------------------------------------------------


@pytest.mark.models
def test_the_parts_of_a_real_prompt_add_up_and_are_what_the_engine_books(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kit.direct import DirectContext, direct
    from tauten.describe.stages.generate import generate

    path = written(tmp_path, "shots.md", SHOTS)
    given = {"passage": "A façade is the front of a building: 家.", "question": "What is it?"}
    assert prompt("preview", path, *(f"{name}={text}" for name, text in given.items()), "--json") == 0
    found = document(capsys)
    tokens = found["tokens"]
    assert sum(tokens["parts"].values()) == tokens["total"]
    assert tokens["parts"]["marks"] > 0
    assert tokens["unchanged"] > tokens["parts"]["examples"]
    context = DirectContext(generate)
    direct(generate, SHOTS, **given, max_tokens=1, context=context)
    assert context.spent["input_tokens"] == tokens["total"]


@pytest.mark.models
def test_a_raw_completion_is_counted_as_the_engine_counts_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kit.direct import DirectContext, direct
    from tauten.describe.stages.generate import generate

    assert prompt("preview", written(tmp_path, "ask.md", ASK), "question=why not?", "--json") == 0
    tokens = document(capsys)["tokens"]
    assert sum(tokens["parts"].values()) == tokens["total"]
    context = DirectContext(generate)
    direct(generate, ASK, question="why not?", max_tokens=1, context=context)
    assert context.spent["input_tokens"] == tokens["total"]
