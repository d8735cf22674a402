"""From a model in the store to a variant in the store: named by content, run by a plan, refused with a reason."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image as Picture

import tauten as tt
from improve.kit_models import classifier, questions, run, store_of, two_layers
from tauten.errors import InputError, MachineError, NotFound, StoreError
from tauten.improve.compress import recipe as recipes
from tauten.improve.compress.build import build, format_of, how
from tauten.improve.compress.calibration import calibrate, digest, stage_of
from tauten.improve.compress.recipe import Feed, Recipe, Setting
from tauten.improve.recording import Item, Recording
from tauten.models import Store
from tauten.plan.plan import Plan, StagePlan
from tauten.run.engine import Engine

CLASSIFIER = "efficientnet-lite0"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "origin").mkdir()
    return store_of(tmp_path, two_layers(tmp_path / "origin"))


def feeds(count: int = 8) -> list[Feed]:
    return [{"x": row[None]} for row in questions(count)]


def test_a_variant_has_the_files_of_its_source_but_for_those_made(store: Store) -> None:
    card = build(store, "tiny", "ort_dynamic")
    files, source = store.files("tiny", card.variant), store.files("tiny")
    assert set(files) == {"model.onnx", "labels.json"}
    assert files["labels.json"].read_bytes() == source["labels.json"].read_bytes()
    assert files["model.onnx"].stat().st_size < source["model.onnx"].stat().st_size
    x = questions()
    assert run(files["model.onnx"], {"x": x}).shape == (64, 16)


def test_its_first_card_says_how_it_was_made_and_claims_nothing_else(store: Store) -> None:
    card = build(store, "tiny", "ort_static", items=feeds(), settings={"scales": "tensor"})
    assert card == store.variants.card("tiny", card.variant)
    assert (card.model, card.format, card.latency, card.quality, card.verdict) == ("tiny", "onnx", [], [], "")
    assert card.size_bytes == sum(path.stat().st_size for path in store.files("tiny", card.variant).values())
    assert card.made_how.startswith("tauten model build tiny:fp32 --recipe ort_static --set scales=tensor")
    assert "; 8 calibration items " in card.made_how
    assert "onnxruntime " in card.made_how
    assert card.made_on


def test_the_name_is_stable_and_made_of_all_that_shapes_the_result(store: Store) -> None:
    def name(recipe: str, items: Sequence[Feed] = (), **settings: Any) -> str:
        return build(store, "tiny", recipe, settings=settings, items=items).variant

    names = [
        name("ort_dynamic"),
        name("ort_dynamic", scales="tensor"),
        name("ort_static", feeds()),
        name("ort_static", feeds(7)),
        name("sparse", share=0.5),
        name("sparse"),
    ]
    assert len(set(names)) == len(names)
    assert name("ort_dynamic", scales="channel") == names[0], "a default that is written is the same setting"
    assert name("ort_dynamic", feeds()) == names[0], "items that the recipe does not see do not count"
    assert name("sparse", share="0.9") == names[5]
    assert sorted(names) == store.variants.names("tiny")


def test_a_variant_can_be_the_source_of_another(store: Store) -> None:
    zeros = build(store, "tiny", "sparse")
    both = build(store, f"tiny:{zeros.variant}", "ort_dynamic")
    made = store.installed("tiny", both.variant)
    assert made is not None
    assert made.built is not None
    assert made.built.source == zeros.variant
    assert both.variant != build(store, "tiny", "ort_dynamic").variant


def test_other_versions_of_the_tools_make_another_variant(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(store, "tiny", "sparse").variant
    monkeypatch.setattr(Recipe, "versions", lambda self: dict.fromkeys(self.tools, "99"))
    assert build(store, "tiny", "sparse").variant != first


def test_a_built_variant_is_built_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(store, "tiny", "sparse")
    chosen = recipes.find("sparse")
    broken = msgspec.structs.replace(chosen, make=lambda *_: pytest.fail("made again"))
    monkeypatch.setattr("tauten.improve.compress.build.find", lambda _: broken)
    assert build(store, "tiny", "sparse") == first


# --- refusals --------------------------------------------------------------------------------------


def test_ranges_need_items(store: Store) -> None:
    with pytest.raises(InputError, match="calibration items") as raised:
        build(store, "tiny", "ort_static")
    assert (raised.value.code, "--calibration" in raised.value.help) == ("E277", True)


def test_a_format_that_the_recipe_does_not_read_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    with pytest.raises(InputError, match="in format gguf, and recipe ort_dynamic reads onnx") as raised:
        build(store_of(tmp_path, model), "tiny", "ort_dynamic")
    assert (raised.value.code, "plan" in raised.value.help) == ("E277", True)


def test_unknown_models_recipes_and_settings_are_refused_before_any_work(store: Store) -> None:
    for words, kind, code in [
        (("tinny", "sparse"), NotFound, "E318"),
        (("tiny:int8", "sparse"), NotFound, "E318"),
        (("tiny", "spars"), InputError, "E276"),
    ]:
        with pytest.raises(kind) as raised:
            build(store, *words)
        assert raised.value.code == code
    with pytest.raises(InputError):
        build(store, "tiny", "sparse", settings={"share": 2})
    assert not store.root.exists()


def test_a_tool_that_is_not_installed_says_which_extra_has_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = msgspec.structs.replace(recipes.find("sparse"), tools=("no-such-tool",), extra="compress")
    monkeypatch.setattr("tauten.improve.compress.build.find", lambda _: lacking)
    with pytest.raises(MachineError, match="no-such-tool") as raised:
        build(store, "tiny", "sparse")
    assert (raised.value.code, raised.value.help) == ("E315", "pip install 'tauten[compress]'")


def test_a_tool_that_gives_up_leaves_nothing(store: Store) -> None:
    wrong: list[Feed] = [{"y": np.zeros((1, 3), np.float32)}]
    with pytest.raises(StoreError, match="recipe ort_static gave up") as raised:
        build(store, "tiny", "ort_static", items=wrong)
    assert raised.value.code == "E314"
    assert store.variants.names("tiny") == []
    assert list((store.root / "partial").iterdir()) == []


def test_a_full_disk_while_a_recipe_writes_is_the_disks_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        "tauten.improve.compress.build.find",
        lambda _: msgspec.structs.replace(recipes.find("sparse"), make=full),
    )
    with pytest.raises(StoreError) as raised:
        build(store, "tiny", "sparse")
    assert raised.value.code == "E313"
    assert store.variants.names("tiny") == []


def test_a_recipe_of_another_package_is_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def copied(files: Any, folder: Path, settings: Any, items: Any, tell: Any) -> dict[str, Path]:
        (folder / "model.onnx").write_bytes(files["model.onnx"].read_bytes())
        return {"model.onnx": folder / "model.onnx"}

    mine = Recipe(
        "mine", "as it is", "onnx", "onnx", ("model.onnx",), ("onnx",), copied, {"a": Setting(1, "one")}
    )
    monkeypatch.setattr("tauten.shelf.Shelf.added", lambda self, name: mine if name == "mine" else None)
    card = build(store, "tiny", "mine")
    assert card.variant.startswith("mine-")
    assert store.files("tiny", card.variant)["model.onnx"].exists()


@pytest.mark.parametrize(
    ("files", "form"),
    [
        (["model.onnx", "labels.json"], "onnx"),
        (["model.bin", "model.xml"], "openvino"),
        (["model.bin", "config.json"], "ct2"),
        (["model.gguf"], "gguf"),
        (["labels.json"], ""),
    ],
)
def test_a_format_is_known_by_its_files(files: list[str], form: str) -> None:
    assert format_of({name: Path(name) for name in files}) == form


def test_a_pulled_variant_was_not_made(store: Store) -> None:
    store.pull("tiny")
    pulled = store.installed("tiny")
    assert pulled is not None
    assert how(pulled) == "pulled"


# --- in a plan -------------------------------------------------------------------------------------


@tt.workflow
def looking(picture: tt.Image) -> tt.Labels:
    return tt.classify(picture)


def picture(seed: int = 0) -> tt.Image:
    draw = np.random.default_rng(seed)
    pixels = (draw.uniform(0, 200, size=3) + draw.uniform(0, 50, size=(48, 64, 3))).astype(np.uint8)
    kept = io.BytesIO()
    Picture.fromarray(pixels).save(kept, "PNG")
    return tt.Image(kept.getvalue(), "image/png")


@pytest.fixture
def pictures(tmp_path: Path) -> Store:
    (tmp_path / "origin").mkdir()
    return store_of(tmp_path, classifier(tmp_path / "origin"), CLASSIFIER)


def classes(store: Store, variant: str, backend: str) -> dict[str, float]:
    """What a plan with that variant answers, by label."""

    async def main() -> Any:
        stages = {"classify": StagePlan(variant=variant, backend=backend, threads=1)}
        async with Engine(store) as engine:
            graph = looking.graph
            assert graph is not None
            plan = await engine.open(looking, Plan(graph=graph.hash, stages=stages))
            return (await engine.run({"picture": picture()}, plan=plan)).value

    return {label.name: label.score for label in asyncio.run(main()).labels}


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_a_plan_takes_a_built_variant_by_its_name(pictures: Store, backend: str) -> None:
    card = build(pictures, CLASSIFIER, "ort_dynamic")
    expected, found = classes(pictures, "fp32", backend), classes(pictures, card.variant, backend)
    assert set(found) & set(expected)
    assert found != expected, "the plan ran another variant than it named"


def test_a_plan_with_a_variant_that_is_not_here_says_how_to_build_it(pictures: Store) -> None:
    with pytest.raises(StoreError, match="not in the store") as raised:
        classes(pictures, "ort_dynamic-01234567", "onnx")
    assert raised.value.help.startswith(f"tauten model build {CLASSIFIER} --recipe ort_dynamic")


# --- calibration -----------------------------------------------------------------------------------


def recording(count: int = 3, **more: Any) -> Recording:
    def item(number: int) -> Item:
        return Item(id=str(number), render=lambda: {"photo": picture(number), "question": tt.Text("why?")})

    return Recording("few", [item(number) for number in range(count)])


def test_items_are_what_the_stage_gives_its_model(pictures: Store) -> None:
    found = asyncio.run(calibrate(recording(), CLASSIFIER, store=pictures))
    assert [{name: each.shape for name, each in item.items()} for item in found.items] == [
        {"x": (3, 224, 224)}
    ] * 3
    assert [feed["x"].shape for feed in found.feeds] == [(1, 3, 224, 224)] * 3
    again = asyncio.run(calibrate(recording(), CLASSIFIER, store=pictures))
    assert digest(again.feeds) == digest(found.feeds) != digest(found.feeds[:2])
    assert not np.array_equal(found.items[0]["x"], found.items[1]["x"])


def test_items_are_bounded(pictures: Store) -> None:
    assert len(asyncio.run(calibrate(recording(), CLASSIFIER, store=pictures, most=2)).items) == 2


def test_a_recording_without_inputs_of_the_kind_is_refused(pictures: Store) -> None:
    words = Recording("words", [Item(id="a", render=lambda: {"question": tt.Text("why?")})])
    with pytest.raises(InputError, match="recording words has no Image") as raised:
        asyncio.run(calibrate(words, CLASSIFIER, store=pictures))
    assert raised.value.code == "E278"


@pytest.mark.parametrize(
    ("model", "stage", "role"),
    [
        ("minilm-l6-v2", "embed", "model"),
        ("pp-ocrv6-small-rec", "ocr", "recognize"),
        ("silero-vad", "detect_speech", "model"),
    ],
)
def test_the_stage_of_a_model_is_found(model: str, stage: str, role: str) -> None:
    kind, found = stage_of(model)
    assert (kind.name, found) == (stage, role)


@pytest.mark.parametrize("model", ["english-g2p", "kokoro-82m", "mine"])
def test_a_model_that_no_stage_feeds_whole_inputs_is_refused(model: str) -> None:
    with pytest.raises(InputError, match="no stage") as raised:
        stage_of(model)
    assert raised.value.code == "E278"


def test_items_of_unbatched_models_are_whole() -> None:
    from tauten.improve.compress.calibration import Calibration

    items = [{"x": np.zeros((1, 576))}]
    assert Calibration(items, {"unbatched": True}).feeds[0]["x"].shape == (1, 576)
    assert Calibration(items, {}).feeds[0]["x"].shape == (1, 1, 576)


def test_the_digest_sees_names_types_shapes_and_numbers() -> None:
    zeros = np.zeros((2, 3), np.float32)
    kinds: list[Feed] = [
        {"x": zeros},
        {"y": zeros},
        {"x": zeros.astype(np.float64)},
        {"x": zeros.reshape(3, 2)},
        {"x": zeros + 1},
    ]
    assert len({digest([each]) for each in kinds}) == len(kinds)
    assert digest([]) == ""
    assert digest([{"x": zeros.T}]) == digest([{"x": np.ascontiguousarray(zeros.T)}])
