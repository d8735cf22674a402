"""`tauten model build`, `recipes`, and what `show` and `list` tell of variants."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image as Picture
from typer.testing import CliRunner

import tauten as tt
from cli.kit_cli import plan
from improve.kit_models import classifier, store_of
from tauten.cli import model as command
from tauten.cli.main import run as tauten
from tauten.errors import InputError, StoreError, TautenError
from tauten.improve.compress import recipe as recipes
from tauten.improve.compress.cards import Figures
from tauten.improve.recording import Item, Recording
from tauten.models import Store
from tauten.plan.card import CardLatency
from tauten.run.contracts import ModelSpec

MODEL = "efficientnet-lite0"


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    (tmp_path / "origin").mkdir()
    store = store_of(tmp_path, classifier(tmp_path / "origin"), MODEL)
    monkeypatch.setattr(command, "_store", lambda: store)
    return store


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What the measurement was asked, and figures that anyone can tell."""
    heard: list[tuple[str, int]] = []

    async def measure(backend: str, spec: ModelSpec, items: Sequence[Any]) -> Figures:
        heard.append((backend, len(items)))
        if backend == "openvino":
            return Figures(notes=("E325 it does not load",))
        return Figures(12.5, 3_000_000, (CardLatency(1, 1.25, 1.2, 1.4, 9),))

    monkeypatch.setattr("tauten.cli.variants.profiled", measure)
    return heard


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A recording with two pictures, and words that the model does not see."""

    def picture(seed: int) -> tt.Image:
        pixels = np.random.default_rng(seed).integers(0, 255, size=(32, 32, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Picture.fromarray(pixels).save(stream, "PNG")
        return tt.Image(stream.getvalue(), "image/png")

    items = [Item(id=str(n), render=lambda n=n: {"photo": picture(n), "words": tt.Text("?")}) for n in (1, 2)]
    return Recording("two", items).save(tmp_path / "two.rec")


def invoke(*words: str) -> Any:
    return CliRunner().invoke(command.app, list(words), catch_exceptions=True)


def ok(*words: str) -> str:
    result = invoke(*words)
    assert result.exit_code == 0, (result.output, result.exception)
    return str(result.stdout)


def test_build_prints_the_name_that_a_plan_takes(store: Store) -> None:
    first, *card = ok("build", MODEL, "--recipe", "ort_dynamic").splitlines()
    [built] = store.variants.names(MODEL)
    assert first == f"{MODEL}:{built}"
    assert card[0].startswith(built)
    assert card[-1] == "  not measured: give --calibration RECORDING when it is built"


def test_a_recording_calibrates_and_is_measured_on(
    kept: Path, asked: list[tuple[str, int]], store: Store
) -> None:
    result = invoke("build", MODEL, "--recipe", "ort_static", "--calibration", str(kept))
    assert result.exit_code == 0, result.exception
    assert asked == [("onnx", 2), ("openvino", 2)]
    assert "  batch 1   onnx      default threads  1.25 ms (1.2-1.4)  n = 9" in result.stdout.splitlines()
    assert "memory 3.0 MB  loads in 12 ms" in result.stdout
    assert "not measured: openvino: E325 it does not load" in result.stderr
    [built] = store.variants.names(MODEL)
    card = store.variants.card(MODEL, built)
    assert card is not None
    assert "2 calibration items" in card.made_how


def test_a_measured_variant_is_not_measured_again(kept: Path, asked: list[tuple[str, int]]) -> None:
    words = ("build", MODEL, "--recipe", "ort_static", "--calibration", str(kept))
    assert ok(*words) == ok(*words)
    assert len(asked) == 2


def test_figures_of_another_machine_are_measured_again(
    kept: Path, asked: list[tuple[str, int]], store: Store
) -> None:
    words = ("build", MODEL, "--recipe", "ort_static", "--calibration", str(kept))
    ok(*words)
    card = store.variants.card(MODEL, store.variants.names(MODEL)[0])
    assert card is not None
    store.variants.write_card(msgspec.structs.replace(card, made_on="64 cores amx, 256 GiB, no gpu"))
    ok(*words)
    assert len(asked) == 4
    assert store.variants.card(MODEL, card.variant) == card


def test_measuring_can_be_left_out(kept: Path, asked: list[tuple[str, int]]) -> None:
    ok("build", MODEL, "--recipe", "ort_static", "--calibration", str(kept), "--no-measure")
    assert asked == []


def test_settings_are_given_one_by_one(store: Store) -> None:
    ok("build", f"{MODEL}:fp32", "--recipe", "sparse", "--set", "share=0.5")
    [built] = store.variants.names(MODEL)
    made = store.installed(MODEL, built)
    assert made is not None
    assert made.built is not None
    assert made.built.settings == {"share": 0.5}


def test_json_names_its_schema_and_holds_the_card(store: Store) -> None:
    told = json.loads(ok("build", MODEL, "--recipe", "sparse", "--json"))
    assert told["schema"] == "tauten.model.build/1"
    assert told["card"]["variant"] in store.variants.names(MODEL)
    assert Path(told["folder"], "model.onnx").exists()
    told = json.loads(ok("recipes", "--json"))
    assert told["schema"] == "tauten.model.recipes/1"
    assert [each["name"] for each in told["recipes"]] == list(recipes.names())
    assert told["recipes"][0]["settings"]["block"]["default"] == -3


def test_recipes_tells_each_setting_with_its_reason() -> None:
    text = ok("recipes")
    for name in recipes.names():
        assert f"\n{name} " in f"\n{text}"
        for key, setting in recipes.find(name).settings.items():
            assert f"{key}=" in text
            assert setting.reason in text


def test_show_lists_all_variants_and_their_cards(store: Store, kept: Path) -> None:
    ok("build", MODEL, "--recipe", "ort_static", "--calibration", str(kept))
    ok("build", MODEL, "--recipe", "sparse")
    built = store.variants.names(MODEL)
    lines = ok("show", MODEL).splitlines()
    assert f"variants: fp32, {built[0]}, {built[1]}" in lines
    assert [line.split()[0] for line in lines if line.startswith(tuple(built))] == built
    told = json.loads(ok("show", MODEL, "--json"))
    assert [each["variant"] for each in told["variants"]] == ["fp32", *built]
    assert [each["card"] is None for each in told["variants"]] == [True, False, False]
    assert told["variants"][1]["built"]["recipe"] == "ort_static"


def test_show_of_a_built_variant_tells_what_it_was_made_of(store: Store) -> None:
    ok("build", MODEL, "--recipe", "sparse")
    [built] = store.variants.names(MODEL)
    lines = ok("show", f"{MODEL}:{built}").splitlines()
    assert f"built from {MODEL}:fp32 by sparse" in lines
    assert "  share = 0.9" in lines
    assert any(line.startswith("  model.onnx") and "sha256" in line for line in lines)
    assert any(line.startswith("here: ") and line.endswith(built) for line in lines)
    assert json.loads(ok("show", f"{MODEL}:{built}", "--json"))["installed"]["built"]["recipe"] == "sparse"


def test_list_verify_and_rm_know_them(store: Store) -> None:
    ok("build", MODEL, "--recipe", "sparse")
    [built] = store.variants.names(MODEL)
    assert [line.split()[-1] for line in ok("list").splitlines()[1:3]] == ["yes", "built"]
    assert f"{MODEL}:{built} model.onnx" in ok("verify")
    path = store.files(MODEL, built)["model.onnx"]
    path.chmod(0o644)
    path.write_bytes(b"other")
    wrong = invoke("verify").exception
    assert isinstance(wrong, StoreError)
    assert wrong.help == f"tauten model rm {MODEL}:{built}, and build again"
    assert ok("rm", f"{MODEL}:{built}").startswith("freed ")
    assert store.variants.names(MODEL) == []


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--recipe", "spars"), "E276"),
        (("--recipe", "sparse", "--set", "share"), "E276"),
        (("--recipe", "sparse", "--set", "shares=1"), "E276"),
        (("--recipe", "ort_static"), "E277"),
    ],
)
def test_mistakes_are_told_before_any_work(words: tuple[str, ...], code: str, store: Store) -> None:
    error = invoke("build", MODEL, *words).exception
    assert isinstance(error, InputError)
    assert error.code == code
    assert store.variants.names(MODEL) == []


def test_a_mistaken_recipe_is_told_before_the_recording_is_run(kept: Path, store: Store) -> None:
    error = invoke(
        "build", MODEL, "--recipe", "ort_static", "--set", "scales=row", "--calibration", str(kept)
    ).exception
    assert isinstance(error, TautenError)
    assert error.code == "E276"
    assert not store.root.exists()


def test_lint_knows_a_variant_that_was_built_and_one_that_was_not(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tauten.cli.plan.Store", lambda: store)
    ok("build", MODEL, "--recipe", "sparse")
    [built] = store.variants.names(MODEL)
    flow = tmp_path / "see.py"
    flow.write_text(
        "import tauten as tt\n@tt.workflow\ndef see(x: tt.Image) -> tt.Labels:\n    return tt.classify(x)\n"
    )
    for variant, code in [(built, 0), ("sparse-01234567", 3), ("int8", 2)]:
        chosen = plan(tmp_path, f'[stage.classify]\nvariant = "{variant}"')
        assert tauten(["plan", "lint", str(flow), str(chosen)]) == code, capsys.readouterr().err
