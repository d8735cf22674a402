"""Forms with files: multipart/form-data as RFC 7578 has it, and url-encoded fields; linear time, bounded.

A file's name is only read to know that it is a file; it is never used as one.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from tauten.errors import InputError
from tauten.serve.native.values import FormField

MOST_PARTS = 1000  # a workflow has some inputs, of which one may be a list of pages or frames
HEAD_BYTES = 8 * 1024  # headers of one part: browsers send a few hundred
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")  # RFC 2046, section 5.1.1
_PARAM = re.compile(r';\s*+([!#$%&\'*+.^_`|~0-9A-Za-z-]++)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|([^\s;"]*+))')
_AFTER = b" \t"

Fields = dict[str, list[FormField]]


def is_form(content_type: str) -> bool:
    """Whether a body of this type is a form."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in ("multipart/form-data", "application/x-www-form-urlencoded")


def read_form(content_type: str, body: bytes) -> Fields:
    """The fields of a form by name, in order; raises InputError E286 for one that is malformed."""
    kind, params = _value_and_params(content_type)
    if kind == "application/x-www-form-urlencoded":
        return _urlencoded(body)
    boundary = params.get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise _malformed("no boundary in the content-type")
    fields: Fields = {}
    for count, (head, data) in enumerate(_parts(body, b"--" + boundary.encode("ascii"))):
        if count >= MOST_PARTS:
            raise _malformed(f"more than {MOST_PARTS} parts")
        name, field = _field(head, data)
        fields.setdefault(name, []).append(field)
    return fields


def _urlencoded(body: bytes) -> Fields:
    fields: Fields = {}
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, max_num_fields=MOST_PARTS, errors="strict"
        )
    except ValueError as error:
        raise _malformed(str(error)[:80]) from None
    for name, value in pairs:
        fields.setdefault(name, []).append(FormField(value.encode()))
    return fields


def _parts(body: bytes, dashes: bytes) -> list[tuple[bytes, bytes]]:
    """(head, content) of each part."""
    found: list[tuple[bytes, bytes]] = []
    start, at = -1, 0 if body.startswith(dashes) else body.find(b"\r\n" + dashes) + 2
    if at == 1:
        raise _malformed("the boundary never comes")
    while True:
        ended, begins = _line(body, at + len(dashes))
        if begins < 0:  # the boundary's letters inside of content
            at = _next(body, dashes, at + len(dashes))
            continue
        if start >= 0:
            found.append(_split(body, start, at - 2))
        if ended:
            return found
        if len(found) > MOST_PARTS:
            raise _malformed(f"more than {MOST_PARTS} parts")
        start = begins
        at = _next(body, dashes, begins - 2)


def _next(body: bytes, dashes: bytes, begin: int) -> int:
    at = body.find(b"\r\n" + dashes, begin)
    if at < 0:
        raise _malformed("it does not end with its boundary")
    return at + 2


def _line(body: bytes, at: int) -> tuple[bool, int]:
    """After a boundary: whether it is the last one, and where the next part begins (-1: no boundary at all)."""
    if body.startswith(b"--", at):
        return True, at + 2
    while body[at : at + 1] and body[at] in _AFTER:
        at += 1
    return False, at + 2 if body.startswith(b"\r\n", at) else -1


def _split(body: bytes, start: int, end: int) -> tuple[bytes, bytes]:
    if body.startswith(b"\r\n", start):
        raise _malformed("a part without headers")
    blank = body.find(b"\r\n\r\n", start, min(end + 4, start + HEAD_BYTES))
    if blank < 0:
        raise _malformed(f"a part whose headers do not end within {HEAD_BYTES} bytes")
    return body[start:blank], body[blank + 4 : max(end, blank + 4)]


def _field(head: bytes, data: bytes) -> tuple[str, FormField]:
    headers: dict[str, str] = {}
    for line in head.decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if not colon or name != name.strip():
            raise _malformed("a header that is none")
        headers[name.lower()] = value.strip()
    kind, params = _value_and_params(headers.get("content-disposition", ""))
    if kind != "form-data" or not params.get("name"):
        raise _malformed("a part without a name")
    if headers.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
        raise _malformed("a part with a transfer encoding, which RFC 7578 forbids")
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    return params["name"], FormField(data, media_type, params.get("filename"))


def _value_and_params(text: str) -> tuple[str, dict[str, str]]:
    value, _, _ = text.partition(";")
    params: dict[str, str] = {}
    for match in _PARAM.finditer(text, len(value)):
        quoted = match[2]
        content = re.sub(r'\\(["\\])', r"\1", quoted) if quoted is not None else match[3]
        params.setdefault(match[1].lower(), content)
    return value.strip().lower(), params


def _malformed(what: str) -> InputError:
    return InputError(f"a form that is malformed: {what}", help="send multipart/form-data", code="E286")
