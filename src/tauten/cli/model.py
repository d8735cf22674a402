"""`tauten model`: which models there are, and which of them are on this machine."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tauten.cli.output import check_outputs
from tauten.errors import StoreError
from tauten.models.variants import is_built

if TYPE_CHECKING:
    from rich.progress import TaskID

    from tauten.models import Model, Progress, Store
    from tauten.models.fetch import ProgressCallback
    from tauten.models.installed import Installed

app = typer.Typer(
    help="List, pull, verify, show, build and remove models.", no_args_is_help=True, add_completion=False
)

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME[:VARIANT]]...", show_default=False)]
OneName = Annotated[str, typer.Argument(metavar="NAME[:VARIANT]", show_default=False)]
SomeNames = Annotated[list[str], typer.Argument(metavar="NAME[:VARIANT]...", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object with a schema name.")]


def _store() -> Store:
    from tauten.models import Store

    return Store()


def _print_json(command: str, **content: Any) -> None:
    import msgspec

    record = {"schema": f"tauten.model.{command}/1", **content}
    typer.echo(msgspec.json.format(msgspec.json.encode(record)).decode())


def size_text(size_bytes: int) -> str:
    """Bytes for a person."""
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e5 else f"{size_bytes / 1e3:.1f} kB"


# --- list, show ------------------------------------------------------------------------------------


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """Every model and variant of the catalog, whether it is here, and what was built here."""
    store = _store()
    rows = store.list()
    if as_json:
        _print_json(
            "list",
            root=str(store.root),
            size_bytes=store.size_bytes(),
            models=[row._asdict() for row in rows],
        )
        return
    wide = max([30, *(len(f"{row.model}:{row.variant}") for row in rows)])
    typer.echo(f"{'model':<{wide}} {'task':<14} {'licence':<11} {'size':>9}  here")
    for row in rows:
        name = f"{row.model}:{row.variant}"
        here = "built" if is_built(row.variant) else "yes" if row.installed else "no"
        typer.echo(f"{name:<{wide}} {row.task:<14} {row.licence:<11} {size_text(row.size_bytes):>9}  {here}")
    typer.echo(f"{size_text(store.size_bytes())} in {store.root}")


@app.command()
def show(name: OneName, as_json: AsJson = False) -> None:
    """One variant: licence, where it comes from, how it was made, its files; and every variant's card."""
    from msgspec import to_builtins

    from tauten.cli import variants

    store = _store()
    model, variant = store.find(name)
    entry = store.catalog.models[model]
    installed = store.variants.require(model, variant) if is_built(variant) else store.installed(name)
    needs = {} if is_built(variant) else entry.needs(variant)
    if as_json:
        content = {
            key: to_builtins(value)
            for key, value in {"entry": entry, "installed": installed, "needs": needs}.items()
        }
        content["variants"] = variants.variant_records(store, model)
        _print_json("show", model=model, variant=variant, folder=_folder(store, installed), **content)
        return
    typer.echo(f"{model}:{variant}   {entry.task}   {entry.licence}")
    typer.echo(entry.provenance)
    typer.echo(f"variants: {', '.join([*entry.variants, *store.variants.names(model)])}")
    if installed and installed.built:
        _echo(variants.built_lines(installed))
    else:
        _echo(_pulled_lines(entry, variant))
    typer.echo(f"here: {_folder(store, installed) or 'no'}")
    named = [variant] if ":" in name else [*entry.variants, *store.variants.names(model)]
    for card in filter(None, (store.variants.card(model, each) for each in named)):
        _echo(variants.card_lines(card))


def _pulled_lines(entry: Model, variant: str) -> Iterator[str]:
    """The files of a variant of the catalog, and what has to be fetched for it."""
    for file, item in entry.variants[variant].files.items():
        yield f"  {file:<16} {entry.origin(item)}"
    yield "fetched:"
    for item, fetched in entry.needs(variant).items():
        yield f"  {item:<18} {size_text(fetched.size_bytes):>9}  sha256 {fetched.sha256}"
        for source in fetched.sources:
            yield f"  {'':<18} {'':>9}  {source}"


def _echo(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)


def _folder(store: Store, installed: Installed | None) -> str | None:
    return str(store.directory(f"{installed.model}:{installed.variant}")) if installed else None


# --- build -----------------------------------------------------------------------------------------


