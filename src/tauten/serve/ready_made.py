"""A model of the catalog alone, as a service: the smallest workflow around it, warmed up before it is ready."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import typing
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from tauten.describe.flow import map as each
from tauten.describe.payload import Audio, Tensor, Text
from tauten.describe.said import Spoken
from tauten.describe.slo import Slo
from tauten.describe.stage import Context, StageKind, stage
from tauten.describe.stages.detect_speech import SpeechSpan, detect_speech
from tauten.describe.stages.embed import embed as embed_text
from tauten.describe.stages.generate import chat as converse
from tauten.describe.stages.speak import speak as say
from tauten.describe.stages.transcribe import transcribe as hear
from tauten.describe.view import Samples, View
from tauten.describe.workflow import Workflow, workflow
from tauten.errors import NotFound, suggest
from tauten.models.catalog import default_catalog
from tauten.plan.plan import Plan, StagePlan
from tauten.run.contracts import find
from tauten.serve.service import Service

AT_ONCE = 32  # texts that are embedded together: a full batch
PAUSE_MS = 500.0  # a shorter silence is a breath inside a sentence, not the end of a segment
LONGEST_S = 27.0  # of a segment: Whisper's window less its tail of silence
VOICE = "jf_nezumi"
CACHE = "prefix_cache"  # the option of engines that keep the work of shared beginnings


def ready_made(
    model: str, *, name: str = "", plan: Plan | None = None, slo: Slo | None = None
) -> list[Service]:
    """The services that serve a model of the catalog; raises NotFound E275 with the nearest name.

    The beginning of a name is enough where only one model has it: `smollm2-135m`. `name` is what clients
    call it, the model's own where it is left out.
    """
    known, kind = _find(model)
    served, samples = _MAKERS[kind](known)
    service = Service(served, plan or _plan(served), name=name or known, slo=slo, samples=samples)
    service.shareable = True  # all stages here are pure, which nobody can tell of an `async def` from outside
    return [service]


def known_as(model: str) -> str:
    """The whole name of a model that can be served alone; raises NotFound E275 with the nearest name."""
    return _find(model)[0]


def _find(model: str) -> tuple[str, str]:
    served = {name: each.task for name, each in default_catalog().models.items() if _alone(name, each.task)}
    found = [name for name in served if name == model] or [name for name in served if name.startswith(model)]
    if len(found) == 1 and model:
        return found[0], served[found[0]]
    raise NotFound(
        f"no model that can be served alone is called {model[:80]!r}",
        help=suggest(model, served),
        code="E275",
    )


def _plan(served: Workflow[..., Any]) -> Plan | None:
    """The naive plan, with a prefix cache where an engine has one; None where none has.

    Chat clients send the whole conversation with each message: all of it but the last turn was read before.
    """
    stages = served.graph.stages if served.graph is not None else {}
    cached = {
        step: StagePlan(settings={CACHE: True}, why="each turn repeats the conversation before it")
        for step, placed in stages.items()
        if any(CACHE in find("backends", role.backends[0]).option_keys for role in placed.kind.roles.values())
    }
    return Plan(graph=served.graph.hash, stages=cached) if served.graph is not None and cached else None


def _alone(name: str, task: str) -> bool:
    """Whether a model is of use without others: a pronouncing dictionary is not."""
    return task in _MAKERS and (task != "speak" or name == "kokoro-82m")


Made = tuple[Workflow[..., Any], Sequence[dict[str, Any]]]


def chat(model: str) -> Made:
    """A language model one talks to, and a sample."""

    chatting = _only(converse, model, without=("tools", "tool_choice", "response_format"))
    return chatting, [{"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 2}]


def _only(kind: StageKind[..., Any], model: str, *, without: Sequence[str] = ()) -> Workflow[..., Any]:
    """A workflow of one stage, with this model: it takes what the stage takes, but what this model cannot do."""

    def function(**inputs: Any) -> Any:
        return kind(**inputs, model=model)

    parameters = [kind.signature.parameters[name] for name in kind.inputs if name not in without]
    function.__signature__ = kind.signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    function.__annotations__ = typing.get_type_hints(kind.body)
    return workflow(name=model)(function)


def embed(model: str) -> Made:
    """Texts to vectors, all texts of a request side by side."""

    @workflow(name=model)
    def embedding(input: list[Text]) -> list[Tensor]:
        return each(embed_text, input, concurrency=AT_ONCE, model=model)  # type: ignore[no-any-return]

    return embedding, [{"input": [Text("A first text warms the model up.")]}]


def transcribe(model: str) -> Made:
    """Speech to text. With `timestamps` the sound is cut at its pauses, and each part has its times."""

    @workflow(name=model)
    async def transcribing(
        audio: Audio, language: str | None = None, prompt: str | None = None, timestamps: bool | None = None
    ) -> AsyncIterator[Text]:
        words = [prompt] if prompt else []
        settings: dict[str, Any] = {"model": model, "language": language or "en", "hot_words": words}
        if not timestamps:
            yield await hear(audio, **settings)
            return
        spans = await detect_speech(audio, min_silence_ms=PAUSE_MS)
        space = ""
        for part in await cut(audio, spans):
            heard = await hear(part["sound"], **{**settings, "name": "segment"})
            if heard.text:
                yield Spoken(space + heard.text, part["start_s"], part["end_s"])
                space = " "

    tone = _tone(1.0)
    return transcribing, [{"audio": tone}, {"audio": tone, "timestamps": True}]


def speak(model: str, voice: str = VOICE) -> Made:
    """Text to speech in one voice where the request names none."""

    @workflow(name=model)
    async def speaking(
        input: Text, voice: str | None = None, speed: float | None = None
    ) -> AsyncIterator[Audio]:
        wanted = usual if voice in (None, "default") else voice
        async for sound in say(input, voice=wanted, speed=speed or 1.0):
            yield sound

    usual = voice
    return speaking, [{"input": Text("Ready.")}]


_MAKERS: dict[str, Callable[[str], Made]] = {
    "generate": chat,
    "embed": embed,
    "transcribe": transcribe,
    "speak": speak,
}


@stage(pure=True, views={"audio": View("samples", {"rate": 16000})})
async def cut(ctx: Context, audio: Audio, spans: list[SpeechSpan]) -> list[dict[str, Any]]:
    """The parts of a recording in which someone speaks, each no longer than a window; all of it where none is."""
    sound: Samples = audio  # type: ignore[assignment]  # the `samples` view stands in for the payload
    return await ctx.work(_parts, sound, spans or [SpeechSpan(0.0, sound.seconds)])


def _parts(sound: Samples, spans: Sequence[SpeechSpan]) -> list[dict[str, Any]]:
    parts = []
    for span in spans:
        count = max(1, math.ceil((span.end_s - span.start_s) / LONGEST_S))
        length = (span.end_s - span.start_s) / count
        for index in range(count):
            start_s = span.start_s + index * length
            low, high = round(start_s * sound.rate), round((start_s + length) * sound.rate)
            if high > low:
                part = Audio.from_array(sound.array[low:high], sound.rate)
                parts.append({"sound": part, "start_s": start_s, "end_s": start_s + length})
    return parts


def _tone(seconds: float) -> Audio:
    """A tone: silence would not reach the model that it is to warm up."""
    import numpy as np

    times = np.arange(round(seconds * 16000)) / 16000
    return Audio.from_array((0.1 * np.sin(2 * np.pi * 440 * times)).astype(np.float32), 16000)
