"""Files that are written in one move: whoever reads one finds the old one or the new one, whole."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tauten.errors import MachineError


def replace(path: Path, data: bytes) -> None:
    """Put `data` in the file's place; a crash leaves the old one. Raises MachineError."""
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
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
