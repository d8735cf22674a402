"""An account in a notebook: text where there is only text, a chart where there is HTML."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

from tauten.explain.account import Account, Comparison
from tauten.explain.document import to_document
from tauten.explain.html import fragment
from tauten.explain.text import compare_text, to_text


class Explanation:
    """What `explain()` returns to a person: prints as the screen, shows as HTML in a notebook.

    Self-contained: no script, nothing fetched.
    """

    def __init__(self, shown: Account | Comparison) -> None:
        self.shown = shown

    def __str__(self) -> str:
        return compare_text(self.shown) if isinstance(self.shown, Comparison) else to_text(self.shown)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return fragment(self.shown)

    def _repr_json_(self) -> dict[str, Any]:
        return to_document(self.shown)
