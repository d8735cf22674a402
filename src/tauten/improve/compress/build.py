"""Builds a variant: a recipe, a source, settings and items in; a named form of the model in the store out."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tauten.errors import InputError, StoreError, TautenError
from tauten.improve.compress.calibration import digest
from tauten.improve.compress.recipe import Feed, Recipe, Settings, Tell, Value, find
from tauten.models.installed import Built, Installed
from tauten.models.store import Store
from tauten.plan.card import Card
from tauten.plan.hardware import hardware

_FORMATS = {"model.onnx": "onnx", "model.xml": "openvino", "model.bin": "ct2", "model.gguf": "gguf"}
"""The file by which a format is known; the first that is there decides."""


def quietly(_: str) -> None:
    """Nobody wants to hear of the progress."""


def build(
    store: Store,
    model: str,
    recipe: str,
    *,
    settings: Settings | None = None,
    items: Sequence[Feed] = (),
    tell: Tell = quietly,
) -> Card:
    """Make a variant of `model` (``name`` or ``name:variant``) unless it is here; its card, without measurements.

    Pulls the source where it is missing. Raises NotFound E318 for an unknown model, E276 for an unknown recipe or
    setting, InputError E277 for a model that the recipe cannot be applied to, MachineError E315 for a tool that is
    not installed, StoreError E314 for a tool that gave up. Nothing of the variant is left when it raises.
    """
    chosen = find(recipe)
    given = chosen.read_settings(settings or {})
    tools = chosen.versions()
    name, source = store.find(model)
    files = store.files(name, source)
    _check(chosen, f"{name}:{source}", files, items)
    used = list(items) if chosen.needs_calibration else []
    built = Built(chosen.name, source, _hashes(store, name, source), given, tools, digest(used))
    made = store.variants.build(
        name,
        store.catalog.models[name].licence,
        built,
        lambda folder: _made(chosen, files, folder, given, used, tell),
        {file: path for file, path in files.items() if file not in chosen.replaces},
    )
    return store.variants.card(name, built.variant) or _first_card(store, made, used)


def _check(recipe: Recipe, source: str, files: Mapping[str, Path], items: Sequence[Feed]) -> None:
    """Refuse before any work what the recipe cannot be applied to."""
    seen = format_of(files)
    if seen != recipe.reads:
        raise InputError(
            f"{source} is in format {seen}, and recipe {recipe.name} reads {recipe.reads}",
            help="see docs/variants.md for what is a setting of the plan instead, such as precision",
            code="E277",
        )
    if recipe.needs_calibration and not items:
        raise InputError(
            f"recipe {recipe.name} takes ranges from calibration items, and none were given",
            help="give a recording with inputs that the model sees: --calibration RECORDING",
            code="E277",
        )


def format_of(files: Mapping[str, Path]) -> str:
    """The format of a model's files, as cards name it; "" for files of no known format."""
    return next((form for file, form in _FORMATS.items() if file in files), "")


def _hashes(store: Store, model: str, variant: str) -> dict[str, str]:
    """The SHA-256 of each file of a variant that is here."""
    here = store.installed(model, variant)
    if here is None:
        raise StoreError(f"{model}:{variant} was removed while it was read", help="build again", code="E310")
    return {file: entry.sha256 for file, entry in here.files.items()}


def _made(
    recipe: Recipe,
    files: Mapping[str, Path],
    folder: Path,
    settings: Mapping[str, Value],
    items: Sequence[Feed],
    tell: Tell,
) -> Mapping[str, Path]:
    """What the recipe writes; whatever its tool raises is an E314 with the tool's first words."""
    try:
        return recipe.make(files, folder, settings, items, tell)
    except (TautenError, OSError):
        raise
    except Exception as error:
        words = str(error).strip().splitlines()
        raise StoreError(
            f"recipe {recipe.name} gave up: {words[0] if words else type(error).__name__}",
            help="check that the items are what the model takes; or try another recipe",
            code="E314",
        ) from error


def _first_card(store: Store, made: Installed, items: Sequence[Feed]) -> Card:
    """The card of a variant of which nothing was measured yet; kept, where the store can be written."""
    card = Card(
        model=made.model,
        variant=made.variant,
        format=format_of(store.files(made.model, made.variant)),
        size_bytes=made.size_bytes,
        made_how=how(made, len(items)),
        made_on=str(hardware()),
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    store.variants.write_card(card)
    return card


def how(made: Installed, items: int = 0) -> str:
    """The command, settings, items and tools by which a variant was made: enough to repeat it."""
    built = made.built
    if built is None:
        return "pulled"
    settings = " ".join(
        f"--set {name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in built.settings.items()
    )
    tools = ", ".join(f"{tool} {version}" for tool, version in built.tools.items())
    calibration = f"; {items} calibration items {built.calibration[:8]}" if built.calibration else ""
    command = f"tauten model build {made.model}:{built.source} --recipe {built.recipe} {settings}".strip()
    return f"{command}{calibration}; {tools}"
