"""The book of what is called by hand, in scripts, notebooks, tools and tests: one a process, begun when it is first needed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import logging
import threading
from typing import Any, Final

from tauten.run.usage.book import Book, default_place, home
from tauten.run.usage.entry import Entry, took

log = logging.getLogger("tauten.run.usage")
OFF: Final = "off"


class BookByHand(Book):
    """A book whose thread begins with its first line. What took nothing of a provider or a model has none."""

    def __init__(self, place: str, **options: Any) -> None:
        super().__init__(place, **options)
        self._beginning = threading.Lock()  # loops of several threads may come at once

    def _take(self, entry: Entry) -> None:
        if not took(entry):
            return
        with self._beginning:
            if self._thread is None and not self._ending:
                self.start()
        super()._take(entry)


class ByHand:
    """Gives engines their book: at `$TAUTEN_USAGE`, else in the store; none where that says `off`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._books: dict[str, BookByHand] = {}

    def book(self) -> BookByHand | None:
        place = default_place()
        if place == OFF:
            return None
        with self._lock:
            if place not in self._books:
                self._books[place] = BookByHand(place, spare=home(), say=log.warning)
            return self._books[place]

    def end(self) -> None:
        """Write what waits."""
        with self._lock:
            books, self._books = list(self._books.values()), {}
        for each in books:
            each.end()
