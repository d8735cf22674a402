"""Language models by OpenVINO GenAI: continuous batching in a worker process, streamed token by token."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Collection, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from tauten.describe.turn import Turn
from tauten.errors import BackendError, InputError, PlanError, StoreError, TautenError
from tauten.models.store import default_root
from tauten.run.backends._llm_config import STEP_TOKENS, WorkerConfig
from tauten.run.backends._llm_item import LlmItem, read_item, refused
from tauten.run.backends._llm_process import Answer, Worker
from tauten.run.backends._llm_prompt import GgufReader
from tauten.run.backends._llm_seen import Seen
from tauten.run.contracts import Chunk, ModelSpec, PromptReader

_PRECISIONS = ("", "f32", "bf16")
_KV_PRECISIONS = ("", "u8", "bf16", "f16", "f32")


class LlmBackend:
    """Generates from ``model.gguf``; `LlmItem` says what an item holds.

    The first chunk of a stream is empty and marks the end of prefill. Options: `prefix_cache` keeps the
    work of shared beginnings; `prompt_lookup` n guesses n tokens ahead by copying from the prompt;
    `max_batched_tokens` bounds a step: more read long prompts faster (256: by an eighth), but streams
    wait for the step between their tokens, and a leaver's work goes on until its end; `cache_size_gb`
    and `kv_precision` are the engine's; `slots`.
    """

    name: ClassVar[str] = "llm"
    precisions: ClassVar[tuple[str, ...]] = ("f32",)  # its own default is bf16 where the processor has that
    turns: ClassVar[tuple[Turn, ...]] = (
        Turn("prefix", {"prefix_cache": True}, "equivalent", "keeps what prompts begin with"),
        Turn("quantize", {"kv_precision": "u8"}, "lossy", "keeps keys and values in 8 bits"),
        Turn("chunk", {"max_batched_tokens": 256}, "equivalent", "reads long prompts in larger steps"),
        Turn(
            "chunk",
            {"max_batched_tokens": 32},
            "equivalent",
            "reads prompts in steps that others wait for less",
        ),
    )
    step_tokens: ClassVar[int] = STEP_TOKENS
    option_keys: ClassVar[frozenset[str]] = frozenset(
        {"prefix_cache", "prompt_lookup", "cache_size_gb", "max_batched_tokens", "kv_precision", "slots"}
    )

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.slots = int(spec.options.get("slots", 8))  # 8 streams gave 1.7 times the tokens of 4
        self._config = _config(spec)
        self._worker: Worker | None = None
        self._open = False
        self._ids = itertools.count(1)
        self._refused = Seen()  # constraints that ended a worker once, with the engine's reason
        self._launch: asyncio.Task[Worker] | None = None

    @staticmethod
    def reader(files: Mapping[str, Path]) -> PromptReader:
        """The tokenizer of a model, without the model; raises StoreError E325, MachineError E315."""
        gguf = _gguf(files, "the model")
        return GgufReader(gguf, _converted_folder(gguf))

    async def open(self) -> None:
        _gguf(self.spec.files, f"model {self.spec.model!r}")
        self._open = True
        try:
            await self._running()
        except BaseException:
            self._open = False
            raise

    async def _running(self) -> Worker:
        """The worker, started anew when it died."""
        if not self._open:
            raise BackendError(
                "llm: start() on a backend that is not open", help="call open() first", code="E406"
            )
        worker, loop = self._worker, asyncio.get_running_loop()
        launching = self._launch is not None and not self._launch.done() and self._launch.get_loop() is loop
        if not launching and worker is not None and worker.alive and worker.loop is loop:
            return worker
        if self._launch is None or not launching:
            self._launch = asyncio.create_task(self._launched())
        return await asyncio.shield(self._launch)  # one caller may leave while others wait for it

    async def _launched(self) -> Worker:
        if self._worker is not None:
            self._worker.kill()
        self._worker = worker = Worker(self._config)
        await worker.start()
        return worker

    async def start(self, item: Mapping[str, Any]) -> AsyncIterator[Chunk]:
        """Chunks of one answer. A worker that dies before the first word is replaced, and asked once more."""
        read = read_item(item)
        if (reason := self._refused.word(read.constraint)) is not None:
            raise refused(reason)
        again = True
        while True:
            worker = await self._running()
            id = next(self._ids)
            queue = worker.open(id, read)
            try:
                while True:
                    answer = await queue.get()
                    if isinstance(answer, BackendError) and again and self._open:
                        break
                    chunk = self._chunk(answer, read)
                    again = again and not (chunk.text or chunk.tokens)  # else it would be said twice
                    yield chunk
                    if chunk.done:
                        return
            finally:
                worker.cancel(id)
            again = False

    def _chunk(self, answer: Answer, item: LlmItem) -> Chunk:
        if isinstance(answer, TautenError):
            raise answer
        if "error" in answer:
            if answer["code"] == "E234" and item.constraint:
                reason = answer["error"].removeprefix("the output cannot be constrained: ")
                self._refused.note(item.constraint, reason)
            raise InputError(answer["error"], help=answer["help"], code=answer["code"])
        return Chunk(
            text=answer.get("text", ""),
            value=answer.get("value"),
            tokens=answer.get("tokens", 0),
            at=answer["at"],
            done=answer.get("done", False),
            finish=answer.get("finish", ""),
            usage=answer.get("usage", {}),
        )

    @property
    def active(self) -> int:
        """Streams in the engine; one that was cancelled counts until the engine has dropped it."""
        return len(self._worker.streams) if self._worker else 0

    def lingering(self) -> Collection[float]:
        return self._worker.left.values() if self._worker else ()

    @property
    def worker_pid(self) -> int | None:
        """The process that does the work, for the tools that watch its memory and processor time."""
        return self._worker.pid if self._worker else None

    def properties(self) -> Mapping[str, str]:
        facts = self._worker.facts if self._worker else {}
        settings = self._config
        return {
            "precision": settings.precision or "unknown until open",
            "threads": str(settings.threads or "all cores (framework default)"),
            "device": "CPU",
            **facts,
            "prefix_cache": "on" if settings.prefix_cache else "off",
            "prompt_lookup": str(settings.prompt_lookup or "off"),
            "max_batched_tokens": str(settings.max_batched_tokens),
            "cache_size_gb": f"{settings.cache_size_gb:g}",
            "slots": str(self.slots),
        }

    async def close(self) -> None:
        self._open = False
        if self._launch is not None and not self._launch.done():
            self._launch.cancel()
            await asyncio.wait([self._launch])
        worker, self._worker = self._worker, None
        if worker is not None and worker.loop is asyncio.get_running_loop():
            await worker.stop()
        elif worker is not None:
            worker.kill()


def _gguf(files: Mapping[str, Path], whose: str) -> Path:
    if "model.gguf" not in files:
        raise StoreError(
            f"{whose} has no file model.gguf",
            code="E325",
            help="pin a model that has it, or another backend; `tauten model list` names them",
        )
    return files["model.gguf"]


def _config(spec: ModelSpec) -> WorkerConfig:
    options = spec.options
    gguf = spec.files.get("model.gguf", Path())
    config = WorkerConfig(
        model=spec.model,
        gguf=str(gguf.absolute()),
        converted=str(_converted_folder(gguf)),
        threads=spec.threads,
        precision=spec.precision,
        kv_precision=str(options.get("kv_precision", "")),
        cache_size_gb=float(options.get("cache_size_gb", 1)),
        max_batched_tokens=int(options.get("max_batched_tokens", STEP_TOKENS)),
        prefix_cache=bool(options.get("prefix_cache", False)),
        prompt_lookup=int(options.get("prompt_lookup", 0)),
    )
    _check(config, int(options.get("slots", 8)))
    return config


def _check(config: WorkerConfig, slots: int) -> None:
    if config.precision not in _PRECISIONS:
        raise PlanError(
            f"llm cannot run at precision {config.precision!r}",
            help='use "f32" or "bf16", or leave it out for the framework\'s own choice',
            code="E122",
        )
    if config.kv_precision not in _KV_PRECISIONS:
        raise PlanError(
            f"llm option kv_precision = {config.kv_precision!r}",
            help=f"it can be {', '.join(filter(None, _KV_PRECISIONS))}",
            code="E122",
        )
    if config.cache_size_gb <= 0 or config.max_batched_tokens < 1 or config.prompt_lookup < 0 or slots < 1:
        raise PlanError(
            "llm options cache_size_gb, max_batched_tokens and slots are positive, prompt_lookup is not negative",
            help="remove the option to take its default",
            code="E122",
        )


def _converted_folder(gguf: Path) -> Path:
    """Where the converted form of exactly this file by exactly this engine lies."""
    try:
        facts = gguf.stat()
        engine = metadata.version("openvino-genai")
    except (OSError, metadata.PackageNotFoundError):
        return default_root() / "converted" / "unknown"  # open() says what is missing
    mark = f"{gguf.absolute()} {facts.st_size} {facts.st_mtime_ns} {engine}"
    return default_root() / "converted" / f"openvino-{hashlib.sha256(mark.encode()).hexdigest()[:16]}"
