"""OpenVINO's own form of a model, and the recipes of NNCF that write it: where the extra `compress` is installed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from improve.kit_models import Array, cosine, encoder, questions, run, store_of, two_layers
from tauten.errors import MachineError, StoreError
from tauten.improve.compress import recipe as recipes
from tauten.improve.compress.build import build
from tauten.improve.compress.cards import READERS
from tauten.improve.compress.openvino_file import read, write
from tauten.improve.compress.recipe import Feed
from tauten.models import Store
from tauten.run.backends.onnx import OnnxBackend
from tauten.run.backends.openvino import OpenvinoBackend
from tauten.run.contracts import ModelSpec

HERE = importlib.util.find_spec("nncf") is not None
needed = pytest.mark.skipif(not HERE, reason="needs tauten[compress]")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "origin").mkdir()
    return store_of(tmp_path, two_layers(tmp_path / "origin"))


def outputs(files: dict[str, Path], rows: Array) -> Array:
    """What the backend of plans gives for some items."""
    backend = OpenvinoBackend(ModelSpec("tiny", files=files, threads=1, precision="f32"))
    backend.open()
    try:
        return np.stack([result["y"] for result in backend.run([{"x": row} for row in rows])])
    finally:
        backend.close()


def feeds(count: int = 16) -> list[Feed]:
    return [{"x": row[None]} for row in questions(count)]


@needed
@pytest.mark.parametrize(
    ("recipe", "settings", "items", "near"),
    [
        ("nncf_weights", {}, (), 0.999),
        ("nncf_weights", {"mode": "int8_asym"}, (), 0.999),
        ("nncf_weights", {"mode": "int4_sym", "group_size": 32, "all_layers": True}, (), 0.97),
        ("nncf_static", {}, feeds(), 0.99),
        ("nncf_static", {"preset": "performance"}, feeds(), 0.98),
    ],
)
def test_what_it_makes_runs_is_near_and_smaller(
    store: Store, recipe: str, settings: dict[str, Any], items: Sequence[Feed], near: float
) -> None:
    card = build(store, "tiny", recipe, settings=settings, items=items)
    files = store.files("tiny", card.variant)
    assert set(files) == {"model.xml", "model.bin", "labels.json"}
    assert (card.format, READERS[card.format]) == ("openvino", ("openvino",))
    source = store.files("tiny")
    rows = questions()
    assert cosine(outputs(files, rows), run(source["model.onnx"], {"x": rows})) > near
    assert files["model.bin"].stat().st_size < source["model.onnx"].stat().st_size / 2


@needed
def test_int4_is_smaller_and_less_true_than_int8(store: Store) -> None:
    rows = questions()
    wanted = run(store.files("tiny")["model.onnx"], {"x": rows})
    found = {}
    for mode in ("int8_sym", "int4_sym"):
        settings: dict[str, Any] = {"mode": mode, "group_size": 32, "all_layers": True}
        files = store.files("tiny", build(store, "tiny", "nncf_weights", settings=settings).variant)
        found[mode] = files["model.bin"].stat().st_size, cosine(outputs(files, rows), wanted)
    assert found["int4_sym"][0] < found["int8_sym"][0]
    assert found["int4_sym"][1] < found["int8_sym"][1]


@needed
def test_transformers_are_quantised_as_such(tmp_path: Path) -> None:
    (tmp_path / "origin").mkdir()
    store = store_of(tmp_path, encoder(tmp_path / "origin"))
    draw = np.random.default_rng(6)
    items: list[Feed] = [
        {"x": draw.normal(size=(1, 4, 8)).astype(np.float32), "mask": np.zeros((1, 1, 4), np.float32)}
        for _ in range(8)
    ]
    names = {
        build(store, "tiny", "nncf_static", settings={"transformer": word}, items=items).variant
        for word in (True, False)
    }
    assert len(names) == 2


@needed
def test_the_tool_is_quiet(store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    build(store, "tiny", "nncf_weights")
    assert capfd.readouterr().out == ""


REPORTS = """
from tauten.improve.compress.openvino_file import nncf_without_reports
with nncf_without_reports():
    from nncf.telemetry.wrapper import telemetry
print(type(telemetry).__name__)
"""


@needed
def test_the_tool_reports_to_nobody() -> None:
    """In a process of its own: under pytest it never reports."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("NNCF_")}
    done = subprocess.run([sys.executable, "-c", REPORTS], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("MagicMock\n", 0), done.stderr


@pytest.mark.skipif(HERE, reason="tauten[compress] is installed")
@pytest.mark.parametrize("recipe", ["nncf_weights", "nncf_static"])
def test_without_the_extra_it_says_how_to_get_it(store: Store, recipe: str) -> None:
    with pytest.raises(MachineError, match="needs the Python package `nncf`") as raised:
        build(store, "tiny", recipe, items=feeds())
    assert (raised.value.code, raised.value.help) == ("E315", "pip install 'tauten[compress]'")
    assert recipes.find(recipe).settings, "its settings can be read all the same"


def in_openvinos_form(model: Path, folder: Path) -> dict[str, Path]:
    folder.mkdir()
    return write(read(model), folder)


def test_the_backend_runs_openvinos_form_as_it_runs_the_source(tmp_path: Path) -> None:
    """The form alone, without any compression: the same numbers."""
    model, rows = two_layers(tmp_path), questions(8)
    files = in_openvinos_form(model, tmp_path / "made")
    assert set(files) == {"model.xml", "model.bin"}
    assert np.allclose(outputs(files, rows), outputs({"model.onnx": model}, rows), atol=1e-5)
    assert files["model.bin"].stat().st_size >= 4 * (32 * 64 + 64 * 16), "weights keep their precision"


def test_another_backend_says_which_one_reads_it(tmp_path: Path) -> None:
    files = in_openvinos_form(two_layers(tmp_path), tmp_path / "made")
    with pytest.raises(StoreError) as raised:
        OnnxBackend(ModelSpec("tiny", files=files)).open()
    assert (raised.value.code, raised.value.help) == (
        "E325",
        "it is in OpenVINO's form: give it the backend openvino",
    )


def test_files_of_no_form_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no file model\.onnx nor model\.xml"):
        OpenvinoBackend(ModelSpec("tiny", files={"labels.json": tmp_path})).open()
    (tmp_path / "model.onnx").write_bytes(b"no")
    with pytest.raises(StoreError, match="OpenVINO cannot read") as raised:
        read(tmp_path / "model.onnx")
    assert raised.value.code == "E314"
