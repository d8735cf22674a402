"""What strategies are told of a store: the forms that lie there, and recipes that nobody has followed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from improve.kit_models import store_of, two_layers
from tauten.improve.compress import recipe as recipes
from tauten.improve.compress.build import build
from tauten.improve.compress.forms import StoredForms
from tauten.models import Store
from tauten.plan.card import CardLatency


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "origin").mkdir()
    return store_of(tmp_path, two_layers(tmp_path / "origin"))


def test_a_form_without_a_card_is_there_without_figures(store: Store) -> None:
    store.files("tiny")
    (card,) = StoredForms(store).cards("tiny")
    assert (card.variant, card.format, card.latency) == ("fp32", "onnx", [])


def test_a_built_form_comes_after_the_default_with_what_was_measured_of_it(store: Store) -> None:
    made = build(store, "tiny", "sparse")
    measured = msgspec.structs.replace(made, latency=[CardLatency(1, 2.0, 1.9, 2.1, 40, backend="onnx")])
    store.variants.write_card(measured)
    forms = StoredForms(store)
    assert [card.variant for card in forms.cards("tiny")] == ["fp32", made.variant]
    assert forms.cards("tiny")[1].latency == measured.latency


def test_recipes_that_were_not_followed_come_with_their_doubts(store: Store) -> None:
    store.files("tiny")
    found = {each.recipe: each.doubt for each in StoredForms(store).unbuilt("tiny")}
    assert set(found) == set(recipes.names())
    assert {name for name, doubt in found.items() if doubt} == {"sparse", "drop_block"}
    build(store, "tiny", "sparse")
    assert "sparse" not in {each.recipe for each in StoredForms(store).unbuilt("tiny")}


def test_what_is_not_here_has_no_forms_and_is_not_fetched(store: Store) -> None:
    forms = StoredForms(store)
    assert forms.cards("tiny") == []
    assert forms.cards("somebody-elses") == []
    assert forms.unbuilt("tiny") == []


def test_readers_are_the_engines_in_their_order(store: Store) -> None:
    forms = StoredForms(store)
    assert forms.readers("onnx") == ("onnx", "openvino")
    assert forms.readers("unheard of") == ()
