"""Transcriptions: sound in, text out, with times where the workflow tells them; as JSON, text, SRT, WebVTT, a stream."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from tauten.describe.payload import Audio, Text
from tauten.describe.said import Spoken
from tauten.errors import MediaError
from tauten.serve.door import Call
from tauten.serve.exchange import Reply
from tauten.serve.kept.flights import shared_with
from tauten.serve.multipart import Fields, read_form
from tauten.serve.openai import run as shared
from tauten.serve.openai.chat import written
from tauten.serve.openai.errors import Refused, checked
from tauten.serve.openai.ports import Inputs, Turn, inputs_of
from tauten.serve.openai.types import TranscriptionRequest
from tauten.serve.service import Service
from tauten.serve.sse import begun

if TYPE_CHECKING:
    from tauten.serve.app import Site

_TIMED = ("verbose_json", "srt", "vtt")
_LISTS = ("timestamp_granularities", "include")


async def transcriptions(site: Site, call: Call) -> Reply:
    """Write down one recording."""
    form = read_form(call.exchange.headers.get("content-type", ""), await call.plain())
    fields = fields_of(form)
    asked = checked(fields, TranscriptionRequest, strict=False)
    service = shared.model(site, asked.model)
    inputs = inputs_of(service.workflow)
    sound = sound_of(form)
    check(asked, service, inputs)
    timed = asked.stream or asked.response_format in _TIMED  # a stream comes segment by segment
    told = {**fields, "temperature": asked.temperature, "timestamps": timed or None}
    turn = Turn(media=[sound], fields=told, strict=False)
    turn.fields.pop("model", None)
    if not asked.stream:
        shared.bound_by_client(call, service)
    work = Hearing(call, service, inputs.fill(turn), asked, seconds_of(sound))
    headers = shared.ignored(inputs, {**fields, "temperature": asked.temperature or None})
    if asked.stream:
        values = await begun(work.values())
        return shared.events(call, work.events(values), headers)
    async with aclosing(work.values()) as values:
        said = [value async for value in values]
    return work.reply(said, [*headers, *shared_with(call.request)])


def fields_of(form: Fields) -> dict[str, Any]:
    """The form's text fields; names of lists may be written with brackets behind them."""
    found: dict[str, Any] = {}
    for name, fields in form.items():
        bare = name.removesuffix("[]")
        texts = [field.text(bare) for field in fields if field.filename is None]
        if texts:
            found[bare] = texts if bare in _LISTS else texts[-1]
    return found


def sound_of(form: Fields) -> Audio:
    """The uploaded recording."""
    files = [field for field in form.get("file", []) if field.filename is not None]
    if not files:
        raise Refused(
            "the form has no file",
            help="send the sound as the part `file`",
            param="file",
            says="invalid_value",
        )
    try:
        return Audio(files[-1].data)
    except MediaError as error:
        raise Refused(
            error.message, help=error.help, param="file", says="invalid_value", code="E271"
        ) from error


def check(asked: TranscriptionRequest, service: Service, inputs: Inputs) -> None:
    """Refuse what this model cannot do."""
    if not inputs.takes_media(Audio):
        shared.check_gives(service, (), "transcript")
    shared.check_gives(service, (str, Text), "transcript")
    tells = inputs.takes("timestamps") or Spoken in service.workflow.output.kinds
    wanted = asked.timestamp_granularities or []
    if "word" in wanted or ("segment" in wanted and not tells):
        raise Refused(
            f"the model '{service.name}' does not tell the times of {'words' if 'word' in wanted else 'segments'}",
            help="ask for segments" if tells else "leave timestamp_granularities out",
            param="timestamp_granularities",
        )
    if asked.response_format in ("srt", "vtt") and not tells:
        raise Refused(
            f"the model '{service.name}' tells no times, and {asked.response_format} is made of them",
            help="ask for json or text; a workflow that tells times has an input `timestamps: bool`",
            param="response_format",
        )
    if asked.stream and asked.response_format not in (None, "json"):
        raise Refused("a stream of another format than json", help="leave one of the two out", param="stream")
    if "logprobs" in (asked.include or []):
        raise Refused("include logprobs", help="transcripts here carry no probabilities", param="include")


