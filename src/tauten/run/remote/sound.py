"""Sound: a recording as a request and its words, or words as a request and their sound."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, ClassVar

from tauten.run.remote.conversation import sent
from tauten.run.remote.failure import Failure
from tauten.run.remote.line import Content, Reply
from tauten.run.remote.providers import Provider
from tauten.run.remote.question import Delta, Question, Said, decoded, whole
from tauten.run.remote.units import counted

_ENDINGS = {"audio/mpeg": "mp3", "audio/mp4": "m4a", "audio/x-wav": "wav", "audio/wave": "wav"}


class Transcription:
    """The words of a recording, which comes as encoded bytes; one delta of text."""

    path: ClassVar[str] = "/audio/transcriptions"

    def __init__(
        self, data: bytes, media_type: str, *, language: str = "", prompt: str = "", seconds: float = 0.0
    ) -> None:
        self._data = data
        self._media_type = media_type
        self._language = language
        self._prompt = prompt  # words to expect
        self._seconds = seconds

    @property
    def input_units(self) -> Mapping[str, float]:
        return {"audio_seconds": self._seconds} if self._seconds else {"requests": 1.0}

    @property
    def most_units(self) -> Mapping[str, float]:
        return {**self.input_units, "requests": 1.0}

    @property
    def tokens(self) -> float:
        return 0.0  # such limits count seconds or requests

    def may_go_on(self, said: Said) -> bool:
        return False

    def spoken_to(self, provider: Provider) -> Question:
        return self

    def content(self, provider: Provider, model: str, said: Said) -> Content:
        ending = _ENDINGS.get(self._media_type, self._media_type.rpartition("/")[2])
        fields = {"model": model, "response_format": "json"}
        if self._language:
            fields["language"] = self._language
        if self._prompt:
            fields["prompt"] = self._prompt
        fields = {name: value for name, value in fields.items() if name not in provider.without}
        return Content(form={**fields, "file": (f"sound.{ending}", self._data, self._media_type)})

    async def deltas(self, reply: Reply) -> AsyncGenerator[Delta, None]:
        answer = decoded(await whole(reply))
        if not isinstance(answer.get("text"), str):
            raise Failure("fault", "a transcription without its text")
        usage = answer.get("usage")
        units = counted(usage) if isinstance(usage, dict) else {}
        yield Delta(text=answer["text"], finish="stop", units=units)


class Speech:
    """The sound of a text, as encoded bytes in deltas as they come."""

    path: ClassVar[str] = "/audio/speech"

    def __init__(
        self, text: str, voice: str, form: str = "wav", *, speed: float | None = None, instructions: str = ""
    ) -> None:
        self._text = text
        self._voice = voice
        self._form = form
        self._speed = speed
        self._instructions = instructions  # how to speak

    @property
    def input_units(self) -> Mapping[str, float]:
        return {"characters": float(len(self._text))}

    @property
    def most_units(self) -> Mapping[str, float]:
        return {**self.input_units, "requests": 1.0}

    @property
    def tokens(self) -> float:
        return 0.0

    def may_go_on(self, said: Said) -> bool:
        return False

    def spoken_to(self, provider: Provider) -> Question:
        return self

    def content(self, provider: Provider, model: str, said: Said) -> Content:
        body: dict[str, Any] = {"model": model, "input": self._text, "voice": self._voice}
        body["response_format"] = self._form
        if self._speed is not None:
            body["speed"] = self._speed
        if self._instructions:
            body["instructions"] = self._instructions
        return Content(sent(body, provider))

    async def deltas(self, reply: Reply) -> AsyncGenerator[Delta, None]:
        """It ends where its bytes end: HTTP itself tells a cut body from a whole one."""
        some = False
        async with aclosing(reply.pieces()) as pieces:
            async for piece in pieces:
                some = True
                yield Delta(value=piece)
        if not some:
            raise Failure("fault", "an answer without sound")
        yield Delta(finish="stop")
