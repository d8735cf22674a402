"""Files that are written in one move: whoever reads one finds the old one or the new one, whole; and those that grow
line by line."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from tauten.errors import MachineError


def replace(path: Path, data: bytes) -> None:
    """Put `data` in the file's place; a crash leaves the old one. Raises MachineError."""
    written(path, lambda file: file.write(data))


def written(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """As `replace`, of what `write` puts into an open file: for what is too long to be held at once."""
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise MachineError(
            f"cannot write {path}: {error.strerror}",
            help="free disk space or choose another folder",
            code="E302",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def append(path: Path, line: bytes) -> None:
    """Add one whole line, on the disk when this returns; begun anew where a crash cut the last one. Raises MachineError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            file.seek(0, os.SEEK_END)
            cut = False
            if file.tell():
                file.seek(-1, os.SEEK_END)
                cut = file.read(1) != b"\n"
            file.write(b"\n" * cut + line + b"\n")
            os.fsync(file.fileno())
    except OSError as error:
        raise MachineError(
            f"cannot write {path}: {error.strerror}",
            help="free disk space or choose another folder",
            code="E302",
        ) from error
