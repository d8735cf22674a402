"""Converters on small stand-ins, and what they say when something is missing."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tauten.errors import StoreError
from tauten.models.convert import run_converter


def alphabet(path: Path, characters: str, classes: int) -> Path:
    onnx = pytest.importorskip("onnx", reason="onnx is a separate install (extra `local`)")
    ends = [onnx.helper.make_tensor_value_info(name, 1, ["n", classes]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph)
    if characters:
        onnx.helper.set_model_props(model, {"character": characters})
    onnx.save(model, str(path))
    return path


def test_the_alphabet_keeps_odd_characters_and_gains_the_space(tmp_path: Path) -> None:
    run_converter("ocr-characters@1", [alphabet(tmp_path / "m", "a\n\u2028\nb", 5)], tmp_path / "out")
    assert (tmp_path / "out").read_bytes().decode().split("\n") == ["a", "\u2028", "b", " "]


def test_an_alphabet_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="6 classes and an alphabet of 4"):
        run_converter("ocr-characters@1", [alphabet(tmp_path / "m", "a\nb\nc", 6)], tmp_path / "out")
    with pytest.raises(StoreError, match="lacks 'character'") as caught:
        run_converter("ocr-characters@1", [alphabet(tmp_path / "m", "", 6)], tmp_path / "out")
    assert caught.value.code == "E314"


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(StoreError, match="`onnx`") as caught:
        run_converter("ocr-characters@1", [tmp_path / "m"], tmp_path / "out")
    assert caught.value.code == "E315"
    assert "tauten[local]" in caught.value.help
