"""A document as it was decoded: its sheets, with the letters that the file holds, or a picture where it holds none."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import msgspec


class Span(msgspec.Struct, frozen=True, array_like=True):
    """Letters side by side in one row. The box is in points from the sheet's top left corner, `size` the height of
    the letters' font."""

    text: str
    left: float
    top: float
    right: float
    bottom: float
    size: float
    bold: bool = False

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """An entry of the table of contents that a file carries. Levels count from 0, sheets from 1."""

    level: int
    title: str
    sheet: int


class Sheet(msgspec.Struct, frozen=True):
    """One page. Width and height are in points, 72 to the inch."""

    number: int  # from 1
    width: float
    height: float
    spans: tuple[Span, ...] = ()
    picture: bytes = b""  # an encoded picture of a sheet whose letters are not in the file

    @property
    def seen(self) -> bool:
        """Whether its letters are read from a picture."""
        return bool(self.picture)


class Sheets(msgspec.Struct, frozen=True):
    """All pages of a document, in order; none for a document that is plain text."""

    sheets: tuple[Sheet, ...] = ()
    name: str = ""
    marks: tuple[Mark, ...] = ()
