"""Converters: one pinned file or several in, one file out; named and versioned so that a result can be repeated.

A converter is one module here with `convert(inputs, output)`. It is pure: the same inputs give the same
model (the bytes of an ONNX file may differ between versions of the protobuf library, its numbers may not).
Raise the version whenever the result changes: the store then converts again.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from tauten.errors import StoreError

CONVERTERS: dict[str, tuple[int, str]] = {
    "efficientnet-lite0": (1, "efficientnet"),
    "join": (1, "join"),
    "minilm": (1, "minilm"),
    "minilm-pool": (1, "minilm_pool"),
    "ocr-characters": (1, "ocr_characters"),
}


def known(converter: str) -> bool:
    """True if `name@version` is a converter of this release."""
    name, _, version = converter.partition("@")
    return name in CONVERTERS and version == str(CONVERTERS[name][0])


def versions() -> list[str]:
    """Every converter as `name@version`."""
    return [f"{name}@{version}" for name, (version, _) in CONVERTERS.items()]


def run_converter(converter: str, inputs: Sequence[Path], output: Path) -> None:
    """Write `output` from `inputs`; StoreError E314 for damaged input, E315 for a missing library."""
    module = CONVERTERS[converter.partition("@")[0]][1]
    try:
        import_module(f"tauten.models.convert.{module}").convert(inputs, output)
    except ImportError as error:
        raise StoreError(
            f"converter {converter} needs the Python package `{error.name}`, which is not installed",
            help='pip install "tauten[local]"',
            code="E315",
        ) from error
    except KeyError as error:
        raise StoreError(
            f"{inputs[0].name} lacks {error.args[0]!r}, which converter {converter} expects",
            help="the file is not the model that the catalog says it is",
            code="E314",
        ) from error
