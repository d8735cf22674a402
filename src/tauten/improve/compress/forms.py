"""The forms of models in a store, as strategies ask for them: cards, recipes not followed yet, tokens of a text."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tauten.improve.compress import recipe as recipes
from tauten.improve.compress.build import format_of
from tauten.improve.compress.cards import READERS
from tauten.improve.situation import Said, Unbuilt
from tauten.models.store import Store
from tauten.plan.card import Card
from tauten.plan.plan import ModelChoice
from tauten.run.contracts import PromptReader
from tauten.run.reading import asked, prompt_reader


class StoredForms:
    """Those of one store. Reads each model once: build first, ask then. Fetches nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cards: dict[str, list[Card]] = {}
        self._prompts: dict[tuple[str, str, str], PromptReader | None] = {}
        self._counts: dict[tuple[str, str, str, bytes], int] = {}

    def cards(self, model: str) -> Sequence[Card]:
        """Cards of what is here, those of the catalog first; of forms that were never measured, without figures."""
        if model not in self._cards:
            listed = self._store.catalog.models.get(model)
            pulled = [each for each in listed.variants if self._here(model, each)] if listed else []
            built = self._store.variants.names(model) if listed else []
            self._cards[model] = [self._card(model, variant) for variant in [*pulled, *built]]
        return self._cards[model]

    def unbuilt(self, model: str) -> Sequence[Unbuilt]:
        """Recipes that read a form of the model that is here, and of which nothing lies beside it."""
        cards = self.cards(model)
        formats, made = {card.format for card in cards}, {card.variant.rpartition("-")[0] for card in cards}
        found = (recipes.find(name) for name in recipes.names())
        return [
            Unbuilt(each.name, each.writes, each.doubt)
            for each in found
            if each.reads in formats and each.name not in made
        ]

    def readers(self, format: str) -> Sequence[str]:
        return READERS.get(format, ())

    def counted(self, choice: ModelChoice, said: Said) -> int | None:
        """By the tokenizer of a model that is here; nothing is counted twice."""
        reader = self._reader(choice)
        if reader is None:
            return None
        key = (choice.backend, choice.model, choice.variant, msgspec.json.encode(said))
        if key not in self._counts:
            self._counts[key] = (
                reader.count(said) if isinstance(said, str) else reader.read(asked(said)).tokens
            )
        return self._counts[key]

    def _reader(self, choice: ModelChoice) -> PromptReader | None:
        key = (choice.backend, choice.model, choice.variant)
        if key not in self._prompts:
            known = choice.model.partition(":")[0] in self._store.catalog.models
            here = known and self._store.installed(choice.model, choice.variant or None) is not None
            self._prompts[key] = prompt_reader(self._store, *key) if here and choice.backend else None
        return self._prompts[key]

    def _here(self, model: str, variant: str) -> bool:
        return self._store.installed(model, variant) is not None

    def _card(self, model: str, variant: str) -> Card:
        kept = self._store.variants.card(model, variant)
        if kept is not None:
            return kept
        return Card(model=model, variant=variant, format=format_of(self._store.files(model, variant)))
