"""Pages of our own: one file each, which loads nothing from anywhere else."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import base64
import functools
import hashlib
from importlib import resources


@functools.cache
def read(package: str = "tauten.serve") -> tuple[bytes, str]:
    """The page of a package, and the Content-Security-Policy that lets it run its own script and nothing else.

    That of the server itself is the page to try workflows.
    """
    text = resources.files(package).joinpath("page.html").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src {_digest(text, 'script')}; style-src {_digest(text, 'style')}; "
        "connect-src 'self'; img-src blob:; media-src blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text.encode(), policy


def _digest(text: str, tag: str) -> str:
    content = text.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
