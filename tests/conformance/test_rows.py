"""Items that bring their own batch axis: joined where the file says that it is one axis, else run alone."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.kit_onnx import batch_of, linear
from tauten.errors import BackendError
from tauten.run.backends._parts import Part, run
from tauten.run.contracts import ModelSpec, find
from tauten.run.signature import parse


def opened(backend: str, path: Path) -> object:
    made = find("backends", backend)(
        ModelSpec("m", files={"model.onnx": path}, threads=1, options={"rows": True})
    )
    made.open()
    return made


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_rows_are_joined_and_split_and_the_signature_tells_the_tensors(name: str, tmp_path: Path) -> None:
    backend = opened(name, linear(tmp_path))
    rng = np.random.default_rng(0)
    items = [{"x": rng.normal(size=(rows, 4)).astype(np.float32)} for rows in (1, 3, 2)]
    assert len({backend.group(item) for item in items}) == 1
    weight = np.add.outer(np.arange(4), np.arange(3)).astype(np.float32)
    for item, answer in zip(items, backend.run(items), strict=True):
        np.testing.assert_allclose(answer["y"], item["x"] @ weight, rtol=0.02, atol=0.1)
    [alone] = backend.run(items[:1])
    assert alone["y"].shape == (1, 3)
    signature = parse(backend.properties()["signature"])
    [given] = signature.inputs
    assert (given.name, given.dtype, given.shape[1]) == ("x", "float32", 4)
    assert signature.batch_axis
    backend.close()


def test_items_are_not_joined_where_the_axes_have_other_names(tmp_path: Path) -> None:
    backend = opened("onnx", linear(tmp_path, axis="other"))
    items = [{"x": np.ones((1, 4), np.float32)} for _ in range(2)]
    assert backend.group(items[0]) != backend.group(items[1])
    assert [answer["y"].shape for answer in backend.run(items)] == [(1, 3), (1, 3)]
    backend.close()


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_rows_share_a_batch_of_a_fixed_size_where_they_fit_and_the_rest_is_filled_up(
    name: str, tmp_path: Path
) -> None:
    backend: Any = opened(name, batch_of(tmp_path, 4))
    assert backend.sizes == (4,)
    assert parse(backend.properties()["signature"]).batch_size == 4
    rng = np.random.default_rng(0)
    items = [{"x": rng.normal(size=(rows, 4)).astype(np.float32)} for rows in (1, 3, 2, 4, 2, 1)]
    assert [backend.weight(item) for item in items] == [1, 3, 2, 4, 2, 1]
    assert len({backend.group(item) for item in items}) == 1
    parts = backend.prepare(items)
    assert [(list(part.members), len(part.inputs["x"])) for part in parts] == [
        ([0, 1], 4),
        ([2], 4),
        ([3], 4),
        ([4, 5], 4),
    ]
    assert parts[2].inputs["x"] is items[3]["x"]  # a whole batch is passed as it lies
    weight = np.add.outer(np.arange(4), np.arange(3)).astype(np.float32)
    for item, answer in zip(items, backend.run(items), strict=True):
        assert answer["y"].shape == (len(item["x"]), 3)
        np.testing.assert_allclose(answer["y"], item["x"] @ weight, rtol=0.02, atol=0.1)
    for rows in (5, 0):  # whoever serves it refuses these; the engine does, too
        [answer] = backend.run([{"x": np.ones((rows, 4), np.float32)}])
        assert isinstance(answer, BackendError)
    backend.close()


def test_an_item_that_fails_alone_leaves_the_others_their_answers(tmp_path: Path) -> None:
    backend = opened("onnx", linear(tmp_path))
    good, bad = {"x": np.ones((1, 4), np.float32)}, {"x": np.ones((1, 5), np.float32)}
    first, failed, last = backend.run([good, bad, good])
    assert isinstance(failed, BackendError)
    assert first["y"].shape == last["y"].shape == (1, 3)
    backend.close()


def test_a_failed_run_leaves_nothing_to_the_collector() -> None:
    """Its inputs are gone with its error: no circle of error, traceback and frame keeps them."""
    import gc
    import weakref

    array = np.ones((2, 2))
    part = Part((0,), {"x": array}, lambda outputs: [outputs])
    seen = weakref.ref(array)

    def refuses(inputs: dict[str, Any]) -> dict[str, Any]:
        raise ValueError("no")

    gc.disable()
    try:
        (answer,) = run([part], refuses)
        assert isinstance(answer, BackendError)
        del array, part, answer
        assert seen() is None
    finally:
        gc.enable()
