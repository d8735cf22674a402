"""Asks a server on loopback with the load client, which is a process of its own: nothing of the harness is in its loop."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.ground.machine import ROOT

PATIENCE_S = 30.0  # beyond the seconds asked for


class NoFigures(Exception):
    """The client did not finish: becomes the text of its row."""


async def closed(port: int, request: bytes, seconds: float, clients: int = 1) -> dict[str, Any]:
    """Each client sends as soon as it has its answer: percentiles, errors, and answers in all."""
    with tempfile.TemporaryDirectory(prefix="tb-") as folder:
        file = Path(folder) / "request.bin"
        file.write_bytes(request)
        words = ["closed", "--port", str(port), "--request", str(file)]
        words += ["--clients", str(clients), "--seconds", str(seconds)]
        return await _asked(words, seconds)


async def _asked(words: list[str], seconds: float) -> dict[str, Any]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.ground.client", *words, cwd=ROOT, stdout=pipe, stderr=pipe
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), seconds + PATIENCE_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise NoFigures(f"the client did not end {PATIENCE_S:.0f} s after its time") from None
    if process.returncode:
        raise NoFigures(f"the client ended with {process.returncode}: {err.decode()[-200:].strip()}")
    return dict(json.loads(out))
