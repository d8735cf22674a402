"""What recipes share about ONNX files: reading and writing them, their large weights, and quiet tools."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tauten.errors import InputError, StoreError

MODEL = "model.onnx"
HEAVY = ("Conv", "ConvTranspose", "MatMul", "Gemm")  # operators whose second input is a matrix of weights


def read(path: Path) -> Any:
    """An ONNX model; StoreError E314 for what is none."""
    import onnx

    try:
        return onnx.load(str(path))
    except Exception as error:
        raise StoreError(
            f"{path.name} is not an ONNX model: {str(error).splitlines()[0] if str(error) else error!r}",
            help="verify or export the file again",
            code="E314",
        ) from error


def write(model: Any, folder: Path) -> Path:
    """Check a model and write it as `model.onnx`."""
    import onnx

    onnx.checker.check_model(model)
    path = folder / MODEL
    path.write_bytes(model.SerializeToString())
    return path


def weights(model: Any) -> dict[str, Any]:
    """The float weights of heavy operators by name: initializers of two axes or more that they multiply with."""
    from onnx import TensorProto

    used = {node.input[1] for node in model.graph.node if node.op_type in HEAVY and len(node.input) > 1}
    return {
        each.name: each
        for each in model.graph.initializer
        if each.name in used and each.data_type == TensorProto.FLOAT and len(each.dims) > 1
    }


def require_weights(model: Any, recipe: str) -> dict[str, Any]:
    """As `weights`; InputError E277 where there are none: nothing would change."""
    found = weights(model)
    if not found:
        raise InputError(
            f"{recipe}: the model has no float weights in {', '.join(HEAVY)}",
            help="choose a variant in full precision; see docs/variants.md",
            code="E277",
        )
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what third-party tools print off stdout, and their advice out of the log; errors still raise.

    Stdout belongs to results. And a warning by `logging.warning` would give the root logger a handler for the
    rest of the process. Both are the whole process's while the block runs.
    """
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    root.addFilter(_only_errors)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.removeFilter(_only_errors)
        root.removeHandler(silent)


def _only_errors(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


@contextlib.contextmanager
def prepared(path: Path, folder: Path, tell: Callable[[str], None]) -> Iterator[Path]:
    """The model with shapes inferred and constants folded, as quantisers want it; gone at the end of the block.

    Symbolic shapes are left alone: that needs another package, and gains only attention of fixed length.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    tell("infer shapes")
    source = folder / "prepared.onnx"
    try:
        with quiet():
            quant_pre_process(str(path), str(source), skip_symbolic_shape=True)
        yield source
    finally:
        source.unlink(missing_ok=True)
