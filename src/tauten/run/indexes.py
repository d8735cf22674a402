"""Where indexes live: a plain name beside the models, anything with a slash is a path."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from pathlib import Path

from tauten.errors import InputError, MachineError


def home() -> Path:
    """Where named indexes live: beside the models."""
    from tauten.models.store import default_root

    return default_root() / "indexes"


def locate(index: str | Path) -> Path:
    """The folder of an index: a plain name lies in `home`, anything else is a path."""
    text = str(index)
    if isinstance(index, Path) or "/" in text or "\\" in text:
        return Path(index).expanduser()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        raise InputError(
            f"{text!r} is not a name for an index", help="use letters, digits, dots and dashes", code="E225"
        )
    return home() / text


def damaged(root: Path, why: str) -> MachineError:
    """The error of an index whose files do not hang together."""
    return MachineError(
        f"index {root.name!r} is damaged: {why}",
        help=f"tauten index rm {root.name}, then build it again or restore a backup",
        code="E321",
    )
