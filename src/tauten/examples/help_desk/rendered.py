"""Keeps what was rendered: pictures and clips by key, in the cache folder, so that each is made once."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from tauten.models import Store

VERSION = "1"  # goes into every key: raise it when the same script would look or sound different


def folder() -> Path:
    """Where rendered media are kept: beside the models."""
    return Store().root / "rendered"


def kept(recipe: str, make: Callable[[], bytes]) -> bytes:
    """The bytes that `make` gives for this recipe, from the cache where it has them.

    A folder that cannot be written only costs the time to render again.
    """
    key = hashlib.sha256(f"{VERSION}\n{recipe}".encode()).hexdigest()
    path = folder() / key[:2] / key
    if path.is_file():
        return path.read_bytes()
    data = make()
    partial = path.with_name(f".{key}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError:
        return data
    return data
