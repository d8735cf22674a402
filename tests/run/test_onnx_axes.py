"""ONNX Runtime keeps plans of its memory only for models whose inputs come in few shapes."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, load, numpy_helper, save

from serve.kit_onnx import identity, linear, write
from tauten.run.backends import _onnx_axes
from tauten.run.backends.onnx import OnnxBackend
from tauten.run.contracts import ModelSpec


def one(folder: Path, *shape: Any) -> Path:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    return write(folder / "one.onnx", nodes, {"x": ("float32", shape)}, {"y": ("float32", shape)})


def unknown(folder: Path) -> Path:
    """A file that says nothing of its input's shape."""
    path = one(folder, "n", 4)
    model = load(str(path))
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.ClearField("shape")
    save(model, str(path))
    return path


def listed(folder: Path) -> Path:
    """As older files have it: weights are among the inputs. They are large, and stand before the inputs' shapes."""
    path = linear(folder, 256, 256)
    model = load(str(path))
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [256, 256]))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1 << 20, np.float32), "more"))
    save(model, str(path))
    return path


def keeps(path: Path, **options: Any) -> bool:
    """Whether the session that a backend makes keeps them."""
    backend = OnnxBackend(ModelSpec("m", files={"model.onnx": path}, options=options))
    backend.open()
    try:
        return bool(backend._session.get_session_options().enable_mem_pattern)
    finally:
        backend.close()


@pytest.mark.parametrize("shape", [("n", 4), (2, 3, 4), ("n",), ()])
def test_where_only_batches_differ_they_are_kept(tmp_path: Path, shape: Any) -> None:
    assert keeps(one(tmp_path, *shape))
    assert keeps(one(tmp_path, *shape), rows=True)


def test_weights_that_are_listed_as_inputs_change_nothing(tmp_path: Path) -> None:
    assert keeps(listed(tmp_path))


@pytest.mark.parametrize("shape", [("n", "m"), (1, 4, "m"), ("n", None), ("n", 4, "")])
def test_where_callers_choose_a_length_they_are_not_kept(tmp_path: Path, shape: Any) -> None:
    assert not keeps(one(tmp_path, *shape))


def test_a_shape_that_is_not_known_is_any(tmp_path: Path) -> None:
    assert not keeps(unknown(tmp_path))


def test_without_an_axis_of_batches_the_first_one_is_chosen_by_callers_too(tmp_path: Path) -> None:
    assert not keeps(one(tmp_path, "n", 4), unbatched=True)
    assert keeps(one(tmp_path, 2, 4), unbatched=True)


@pytest.mark.parametrize("content", [b"", b"no model", b"\xff" * 64, b"\x3a\x7f"])
def test_a_file_that_is_none_is_left_to_the_engine(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    _onnx_axes.free(path, 1)


def test_a_part_of_a_file_is_no_model_of_fixed_shapes(tmp_path: Path) -> None:
    path = identity(tmp_path, "float32")
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        _onnx_axes.free(path, 1)
    assert _onnx_axes.free(tmp_path / "nowhere.onnx", 1)
