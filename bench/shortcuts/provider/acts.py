"""What a call to the stand-in meets, as a script: which bytes come when, which of them are billed, how it ends.

An act is plain JSON, so that it can be told from another process: {"do": "cuts", "words": 2}. Every word has four
characters at most: one token for whoever counts tokens by four characters, which makes counts comparable to the token.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, Literal, NamedTuple

Act = Mapping[str, Any]
End = Literal["", "keep", "close", "reset"]

WORDS: Final = ("The ", "sea ", "is ", "big ", "now ")
MANY: Final = 8  # words of an answer where an act says nothing else
FIRST_S: Final = 0.002  # before the first of them: a provider next door
HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-request-id: standin\r\ntransfer-encoding: chunked\r\n\r\n"
LAST: Final = b"0\r\n\r\n"


class Part(NamedTuple):
    """Bytes at a time after the call was read; `words` of them go on the bill. The end closes the script."""

    at_s: float
    data: bytes = b""
    words: int = 0
    end: End = ""


Script = Sequence[Part]


def script(act: Act, asked: Mapping[str, Any]) -> list[Part]:
    """The parts of an act for a call, those of one instant together."""
    parts = DOES[act["do"]](act, asked)
    return [_joined(list(group)) for _, group in groupby(parts, key=lambda part: part.at_s)]


def _joined(parts: Script) -> Part:
    data = b"".join(part.data for part in parts)
    return Part(parts[0].at_s, data, sum(part.words for part in parts), parts[-1].end)


def ordered(asked: Mapping[str, Any]) -> Act | None:
    """The act that a call asks for itself: JSON between double brackets in its last message."""
    content = str((asked.get("messages") or [{}])[-1].get("content", ""))
    _, mark, rest = content.partition("[[")
    return dict(json.loads(rest.partition("]]")[0])) if mark else None


def prompt_tokens(asked: Mapping[str, Any]) -> int:
    """A token for each four characters begun, and four for each message."""
    return sum(4 + math.ceil(len(str(each.get("content", ""))) / 4) for each in asked.get("messages", ()))


# -- what it may do ------------------------------------------------------------------------------------------


def says(act: Act, asked: Mapping[str, Any]) -> list[Part]:
    """A whole answer, as long as the call lets it be; one that trickles where there is a gap."""
    wanted = int(act.get("words", MANY))
    most = asked.get("max_tokens") or asked.get("max_completion_tokens") or wanted
    count = min(wanted, int(most))
    finish = "stop" if count == wanted else "length"
    first_s, gap_s = float(act.get("first_s", FIRST_S)), float(act.get("gap_s", 0.0))
    last_s = first_s + gap_s * max(0, count - 1)
    headers = act.get("headers", {})
    if not asked.get("stream"):
        return [Part(last_s, answer(200, _whole(asked, count, finish), headers), count, "keep")]
    return [*_begun(act, count), Part(last_s, _ending(asked, count, finish), 0, "keep")]


def text(act: Act, asked: Mapping[str, Any]) -> list[Part]:
    """A text of its own as the whole answer, in one piece; a token for each four characters begun."""
    said = str(act["text"])
    count = math.ceil(len(said) / 4)
    first_s = float(act.get("first_s", FIRST_S))
    if not asked.get("stream"):
        return [Part(first_s, answer(200, _whole(asked, count, "stop", said)), count, "keep")]
    piece = event(
        choices=[{"index": 0, "delta": {"role": "assistant", "content": said}, "finish_reason": None}]
    )
    return [Part(first_s, HEAD + piece + _ending(asked, count, "stop"), count, "keep")]


def cuts(act: Act, asked: Mapping[str, Any]) -> list[Part]:
    """Some words, then the connection is closed."""
    return [*_begun(act), Part(_end_s(act), end="close")]


def ends(act: Act, asked: Mapping[str, Any]) -> list[Part]:
    """Some words, then the body ends as if all were well, without a finish reason."""
    return [*_begun(act), Part(_end_s(act), LAST, end="keep")]


def stops(act: Act, asked: Mapping[str, Any]) -> list[Part]:
    """Some words, then silence, until the client leaves."""
    return _begun(act)


def hangs(act: Act, asked: Mapping[str, Any]) -> list[Part]:
    """Nothing at all, until the client leaves."""
    return []


def hangs_up(act: Act, asked: Mapping[str, Any]) -> list[Part]:
    """The call is read, and the connection reset."""
    return [Part(0.0, end="reset")]


def garbage(act: Act, asked: Mapping[str, Any]) -> list[Part]:
    """A stream whose events turn to nonsense."""
    return [*_begun(act), Part(_end_s(act), chunk(b"data: {nonsense\n\n"), end="close")]


def raw(act: Act, asked: Mapping[str, Any]) -> list[Part]:
    """Whatever bytes, which need not be HTTP, then the end."""
    return [Part(0.0, str(act.get("text", "\x00\x01 what?\r\n\r\n")).encode("latin-1"), end="close")]


def fails(act: Act, asked: Mapping[str, Any]) -> list[Part]:
    """A stream that ends with an error event."""
    return [*_begun(act), Part(_end_s(act), event(error={"message": "the engine died"}) + LAST, end="keep")]


def status(act: Act, asked: Mapping[str, Any]) -> list[Part]:
    """An error, which nobody bills."""
    code = int(act["code"])
    body = json.dumps({"error": {"message": f"told to say {code}"}}).encode()
    return [Part(float(act.get("first_s", 0.0)), answer(code, body, act.get("headers", {})), end="keep")]


DOES: Final[Mapping[str, Callable[[Act, Mapping[str, Any]], list[Part]]]] = {
    each.__name__: each
    for each in (says, text, cuts, ends, stops, hangs, hangs_up, garbage, raw, fails, status)
}


# -- bytes ---------------------------------------------------------------------------------------------------


def _begun(act: Act, count: int | None = None) -> list[Part]:
    """The head with the first word, then each further one after its gap."""
    first_s, gap_s = float(act.get("first_s", FIRST_S)), float(act.get("gap_s", 0.0))
    count = int(act.get("words", MANY)) if count is None else count
    headers = act.get("headers")
    opening = Part(
        first_s,
        _head(headers)
        + event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]),
    )
    return [opening, *(Part(first_s + gap_s * place, word(place % len(WORDS)), 1) for place in range(count))]


def _ending(asked: Mapping[str, Any], count: int, finish: str) -> bytes:
    """Why it ended, what it took where that was asked for, and the final event."""
    ending = event(choices=[{"index": 0, "delta": {}, "finish_reason": finish}])
    if (asked.get("stream_options") or {}).get("include_usage"):
        ending += event(choices=[], usage=usage(asked, count))
    return ending + chunk(b"data: [DONE]\n\n") + LAST


def _end_s(act: Act) -> float:
    """When the last of its words came."""
    count = max(0, int(act.get("words", MANY)) - 1)
    return float(act.get("first_s", FIRST_S)) + float(act.get("gap_s", 0.0)) * count


def _head(headers: Mapping[str, str] | None) -> bytes:
    return HEAD if not headers else HEAD[:-2] + _lines(headers) + b"\r\n"


def _lines(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()


def answer(code: int, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """A body of known length."""
    fixed = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    return b"HTTP/1.1 %d Told\r\n%b\r\n%b" % (code, _lines(fixed), body)


def _whole(asked: Mapping[str, Any], count: int, finish: str, said: str = "") -> bytes:
    message = {"role": "assistant", "content": said or spoken(count)}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    about = {
        "id": "chatcmpl-standin",
        "object": "chat.completion",
        "created": 0,
        "model": asked.get("model", ""),
    }
    return json.dumps({**about, "choices": [choice], "usage": usage(asked, count)}).encode()


def spoken(count: int) -> str:
    """What an answer of so many words says."""
    return "".join(WORDS[place % len(WORDS)] for place in range(count))


def usage(asked: Mapping[str, Any], count: int) -> dict[str, int]:
    prompt = prompt_tokens(asked)
    return {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(**fields: Any) -> bytes:
    """One event of a stream, as a chunk of the body."""
    about = {"id": "chatcmpl-standin", "object": "chat.completion.chunk", "created": 0, "model": "words"}
    return chunk(b"data: " + json.dumps({**about, **fields}).encode() + b"\n\n")


@functools.lru_cache
def word(place: int) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": WORDS[place]}, "finish_reason": None}])
