"""Any endpoint that speaks OpenAI's protocol: chat completions, embeddings, transcription, speech."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from typing import Any, ClassVar, Final

from tauten.clock import Clock, real
from tauten.errors import BackendError, InputError, PlanError
from tauten.run.backends._remote_item import check_conversation
from tauten.run.contracts import Chunk, ModelSpec
from tauten.run.remote.chat import Chat
from tauten.run.remote.embedding import Embedding, in_batches
from tauten.run.remote.endpoint import Endpoint, Endpoints, endpoints
from tauten.run.remote.errand import Errand, in_turn
from tauten.run.remote.media import sendable
from tauten.run.remote.providers import Provider, find_provider
from tauten.run.remote.question import Question
from tauten.run.remote.route import PATIENCE_S, Route
from tauten.run.remote.sound import Speech, Transcription
from tauten.run.remote.trail import Trail
from tauten.run.request import Request

_KINDS: Final = {
    "embed": frozenset({"embed", "dimensions"}),
    "transcribe": frozenset({"transcribe", "media_type", "language", "prompt", "seconds"}),
    "speak": frozenset({"speak", "voice", "format", "speed", "instructions"}),
}


class RemoteBackend:
    """Asks the endpoints of providers, which `providers.toml` describes (see `run/remote/providers.py`).

    What an item holds says what is asked: `messages` or a `prompt` with the settings of `RemoteItem` (all but `regex`
    and `grammar`; `ngram` speeds up local engines only) is a conversation, as chat completions or as the Responses API
    say it, whichever the provider speaks; calls of tools come as chunks whose value is a `ToolCall`. `embed`, a list
    of texts, with `dimensions`, gives one chunk whose value is an array, a row a text; more texts than a provider
    takes at once are several calls. `transcribe`, encoded bytes, with `media_type`, `language`, `prompt`, `seconds`,
    gives text; `speak`, a text, with `voice`, `format`, `speed` and `instructions`, gives chunks of bytes.

    Options: `provider` is one name or a list, asked in this order; ``name/model`` asks that one for another model.
    `continue` lets another endpoint go on with an answer that was cut (default: an error). `hedge` asks a second
    endpoint where the first lets a call run out of time. `mirror` (a provider) and `mirror_share` (0.01) send some
    calls there, too, for the books. `patience_ms` without a byte ends an attempt (30,000). `slots`.
    """

    name: ClassVar[str] = "remote"
    needs_files: ClassVar[bool] = False
    local: ClassVar[bool] = False
    option_keys: ClassVar[frozenset[str]] = frozenset(
        {"provider", "continue", "hedge", "mirror", "mirror_share", "patience_ms", "slots"}
    )

    def __init__(self, spec: ModelSpec, *, clock: Clock = real, shared: Endpoints | None = None) -> None:
        self.spec = spec
        self.slots = int(spec.options.get("slots", 64))  # the endpoint's own room bounds it by tokens
        self.active = 0
        self._clock = clock
        self._shared = shared  # endpoints, where they are not those of the loop
        self._route: Route | None = None
        self._patience_s = float(spec.options.get("patience_ms", PATIENCE_S * 1e3)) / 1e3
        self._share = float(spec.options.get("mirror_share", 0.01))  # one call in a hundred: it costs as much
        self._names = _names(spec.options.get("provider"))
        self._check()

    def _check(self) -> None:
        if self.slots < 1 or not self._patience_s > 0 or not 0 <= self._share <= 1:
            raise PlanError(
                "remote options slots and patience_ms are positive, mirror_share is between 0 and 1",
                help="remove the option to take its default",
                code="E122",
            )
        if self.spec.precision or self.spec.threads:
            raise PlanError(
                "remote cannot choose precision or threads: the model runs with its provider",
                help="leave them out",
                code="E122",
            )

    async def open(self) -> None:
        """Find the providers; raises PlanError E145 for one that is not configured, MachineError E348 without its key."""
        if self._route is not None:
            return
        options = self.spec.options
        found = [self._named(name) for name in self._names]
        mirrored = self._named(str(options["mirror"])) if options.get("mirror") else None
        shared = self._shared = self._shared or endpoints()
        held: list[Endpoint] = []
        try:
            for provider, model in [*found, *([mirrored] if mirrored else [])]:
                held.append(shared.take(provider, model, self._clock))
        except BaseException:
            for endpoint in held:
                await shared.release(endpoint)
            raise
        self._route = Route(
            held[: len(found)],
            continues=bool(options.get("continue", False)),
            hedges=bool(options.get("hedge", False)),
            patience_s=self._patience_s,
            mirror=(held[-1], self._share) if mirrored else None,
        )

    def _named(self, name: str) -> tuple[Provider, str]:
        provider_name, _, model = name.partition("/")
        provider = find_provider(provider_name)
        if provider.url.startswith("grpc"):
            raise PlanError(
                f"provider {provider_name!r} has a gRPC address, which is not OpenAI's protocol",
                help="use backend `oip_remote` for it, or give an http address",
                code="E145",
            )
        return provider, provider.model(model or self.spec.model)

    def start(self, item: Mapping[str, Any]) -> AsyncGenerator[Chunk, None]:
        """A stream without a request: no deadline, and books that nobody reads."""
        return self.start_for(Request(self._clock), "", item)

    async def start_for(
        self, request: Request, step: str, item: Mapping[str, Any]
    ) -> AsyncGenerator[Chunk, None]:
        """Chunks of one answer. Raises InputError E230 for what a provider refuses, Overloaded E462 at its limit,
        BackendError E460 where none answers and E461 for an answer that was cut."""
        if self._route is None:
            raise BackendError(
                "remote: start() on a backend that is not open", help="call open() first", code="E406"
            )
        self.active += 1
        try:
            trail = Trail(request, step)
            asked = question(await self._prepared(item, trail))
            async with aclosing(self._chunks(asked, self._route, trail)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            self.active -= 1

    @staticmethod
    async def _prepared(item: Mapping[str, Any], trail: Trail) -> Mapping[str, Any]:
        """With its media as they are sent; the time for that is `decode`."""
        started = trail.clock()
        prepared = await sendable(item)
        if prepared is not item:
            trail.row("decode", started, trail.clock())
        return prepared

    @staticmethod
    def _chunks(asked: Question, route: Route, trail: Trail) -> AsyncGenerator[Chunk, None]:
        if isinstance(asked, Embedding):
            most = min(each.provider.limits.texts for each in route.endpoints)
            if len(parts := in_batches(asked.texts, most)) > 1:
                return in_turn([Embedding(each, asked.dimensions) for each in parts], route, trail)
        return Errand(asked, route, trail).chunks()

    @property
    def billed(self) -> tuple[str, str] | None:
        """Who would bill a call that begins now, and which of their models it is for; None of one that is not open."""
        if self._route is None:
            return None
        first = (self._route.order(0.0, math.inf) or self._route.endpoints)[0]
        return first.named.provider, first.named.model

    def lingering(self) -> Collection[float]:
        return ()  # a stream that is left has closed its connection by then

    def properties(self) -> Mapping[str, str]:
        return {
            "precision": "the provider's",
            "threads": "none here",
            "device": "remote: " + ", ".join(self._names),
            "slots": str(self.slots),
        }

    async def close(self) -> None:
        """Close what only this backend uses; open streams end with it."""
        route, self._route = self._route, None
        if route is None or self._shared is None:
            return
        await route.close()
        for endpoint in [*route.endpoints, *([route.mirrored] if route.mirrored else [])]:
            await self._shared.release(endpoint)


def question(item: Mapping[str, Any]) -> Question:
    """What an item asks; raises InputError E232 (malformed) or E234 (a form that this protocol cannot ask for)."""
    for kind, known in _KINDS.items():
        if kind in item:
            if unknown := sorted(item.keys() - known):
                raise _malformed(f"`{kind}` does not go with `{unknown[0]}`")
            return _of_kind(kind, item)
    check_conversation(item)
    return Chat(item)


def _of_kind(kind: str, item: Mapping[str, Any]) -> Question:
    if kind == "embed":
        texts = item["embed"]
        if (
            not isinstance(texts, list | tuple)
            or not texts
            or not all(isinstance(each, str) for each in texts)
        ):
            raise _malformed("`embed` is a list of texts, of one at least")
        return Embedding(texts, item.get("dimensions"))
    if kind == "speak":
        speed = item.get("speed")
        return Speech(
            str(item["speak"]),
            str(item.get("voice", "alloy")),
            str(item.get("format", "wav")),
            speed=None if speed is None else float(speed),
            instructions=str(item.get("instructions") or ""),
        )
    if not isinstance(item["transcribe"], bytes | bytearray | memoryview):
        raise _malformed("`transcribe` is the bytes of a recording")
    seconds = float(item.get("seconds") or 0.0)
    return Transcription(
        bytes(item["transcribe"]),
        str(item.get("media_type", "audio/wav")),
        language=str(item.get("language") or ""),
        prompt=str(item.get("prompt") or ""),
        seconds=seconds if math.isfinite(seconds) else 0.0,
    )


def _malformed(what: str) -> InputError:
    return InputError(
        f"a request to a provider is malformed: {what}",
        help="give messages=, prompt=, embed=, transcribe= or speak= with their settings",
        code="E232",
    )


def _names(said: Any) -> list[str]:
    """The providers that a plan names."""
    names = [said] if isinstance(said, str) else said
    if not isinstance(names, list) or not names or not all(isinstance(each, str) and each for each in names):
        raise PlanError(
            f"remote option provider = {said!r}",
            help='name a table of providers.toml, or several: provider = ["one", "two/another-model"]',
            code="E122",
        )
    if len(set(names)) < len(names):
        raise PlanError(
            f"remote option provider names one twice: {names}", help="name each endpoint once", code="E122"
        )
    return names
