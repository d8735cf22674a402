"""On whose account a request goes, beside its tenant: the key it came by, what its client calls itself, its tags."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from tauten.errors import InputError

MOST_TAGS: Final = 4  # a team, a feature, an experiment and one more; each is a row of a report
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:=/-]{0,63}")


class Payer(NamedTuple):
    """Names only: a key is never here, nor anything of a client but what it says."""

    key: str = ""
    client: str = ""
    tags: tuple[str, ...] = ()


NOBODY: Final = Payer()


def tags_of(given: str | Iterable[str]) -> tuple[str, ...]:
    """Tags as they are booked, from a list or a header (`a, b`): each once, in order; raises InputError E291."""
    words = given.split(",") if isinstance(given, str) else given
    tags = tuple(sorted({word.strip() for word in words if word.strip()}))
    for tag in tags:
        name_of(tag, "a tag")
    if len(tags) > MOST_TAGS:
        raise InputError(f"{len(tags)} tags on one request", help=f"give {MOST_TAGS} or fewer", code="E291")
    return tags


def name_of(given: str, what: str) -> str:
    """A name that books and reports may carry; raises InputError E291."""
    if not _NAME.fullmatch(given):
        raise InputError(
            f"{what} called {given[:40]!r}",
            help="1 to 64 letters, digits and . _ : = / - ; the first a letter or digit",
            code="E291",
        )
    return given
