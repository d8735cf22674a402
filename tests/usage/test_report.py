"""Reports add up, and the books stand beside a provider's own count."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tauten.errors import InputError, MachineError
from tauten.explain.usage_page import usage_page
from tauten.run.usage.reconcile import compare, read_export
from tauten.run.usage.report import Report, report
from tauten.run.usage.row import UsageRow
from tauten.run.usage.sqlite import Sqlite


def line(id: str, day: int, nano: int | None, **about: Any) -> UsageRow:
    at = datetime(2026, 3, day, 12, tzinfo=UTC)
    told = {"provider": "house", "model": "small", "tenant": "desk", "workflow": "flow", "asked": 1, **about}
    return UsageRow(id=id, at_ms=int(at.timestamp() * 1000), day=at.date().isoformat(), nano=nano, **told)


LINES = [
    line("a", 1, 100, tags="beta,eu", units={"input_tokens": 10, "output_tokens": 5}),
    line("b", 1, 50, tags="beta", asked=0, why="retry", units={"input_tokens": 10}),
    line("c", 2, None, model="large", tenant="lab", units={"input_tokens": 7, "audio_seconds": 1.5}),
    line("d", 2, 0, provider="", model="", outcome="refused", ended="refused"),
    line("e", 3, 20, provider="local", model="minilm", units={"core_seconds": 0.25, "energy_j": 2.5}),
]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Sqlite]:
    found = Sqlite(tmp_path / "book.db")
    found.write([each.values() for each in LINES])
    yield found
    found.close()


def shown(found: Report, *words: str) -> list[tuple[Any, ...]]:
    return [(*each.by.values(), each.requests, each.calls, str(each.cost)) for each in found.lines]


def test_by_model_the_dearest_comes_first(database: Sqlite) -> None:
    found = report(database, ["model"])
    assert shown(found) == [
        ("small", 1, 2, "$0.00000015"),
        ("minilm", 1, 0, "$0.00000002"),
        ("", 1, 0, "$0"),
        ("large", 1, 1, "unknown"),
    ]
    assert (found.total.requests, found.total.calls, found.total.unpriced) == (4, 3, 1)
    assert str(found.total.cost) == "at least $0.00000017"
    assert found.total.units == {
        "input_tokens": 27,
        "output_tokens": 5,
        "audio_seconds": 1.5,
        "core_seconds": 0.25,
        "energy_j": 2.5,
    }


def test_by_day_days_are_in_order(database: Sqlite) -> None:
    assert [each.by["day"] for each in report(database, ["day", "model"]).lines] == [
        "2026-03-01",
        "2026-03-02",
        "2026-03-02",
        "2026-03-03",
    ]


def test_a_line_of_two_tags_stands_under_both_and_once_in_the_total(database: Sqlite) -> None:
    found = report(database, ["tag"], only={"tag": "beta"})
    assert {(each.by["tag"], each.calls) for each in found.lines} == {("beta", 2), ("eu", 1)}
    assert found.total.calls == 2


def test_since_and_until_bound_what_is_added(database: Sqlite) -> None:
    second, third = datetime(2026, 3, 2, tzinfo=UTC), datetime(2026, 3, 3, tzinfo=UTC)
    assert report(database, [], second, third).total.requests == 2
    assert report(database, [], third).total.requests == 1
    assert report(database, [], None, second).total.requests == 1


def test_only_those_of_a_tenant(database: Sqlite) -> None:
    assert [each.by["model"] for each in report(database, ["model"], only={"tenant": "lab"}).lines] == [
        "large"
    ]


def test_a_sign_of_patterns_means_itself(database: Sqlite) -> None:
    assert report(database, [], only={"tag": "b%"}).total.calls == 0


def test_a_word_that_lines_do_not_have_is_refused(database: Sqlite) -> None:
    with pytest.raises(InputError, match="modle"):
        report(database, ["modle"])
    with pytest.raises(InputError, match="nano"):
        report(database, [], only={"nano": "1"})


def test_an_empty_book_has_nothing(tmp_path: Path) -> None:
    found = report(Sqlite(tmp_path / "new.db"), ["model"])
    assert (found.lines, found.total.requests, str(found.total.cost)) == ([], 0, "$0")


def test_what_is_no_book_cannot_be_added_up(tmp_path: Path) -> None:
    (tmp_path / "book.db").write_bytes(b"no book" * 200)
    with pytest.raises(MachineError) as raised:
        report(Sqlite(tmp_path / "book.db"), ["model"])
    assert raised.value.code == "E361"


def test_the_page_says_the_same_and_escapes_names(tmp_path: Path) -> None:
    database = Sqlite(tmp_path / "book.db")
    database.write([line("x", 1, 2 * 10**9, tenant="<script>", units={"input_tokens": 1234}).values()])
    text = usage_page(report(database, ["tenant"]))
    assert "&lt;script&gt;" in text
    assert "<script>" not in text
    assert "$2.00" in text
    assert "1,234" in text
    assert "default-src 'none'" in text
    assert "all that is booked" in text
    instant = datetime(2026, 3, 1, tzinfo=UTC)
    assert "from 2026-03-01T00:00:00+00:00<" in usage_page(report(database, [], since=instant))
    assert "up to 2026-03-01T00:00:00+00:00<" in usage_page(report(database, [], until=instant))
    database.close()


# -- against a provider's export -----------------------------------------------------------------------------


def export(folder: Path, text: str) -> Path:
    path = folder / "export.csv"
    path.write_text(text)
    return path


def test_equal_counts_have_no_difference(database: Sqlite, tmp_path: Path) -> None:
    theirs = read_export(export(tmp_path, "model,prompt_tokens,completion_tokens\nsmall,20,5\nlarge,7,0\n"))
    books = [each for each in report(database, ["model"]).lines if each.calls]
    found = compare(theirs, books)
    assert len(found) == 3
    assert all(each.missing == 0 for each in found)


def test_each_difference_has_its_model_day_and_unit(database: Sqlite, tmp_path: Path) -> None:
    text = 'Date,Model,Input Tokens,Num Model Requests\n2026-03-01T00:00:00Z,small,"1,020",3\n2026-03-05,other,4,1\n'
    theirs = read_export(export(tmp_path, text))
    books = [each for each in report(database, ["model", "day"]).lines if each.calls]
    found = [(each.model, each.day, each.unit, each.missing) for each in compare(theirs, books)]
    assert found == [
        ("large", "2026-03-02", "calls", -1),
        ("large", "2026-03-02", "input_tokens", -7),
        ("other", "2026-03-05", "calls", 1),
        ("other", "2026-03-05", "input_tokens", 4),
        ("small", "2026-03-01", "calls", 1),
        ("small", "2026-03-01", "input_tokens", 1000),
    ]


@pytest.mark.parametrize(
    "text", ["", "name,amount\na,1\n", "model,note\na,b\n", "model,input_tokens\na,many\n"]
)
def test_what_is_no_export_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError) as raised:
        read_export(export(tmp_path, text))
    assert raised.value.code == "E243"


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"model,input_tokens\n\xff\xfe,1\n")
    with pytest.raises(InputError, match="E243"):
        read_export(tmp_path / "x.csv")
