"""A page around what is shown: one HTML file without scripts and without requests, and the tables in it.

Its Content-Security-Policy allows nothing but its own style sheet, by hash. What is given as a value is escaped;
what is given as HTML was made here.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Iterable, Sequence
from html import escape
from typing import Final

AROUND: Final = """
body{margin:0;background:#fff}main>.tau{margin:0 auto}
@media(prefers-color-scheme:dark){body{background:#14181d}}
"""
"""Outside of `.tau`, which only a page has and a notebook's cell has not."""


def page(title: str, body: str, style: str) -> str:
    """The whole file; `body` is HTML, `title` is a name as it was given."""
    style = AROUND + style
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def cells(values: Iterable[str], kind: str = "") -> str:
    """Table cells, escaped; `kind` is their class."""
    mark = f' class="{kind}"' if kind else ""
    return "".join(f"<td{mark}>{escape(value)}</td>" for value in values)


def table(heads: Sequence[str], rows: Iterable[str], *, numbers: Collection[int] = ()) -> str:
    """A table of rows, each a `tr`; `numbers` are the columns that hold figures."""
    marks = [' class="n"' if place in numbers else "" for place in range(len(heads))]
    head = "".join(
        f'<th scope="col"{mark}>{escape(name)}</th>' for name, mark in zip(heads, marks, strict=True)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def wide(inner: str, label: str) -> str:
    """What may be wider than a narrow screen: it scrolls by itself, with the keyboard too."""
    name = escape(label, quote=True)
    return f'<div class="wide" role="region" tabindex="0" aria-label="{name}">{inner}</div>'
