"""What recipes share about OpenVINO: reading a model for NNCF and writing the intermediate representation (IR)."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tauten.errors import StoreError
from tauten.improve.compress.onnx_file import quiet

XML, BIN = "model.xml", "model.bin"


@contextlib.contextmanager
def nncf_without_reports() -> Iterator[Any]:
    """The module `nncf`, quiet, and not reporting its use to its maker.

    It sends events unless this variable is set when it is imported.
    """
    os.environ.setdefault("NNCF_CI", "1")
    with quiet():
        import nncf

        nncf.set_log_level(logging.ERROR)
        yield nncf


def read(path: Path) -> Any:
    """A model as OpenVINO sees it; StoreError E314 for a file that it cannot read."""
    import openvino

    try:
        return openvino.Core().read_model(str(path))
    except Exception as error:
        raise StoreError(
            f"OpenVINO cannot read {path.name}: {str(error).strip().splitlines()[-1]}",
            help="verify or export the file again",
            code="E314",
        ) from error


def write(model: Any, folder: Path) -> dict[str, Path]:
    """Write `model.xml` and `model.bin`. What was not compressed keeps its precision."""
    import openvino

    openvino.save_model(model, str(folder / XML), compress_to_fp16=False)
    return {XML: folder / XML, BIN: folder / BIN}
