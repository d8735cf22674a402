"""Files that a command writes: refused before the work when they cannot be written, and never half there."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import errno
import os
from pathlib import Path

from tauten.errors import InputError, MachineError

_STREAMS = (
    "/dev/",
    "/proc/",
)  # what is written there goes on to somewhere else: /dev/stdout, also into a file


def check_outputs(*paths: Path | None) -> None:
    """Raise now what would be raised after minutes of work: no folder, or a folder in the file's place."""
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            raise _refused(path, "it is a folder")
        folder = _real(path).parent
        for each in (path.parent, folder):
            if not each.is_dir():
                raise _refused(path, f"there is no folder {str(each)!r}")
        if not os.access(path if path.exists() else folder, os.W_OK):
            raise _refused(path, "permission denied")


def write_output(path: Path, content: str | bytes) -> None:
    """Write a file whole, or leave what was there; a link stays one. A device, a pipe, and a file in a folder that
    takes no other, are written to."""
    data = content.encode() if isinstance(content, str) else content
    through = _is_through(path)
    place = path if through else _real(path)
    beside = place if through else place.with_name(f".{place.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        if not through:
            beside.replace(place)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MachineError(f"no room for {str(path)!r}", help="free some disk", code="E302") from error
        raise _refused(path, error.strerror or str(error)) from error
    finally:
        if not through:
            beside.unlink(missing_ok=True)


def _is_through(path: Path) -> bool:
    """Whether what is there is written to, and nothing put in its place."""
    if not path.exists():
        return False
    stream = str(path.absolute()).startswith(_STREAMS)
    return stream or not path.is_file() or not os.access(_real(path).parent, os.W_OK)


def _real(path: Path) -> Path:
    """Where a link leads, however many there are."""
    return Path(os.path.realpath(path))


def _refused(path: Path, reason: str) -> InputError:
    return InputError(
        f"cannot write {str(path)!r}: {reason}",
        help="name a file in a folder that you can write",
        code="E261",
    )
