"""The screen of models measured alone: columns under their heads, and no line too long."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from tauten.improve.measuring.report import StageLoad, StageModel, StageRow, Stages
from tauten.improve.measuring.screen import WIDTH, to_text

STREAM = StageRow(
    threads=2,
    batch=8,
    size=1024,
    n=9,
    mid_ms=36567.0,
    low_ms=34567.0,
    high_ms=112328.0,
    memory_bytes=523_000_000,
    first_ms=33229.0,
    tokens_in_s=1035.7,
    tokens_out_s=103.89,
)


def shown(*rows: StageRow) -> list[str]:
    model = StageModel(
        model="talker",
        variant="int8",
        engine="llm",
        precision="bf16",
        used_by=["generate.model"],
        items=1,
        loads=[StageLoad(threads=0, load_ms=1234.5, memory_bytes=414_000_000)],
        rows=list(rows),
        notes=["3 of 9 rounds: 60 s were over"],
    )
    text = to_text(Stages(workflow="desk", plan="naive@1", machine="2 cores", requests=2, models=[model]))
    assert max(map(len, text.splitlines())) <= WIDTH
    return text.splitlines()


def test_the_longest_row_stands_under_its_heads() -> None:
    lines = shown(STREAM)
    head = next(index for index, line in enumerate(lines) if "95 % interval" in line)
    row = lines[head + 1]
    for name, figure in {"batch": "8", "size": "1024", "ms": "36,567", "n ": "9", "memory": "523 MB"}.items():
        end = lines[head].index(name) + len(name.strip())
        assert row[:end].endswith(figure), name
    assert row[lines[head].index("95 %") :].startswith("34,567-112,328")
    assert row.endswith("33,229  1036, 104")
    assert " talker:int8   llm bf16   generate.model   1 item" in lines
    assert "   default threads: loads in 1234 ms, holds 414 MB" in lines
    assert "   3 of 9 rounds: 60 s were over" in lines


def test_what_has_no_interval_and_what_was_not_run_say_so() -> None:
    few = StageRow(threads=1, batch=1, size=8, n=2, mid_ms=1.5)
    left = StageRow(threads=1, batch=4, size=8, reason="left out: warming up took too long")
    lines = shown(few, left)
    assert any(line.split()[3:] == ["1.5", "-", "2", "-"] for line in lines)
    assert any(line.endswith("4        8  left out: warming up took too long") for line in lines)
    assert not any("tokens/s" in line for line in lines)
