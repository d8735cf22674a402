"""What a provider says can be anything: a line that nothing can hold keeps no other line from the book."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tauten.run.usage import book as books
from tauten.run.usage.book import Book
from tauten.run.usage.call import Call
from tauten.run.usage.database import BadValue, DatabaseBusy
from tauten.run.usage.entry import Entry, no_models
from tauten.run.usage.payer import NOBODY
from tauten.run.usage.sqlite import Sqlite
from usage.kit_usage import PRICES, prices, quiet, rows, stored
from usage.test_writing import impatient, lock, turn_away, until

BAD: tuple[dict[str, Any], ...] = (
    {"nano": 2**63},
    {"tenant": "\udcff"},
    {"model": None},
    {"model": {}},
    {"units": {"input_tokens": math.nan}},
)


def book_call(book: Book, units: dict[str, Any], *, request: str = "r", request_id: str = "") -> None:
    """A request with one call."""
    call = Call(
        step="ask",
        provider="house",
        model="small",
        started=0.0,
        ended=1.0,
        outcome="ok",
        units=units,
        request_id=request_id,
    )
    book._take(Entry(1.8e9, "ok", request, "desk", NOBODY, "flow", "", (call,), (), (), no_models))


def with_bad(book: Book, **bad: Any) -> None:
    """Five lines that wait, the third with something that is not to be."""
    turn_away(book, 5)
    book.note()
    book._unwritten[2] = replace(book._unwritten[2], **bad)


# -- what is mended before it is a line ----------------------------------------------------------------------


def test_bytes_of_a_header_that_are_no_text_are_question_marks(tmp_path: Path) -> None:
    book, told = quiet(tmp_path), b"req-\xff\xfe".decode("utf-8", "surrogateescape")
    book_call(book, {"input_tokens": 10}, request="\udc80", request_id=told)
    book_call(book, {"input_tokens": 10}, request="ä", request_id="ö" * 300)
    first, second = rows(book)
    assert (first.request, first.provider_request) == ("?", "req-??")
    assert (second.request, second.provider_request) == ("ä", "ö" * 256)


@pytest.mark.parametrize("amount", [-1, 1e12, 9e14, 1e300, math.inf, math.nan])
def test_a_number_that_is_no_count_is_not_booked_and_leaves_the_price_unknown(
    tmp_path: Path, amount: float
) -> None:
    book = quiet(tmp_path)
    book_call(book, {"input_tokens": 10, "output_tokens": amount})
    book_call(book, {"input_tokens": 10, "output_tokens": 2})
    bad, good = rows(book)
    assert (bad.units, bad.nano) == ({"input_tokens": 10}, None)
    assert (good.units, good.nano) == ({"input_tokens": 10, "output_tokens": 2}, 15_000)


def test_a_price_that_no_column_holds_is_unknown(tmp_path: Path) -> None:
    dear = prices(tmp_path, PRICES.replace("2.5 }", "1e15 }"))
    book = Book(str(tmp_path / "book.db"), dear)
    book_call(book, {"input_tokens": 10, "output_tokens": 9e11})
    [line] = rows(book)
    assert (line.units["output_tokens"], line.nano, line.priced_by) == (9e11, None, "")


# -- what is not ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", BAD)
def test_a_line_that_no_database_takes_is_dropped_counted_and_said(
    tmp_path: Path, bad: dict[str, Any]
) -> None:
    said: list[str] = []
    book = quiet(tmp_path, say=said.append)
    with_bad(book, **bad)
    assert [line.request for line in rows(book)] == ["r0", "r1", "r3", "r4"]
    assert (book.written, book.dropped, book.waiting) == (4, 1, 0)
    [words] = said
    assert "1 lines that nothing takes are lost and counted as dropped: " in words
    assert "of request 'r2': BadValue(" in words


def test_while_the_database_is_locked_even_a_bad_line_is_kept(tmp_path: Path) -> None:
    book, database = quiet(tmp_path), impatient(tmp_path / "book.db")
    database.fetch("SELECT 1")
    with_bad(book, nano=2**63)
    holder = lock(tmp_path / "book.db")
    with pytest.raises(DatabaseBusy, match="locked"):
        book.write(database)
    assert (book.written, book.dropped, book.waiting) == (0, 0, 5)
    holder.execute("ROLLBACK")
    holder.close()
    book.write(database)
    assert (book.written, book.dropped, book.waiting) == (4, 1, 0)
    database.close()


def test_a_bad_line_keeps_no_other_from_the_file_at_the_end(tmp_path: Path) -> None:
    said: list[str] = []
    book = quiet(tmp_path, spare=tmp_path / "spare", say=said.append)
    with_bad(book, tenant="\udcff")
    book._leave()
    assert (book.aside, book.dropped, book.waiting) == (4, 1, 0)
    assert "1 lines that nothing takes" in said[0]
    database = Sqlite(tmp_path / "book.db")
    book._adopt(database)
    assert [line.request for line in stored(database)] == ["r0", "r1", "r3", "r4"]
    database.close()


def test_a_bad_line_in_a_file_keeps_no_other_from_the_book(tmp_path: Path) -> None:
    said: list[str] = []
    book = quiet(tmp_path, spare=tmp_path, say=said.append)
    with_bad(book, nano=2**63)
    lines = b"".join(msgspec.json.encode(row) + b"\n" for row in book._unwritten)
    left = tmp_path / books.LEFT.replace("*", "before")
    left.write_bytes(lines)
    database = Sqlite(tmp_path / "book.db")
    book._adopt(database)
    assert [line.request for line in stored(database)] == ["r0", "r1", "r3", "r4"]
    assert (book.written, book.dropped, left.exists()) == (4, 1, False)
    assert "4 lines that lay in" in said[-1]
    database.close()


def test_a_request_of_which_no_line_can_be_made_is_counted_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    book = quiet(tmp_path, say=said.append)
    book_call(book, {"input_tokens": "many"}, request="bad")
    book_call(book, {"input_tokens": 10}, request="good")
    assert [line.request for line in rows(book)] == ["good"]
    assert (book.written, book.dropped) == (1, 1)
    assert "request 'bad': TypeError(" in said[0]


def test_the_thread_goes_on_after_a_bad_line(tmp_path: Path) -> None:
    path, said = tmp_path / "book.db", list[str]()
    book = Book(str(path), spare=tmp_path, say=said.append)
    with_bad(book, nano=2**63)
    book.start()
    until(lambda: book.written == 4)
    turn_away(book, 3)
    book.end()
    assert (book.written, book.dropped, book.waiting, book.failures) == (7, 1, 0, 0)
    database = Sqlite(path)
    assert len(stored(database)) == 7
    database.close()


@pytest.mark.parametrize("amount", [2**63, None, {}])
def test_a_transaction_with_a_bad_value_says_so_and_leaves_nothing(tmp_path: Path, amount: Any) -> None:
    database = Sqlite(tmp_path / "book.db")
    insert = "INSERT INTO budget (name, whose, period, spent) VALUES (?, '', '', ?)"

    def work(do: Any) -> None:
        do(insert, ("good", 1))
        do(insert, ("bad", amount))

    with pytest.raises(BadValue):
        database.alone(work)
    assert database.fetch("SELECT name FROM budget") == []
    database.close()
