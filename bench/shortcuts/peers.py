"""Caches that others make, each in an environment of its own: installed, started, and asked line by line."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bench.ground import environments
from bench.ground.redis_server import NoServer, redis_server

PROGRAMS = Path(__file__).parent / "programs"
SETTINGS = Path(__file__).parent / "peers.toml"
PATIENCE_S = 300.0  # of one answer: opening imports much, on a busy machine
BROUGHT = re.compile(r"^(lib\w+)-[0-9a-f]{8}(\.so.*)$")  # how wheels name a library that they bring
LINE_BYTES = 1 << 26  # of one answer or question: a thousand vectors as JSON are 8 MB


class PeerFailed(Exception):
    """What it said instead of figures: becomes the text of its row."""


CANNOT = (environments.CannotInstall, NoServer, PeerFailed, OSError)  # why a row has no figures


class Peer:
    """A program that runs. `versions` are those of what was installed for it."""

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, log: Path, versions: Mapping[str, str]
    ) -> None:
        self.name, self.versions = name, versions
        self._process, self._log = process, log

    async def ask(self, do: str, **words: Any) -> dict[str, Any]:
        """Its answer; raises PeerFailed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **words}).encode() + b"\n")
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._process.stdin.drain()
                line = await self._process.stdout.readline()
        except (TimeoutError, ConnectionError) as error:
            raise PeerFailed(f"{self.name} did not answer: {self._last_words()}") from error
        if not line:
            raise PeerFailed(f"{self.name} ended: {self._last_words()}")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise PeerFailed(f"{self.name}: {found['error']}")
        return found

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][-200:] if lines else "it printed nothing"


def settings(path: Path = SETTINGS) -> dict[str, dict[str, Any]]:
    return tomllib.loads(path.read_text())


@contextlib.asynccontextmanager
async def started(name: str, path: Path = SETTINGS) -> AsyncIterator[Peer]:
    """One peer for the length of the block, installed before if need be; raises one of CANNOT."""
    chosen = settings(path)[name]
    python = await asyncio.to_thread(
        environments.install, name, chosen["packages"], chosen.get("pythons", ())
    )
    packages = [each.partition("==")[0] for each in chosen["packages"]]
    versions = await asyncio.to_thread(environments.versions, python, packages)
    async with contextlib.AsyncExitStack() as stack:
        env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        if chosen.get("server"):
            port = await stack.enter_async_context(searching(chosen["server"], python.parents[1]))
            env["BENCH_REDIS_PORT"] = str(port)
        process, log = await stack.enter_async_context(_running(python, chosen["program"], env))
        yield Peer(name, process, log, versions)


@contextlib.asynccontextmanager
async def _running(
    python: Path, program: str, env: Mapping[str, str]
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Path]]:
    pipe = asyncio.subprocess.PIPE
    with tempfile.TemporaryDirectory(prefix="tb-") as folder:
        log = Path(folder) / "log.txt"
        with log.open("wb") as err:
            process = await asyncio.create_subprocess_exec(
                *(str(python), str(PROGRAMS / program)),
                cwd=folder,
                env=env,
                stdin=pipe,
                stdout=pipe,
                stderr=err,
                limit=LINE_BYTES,
            )
        try:
            yield process, log
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


# -- a Redis server that searches -----------------------------------------------------------------------------


class Searching(NamedTuple):
    """A program to try, and what it needs."""

    program: str
    words: tuple[str, ...] = ()
    env: Mapping[str, str] | None = None


def candidates(programs: list[str], environment: Path) -> list[Searching]:
    """Servers that may know how to search: those on the path, then what the peer's environment brought."""
    found = [Searching(path) for each in programs if (path := shutil.which(each))]
    modules = sorted(environment.glob("**/redisearch.so"))
    env = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, _libraries(environment)))}
    for program in sorted(environment.glob("lib/**/redis-server")):
        words = tuple(word for module in modules[:1] for word in ("--loadmodule", str(module)))
        found.append(Searching(str(program), words, env))
    return found


def _libraries(environment: Path) -> list[Path]:
    """Where the libraries lie that wheels bring, once more under the names that a program from elsewhere asks for."""
    brought = sorted(environment.glob("lib/python*/site-packages/*.libs"))
    if not brought:
        return []
    plain = environment / "libraries"
    plain.mkdir(exist_ok=True)
    for file in (file for folder in brought for file in folder.iterdir()):
        link = plain / BROUGHT.sub(r"\1\2", file.name)
        if not link.is_symlink():
            link.symlink_to(file)
    return [plain, *brought]


@contextlib.asynccontextmanager
async def searching(programs: list[str], environment: Path) -> AsyncIterator[int]:
    """The port of the first that searches; raises NoServer with what each one said."""
    found = await _first(candidates(programs, environment), environment)
    async with redis_server(found.program, found.words, found.env) as port:
        yield port


async def _first(tried: list[Searching], environment: Path) -> Searching:
    said = []
    for each in tried:
        name = Path(each.program).name
        try:
            async with redis_server(each.program, each.words, each.env) as port:
                if await searches(port):
                    return each
            said.append(f"{name} knows no FT.SEARCH")
        except (NoServer, OSError) as error:
            said.append(f"{name}: {error}".replace(str(environment), "…"))
    raise NoServer(f"no Redis server that searches: {'; '.join(said) or 'none is installed'}"[:400])


async def searches(port: int) -> bool:
    """Whether the server has the commands of search."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"FT._LIST\r\n")
        return not (await reader.read(64)).startswith(b"-")
    finally:
        writer.close()
