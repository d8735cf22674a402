"""`tauten doctor`: what this machine has, and what Tauten would miss."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from typing import Annotated

import msgspec
import typer

from tauten.extras import EXTRAS
from tauten.plan.hardware import hardware
from tauten.version import __version__

app = typer.Typer(add_completion=False)

LIBRARIES = {
    "onnxruntime": "backend onnx",
    "openvino": "backend openvino",
    "openvino_genai": "backend llm",
    "ctranslate2": "backend whisper",
    "onnx": "making models ready, measuring their graphs",
    "cv2": "stage ocr, video frames",
    "PIL": "pictures",
    "pypdfium2": "PDF",
    "simplejpeg": "fast JPEG decoding",
    "soundfile": "audio files",
    "soxr": "resampling",
    "tokenizers": "stage embed, retrieval",
    "tantivy": "retrieval",
    "uvloop": "the faster event loop",
}
SPACE_NEEDED_BYTES = 2_000_000_000  # the default models (0.6 GB), their downloads, and what is made of them


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> int:
    """Check libraries and disk, and count models; exit code 1 when a library or room is missing. Models that are not
    here are fetched when they are needed."""
    from tauten.models import Store

    store = Store()
    missing = {name: use for name, use in LIBRARIES.items() if importlib.util.find_spec(name) is None}
    unserved = [name for name in EXTRAS["serve"] if importlib.util.find_spec(name) is None]
    listed = store.list()
    here = [each for each in listed if each.installed]
    root = store.root.absolute()
    there = next(
        folder for folder in (root, *root.parents) if os.path.exists(folder)
    )  # where it will be made
    free = shutil.disk_usage(there).free
    record = {
        "schema": "tauten.doctor/1",
        "tauten": __version__,
        "python": sys.version.split()[0],
        "machine": str(hardware()),
        "missing": missing,
        "missing_to_serve": unserved,
        "models": {"here": len(here), "known": len(listed)},
        "free_bytes": free,
        "ready": not missing and free > SPACE_NEEDED_BYTES,
    }
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(record)).decode())
    else:
        _print(record, missing, unserved, free)
    return 0 if record["ready"] else 1


def _print(record: dict[str, object], missing: dict[str, str], unserved: list[str], free: int) -> None:
    typer.echo(f"tauten {record['tauten']}   python {record['python']}   {record['machine']}")
    models = record["models"]
    if isinstance(models, dict):
        typer.echo(f"models     {models['here']} of {models['known']} here    (tauten model list)")
    typer.echo(
        f"disk       {free / 1e9:.0f} GB free{'' if free > SPACE_NEEDED_BYTES else ': 2 GB are needed'}"
    )
    for name, use in missing.items():
        typer.echo(f"missing    {name}: {use}")
    if missing:
        typer.echo("help: pip install 'tauten[local]'")
    if unserved:
        typer.echo(f"serve      not without {', '.join(unserved)}: pip install 'tauten[serve]'")
    typer.echo("ready" if record["ready"] else "not ready")
