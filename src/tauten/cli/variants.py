"""What `tauten model` does with variants and recipes, and how it shows them; the commands stand in `model.py`."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tauten.errors import InputError
from tauten.improve.compress import recipe as recipes
from tauten.improve.compress.build import build
from tauten.improve.compress.calibration import calibrate
from tauten.improve.compress.cards import measured
from tauten.improve.compress.profiled import profiled
from tauten.improve.recording import Recording
from tauten.models import Store
from tauten.models.installed import Installed
from tauten.plan.card import Card, CardLatency, CardQuality
from tauten.plan.hardware import hardware
from tauten.run.ambient import run_async


def build_variant(
    store: Store,
    model: str,
    recipe: str,
    words: Sequence[str],
    recording: Path | None,
    measure: bool,
    tell: Callable[[str], None],
) -> tuple[Card, list[str]]:
    """Build, and measure on what the recording gives the model; the card, and what could not be measured.

    Recipe, settings and tools are checked before the recording is run.
    """
    chosen, settings = recipes.find(recipe), read_settings(words)
    chosen.read_settings(settings)
    chosen.versions()
    name, _ = store.find(model)
    if recording is None:
        return build(store, model, recipe, settings=settings, tell=tell), []
    tell(f"prepare the inputs of {recording.name}")
    given = run_async(calibrate(Recording.load(recording), name, store=store))
    card = build(store, model, recipe, settings=settings, items=given.feeds, tell=tell)
    if not measure or (card.latency and card.made_on == str(hardware())):
        return card, []
    tell("measure")
    filled, notes = run_async(measured(store, card, given.items, given.options, profiled))
    return filled, notes


def read_settings(words: Sequence[str]) -> dict[str, recipes.Value]:
    """``key=value`` words; InputError E276 for another form."""
    found: dict[str, recipes.Value] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise InputError(
                f"--set {word}", help="write --set NAME=VALUE, like --set scales=tensor", code="E276"
            )
        found[key] = value
    return found


# --- as text ---------------------------------------------------------------------------------------


def recipe_lines() -> Iterator[str]:
    """Every recipe with its settings, and why each default is one."""
    for name in recipes.names():
        each = recipes.find(name)
        needs = ", from calibration items" if each.needs_calibration else ""
        extra = f", needs tauten[{each.extra}]" if each.extra != "local" else ""
        yield f"{each.name:<14} {each.summary}   ({each.reads} to {each.writes}{needs}{extra})"
        for key, setting in each.settings.items():
            default = str(setting.default).lower() if isinstance(setting.default, bool) else setting.default
            yield f"  {f'{key}={default}':<22} {setting.reason}; {setting.range}"


def built_lines(manifest: Installed) -> Iterator[str]:
    """What a built variant was made of."""
    built = manifest.built
    if built is None:
        return
    yield f"built from {manifest.model}:{built.source} by {built.recipe}"
    for key, value in built.settings.items():
        yield f"  {key} = {str(value).lower() if isinstance(value, bool) else value}"
    for tool, version in built.tools.items():
        yield f"  {tool} {version}"
    if built.calibration:
        yield f"  calibration items {built.calibration[:16]}"
    for file, entry in manifest.files.items():
        yield f"  {file:<16} {_megabytes(entry.size_bytes):>9}  sha256 {entry.sha256}"


def card_lines(card: Card) -> Iterator[str]:
    """One card."""
    facts = [card.format, _megabytes(card.size_bytes)]
    facts += [f"memory {_megabytes(card.memory_bytes)}"] if card.memory_bytes else []
    facts += [f"loads in {card.load_ms:.0f} ms"] if card.load_ms is not None else []
    facts += [card.verdict] if card.verdict else []
    facts += [f"n >= {card.needed} needed"] if card.needed is not None else []
    yield "  ".join([f"{card.variant:<24}", *facts])
    yield from (f"  {_latency_text(row)}" for row in card.latency)
    yield from (f"  {_quality_text(row)}" for row in card.quality)
    if not card.latency:
        yield "  not measured: give --calibration RECORDING when it is built"


def _latency_text(row: CardLatency) -> str:
    p95 = f"  p95 {row.p95_ms:.3g}" if row.p95_ms is not None else ""
    threads = f"{row.threads} threads" if row.threads else "default threads"
    interval = f"{row.mid_ms:.3g} ms ({row.low_ms:.3g}-{row.high_ms:.3g})"
    return f"batch {row.batch:<3} {row.backend:<9} {threads}  {interval}{p95}  n = {row.n}"


def _quality_text(row: CardQuality) -> str:
    against = f" against {row.against}" if row.against else ""
    return f"{row.metric} {row.value:.3f} ({row.low:.3f}-{row.high:.3f}){against}  n = {row.n}"


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e5 else f"{size_bytes / 1e3:.1f} kB"


# --- as JSON ---------------------------------------------------------------------------------------


def variant_records(store: Store, model: str) -> list[dict[str, Any]]:
    """Every variant of a model that is here or was measured, with what it was built of and its card."""
    from msgspec import to_builtins

    found = []
    for name in [*store.catalog.models[model].variants, *store.variants.names(model)]:
        here, card = store.installed(model, name), store.variants.card(model, name)
        built = here.built if here else None
        found.append(
            {
                "variant": name,
                "here": here is not None,
                "size_bytes": here.size_bytes if here else None,
                "built": to_builtins(built),
                "card": to_builtins(card),
            }
        )
    return found
