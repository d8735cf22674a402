"""How each gateway is started in front of a provider, on one core, and how it is asked."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

from bench.ground import environments, processes
from bench.ground.serving import serving
from bench.shortcuts.gateway import debian
from bench.shortcuts.provider.running import ROOT, Provider

from tauten.serve.safety.keys import new_key

FLOW = Path(__file__).with_name("flow.py")
# One release: pip would try hundreds where one does not fit. Later ones ask for a certifi that was not there.
LITELLM = ("litellm[proxy]==1.102.4",)
START_S = 120.0  # LiteLLM imports for tens of seconds on a busy machine
END_S = 5.0
FREE = 1_000_000_000  # of whatever a limit counts: in force, and never reached


class DidNotStart(Exception):
    """Why a gateway does not listen, with what it printed last."""


@dataclass
class Gateway:
    """A gateway that listens. `book` is where its usage is kept, of those that keep any."""

    port: int
    root: int  # the process that all of it descends from
    model: str = "words"
    key: str = ""
    book: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    def pids(self) -> list[int]:
        return processes.parent_tree(self.root)


Start = Callable[[Provider, Sequence[int]], AbstractAsyncContextManager[Gateway]]
"""Starts one in front of a provider, on these cores."""


def keep_on(pids: Sequence[int], cores: Sequence[int]) -> None:
    """Keep processes that run on these cores, with the threads that they have and will have."""
    for pid in pids if cores else ():
        with contextlib.suppress(*processes.GONE):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(*processes.GONE):
                    os.sched_setaffinity(int(task.name), cores)


# -- ours ----------------------------------------------------------------------------------------------------

PLAN = """
[stage.chat]
model = "words"
backend = "remote"
provider = "standin"
slots = 256
cache = "8MB"
"""
PRICES = """
tauten = "prices/1"
[[price]]
provider = "standin"
model = "*"
per_million = { input_tokens = "0.15", output_tokens = "0.60" }
"""
BUDGETS = f"""
tauten = "budgets/1"
[budget.each-key]
usd = "{FREE}"
period = "day"
key = "*"
"""


@contextlib.asynccontextmanager
async def ours(provider: Provider, cores: Sequence[int] = ()) -> AsyncIterator[Gateway]:
    """`tauten serve` with keys, limits, budgets of money, a book, a cache that misses, traces and metrics."""
    folder = Path(tempfile.mkdtemp(prefix="tb-"))
    try:
        key = new_key(
            folder / "keys.toml", "bench", created="", rate_per_s=float(FREE), burst=FREE, concurrent=4096
        )
        (folder / "prices.toml").write_text(PRICES)
        (folder / "budgets.toml").write_text(BUDGETS)
        (folder / "providers.toml").write_text(f'[standin]\nurl = "{provider.url}"\n')
        book = str(folder / "book.db")
        words = [
            "--keys",
            str(folder / "keys.toml"),
            "--usage",
            book,
            "--prices",
            str(folder / "prices.toml"),
        ]
        words += ["--budgets", str(folder / "budgets.toml")]
        env = {"TAUTEN_PROVIDERS": str(folder / "providers.toml"), "TAUTEN_STORE": str(folder / "store")}
        async with serving([f"{FLOW}:words"], {"words": PLAN}, words, env) as running:
            keep_on(running.pids(), cores)
            yield Gateway(int(running.url.rsplit(":", 1)[1]), running.pid, key=key, book=book)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# -- others --------------------------------------------------------------------------------------------------

NGINX = """
worker_processes 1;
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream provider {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port};
    keepalive_requests 1000000;
    location / {{
      proxy_pass http://provider;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


@contextlib.asynccontextmanager
async def nginx(provider: Provider, cores: Sequence[int] = ()) -> AsyncIterator[Gateway]:
    """One worker that hands on and counts nothing; raises CannotInstall."""
    program = await asyncio.to_thread(debian.program, "nginx", "usr/sbin/nginx")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tb-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # its worker may be another user
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, upstream=provider.port))
        command = [str(program), "-p", name, "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off;"]
        async with _started(command, cores, port, folder) as root:
            yield Gateway(port, root)


@contextlib.asynccontextmanager
async def thin(provider: Provider, cores: Sequence[int] = ()) -> AsyncIterator[Gateway]:
    """aiohttp on both sides, on the same loop as ours; it hands on and counts nothing."""
    port = free_port()
    upstream = f"http://127.0.0.1:{provider.port}"
    command = [sys.executable, "-m", "bench.shortcuts.gateway.thin", str(port), upstream]
    with tempfile.TemporaryDirectory(prefix="tb-") as name:
        async with _started(command, cores, port, Path(name)) as root:
            yield Gateway(port, root)


MASTER = "sk-bench"
CONFIG = """
model_list:
  - model_name: words
    litellm_params:
      model: openai/words
      api_base: {url}
      api_key: none
      input_cost_per_token: 0.00000015
      output_cost_per_token: 0.0000006
litellm_settings:
  telemetry: false
  num_retries: 0
  request_timeout: 60
general_settings:
  master_key: {key}
"""


@contextlib.asynccontextmanager
async def litellm(provider: Provider, cores: Sequence[int] = ()) -> AsyncIterator[Gateway]:
    """One worker with its master key and prices, and without the database that its keys and budgets want."""
    python = await asyncio.to_thread(environments.install, "litellm", LITELLM, ())
    port = free_port()
    env = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    with tempfile.TemporaryDirectory(prefix="tb-") as name:
        folder = Path(name)
        (folder / "config.yaml").write_text(CONFIG.format(url=provider.url, key=MASTER))
        command = [str(python.with_name("litellm")), "--config", str(folder / "config.yaml")]
        command += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
        async with _started(command, cores, port, folder, env) as root:
            yield Gateway(port, root, key=MASTER, versions=environments.versions(python, ["litellm"]))


@contextlib.asynccontextmanager
async def direct(provider: Provider, cores: Sequence[int] = ()) -> AsyncIterator[Gateway]:
    """No gateway: the provider itself."""
    yield Gateway(provider.port, provider.pid)


# -- processes -----------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def _started(
    command: Sequence[str],
    cores: Sequence[int],
    port: int,
    folder: Path,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[int]:
    """A program that listens on a port; its process. It is gone afterwards, with all that it started."""
    log = folder / "log.txt"
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            env={**kept, **(env or {}), processes.TAG: folder.name},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        await _listens(process, port, log)
        keep_on(processes.parent_tree(process.pid), cores)
        yield process.pid
    finally:
        pids = {*processes.parent_tree(process.pid), *processes.tagged(folder.name)}
        await asyncio.to_thread(processes.end, sorted(pids), END_S)
        await process.wait()


async def _listens(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    deadline = asyncio.get_running_loop().time() + START_S
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            said = log.read_text(errors="replace")[-300:].strip()
            if process.returncode is not None:
                raise DidNotStart(f"it ended with {process.returncode}: {said}") from None
            if asyncio.get_running_loop().time() > deadline:
                raise DidNotStart(f"it does not listen after {START_S:g} s: {said}") from None
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
