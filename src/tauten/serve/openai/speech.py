"""Speech: text in, sound out as it is spoken, in the format that the client wants."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from tauten.describe.payload import Audio
from tauten.run.workers import Workers
from tauten.serve.door import Call
from tauten.serve.exchange import Reply
from tauten.serve.kept.flights import shared_with
from tauten.serve.openai import run as shared
from tauten.serve.openai.errors import Refused, checked
from tauten.serve.openai.ports import Turn, inputs_of
from tauten.serve.openai.sound import TYPES, Encoder
from tauten.serve.openai.types import SpeechRequest
from tauten.serve.service import Service
from tauten.serve.sse import begun

if TYPE_CHECKING:
    from tauten.serve.app import Site


async def speech(site: Site, call: Call) -> Reply:
    """Say one text; the reply begins with the first sentence that is ready."""
    fields = await call.read(dict[str, Any])
    asked = checked(fields, SpeechRequest)
    service = shared.model(site, asked.model)
    shared.check_gives(service, (Audio,), "sound")
    form = asked.response_format or "mp3"  # OpenAI's default
    if form not in TYPES:
        raise Refused(
            f"response_format {form} cannot be written here",
            help=f"formats are {', '.join(TYPES)}",
            param="response_format",
        )
    inputs = inputs_of(service.workflow)
    voice = asked.voice if isinstance(asked.voice, str) else asked.voice.get("id")
    turn = Turn(text=asked.input, fields={k: v for k, v in fields.items() if k not in ("model", "input")})
    turn.fields["voice"] = voice
    work = Saying(call, service, inputs.fill(turn), Encoder(form))
    chunks = await begun(work.chunks())
    headers = shared.ignored(inputs, fields)
    if asked.stream_format == "sse":
        return shared.events(call, work.events(chunks), headers)
    return Reply(chunks, media_type=TYPES[form], headers=[*headers, *shared_with(call.request)])


class Saying:
    """One text on its way to sound."""

    def __init__(self, call: Call, service: Service, inputs: dict[str, Any], encoder: Encoder) -> None:
        self.call = call
        self.service = service
        self.inputs = inputs
        self.encoder = encoder

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Encoded sound as it is made."""
        async with aclosing(self.call.stream(self.service, self.inputs)) as values:
            async for value in values:
                if value is None:
                    continue
                if not isinstance(value, Audio):
                    raise shared.unfit(self.service, value.__class__.__name__, "sound")
                if data := await self._in_thread(self.encoder.add, value):
                    yield data
        if data := await self._in_thread(self.encoder.end):
            yield data

    async def _in_thread(self, function: Any, *args: Any) -> bytes:
        """Encoding is booked with the request: it is part of what the client waits for."""
        request = self.call.request
        assert request is not None  # the stream has begun
        request.admitted = True  # it has begun to answer: nothing refuses it any more
        workers: Workers = self.service.engine.workers
        data: bytes = await workers.run(request, "", "user", function, *args)
        return data

    async def events(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """The same sound in events."""
        async with aclosing(chunks):
            async for chunk in chunks:
                yield shared.event({"type": "speech.audio.delta", "audio": base64.b64encode(chunk).decode()})
        taken = shared.usage(self.call)
        names = {
            "input_tokens": "prompt_tokens",
            "output_tokens": "completion_tokens",
            "total_tokens": "total_tokens",
        }
        counts = {theirs: taken[ours] for theirs, ours in names.items()}
        yield shared.event({"type": "speech.audio.done", "usage": counts})
