"""What extras install, by the name under which it is imported; and what is said where one of them is not here."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from tauten.errors import MachineError

EXTRAS = {
    "local": (
        *("ctranslate2", "cv2", "onnx", "onnxruntime", "openvino", "openvino_genai", "PIL", "pypdfium2"),
        *("simplejpeg", "soundfile", "soxr", "tantivy", "tokenizers"),
    ),
    "serve": (
        *("aiohttp", "asyncpg", "genai_prices", "google", "grpc", "httptools", "lmdb", "opentelemetry"),
        *("prometheus_client", "redis", "uvicorn", "websockets"),
    ),
    "video": ("av",),
    "compress": ("nncf", "torch"),
    "cluster": ("ray",),
}
"""uvloop is nowhere among them: everything runs without it. `google` is protobuf's."""

_BRINGS = {name: extra for extra, names in EXTRAS.items() for name in names}


def install(error: BaseException) -> str:
    """The command that brings the package that an import missed; "" for any other error."""
    if not isinstance(error, ModuleNotFoundError):
        return ""  # what is here and cannot be loaded is not helped by installing it
    extra = _BRINGS.get((error.name or "").partition(".")[0])
    return f"pip install 'tauten[{extra}]'" if extra else ""


def missing(error: BaseException) -> MachineError | None:
    """E315 where a package of an extra is not here; None for any other error."""
    command = install(error)
    if not command:
        return None
    name = str(getattr(error, "name", "")).partition(".")[0]
    return MachineError(f"the Python package {name} is not installed", help=command, code="E315")
