"""Where indexes live: a plain name beside the models, anything with a slash is a path."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
import shutil
import tarfile
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
    called = root.name if root.parent == home() else root
    return MachineError(
        f"index {root.name!r} is damaged: {why}",
        help=f"tauten index rm {called}, then build it again or restore a backup",
        code="E321",
    )


def unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write one member of a backup below `folder`; raises ValueError for anything but its own plain files.

    By hand, since the filters of `tarfile` came only with Python 3.11.4.
    """
    parts = Path(member.name).relative_to("index").parts
    if ".." in parts or not (member.isfile() or member.isdir()):
        raise ValueError(f"it holds {member.name!r}, which no backup does")
    target = folder.joinpath(*parts)
    if member.isdir():
        target.mkdir(exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source = archive.extractfile(member)
    assert source is not None  # plain files have content
    with source, target.open("wb") as out:
        shutil.copyfileobj(source, out)
