"""Each recipe on a tiny real model: what it makes runs, is near, is smaller, and says no where it must."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from improve.kit_models import agreement, cosine, encoder, node, questions, run, tensors, two_layers
from serve.kit_onnx import identity, write
from tauten.errors import InputError, StoreError, TautenError
from tauten.improve.compress import recipe as recipes
from tauten.improve.compress.blocks import blocks
from tauten.improve.compress.onnx_file import weights
from tauten.improve.compress.recipe import Feed, Settings


def make(
    name: str, model: Path, folder: Path, settings: Settings | None = None, items: Sequence[Feed] = ()
) -> Path:
    """The model that a recipe makes."""
    folder.mkdir(exist_ok=True)
    chosen = recipes.find(name)
    given = chosen.read_settings(settings or {})
    made = chosen.make({"model.onnx": model}, folder, given, items, lambda _: None)
    assert set(made) == set(chosen.replaces) == {"model.onnx"}
    assert [path.name for path in folder.iterdir()] == ["model.onnx"], "a recipe leaves only what it made"
    return made["model.onnx"]


def feeds(count: int = 16) -> list[Feed]:
    return [{"x": row[None]} for row in questions(count)]


QUANTISED = [("ort_dynamic", False), ("ort_static", True)]


@pytest.mark.parametrize(("name", "calibrated"), QUANTISED)
def test_int8_is_near_and_less_than_half_as_large(tmp_path: Path, name: str, calibrated: bool) -> None:
    model, x = two_layers(tmp_path), questions()
    made = make(name, model, tmp_path / "made", items=feeds() if calibrated else ())
    assert cosine(run(made, {"x": x}), run(model, {"x": x})) > 0.99
    assert made.stat().st_size < model.stat().st_size / 2
    assert not weights(onnx.load(made)), "a float matrix is left"


@pytest.mark.parametrize(("name", "calibrated"), QUANTISED)
def test_one_scale_a_tensor_loses_answers_where_columns_differ(
    tmp_path: Path, name: str, calibrated: bool
) -> None:
    """The trap that a latency figure does not show: same size, other answers."""
    model, x = two_layers(tmp_path, spread=100.0), questions()
    items, wanted = feeds() if calibrated else (), run(model, {"x": x})
    channel = make(name, model, tmp_path / "channel", items=items)
    tensor = make(name, model, tmp_path / "tensor", {"scales": "tensor"}, items)
    assert agreement(run(channel, {"x": x}), wanted) > 0.9
    assert agreement(run(tensor, {"x": x}), wanted) < 0.75
    assert tensor.stat().st_size == pytest.approx(channel.stat().st_size, rel=0.15)


def test_ranges_come_from_the_items(tmp_path: Path) -> None:
    model, x = two_layers(tmp_path), questions()
    small: list[Feed] = [{"x": feed["x"] * 0.01} for feed in feeds()]
    near = make("ort_static", model, tmp_path / "a", items=feeds())
    far = make("ort_static", model, tmp_path / "b", items=small)
    wanted = run(model, {"x": x})
    assert cosine(run(near, {"x": x}), wanted) > cosine(run(far, {"x": x}), wanted) + 0.02


def test_heavy_operators_alone_can_be_chosen(tmp_path: Path) -> None:
    model = encoder(tmp_path)
    draw = np.random.default_rng(5)
    items: list[Feed] = [
        {"x": draw.normal(size=(1, 4, 8)).astype(np.float32), "mask": np.zeros((1, 1, 4), np.float32)}
        for _ in range(8)
    ]
    every = onnx.load(make("ort_static", model, tmp_path / "all", items=items))
    heavy = onnx.load(make("ort_static", model, tmp_path / "heavy", {"operators": "heavy"}, items))
    assert _quantised(heavy) < _quantised(every)


def _quantised(model: Any) -> int:
    return sum(node.op_type == "QuantizeLinear" for node in model.graph.node)


def test_the_same_settings_make_the_same_bytes(tmp_path: Path) -> None:
    model = two_layers(tmp_path)
    first = make("ort_static", model, tmp_path / "a", items=feeds())
    assert make("ort_static", model, tmp_path / "b", items=feeds()).read_bytes() == first.read_bytes()


def test_tools_are_quiet_and_leave_the_log_as_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    handlers, filters = list(logging.getLogger().handlers), list(logging.getLogger().filters)
    make("ort_static", encoder(tmp_path), tmp_path / "made", items=[_words()])
    assert capfd.readouterr() == ("", "")
    assert (logging.getLogger().handlers, logging.getLogger().filters) == (handlers, filters)


def _words() -> Feed:
    return {"x": np.ones((1, 4, 8), np.float32), "mask": np.zeros((1, 1, 4), np.float32)}


# --- sparse ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_that_share_of_the_smallest_weights_is_zero(tmp_path: Path, share: float) -> None:
    model = two_layers(tmp_path)
    made = onnx.load(make("sparse", model, tmp_path / "made", {"share": share}))
    before = {name: numpy_helper.to_array(each) for name, each in weights(onnx.load(model)).items()}
    after = {name: numpy_helper.to_array(each) for name, each in weights(made).items()}
    size = sum(each.size for each in before.values())
    zeros = sum(int((each == 0).sum()) for each in after.values())
    assert zeros == round(share * size)
    kept = np.concatenate([abs(before[name][after[name] != 0]) for name in before])
    gone = np.concatenate([abs(before[name][after[name] == 0]) for name in before])
    assert kept.min(initial=np.inf) > gone.max(initial=0)
    for name in before:
        assert np.array_equal(after[name][after[name] != 0], before[name][after[name] != 0])


def test_zeros_make_the_file_no_smaller(tmp_path: Path) -> None:
    model = two_layers(tmp_path)
    made = make("sparse", model, tmp_path / "made")
    assert made.stat().st_size == pytest.approx(model.stat().st_size, rel=0.01)


# --- drop_block ------------------------------------------------------------------------------------


def test_the_blocks_of_an_encoder_are_found_with_a_mask_that_goes_around_them(tmp_path: Path) -> None:
    row = blocks(onnx.load(encoder(tmp_path, blocks=4)))
    assert [(block.takes, block.gives) for block in row] == [
        ("block0", "block1"), ("block1", "block2"), ("block2", "block3"), ("block3", "block4")
    ]  # fmt: skip


@pytest.mark.parametrize("gone", [0, 1, 2, -1])
def test_a_block_left_out_is_the_encoder_without_it(tmp_path: Path, gone: int) -> None:
    """Not approximately: the others, one after another, compute the same numbers."""
    model = encoder(tmp_path, blocks=3)
    made = make("drop_block", model, tmp_path / "made", {"block": gone})
    (tmp_path / "one").mkdir()
    feed = {
        "x": np.random.default_rng(4).normal(size=(2, 5, 8)).astype(np.float32),
        "mask": np.zeros((2, 1, 5), np.float32),
    }
    assert np.allclose(run(made, feed), _by_hand(model, feed["x"], gone % 3), atol=1e-5)
    assert made.stat().st_size < model.stat().st_size * 0.8
    assert len(blocks(onnx.load(made))) == 2


def _by_hand(model: Path, x: Any, gone: int) -> Any:
    """The encoder in numpy, with a block left out."""
    w = {each.name: numpy_helper.to_array(each) for each in onnx.load(model).graph.initializer}

    def normal(v: Any) -> Any:
        return (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + 1e-5)

    v = normal(x)
    for b in range(3):
        if b == gone:
            continue
        scores = (v @ w[f"q{b}"]) @ (v @ w[f"k{b}"]).swapaxes(1, 2) * w["scale"]
        shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        v = normal(shares @ (v @ w[f"v{b}"]) @ w[f"o{b}"] + v)
        v = normal(np.maximum(v @ w[f"up{b}"], 0) @ w[f"down{b}"] + v)
    return v


def test_a_number_that_no_block_has_is_refused(tmp_path: Path) -> None:
    for number in (3, -4):
        with pytest.raises(InputError) as raised:
            make("drop_block", encoder(tmp_path, blocks=3), tmp_path / "made", {"block": number})
        assert raised.value.code == "E276"
        assert raised.value.help == "it is a whole number from -3 to 2"


def test_a_graph_that_repeats_nothing_cannot_be_cut(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no two blocks") as raised:
        make("drop_block", two_layers(tmp_path), tmp_path / "made")
    assert raised.value.code == "E277"


def test_blocks_of_other_shapes_are_not_alike(tmp_path: Path) -> None:
    """A chain that narrows: the same operators, and what goes in does not fit what comes out."""
    widths = [8, 6, 4, 2]
    nodes = [node("MatMul", f"h{i} w{i}", f"m{i}") for i in range(3)]
    nodes += [node("Relu", f"m{i}", f"h{i + 1}") for i in range(3)]
    nodes = [nodes[i // 2 + 3 * (i % 2)] for i in range(6)]  # each MatMul before its Relu
    inits = tensors(**{f"w{i}": np.ones((widths[i], widths[i + 1])) for i in range(3)})
    model = write(
        tmp_path / "m.onnx", nodes, {"h0": ("float32", ["n", 8])}, {"h3": ("float32", ["n", 2])}, inits
    )
    assert blocks(onnx.load(model)) == []


# --- refusals and settings -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ort_dynamic", "ort_static", "sparse"])
def test_a_model_without_weights_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no float weights") as raised:
        make(name, identity(tmp_path, "float32"), tmp_path / "made", items=feeds())
    assert raised.value.code == "E277"


@pytest.mark.parametrize("name", ["ort_dynamic", "ort_static", "sparse", "drop_block"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, name: str) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"not a model at all")
    with pytest.raises(TautenError) as raised:
        make(name, broken, tmp_path / "made", items=feeds())
    assert isinstance(raised.value, StoreError)
    assert raised.value.code == "E314"


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_says_what_it_is(name: str) -> None:
    found = recipes.find(name)
    assert found.name == name
    assert found.summary
    assert found.tools
    assert found.replaces
    for key, setting in found.settings.items():
        assert setting.reason, key
        assert setting.read(key, setting.default) == setting.default
        assert setting.read(key, str(setting.default)) == setting.default


def test_settings_are_read_by_name_and_type() -> None:
    static = recipes.find("ort_static")
    assert static.read_settings({}) == {"scales": "channel", "reduce_range": False, "operators": "all"}
    assert static.read_settings({"reduce_range": "True"})["reduce_range"] is True
    assert recipes.find("sparse").read_settings({"share": "0.5"}) == {"share": 0.5}
    assert recipes.find("drop_block").read_settings({"block": "2"}) == {"block": 2}


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("ort_static", {"scale": "tensor"}, "did you mean `scales`"),
        ("ort_static", {"scales": "row"}, "it is one of channel, tensor"),
        ("ort_static", {"reduce_range": "maybe"}, "it is true or false"),
        ("ort_static", {"reduce_range": 1}, "it is true or false"),
        ("sparse", {"share": 1.5}, "it is a number at least 0 and at most 1"),
        ("sparse", {"share": "nan"}, "it is a number at least 0 and at most 1"),
        ("ort_static", {"scales": True}, "it is one of channel, tensor"),
        ("drop_block", {"block": "inf"}, "it is a whole number"),
        ("sparse", {"share": "much"}, "it is a number at least 0 and at most 1"),
        ("drop_block", {"block": 1.5}, "it is a whole number"),
        ("drop_block", {"block": "1.5"}, "it is a whole number"),
        ("drop_block", {"block": True}, "it is a whole number"),
    ],
)
def test_a_setting_that_is_not_understood_says_what_it_can_be(
    name: str, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as raised:
        recipes.find(name).read_settings(settings)
    assert raised.value.code == "E276"
    assert said in raised.value.help


def test_an_unknown_recipe_gets_the_closest() -> None:
    with pytest.raises(InputError) as raised:
        recipes.find("ort_statik")
    assert (raised.value.code, "ort_static" in raised.value.help) == ("E276", True)
