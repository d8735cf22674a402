"""The file of labels: added to line by line, whole after a crash, shared by labellers, undone by a move."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tauten.errors import InputError, MachineError
from tauten.improve.labels.judgements import Judgement, Judgements, Undo

AT = "2026-01-01T00:00:00+00:00"


def judgement(item: str, labeller: str = "ada", choice: str = "left") -> Judgement:
    return Judgement(item, "aa", "bb", choice, 2.5, labeller, AT)  # type: ignore[arg-type]


def test_each_move_is_a_line_with_what_was_shown_and_nothing_of_plans(tmp_path: Path) -> None:
    labels = Judgements(tmp_path)
    assert labels.read() == []
    labels.add(judgement("q1"))
    labels.add(Undo("ada", AT))
    head, first, second = labels.path.read_text().splitlines()
    assert msgspec.json.decode(head) == {"schema": "tauten.labels/1"}
    assert msgspec.json.decode(first) == {
        "move": "label",
        "item": "q1",
        "left": "aa",
        "right": "bb",
        "choice": "left",
        "seconds": 2.5,
        "labeller": "ada",
        "at": AT,
    }
    assert msgspec.json.decode(second) == {"move": "undo", "labeller": "ada", "at": AT}


def test_undo_takes_back_the_labellers_own_last_word(tmp_path: Path) -> None:
    labels = Judgements(tmp_path)
    for item, who in (("q1", "ada"), ("q2", "ada"), ("q3", "bob")):
        labels.add(judgement(item, who))
    assert labels.last("ada") == judgement("q2")
    labels.add(Undo("ada", AT))
    labels.add(Undo("carl", AT))  # who said nothing
    assert [each.item for each in labels.read()] == ["q1", "q3"]
    labels.add(Undo("ada", AT))
    labels.add(judgement("q2", choice="equal"))
    assert [(each.item, each.choice) for each in labels.read()] == [("q3", "left"), ("q2", "equal")]


def test_every_prefix_of_the_file_reads_as_the_labels_that_were_whole(tmp_path: Path) -> None:
    """A crash may leave any part of the last line; nothing before it is lost, and the next label mends it."""
    whole = Judgements(tmp_path / "whole")
    whole.path.parent.mkdir()
    for item in ("q1", "q2", "q3"):
        whole.add(judgement(item))
    data = whole.path.read_bytes()
    for size in range(0, len(data) + 1, 7):
        folder = tmp_path / str(size)
        folder.mkdir()
        torn = Judgements(folder)
        torn.path.write_bytes(data[:size])
        lines = max(0, data[:size].count(b"\n") - 1)
        assert [each.item for each in torn.read()] == ["q1", "q2", "q3"][:lines]
        torn.add(judgement("next"))
        assert [each.item for each in torn.read()] == [*["q1", "q2", "q3"][:lines], "next"]


def test_a_label_is_on_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    real = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(Judgements(tmp_path).path.read_bytes())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    Judgements(tmp_path).add(judgement("q1"))
    assert b'"q1"' in synced[0]
    assert len(synced) == 2  # the folder, too: the file is new


def test_a_killed_process_leaves_every_label_that_it_told_of(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from tauten.improve.labels.judgements import Judgement, Judgements\n"
        "labels = Judgements(Path(sys.argv[1]))\n"
        "for number in range(5):\n"
        "    labels.add(Judgement(f'q{number}', 'aa', 'bb', 'equal', 1.0, 'ada', ''))\n"
        "    print(number, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == -9
    assert len(Judgements(tmp_path).read()) == len(done.stdout.split()) == 5


def test_labellers_write_at_the_same_time(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tauten.improve.labels.judgements import Judgement, Judgements\n"
        "for number in range(20):\n"
        "    Judgements(Path(sys.argv[1])).add("
        "Judgement(f'q{number}', 'aa', 'bb', 'equal', 1.0, sys.argv[2], ''))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    running = [subprocess.Popen([*command, name]) for name in ("ada", "bob")]
    assert [each.wait(60) for each in running] == [0, 0]
    said = Judgements(tmp_path).read()
    assert len(said) == 40
    assert [each.item for each in said if each.labeller == "ada"] == [f"q{i}" for i in range(20)]


@pytest.mark.parametrize(
    ("line", "text"),
    [(1, '{"schema":"tauten.labels/9"}'), (2, "{"), (2, '{"move":"label","item":"q1"}'), (2, '{"move":"x"}')],
)
def test_a_damaged_line_is_named_not_skipped(line: int, text: str, tmp_path: Path) -> None:
    labels = Judgements(tmp_path)
    labels.add(judgement("q1"))
    lines = labels.path.read_text().splitlines()
    lines[line - 1] = text
    labels.path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=f"line {line} of labels.jsonl") as raised:
        labels.read()
    assert raised.value.code == "E257"


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").mkdir()
    with pytest.raises(MachineError, match="cannot keep a label"):
        Judgements(tmp_path).add(judgement("q1"))
