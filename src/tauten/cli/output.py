"""Files that a command writes: refused before the work when they cannot be written, and never half there."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import errno
import os
from pathlib import Path

from tauten.errors import InputError, MachineError


def check_outputs(*paths: Path | None) -> None:
    """Raise now what would be raised after minutes of work: no folder, or a folder in the file's place."""
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            raise _refused(path, "it is a folder")
        if not path.parent.is_dir():
            raise _refused(path, f"there is no folder {str(path.parent)!r}")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise _refused(path, "permission denied")


def write_output(path: Path, content: str | bytes) -> None:
    """Write a file whole, or leave what was there; a device or a pipe is written to."""
    data = content.encode() if isinstance(content, str) else content
    through = path.exists() and not path.is_file()
    beside = path if through else path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        if not through:
            beside.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MachineError(f"no room for {str(path)!r}", help="free some disk", code="E302") from error
        raise _refused(path, error.strerror or str(error)) from error
    finally:
        if not through:
            beside.unlink(missing_ok=True)


def _refused(path: Path, reason: str) -> InputError:
    return InputError(
        f"cannot write {str(path)!r}: {reason}",
        help="name a file in a folder that you can write",
        code="E261",
    )