@app.command()
def build(
    name: OneName,
    recipe: Annotated[
        str, typer.Option("--recipe", help="How; `tauten model recipes` names them.", show_default=False)
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the recipe; may be repeated."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="RECORDING",
            help="Inputs: for recipes that take ranges from them, and to measure the variant on.",
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Fill the card, which takes about a minute.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Make a variant of a model, and print its name and card; a plan takes it by that name."""
    from msgspec import to_builtins

    from tauten.cli import variants
    from tauten.cli.progress import teller

    store, tell = _store(), teller()
    try:
        card, notes = variants.build_variant(store, name, recipe, settings or [], calibration, measure, tell)
    finally:
        tell("")
    for note in notes:
        typer.echo(f"not measured: {note}", err=True)
    if as_json:
        folder = str(store.directory(card.model, card.variant))
        _print_json("build", folder=folder, card=to_builtins(card), notes=notes)
        return
    typer.echo(f"{card.model}:{card.variant}")
    _echo(variants.card_lines(card))


@app.command()
def recipes(as_json: AsJson = False) -> None:
    """The recipes of `build`, and their settings with the reason of each default."""
    from msgspec import to_builtins

    from tauten.cli import variants
    from tauten.improve.compress import recipe

    if not as_json:
        _echo(variants.recipe_lines())
        return
    every = [recipe.find(name) for name in recipe.names()]
    shown = ("name", "summary", "reads", "writes", "needs_calibration", "tools", "extra")
    told = [
        {key: getattr(each, key) for key in shown} | {"settings": to_builtins(each.settings)}
        for each in every
    ]
    _print_json("recipes", recipes=told)


# --- pull ------------------------------------------------------------------------------------------


@app.command()
def pull(
    names: Names = None,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", help="Also write what was pulled to one tar for another machine."),
    ] = None,
    from_bundle: Annotated[
        Path | None, typer.Option("--from-bundle", help="Take the models from such a tar; fetch nothing.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch and verify models; without names, all that the catalog marks as default."""
    if bundle and from_bundle:
        raise typer.BadParameter("give either --bundle or --from-bundle")
    check_outputs(bundle)
    store = _store()
    with _shown() as progress:
        if from_bundle:
            pulled = store.read_bundle(from_bundle, names, progress=progress)
        else:
            pulled = store.pull(names, progress=progress)
        written = store.write_bundle(bundle, names, progress=progress) if bundle else None
    if as_json:
        models = [_pulled(store, each) for each in pulled]
        _print_json("pull", root=str(store.root), models=models, bundle_bytes=written)
        return
    for each in pulled:
        typer.echo(f"{each.model}:{each.variant}  {size_text(each.size_bytes)}  {_folder(store, each)}")
    if bundle and written:
        typer.echo(f"bundle {bundle}  {size_text(written)}")


def _pulled(store: Store, each: Installed) -> dict[str, Any]:
    return {
        "model": each.model,
        "variant": each.variant,
        "size_bytes": each.size_bytes,
        "folder": _folder(store, each),
        "files": {name: entry.sha256 for name, entry in each.files.items()},
    }


@contextmanager
def _shown() -> Iterator[ProgressCallback]:
    """Bars on a terminal, else one line a step; both on stderr."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Bars(*columns, console=console, transient=True) as bars:
        yield _moving(bars)


def _lines() -> ProgressCallback:
    told: set[tuple[str, str, str]] = set()

    def tell(step: Progress) -> None:
        key = (step.model, step.file, step.phase)
        if key in told or step.phase == "done":
            return
        told.add(key)
        size = f" ({size_text(step.total_bytes)})" if step.total_bytes else ""
        typer.echo(f"{step.phase} {step.model}: {step.file}{size}", err=True)

    return tell


def _moving(bars: Any) -> ProgressCallback:
    tasks: dict[tuple[str, str], TaskID] = {}

    def move(step: Progress) -> None:
        key = (step.model, step.file)
        if step.phase == "done":
            for model, file in [key for key in tasks if key[0] == step.model]:
                bars.remove_task(tasks.pop((model, file)))
            return
        if key not in tasks:
            tasks[key] = bars.add_task(f"{step.model}: {step.file}", total=step.total_bytes)
        bars.update(tasks[key], completed=step.done_bytes, total=step.total_bytes)

    return move


# --- verify, rm ------------------------------------------------------------------------------------


@app.command()
def verify(names: Names = None, as_json: AsJson = False) -> None:
    """Hash the files that are here and compare; without names, all of them."""
    checks = _store().verify(names)
    if as_json:
        _print_json(
            "verify", ok=all(c.ok for c in checks), files=[c._asdict() | {"ok": c.ok} for c in checks]
        )
    else:
        for check in checks:
            state = "ok" if check.ok else "MISSING" if check.seen is None else "WRONG"
            typer.echo(f"{state:<8} {check.model}:{check.variant} {check.file}")
    bad = [check for check in checks if not check.ok]
    if bad:
        names_of_bad = sorted({f"{check.model}:{check.variant}" for check in bad})
        raise StoreError(
            f"{len(bad)} of {len(checks)} files are not what they were when they came in",
            help=_mended(names_of_bad),
            code="E312",
        )


def _mended(names: list[str]) -> str:
    """How variants whose files are wrong are put right."""
    built = [name for name in names if is_built(name.partition(":")[2])]
    pulled = [name for name in names if name not in built]
    ways = [f"tauten model pull {' '.join(pulled)}"] if pulled else []
    ways += [f"tauten model rm {' '.join(built)}, and build again"] if built else []
    return "; ".join(ways)


@app.command()
def rm(names: SomeNames, as_json: AsJson = False) -> None:
    """Remove models; a bare name removes all of its variants."""
    freed_bytes = _store().rm(names)
    if as_json:
        _print_json("rm", names=names, freed_bytes=freed_bytes)
    else:
        typer.echo(f"freed {size_text(freed_bytes)}")
