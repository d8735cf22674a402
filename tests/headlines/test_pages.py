"""The tables are what the command draws from the kept figures, in our pages too; and only between their marks."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from headlines.kit_headlines import some
from tauten.errors import InputError
from tauten.improve.headlines.page import END, KEPT, PAGES, START, filled, load, pages
from tauten.improve.headlines.row import Headlines, Row
from tauten.improve.headlines.table import EMPTY, details, summary

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_our_pages_hold_exactly_what_the_kept_figures_draw(page: Path) -> None:
    text = (ROOT / page).read_text()
    assert text == filled(text, PAGES[page](load(ROOT / KEPT)))
    assert text.count(START) == text.count(END) == 1


def test_nothing_measured_is_one_sentence() -> None:
    assert summary(Headlines()) == details(Headlines()) == EMPTY


def test_the_summary_has_the_baselines_the_ratios_and_the_stamp() -> None:
    lines = summary(some()).splitlines()
    assert lines[2] == (
        "| L8 | prefix cache: cost −90 % | 1000 tokens: first | 100 ms | - | 25 ms | 0.25 (0.2-0.3) | - |"
    )
    assert "not measured: E310 no model" in lines[3]
    assert "n = 7 rounds, others had 2 % of the cores (at most 4 % in a round)" in lines[5]
    assert "2026-01-02, commit abc1234" in lines[5]
    assert len({line.count("|") for line in lines[:4]}) == 1


def test_the_details_have_every_line_setting_condition_and_note() -> None:
    text = details(some())
    assert "| 1000 tokens: tokens | - | 3 (n = 2) | - | - |" in text
    assert "| 1000 tokens: first | 100 (90-110) ms | 25 (24-26) ms |" in text
    assert "* **best** (best zero effort): without, well set; not measured: E325 not here." in text
    for each in (
        "* prompts: five.",
        "* quality: the same numbers.",
        "* one thing.",
        "Not measured: E310 no model.",
    ):
        assert each in text


def test_a_setting_that_is_its_own_baseline_says_so() -> None:
    row = msgspec.structs.replace(some().rows[0], zero_effort="on")
    assert "| the same setting |" in summary(Headlines(rows=[row]))


def test_a_quick_look_is_called_one() -> None:
    row = msgspec.structs.replace(some().rows[0], quick=True)
    assert "a quick look, no evidence" in summary(Headlines(rows=[row]))


def kept(folder: Path) -> Path:
    (folder / "docs").mkdir()
    for page in PAGES:
        (folder / page).write_text(f"# Head\n\n{START}\nold\n{END}\n\ntail\n")
    return folder


def test_new_rows_take_the_place_of_old_ones_and_others_stay(tmp_path: Path) -> None:
    root = kept(tmp_path)
    for path, text in pages(root, some()).items():
        path.write_text(text)
    newer = Headlines(
        rows=[Row(id="L17", claim="batching", missing="another reason"), Row(id="L1", claim="int8")]
    )
    found = pages(root, newer)
    again = msgspec.json.decode(found[root / KEPT], type=Headlines)
    assert [row.id for row in again.rows] == ["L1", "L8", "L17"]
    assert again.rows[2].missing == "another reason"
    assert again.rows[1] == some().rows[0]
    readme = found[root / "README.md"]
    assert readme.startswith(f"# Head\n\n{START}\n| ")
    assert readme.endswith(f"{END}\n\ntail\n")
    assert "old" not in readme


def test_what_could_not_be_measured_this_time_leaves_what_was() -> None:
    failed = Headlines(rows=[Row(id="L8", claim="prefix cache", missing="E310 no model")])
    assert some().merged(failed) == some()
    assert Headlines().merged(failed) == failed
    assert failed.merged(some()).rows[0] == some().rows[0]


def test_pages_without_marks_and_broken_figures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"README\.md: .*No such file"):
        pages(tmp_path, Headlines())
    root = kept(tmp_path)
    (root / KEPT).write_text('{"schema": "another/1"}')
    with pytest.raises(InputError, match=r"headlines\.json"):
        pages(root, Headlines())
    (root / KEPT).unlink()
    (root / "README.md").write_text(f"{END}\n{START}\n")
    with pytest.raises(InputError, match="lacks the marks"):
        pages(root, Headlines())
