"""Text from a language model: a template is filled in, and the model's words stream out."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec

from tauten.describe.payload import Text
from tauten.describe.port import Port
from tauten.describe.ports import Stream
from tauten.describe.said import Said, TokenLogprob, ToolCall
from tauten.describe.spoken import has_media, marked, messages_of, parted
from tauten.describe.stage import PLANNED, Context, Role, stage
from tauten.describe.template import Template, load
from tauten.describe.turn import Turn
from tauten.errors import InputError, StageError, WorkflowError

CHAT_TOKENS = 512  # ten seconds at 50 tokens/s; a caller who wants a longer answer says so

SETTINGS = frozenset(
    {"template", "name", "max_tokens", "temperature", "top_p", "stop", "seed", "into", "ngram"}
    | {"fixed_first", "top", "prompt_format", "without_examples", *PLANNED}
)


def prepare(
    inputs: dict[str, Any], params: dict[str, Any], folder: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load the template when the call is written and compare its fields with what is passed."""
    literal = inputs.get("template")
    if not isinstance(literal, str | Template):
        raise WorkflowError(
            f"generate() needs its template when it is written, and got {literal.__class__.__name__}",
            help="give a file's name or text with {{ fields }}; what a request brings is a field",
            code="E104",
        )
    template = load(literal, folder)
    maybe = {name for name, value in inputs.items() if isinstance(value, Port) and value._maybe}
    template.check(inputs.keys() - {"template"}, maybe=maybe, reserved=SETTINGS)
    template.choose(params.get("prompt_format") or "", params.get("without_examples") or ())
    template.check_values({name: value for name, value in inputs.items() if not isinstance(value, Port)})
    return {**inputs, "template": template}, params


TURNS = (
    Turn(
        "prefix",
        {"prefix_cache": True, "fixed_first": True},
        "lossy",
        "puts what a template always says before what changes, and keeps it",
    ),
    Turn(
        "lookup",
        {"prompt_lookup": 3, "ngram": 3},
        "equivalent",
        "guesses the next words from the prompt and checks three at once",
    ),
    Turn("compact", {"top": 1}, "lossy", "shows the model the best of what was found alone"),
    Turn("compact", {"stop": "\n"}, "lossy", "ends an answer with its first line"),
)


@stage(pure=True, roles={"model": Role("smollm2-135m-instruct", ("llm",))}, prepare=prepare, turns=TURNS)
async def generate(  # type: ignore[misc]  # callers see a Stream; the body is its generator
    ctx: Context,
    template: str | Template,
    *,
    max_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    into: Any = None,
    ngram: int | None = None,
    fixed_first: bool = False,
    top: int | None = None,
    prompt_format: str = "",
    without_examples: str | Sequence[str] = (),
    **fields: object | None,
) -> Stream[Text]:
    """Fill the template with `fields` and stream the model's answer as increments of text.

    `template` is a file beside the calling code or the text itself; see `tauten.describe.template`. An
    unknown or unused field is a WorkflowError (E104) when the call is written, and so is a field that may be
    absent without being optional (E103).

    `max_tokens` bounds the answer. `temperature` 0 takes the likeliest token (the default, so that an
    answer can be repeated); above it, `top_p` keeps the likeliest tokens of that probability mass and
    `seed` makes the choice repeatable. Generation ends at any of `stop`, which is not part of the answer.
    `ngram` looks for continuations of the last `ngram` tokens in the prompt and checks them at once (prompt
    lookup): faster where the answer quotes, neutral to slower elsewhere.
    `fixed_first` moves paragraphs of the template that hold no field before those of their message that do,
    so that more of the prompt stays the same and can be kept. `top` fills in only the first so many members of
    a list: passages come best first. A field may be a picture or sound, for models that take them: it goes to the
    model where the template has it, between the texts. `prompt_format` takes another of the template's formats than
    the first, and `without_examples` leaves out few-shot examples by their names, or by number where they have none.

    `into` takes a msgspec Struct, dataclass or Literal: the model can then only write JSON of that type,
    and the stream's single value is the decoded object.

    Raises WorkflowError E108 for a format or an example that the template has not, E119 for a value that is not of
    its variable's type, InputError E240 for numbers out of range, StageError E410 where the answer was cut at
    `max_tokens` before its JSON closed. Tokens are booked as input_tokens, cached_tokens, output_tokens, and
    an answer that `max_tokens` ended as one of cut_answers.
    """
    read = load(template, Path()).choose(prompt_format, without_examples)
    shown = {name: _first(value, top) for name, value in fields.items()}
    item = _item(read.fixed_first() if fixed_first else read, shown, max_tokens, temperature, top_p)
    item |= {"stop": [stop] if isinstance(stop, str) else list(stop), "seed": seed, "ngram": ngram}
    if into is not None:
        item["json_schema"] = schema_of(into)
    said: list[str] = []
    async with aclosing(_chunks(ctx, item)) as chunks:
        async for chunk in chunks:
            if chunk.text and into is None:
                yield Text(chunk.text)
            said.append(chunk.text)
    if into is not None:
        yield _decoded("".join(said), into)


