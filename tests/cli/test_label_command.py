"""`tauten label` in the terminal: keys from a pipe and from a terminal, the verdict, its exit code, evidence."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import io
import json
import os
import re
import sys
from pathlib import Path

import pytest

from cli.kit_cli import tauten
from improve.kit_labels import plans, served, session, side_of
from tauten.cli.keys import pressed
from tauten.cli.main import run
from tauten.describe.payload import Image
from tauten.improve.labels.answers import keep_answers
from tauten.improve.labels.judgements import Judgements
from tauten.improve.quality import Evidence
from tauten.improve.recording import Item, Recording

PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)


def given(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def line(files: tuple[Path, Path, Path], *more: str) -> list[str]:
    return ["label", *map(str, files), "--labeller", "ada", "--margin", "5pt", *more]


def test_letters_on_lines_label_until_the_verdict_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = plans(tmp_path, 60, 3)
    given(monkeypatch, "=\n= =\n")
    assert run(line(files)) == 0
    shown = capsys.readouterr()
    assert shown.out == "accept: loss below 4.9 points (95%, n = 60)\n"
    assert "60 items, 57 of them answered the same twice" in shown.err
    assert "0 labelled, at most 3 to go; about 3 more for a verdict" in shown.err
    assert "3 labelled, at most 0 to go; enough for a verdict" in shown.err
    assert "old answer" in shown.err
    assert len(Judgements(files[0]).read()) == 3


def test_nothing_on_the_screen_says_which_plan_gave_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = plans(tmp_path, 60, 3)
    given(monkeypatch, "al=q")
    assert run(line(files)) == 4
    shown = capsys.readouterr().err
    for word in ("before", "after", "naive", "tuned"):
        assert word not in shown


def test_quitting_and_the_end_of_the_input_cannot_conclude_and_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = plans(tmp_path, 60, 8)
    given(monkeypatch, "==q==")
    assert run(line(files)) == 4
    assert capsys.readouterr().out == "cannot conclude yet: about 6 more labels of 6\n"
    given(monkeypatch, "=")
    assert run(line(files)) == 4
    assert len(Judgements(files[0]).read()) == 3
    given(monkeypatch, "=====")
    assert run(line(files)) == 0


def test_undo_and_keys_that_mean_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = plans(tmp_path, 60, 3)
    given(monkeypatch, "u?xuaq")
    assert run(line(files)) == 4
    shown = capsys.readouterr().err
    assert "nothing to undo" in shown
    assert shown.count("u undo   q quit") == 5  # with each pair, and for the key that is none
    assert [each.choice for each in Judgements(files[0]).read()] == ["left"]


def test_the_last_label_can_be_taken_back_though_the_verdict_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = plans(tmp_path, 60, 3)
    given(monkeypatch, "===ux")
    assert run(line(files)) == 0
    assert [each.choice for each in Judgements(files[0]).read()] == ["equal", "equal", "both bad"]
    given(monkeypatch, "u")
    assert run(line(files)) == 0  # nothing is asked where nothing is open
    assert len(Judgements(files[0]).read()) == 3


def test_a_change_that_loses_is_rejected_with_its_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = plans(tmp_path, 60, 20)
    comparison = session(tmp_path).progress.comparison
    shown = [comparison.pair(item, "ada", seed=0) for item in comparison.queue("ada", seed=0)]
    keys = ["a" if side_of(pair, "old") == "left" else "l" for pair in shown]
    given(monkeypatch, "".join(keys))
    assert run(line(files, "--json")) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["schema"], told["decision"], told["n"]) == ("tauten.label/1", "reject", 60)
    assert sorted(told["worse"]) == sorted(pair.item for pair in shown[: told["labelled"]])
    assert told["labelled"] < 20
    assert (told["better"], told["disputed"], told["missing"]) == ([], [], 20 - told["labelled"])
    assert set(keys) == {"a", "l"}


def test_evidence_is_written_once_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = plans(tmp_path, 60, 3)
    path = tmp_path / "tuned.evidence.json"
    given(monkeypatch, "=q")
    assert run(line(files, "--evidence", str(path))) == 4
    assert not path.exists()
    assert "no evidence is written: 2 pairs have no label yet" in capsys.readouterr().err
    given(monkeypatch, "==")
    assert run(line(files, "--evidence", str(path))) == 0
    found = Evidence.load(path)
    assert (found.metric, found.labels, found.plan_before, found.plan_after) == (
        "tauten label",
        3,
        "naive",
        "tuned",
    )
    assert (found.answers_before, found.answers_after) == ("before.jsonl", "after.jsonl")
    given(monkeypatch, "")
    assert (
        run(["label", str(files[0]), str(files[1]), str(path), "--margin", "5pt", "--labeller", "bob"]) == 0
    )


def test_too_few_items_are_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given(monkeypatch, "q")
    assert run(["label", *map(str, plans(tmp_path, 20, 3)), "--labeller", "ada"]) == 4
    assert "at best a loss below 13.9 points, not 1" in capsys.readouterr().err


def test_an_input_called_as_a_side_lies_in_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever opens the question's picture looked at an answer's."""
    asked = Item(id="q0", render=lambda: {"left": Image(PNG)})
    recording = Recording("shown", [asked]).save(tmp_path / "shown.rec")
    sides = [tmp_path / "before.jsonl", tmp_path / "after.jsonl"]
    for path in sides:
        keep_answers(path, [served("q0", Image(PNG + path.name.encode()))], plan=path.stem)
    given(monkeypatch, "q")
    assert run(line((recording, sides[0], sides[1]))) == 4
    files = re.findall(r"  (\S+)  \(image/png, ", capsys.readouterr().err)
    assert len(files) == len(set(files)) == 3


def test_answers_cannot_steer_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = plans(tmp_path, 60, 3)
    for path in files[1:]:
        path.write_text(path.read_text().replace(" answer", "\\u001b[2Janswer"))
    given(monkeypatch, "q")
    run(line(files))
    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert "\ufffd[2Janswer" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--margin", "much"], "E204"),
        (["--margin", "0"], "E252"),
        (["--confidence", "95"], "E252"),
        (["--evidence", "nowhere/e.json"], "E261"),
        (["--browser", "--port", "70000"], "E260 --port 70000"),
    ],
)
def test_what_cannot_be_understood_is_refused_before_the_work(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*line(plans(tmp_path, 60, 3)), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_whole_process_labels_from_a_pipe(tmp_path: Path) -> None:
    done = tauten(*line(plans(tmp_path, 60, 3)), given=b"=\n=\n=\n")
    assert (done.code, done.out) == (0, "accept: loss below 4.9 points (95%, n = 60)\n")


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no pseudo-terminals")
def test_a_terminal_hands_over_single_keys_and_gets_its_ways_back() -> None:
    import pty
    import termios

    master, slave = pty.openpty()
    with os.fdopen(slave, "r") as stream:
        before = termios.tcgetattr(stream)
        keys = pressed(stream)
        os.write(master, b"a")
        assert next(keys) == "a"  # without Enter
        os.write(master, b"=")
        assert next(keys) == "="
        assert termios.tcgetattr(stream)[3] != before[3]
        keys.close()
        assert termios.tcgetattr(stream)[3] == before[3]
    os.close(master)