def seconds_of(sound: Audio) -> float | None:
    """How long a recording is, from its header; None where that cannot be read without decoding."""
    import soundfile

    try:
        return float(soundfile.info(io.BytesIO(sound.data)).duration)
    except soundfile.LibsndfileError:
        return None


class Hearing:
    """One recording on its way through a workflow, and its transcript in each form."""

    def __init__(
        self,
        call: Call,
        service: Service,
        inputs: dict[str, Any],
        asked: TranscriptionRequest,
        seconds: float | None,
    ) -> None:
        self.call = call
        self.service = service
        self.inputs = inputs
        self.asked = asked
        self.seconds = seconds

    async def values(self) -> AsyncGenerator[Text, None]:
        """The transcript's increments."""
        async with aclosing(self.call.stream(self.service, self.inputs)) as values:
            async for value in values:
                if value is not None:
                    yield value if isinstance(value, Text) else Text(written(value))

    def reply(self, said: Sequence[Text], headers: list[tuple[str, str]]) -> Reply:
        """The whole transcript in the form that was asked for."""
        text = "".join(each.text for each in said).strip()
        spoken = [each for each in said if isinstance(each, Spoken)]
        form = self.asked.response_format or "json"
        if form == "json":
            return Reply.json({"text": text, **self._usage()}, headers=headers)
        if form == "verbose_json":
            return Reply.json(self._verbose(text, spoken), headers=headers)
        if form == "text":
            return _plain(text + "\n", "text/plain", headers)
        if form == "srt":
            return _plain(srt(spoken), "application/x-subrip", headers)
        return _plain(vtt(spoken), "text/vtt", headers)

    def _usage(self) -> dict[str, Any]:
        """What OpenAI counts by duration; left out where the duration is not known."""
        return {} if self.seconds is None else {"usage": {"type": "duration", "seconds": self.seconds}}

    def _verbose(self, text: str, spoken: Sequence[Spoken]) -> dict[str, Any]:
        segments = [
            {
                "id": index,
                "seek": 0,
                "start": each.start_s,
                "end": each.end_s,
                "text": each.text,
                "tokens": [],
            }
            for index, each in enumerate(spoken)
        ]
        ends = max((each.end_s for each in spoken), default=0.0)
        return {
            "task": "transcribe",
            "language": self.asked.language or "en",
            "duration": ends if self.seconds is None else self.seconds,
            "text": text,
            "segments": segments,
            **self._usage(),
        }

    async def events(self, values: AsyncGenerator[Text, None]) -> AsyncGenerator[bytes, None]:
        """The transcript as it is heard."""
        said: list[str] = []
        async with aclosing(values):
            async for value in values:
                said.append(value.text)
                if value.text:
                    yield shared.event({"type": "transcript.text.delta", "delta": value.text})
        yield shared.event({"type": "transcript.text.done", "text": "".join(said).strip(), **self._usage()})
        yield b"data: [DONE]\n\n"


def _plain(text: str, media_type: str, headers: list[tuple[str, str]]) -> Reply:
    return Reply(text.encode(), media_type=f"{media_type}; charset=utf-8", headers=headers)


def srt(spoken: Sequence[Spoken]) -> str:
    """SubRip subtitles.

    >>> srt([Spoken("Hello.", 0.0, 1.25)])
    '1\\n00:00:00,000 --> 00:00:01,250\\nHello.\\n\\n'
    """
    blocks = (
        f"{number}\n{_stamp(each.start_s, ',')} --> {_stamp(each.end_s, ',')}\n{_line(each)}\n\n"
        for number, each in enumerate(spoken, 1)
    )
    return "".join(blocks)


def vtt(spoken: Sequence[Spoken]) -> str:
    """WebVTT subtitles."""
    blocks = (
        f"{_stamp(e.start_s, '.')} --> {_stamp(e.end_s, '.')}\n{_escaped(_line(e))}\n\n" for e in spoken
    )
    return "WEBVTT\n\n" + "".join(blocks)


def _line(spoken: Spoken) -> str:
    """The words in one line: an empty one would end the subtitle."""
    return " ".join(spoken.text.split())


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _stamp(seconds: float, mark: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3600000:02d}:{ms // 60000 % 60:02d}:{ms // 1000 % 60:02d}{mark}{ms % 1000:03d}"
