"""The language model inside the worker: requests in, chunks out, one engine step at a time."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from collections.abc import Callable
from time import monotonic
from typing import Any

import msgspec

from tauten.errors import InputError
from tauten.run.backends._llm_config import WorkerConfig
from tauten.run.backends._llm_item import DEFAULT_TOKENS, LlmItem
from tauten.run.backends._llm_load import Loaded
from tauten.run.backends._llm_prefix import PrefixAccount
from tauten.run.backends._llm_seen import Seen
from tauten.run.backends._llm_text import Detokenizer, Vocabulary
from tauten.run.stops import Stops

Message = dict[str, Any]
Send = Callable[[Message], None]

_DEFAULT_NGRAM = 3  # tokens that must agree before a copy of the prompt is tried; 3 was best of 3 and 5


class EngineFailed(Exception):
    """A step raised; the engine cannot go on, and its process should end."""


class _Stream:
    """One request in the engine, or waiting for the step that begins its prompt."""

    def __init__(self, id: int, item: LlmItem, encoded: Any, settings: Any, vocabulary: Vocabulary) -> None:
        self.id = id
        self.item = item
        self.encoded = encoded
        self.ids = [int(token) for token in encoded.data.reshape(-1)]
        self.settings = settings
        self.handle: Any = None  # while it waits
        self.out: list[int] = []
        self.unsent = 0  # tokens whose text is held back
        self.logprobs: list[float] = []
        self.cached = 0
        self.text = Detokenizer(vocabulary)
        self.stops = Stops(item.stop)


class Engine:
    """Owns the pipeline. Not thread-safe: `add`, `cancel` and `step` are called by one loop."""

    def __init__(self, config: WorkerConfig, loaded: Loaded, send: Send) -> None:
        self._config = config
        self._pipeline = loaded.pipeline
        self._tokenizer = loaded.tokenizer
        self._context = loaded.context
        self._send = send
        self._streams: dict[int, _Stream] = {}
        self._proven = Seen()  # constraints that the grammar compiler took
        pieces = self._tokenizer.get_vocab()
        shown = self._tokenizer.decode([[id] for id in range(len(pieces))])
        self._vocabulary = Vocabulary(pieces, shown)
        blocks = self._warm_up()
        self._account = PrefixAccount(blocks if config.prefix_cache else 0)

    def _warm_up(self) -> int:
        """Run one short request, so that no user waits for kernels; how many cache blocks there are."""
        item = LlmItem(prompt="One, two, three. " * 3)  # repeats, so that lookup runs its kernels, too
        handle = self._pipeline.add_request(0, self._encode(item), self._settings(item, 4))
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        handle.read_all()
        share = self._pipeline.get_metrics().max_cache_usage / 100  # of the one block that this took
        return round(1 / share) if share else 0

    @property
    def busy(self) -> bool:
        return bool(self._streams) or bool(self._pipeline.has_non_finished_requests())

    def add(self, id: int, item: LlmItem) -> None:
        """Queue one request; what is wrong with it is sent back as its error."""
        try:
            self._add(id, item)
        except InputError as error:
            self._send(_failure(id, error.message, error.help, error.code))
        except RuntimeError as error:
            self._send(_failure(id, _first_line(error), "check the request", "E232"))

    def _add(self, id: int, item: LlmItem) -> None:
        encoded = self._encode(item)
        size = encoded.data.size
        if not size:
            raise InputError(
                "the prompt is empty", code="E232", help="give a prompt, or messages with content"
            )
        if size >= self._context:
            raise InputError(
                f"the prompt has {size} or more tokens; {self._config.model} sees {self._context} at once",
                help="shorten the prompt: fewer passages, or a shorter history",
                code="E233",
            )
        limit = min(item.max_tokens or DEFAULT_TOKENS, self._context - size)
        self._streams[id] = _Stream(id, item, encoded, self._settings(item, limit), self._vocabulary)

    def _begin(self) -> None:
        """Hand on the prompts that the next step has room for, in their order, and no part of another.

        Keys are rounded by the block, so that where a prompt is cut decides some of its answer's words:
        one that a step can hold is never cut, and a longer one only by its own length and its neighbours'.
        """
        begun = [stream for stream in self._streams.values() if stream.handle is not None]
        room = self._config.max_batched_tokens - sum(self._next_tokens(stream) for stream in begun)
        reading = any(not stream.out for stream in begun)
        for stream in [each for each in self._streams.values() if each.handle is None]:
            stream.cached = self._account.cached(stream.ids)
            room -= self._next_tokens(stream)
            if reading and room < 0:
                return
            reading = self._enter(stream) or reading

    def _next_tokens(self, stream: _Stream) -> int:
        """What it takes of the next step, or, as it is still being read, of the next ones."""
        return 1 + self._config.prompt_lookup if stream.out else len(stream.ids) - stream.cached

    def _enter(self, stream: _Stream) -> bool:
        try:
            stream.handle = self._pipeline.add_request(stream.id, stream.encoded, stream.settings)
        except RuntimeError as error:
            del self._streams[stream.id]
            self._send(_failure(stream.id, _first_line(error), "check the request", "E232"))
            return False
        return True

    def _encode(self, item: LlmItem) -> Any:
        if item.prompt:
            return self._tokenizer.encode(item.prompt).input_ids
        text = self._tokenizer.apply_chat_template(item.messages, add_generation_prompt=True)
        return self._tokenizer.encode(text, add_special_tokens=False).input_ids

    def _settings(self, item: LlmItem, limit: int) -> Any:
        import openvino_genai

        settings = openvino_genai.GenerationConfig()
        settings.max_new_tokens = limit
        settings.apply_chat_template = False
        settings.logprobs = int(item.logprobs)
        if item.temperature > 0:
            settings.do_sample = True
            settings.temperature, settings.top_p = item.temperature, item.top_p
            if item.seed is not None:
                settings.rng_seed = item.seed  # one generator serves all requests: a wish, not a promise
        if self._config.prompt_lookup:  # the pipeline then demands both of every request
            settings.num_assistant_tokens = self._config.prompt_lookup
            settings.max_ngram_size = item.ngram or _DEFAULT_NGRAM
        if item.constraint is not None:
            wanted = openvino_genai.StructuredOutputConfig()
            setattr(wanted, *item.constraint)
            settings.structured_output_config = wanted
        return settings

    def cancel(self, id: int) -> None:
        """Stop one request: no further step computes anything for it, and the next one frees its blocks."""
        stream = self._streams.get(id)
        if stream is not None:
            self._finish(stream, "cancel", monotonic())

    def step(self) -> None:
        """One step for all requests. Raises EngineFailed: after that it is beyond repair."""
        self._begin()
        try:
            self._pipeline.step()
        except Exception as error:
            self._blame(error)
            raise EngineFailed(_first_line(error)) from error
        now = monotonic()
        for stream in [each for each in self._streams.values() if each.handle is not None]:
            self._read(stream, now)

    def _blame(self, error: Exception) -> None:
        """A step fails when a constraint does not compile: tell the requests that brought an untried one."""
        for stream in self._streams.values():
            untried = stream.handle and not stream.out and stream.item.constraint
            if untried and self._proven.word(untried) is None:
                what = f"the output cannot be constrained: {_first_line(error)}"
                self._send(_failure(stream.id, what, "simplify the schema, regex or grammar", "E234"))

    def _read(self, stream: _Stream, now: float) -> None:
        finish = ""
        while stream.handle.can_read() and stream.id in self._streams:
            for output in stream.handle.read().values():
                finish = output.finish_reason.name.lower().replace("none", "")
                self._take(stream, list(output.generated_ids), list(output.generated_log_probs), now)
        if stream.id not in self._streams:
            return
        if finish:
            self._finish(stream, finish, now)
        elif stream.handle.get_status().name == "IGNORED":
            self._streams.pop(stream.id)
            self._send(
                _failure(
                    stream.id,
                    f"the prompt of {len(stream.ids)} tokens does not fit in the engine's cache",
                    "shorten it, or raise the backend option cache_size_gb",
                    "E233",
                )
            )

    def _take(self, stream: _Stream, ids: list[int], logprobs: list[float], now: float) -> None:
        if not ids:
            return
        if not stream.out:
            self._first(stream, now)
        stream.out += ids
        stream.unsent += len(ids)
        stream.logprobs += logprobs
        text = stream.stops.feed(stream.text.feed(ids))
        if text:
            self._emit(stream, text, now)
        if stream.stops.hit:
            self._finish(stream, "stop", now)

    def _first(self, stream: _Stream, now: float) -> None:
        """The prompt has been computed: an empty chunk says when."""
        if stream.item.constraint:
            self._proven.note(stream.item.constraint)
        self._account.remember(stream.ids)
        self._send({"id": stream.id, "at": now})

    def _emit(self, stream: _Stream, text: str, now: float) -> None:
        message: Message = {"id": stream.id, "text": text, "tokens": stream.unsent, "at": now}
        if stream.item.logprobs:
            pieces = [
                list(self._vocabulary.piece(id)) for id in stream.out[len(stream.out) - stream.unsent :]
            ]
            message["value"] = {"logprobs": stream.logprobs, "pieces": pieces}
        self._send(message)
        stream.unsent, stream.logprobs = 0, []

    def _finish(self, stream: _Stream, finish: str, now: float) -> None:
        del self._streams[stream.id]
        if stream.handle is not None:
            stream.handle.cancel()  # does nothing to one that is done
        if stream.out:  # else the prompt was not read to its end
            self._account.remember(stream.ids + stream.out)
        rest = stream.stops.finish() if finish != "cancel" else ""
        if rest or (stream.unsent and stream.item.logprobs):
            self._emit(stream, rest, now)
        usage = {
            "input_tokens": len(stream.ids),
            "cached_tokens": stream.cached,
            "output_tokens": len(stream.out),
        }
        self._send(
            {
                "id": stream.id,
                "done": True,
                "finish": finish,
                "tokens": stream.unsent,
                "usage": usage,
                "at": now,
            }
        )


def read_item(raw: Message) -> LlmItem:
    """An item from its frame; the parent has checked it."""
    return msgspec.convert(raw, LlmItem)


def _failure(id: int, message: str, help: str, code: str) -> Message:
    return {"id": id, "error": message, "help": help, "code": code}


def _first_line(error: Exception) -> str:
    """What the engine says, without the place in its sources that it says first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"^(\[[\d:]+\] )?\S+\.\w+:\d+: ", "", lines[-1]) if lines else type(error).__name__
