"""`tauten index`: build, ask, list and remove retrieval indexes."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tauten.errors import InputError

if TYPE_CHECKING:
    from tauten.describe.passages import Found
    from tauten.run.retrieval.building import Progress
    from tauten.run.retrieval.ranking import IndexSettings

app = typer.Typer(
    help="Build, query, list and remove retrieval indexes.", no_args_is_help=True, add_completion=False
)

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object with a schema name.")]
Backend = Annotated[str, typer.Option(help="What runs the embedding model.")]
Threads = Annotated[
    int, typer.Option(min=0, help="Threads of the embedding model; 0 leaves it to the backend.")
]


def _print_json(command: str, **content: Any) -> None:
    import msgspec

    record = {"schema": f"tauten.index.{command}/1", **content}
    typer.echo(msgspec.json.format(msgspec.json.encode(record)).decode())


@app.command("build")
def build_index(
    name: Name,
    paths: Annotated[list[Path], typer.Argument(metavar="FOLDER|FILE...", show_default=False)],
    url: Annotated[str, typer.Option(help="Where readers find the folder on the web.")] = "",
    settings: Annotated[Path | None, typer.Option(help="A TOML file of search settings.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep sources that are not given now.")] = False,
    backend: Backend = "onnx",
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Make an index of documents (.rst .md .txt .pdf, pictures of pages by name), or bring it up to date: only what
    changed is embedded."""
    from tauten.describe.stages.ingest import read_documents
    from tauten.run.retrieval.building import build
    from tauten.run.retrieval.embedder import embedder
    from tauten.run.retrieval.paged import parted, read_paged

    chosen = _settings_for(name, settings)
    paged, rest = parted(paths)
    documents = read_documents(rest, url=url, may_be_none=bool(paged))
    sections = list(read_paged(paged, url=url))
    embed = (
        embedder(chosen.model, chosen.variant, backend, threads)
        if chosen
        else embedder(backend=backend, threads=threads)
    )
    with _Bar() as bar:
        report = build(
            name, documents, embed, bar.advance, settings=chosen, sections=sections, prune=not keep
        )
    if as_json:
        _print_json("build", report=report)
        return
    typer.echo(
        f"{report.index}: {report.chunks} chunks of {len(documents) + len(paged)} documents "
        f"({report.added} new, {report.kept} kept, {report.removed} removed)"
    )


def _settings_for(name: str, path: Path | None) -> IndexSettings | None:
    """Those of the index where it is there, else of the file; raises InputError E223 where the file says otherwise."""
    from tauten.run.retrieval.building import settings_of

    held = settings_of(name)
    if path is None:
        return held
    chosen, named = _read_settings(path)
    if held is None or chosen.model != held.model:  # which `build` refuses
        return chosen
    if other := [each for each in named if getattr(chosen, each) != getattr(held, each)]:
        raise InputError(
            f"index {name!r} was built with other settings ({', '.join(other)}), and they stay",
            help=f"remove it first: tauten index rm {name}",
            code="E223",
        )
    return held


def _read_settings(path: Path) -> tuple[IndexSettings, list[str]]:
    """A file of settings, and which of them it names."""
    import msgspec

    from tauten.run.retrieval.ranking import IndexSettings

    try:
        text = path.read_bytes()
        return msgspec.toml.decode(text, type=IndexSettings), list(msgspec.toml.decode(text))
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}", help="check the path", code="E203"
        ) from error
    except ValueError as error:  # of msgspec, and of bytes that are no UTF-8
        known = ", ".join(IndexSettings.__struct_fields__)
        raise InputError(f"{path.name}: {error}", help=f"known settings: {known}", code="E227") from error


@app.command("query")
def query_index(
    name: Name,
    text: Annotated[str, typer.Argument(metavar="TEXT", show_default=False)],
    error: Annotated[str, typer.Option(help="The error line that the question is about.")] = "",
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages.")] = 3,
    backend: Backend = "onnx",
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Search an index; says so when nothing fits."""
    from tauten.run.retrieval.embedder import embedder
    from tauten.run.retrieval.index import Index

    opened = Index.open(name)
    embed = embedder(opened.settings.model, opened.settings.variant, backend, threads)
    vector = embed([f"{error} {text}".strip()])[0]
    found = opened.search(text, vector, k, error=error, model=opened.settings.model)
    if as_json:
        _print_json("query", found=found)
    else:
        _show(found)


def _show(found: Found) -> None:
    if found.refused:
        typer.echo(f"not found: {found.reason}")
    for passage in found.passages:
        chunk = passage.chunk
        typer.echo(f"\n{passage.rank}  {' > '.join(chunk.titles)}   {chunk.url or chunk.source}")
        typer.echo(f"   score {passage.score:.3f}  cosine {passage.cosine:.2f}  BM25 {passage.bm25:.1f}")
        typer.echo("\n".join(f"   {line}" for line in chunk.body.splitlines()))


@app.command("list")
def list_all(as_json: AsJson = False) -> None:
    """Every named index."""
    from tauten.run.retrieval.index import list_indexes

    infos = list_indexes()
    if as_json:
        _print_json("list", indexes=infos)
        return
    for info in infos:
        if info.problem:
            typer.echo(f"{info.name:<24} {info.problem}")
            continue
        size = f"{info.size_bytes / 1e6:.1f} MB"
        typer.echo(
            f"{info.name:<24} {info.chunks:>7} chunks {info.sources:>5} sources  {size:>9}  {info.model}"
        )
    if not infos:
        typer.echo("no index yet: tauten index build NAME FOLDER", err=True)


@app.command("rm")
def remove(name: Name, as_json: AsJson = False) -> None:
    """Delete an index."""
    from tauten.run.retrieval.index import remove_index

    remove_index(name)
    if as_json:
        _print_json("rm", removed=name)
    else:
        typer.echo(f"removed {name}")


class _Bar:
    """A progress bar on stderr, shown from the first chunk that has to be embedded."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("embedding"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,  # elsewhere it would leave an empty line
        )
        self._task: Any = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.stop()

    @property
    def advance(self) -> Progress:
        return self._advance

    def _advance(self, done: int, total: int) -> None:
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("embedding", total=total)
        self._bar.update(self._task, completed=done)
