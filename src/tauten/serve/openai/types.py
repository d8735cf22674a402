"""What clients of the OpenAI endpoints send, field by field; what a field may be is checked here."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

MOST_STOPS = 16  # OpenAI takes 4, other servers more; each is looked for in every increment
LONGEST_STOP = 256  # characters
MOST_TEXTS = 2048  # OpenAI's bound of one embeddings request
LONGEST_SPEECH = 4096  # characters; OpenAI's bound, about five minutes of sound

Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(gt=0, le=1)]
Count = Annotated[int, Meta(ge=1)]
Stop = Annotated[str, Meta(min_length=1, max_length=LONGEST_STOP)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]


class StreamOptions(msgspec.Struct):
    """How to stream."""

    include_usage: bool = False


class JsonSchema(msgspec.Struct):
    """The schema that an answer must follow."""

    name: str = ""
    schema: dict[str, Any] = {}
    strict: bool | None = None


class ResponseFormat(msgspec.Struct):
    """Free text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ImageUrl(msgspec.Struct):
    """Where a picture (or a clip) is: a data URL, or a web address."""

    url: Annotated[str, Meta(min_length=1)]
    detail: str | None = None


class InputAudio(msgspec.Struct):
    """Sound in base64."""

    data: Annotated[str, Meta(min_length=1)]
    format: str = ""


class Part(msgspec.Struct):
    """One part of a message."""

    type: str
    text: str | None = None
    image_url: ImageUrl | None = None
    video_url: ImageUrl | None = None
    input_audio: InputAudio | None = None


class Message(msgspec.Struct):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None


class ChatRequest(msgspec.Struct):
    """The body of /v1/chat/completions, as far as the server itself reads it."""

    model: Name
    messages: Annotated[list[Message], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: Count | None = None
    max_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    n: int | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=MOST_STOPS)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    functions: list[dict[str, Any]] | None = None
    modalities: list[str] | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    prompt_cache_key: str | None = None

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def limit(self) -> int | None:
        """The most tokens that the answer may have."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class EmbeddingRequest(msgspec.Struct):
    """The body of /v1/embeddings."""

    model: Name
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = None
    user: str | None = None


class SpeechRequest(msgspec.Struct):
    """The body of /v1/audio/speech."""

    model: Name
    input: Annotated[str, Meta(min_length=1, max_length=LONGEST_SPEECH)]
    voice: str | dict[str, Any]
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] | None = None
    speed: Annotated[float, Meta(ge=0.25, le=4)] | None = None
    stream_format: Literal["audio", "sse"] | None = None
    instructions: str | None = None


class TranscriptionRequest(msgspec.Struct):
    """The fields of /v1/audio/transcriptions beside the file; a form has strings only."""

    model: Name
    response_format: Literal["json", "text", "verbose_json", "srt", "vtt"] | None = None
    language: Annotated[str, Meta(pattern="^[a-z]{2,3}$")] | None = None
    prompt: str | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    stream: bool | None = None
    timestamp_granularities: list[Literal["segment", "word"]] | None = None
    chunking_strategy: Any = None
    include: list[str] | None = None


SAID_BY_SERVER = frozenset(
    {"model", "messages", "input", "file", "stream", "stream_options", "n", "user", "metadata", "store"}
    | {"prompt_cache_key", "safety_identifier", "service_tier", "encoding_format", "response_format"}
    | {"stream_format", "modalities", "timestamp_granularities", "chunking_strategy", "include"}
)
"""Fields that are the server's own business, or that only a vendor's bookkeeping reads."""