@stage(pure=True, roles={"model": Role("smollm2-135m-instruct", ("llm",))})
async def chat(  # type: ignore[misc]  # callers see a Stream; the body is its generator
    ctx: Context,
    messages: list[dict[str, Any]],
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    stop: list[str] | None = None,
    seed: int | None = None,
    json_schema: dict[str, Any] | None = None,
    logprobs: bool | None = None,
    tools: list[dict[str, Any]] | None = None,
    tool_choice: str | dict[str, Any] | None = None,
    response_format: dict[str, Any] | None = None,
) -> Stream[Text]:
    """Continue a conversation, as a caller brings it, and stream the model's answer.

    `messages` are ``{"role": ..., "content": ...}`` with the roles system (or developer), user, assistant and tool;
    content is text or a list of parts: text, and pictures and sound for models that take them. The settings come with
    each request, too, and are those of `generate`; None means 512 tokens, the likeliest token, no stop. `json_schema`
    makes the model write JSON of that schema. With `logprobs` the increments are `Said`, which holds each token's log
    probability. `tools`, `tool_choice` and `response_format` go to a remote model as they are; where it calls a tool,
    a `ToolCall` comes among the increments.

    Raises InputError E232 for a message, or a setting, that the model cannot read.
    """
    asked = {"tools": tools, "tool_choice": tool_choice, "response_format": response_format}
    read = ctx.work(messages_of, messages) if has_media(messages) else None
    item = {
        **{name: value for name, value in asked.items() if value},
        "messages": messages_of(messages) if read is None else await read,
        "max_tokens": CHAT_TOKENS if max_tokens is None else max_tokens,
        "temperature": temperature or 0.0,
        "top_p": 1.0 if top_p is None else top_p,
        "stop": stop or [],
        "seed": seed,
        "json_schema": json_schema,
        "logprobs": bool(logprobs),
    }
    async with aclosing(_chunks(ctx, item)) as chunks:
        async for chunk in chunks:
            if isinstance(chunk.value, ToolCall):
                yield chunk.value
                continue
            tokens = _tokens(chunk.value) if logprobs else ()
            if chunk.text or tokens:
                yield Said(chunk.text, tokens) if logprobs else Text(chunk.text)


async def _chunks(ctx: Context, item: dict[str, Any]) -> AsyncGenerator[Any, None]:
    """What the model says to an item, and how it ended in the books.

    The deployment books the counts that the engine tells at the end. A reader who leaves before stops the
    engine within one step, and what it made by then is booked here.
    """
    chunks = ctx.stream("model", item)
    made, done = 0, False
    try:
        async for chunk in chunks:
            made += chunk.tokens
            done = done or chunk.done
            if chunk.finish == "length":
                ctx.spend("cut_answers", 1.0)
            yield chunk
    finally:
        if made and not done:
            ctx.spend("output_tokens", float(made))
        if hasattr(chunks, "aclose"):
            await chunks.aclose()


def _tokens(value: Any) -> tuple[TokenLogprob, ...]:
    """The tokens of one chunk; markers such as the end of the turn have no bytes and are left out."""
    if not value:
        return ()
    pairs = zip(value["pieces"], value["logprobs"], strict=True)
    return tuple(TokenLogprob(bytes(piece), logprob) for piece, logprob in pairs if piece)


def _first(value: object, top: int | None) -> object:
    return value[:top] if top is not None and isinstance(value, list | tuple) else value


def _item(
    template: Template, fields: Mapping[str, Any], max_tokens: int, temperature: float, top_p: float
) -> dict[str, Any]:
    """The question with the settings that have a range."""
    if max_tokens < 1 or temperature < 0 or not 0 < top_p <= 1:
        raise InputError(
            f"max_tokens={max_tokens}, temperature={temperature}, top_p={top_p}",
            help="max_tokens is 1 or more, temperature 0 or more, top_p above 0 and at most 1",
            code="E240",
        )
    images = {name for name, each in template.front.variables.items() if each.type == "images"}
    shown, media = marked(fields, images)
    messages = template.render(shown)
    asked: dict[str, Any] = {"messages": parted(messages, media) if media else messages}
    if template.is_prompt and not media:
        asked = {"prompt": messages[0]["content"]}
    return {**asked, "max_tokens": max_tokens, "temperature": temperature, "top_p": top_p}


def schema_of(kind: Any) -> dict[str, Any]:
    """The JSON schema of a type, its own shape first: constrained decoders do not follow a bare `$ref`."""
    schema = msgspec.json.schema(kind)
    name = str(schema.get("$ref", "")).rsplit("/", 1)[-1]
    return {**schema["$defs"][name], "$defs": schema["$defs"]} if name else schema


def _decoded(answer: str, into: Any) -> Any:
    try:
        return msgspec.json.decode(answer, type=into)
    except msgspec.DecodeError as error:  # its subclass ValidationError too
        raise StageError(
            f"the answer is no {getattr(into, '__name__', into)}: {error}; it ends with {answer[-40:]!r}",
            help="raise max_tokens, or ask for a smaller type",
            code="E410",
        ) from error
