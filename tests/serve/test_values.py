"""Values across the network: forms that are malformed, tensors, unions, and what JSON can hold of a result."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tauten as tt
from tauten.describe.payload import Json
from tauten.errors import InputError
from tauten.serve.multipart import HEAD_BYTES, MOST_PARTS, is_form, read_form
from tauten.serve.native.values import FormField, Inputs, NotSendable, encode, medium_of

PNG = tt.Image.from_array(np.zeros((2, 3, 3), np.uint8)).data
WAV = tt.Audio.from_array(np.zeros(160, np.float32), 16000).data
TYPE = "multipart/form-data; boundary=b"


@dataclass
class Page:
    scan: tt.Image
    number: int = 0


@tt.stage(pure=True)
async def taken(value: Any) -> Any:
    return value


@tt.workflow
def anything(
    question: tt.Audio | tt.Text,
    pages: list[tt.Image] | None = None,
    page: Page | None = None,
    table: tt.Tensor | None = None,
    data: Json | None = None,
    names: dict[str, list[int]] | None = None,
    words: list[str] | None = None,
    counts: list[int] | None = None,
    raw: bytes | None = None,
    ratio: float = 0.5,
    flag: bool = False,
) -> Any:
    return taken(question)


READER = Inputs(anything)


def read(**values: Any) -> dict[str, Any]:
    return asyncio.run(READER.read({"question": "hm", **values}))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def refusal(work: Callable[[], Any]) -> str:
    """The code of the error that a piece of work ends with, if any."""
    try:
        work()
    except InputError as error:
        return error.code
    return ""


# -- values ---------------------------------------------------------------------------------------------------


def test_text_stays_text_and_media_are_told_apart_by_their_bytes(tmp_path: Any) -> None:
    file = tmp_path / "ask.wav"
    file.write_bytes(WAV)
    assert read(question=str(file))["question"] == tt.Text(str(file))  # not the file
    assert read(question={"data": b64(WAV)})["question"] == tt.Audio(WAV)
    assert read(question="data:audio/wav;base64," + b64(WAV))["question"] == tt.Audio(WAV)
    assert read(question=FormField(WAV, "audio/wav", "x.wav"))["question"] == tt.Audio(WAV)
    assert read(question=FormField(b"why?"))["question"] == tt.Text("why?")
    assert read(question=FormField(b"why?", "text/plain", "ask.txt"))["question"] == tt.Text("why?")


def test_lists_structures_tensors_and_plain_types() -> None:
    pictures = read(pages=[{"data": b64(PNG)}, "data:image/png;base64," + b64(PNG)])["pages"]
    assert pictures == [tt.Image(PNG)] * 2
    assert read(pages=FormField(PNG, "image/png", "a.png"))["pages"] == [tt.Image(PNG)]
    assert read(page={"scan": {"data": b64(PNG)}, "number": 2})["page"] == Page(tt.Image(PNG), 2)
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    raw = {"dtype": "float32", "shape": [2, 3], "data": b64(array.tobytes())}
    assert np.array_equal(read(table=raw)["table"].array, array)
    assert np.array_equal(read(table=[[0, 1], [2, 3]])["table"].array, [[0, 1], [2, 3]])
    assert np.array_equal(read(table=FormField(b"[1, 2]"))["table"].array, [1, 2])
    assert read(data={"any": [1, None]})["data"].value == {"any": [1, None]}
    assert read(data=FormField(b'{"a": 1}'))["data"].value == {"a": 1}
    assert read(names={"a": [1]})["names"] == {"a": [1]}
    assert read(names=FormField(b'{"a": [1]}'))["names"] == {"a": [1]}
    assert read(raw=b64(b"\0\1"))["raw"] == b"\0\1"
    assert read(raw=FormField(b"\0\1", filename="x"))["raw"] == b"\0\1"
    assert (read(ratio=FormField(b"0.25"))["ratio"], read(ratio=1)["ratio"]) == (0.25, 1.0)
    assert read(flag=FormField(b"true"))["flag"] is True


def test_fields_of_one_name_are_members_of_a_list_as_it_takes_them() -> None:
    def fields(*texts: str) -> Any:
        found = [FormField(each.encode()) for each in texts]
        return found[0] if len(found) == 1 else found

    def of(name: str, *texts: str) -> Any:
        return read(**{name: fields(*texts)})[name]

    assert of("words", "one") == ["one"], "a list of one is a list"
    assert of("words", "2024", "true", "null", '"q"') == ["2024", "true", "null", '"q"'], "words, not JSON"
    assert of("words", '["a", "b"]') == ["a", "b"]
    assert of("words", "[draft]") == ["[draft]"]
    assert of("counts", "1", "2") == of("counts", "[1, 2]") == [1, 2]
    assert of("counts", "7") == [7]
    with pytest.raises(InputError, match="counts"):
        of("counts", "1", "two")


@pytest.mark.parametrize(
    "values",
    [
        {"data": FormField(b"[" * 100_000)},
        {"names": FormField(b'{"a":' * 10_000 + b"1" + b"}" * 10_000)},
        {"words": FormField(b"[" * 65 + b"]" * 65)},
        {"counts": [FormField(b"1"), FormField(b"[" * 100_000)]},
    ],
)
def test_json_in_a_form_is_as_flat_as_a_body(values: dict[str, Any]) -> None:
    assert refusal(lambda: read(**values)) == "E268"


@pytest.mark.parametrize(
    "values",
    [
        {"pages": {"data": b64(PNG)}},
        {"pages": [{"data": b64(PNG)}, "no picture"]},
        {"pages": [b64(PNG)]},
        {"page": {"scan": "/etc/passwd"}},
        {"page": {"scan": {"data": b64(PNG)}, "number": "2"}},
        {"table": [[1, 2], [3]]},
        {"table": ["a"]},
        {"table": {"dtype": "float32", "shape": [3], "data": b64(b"123")}},
        {"table": {"dtype": "object", "shape": [1], "data": b64(b"12345678")}},
        {"table": {"dtype": "V8", "shape": [1], "data": b64(b"12345678")}},
        {"table": {"dtype": "nonsense", "shape": [1], "data": b64(b"1")}},
        {"table": {"dtype": "int8", "shape": [10**12], "data": b64(b"1")}},
        {"table": {"dtype": "int8", "shape": "1", "data": 3}},
        {"table": [10**30]},
        {"names": {"a": [1.5]}},
        {"raw": "not base64"},
        {"ratio": "0.5"},
        {"ratio": FormField(b"half")},
        {"ratio": [FormField(b"1"), FormField(b"2")]},
        {"flag": 1},
        {"question": {"data": b64(PNG)}},
        {"question": {"text": "x"}},
        {"question": FormField(b"\xff\xfe")},
    ],
)
def test_what_does_not_fit_is_an_input_error(values: dict[str, Any]) -> None:
    with pytest.raises(InputError) as raised:
        read(**values)
    assert next(iter(values)) in raised.value.message
    assert raised.value.help


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "type", "url", "dtype", "shape", "scan", "x"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(anything.inputs)), json_values, max_size=3))
def test_no_json_breaks_the_reader(values: dict[str, Any]) -> None:
    assert refusal(lambda: asyncio.run(READER.read(values))) in (
        "",
        "E205",
        "E281",
        "E280",
        "E211",
        "E213",
    )


# -- results --------------------------------------------------------------------------------------------------


def test_results_of_every_kind_become_json() -> None:
    class Item(msgspec.Struct):
        name: str
        photo: tt.Image

    value = {
        "text": tt.Text("é"),
        "json": Json({"a": 1}),
        "tensor": tt.Tensor(np.array([[1.5, 2]], np.float32)),
        "scalar": np.float32(0.5),
        "item": Item("a", tt.Image(PNG)),
        "page": Page(tt.Image(PNG)),
        "tuple": (1, None),
        "bytes": b"ab",
    }
    picture = {"type": "image/png", "data": b64(PNG)}
    assert json.loads(encode(value)) == {
        "text": "é",
        "json": {"a": 1},
        "tensor": [[1.5, 2.0]],
        "scalar": 0.5,
        "item": {"name": "a", "photo": picture},
        "page": {"scan": picture, "number": 0},
        "tuple": [1, None],
        "bytes": "YWI=",
    }
    for bad in (object(), {object(): 3}):
        with pytest.raises(NotSendable):
            encode(bad)


def test_bytes_go_only_to_who_prefers_them() -> None:
    picture = tt.Image(PNG)
    assert medium_of(picture, "image/webp, image/*") is picture
    assert medium_of(picture, "application/json, image/*") is None
    assert medium_of([picture], "image/*") is None
    assert medium_of(picture, "") is None


# -- forms ----------------------------------------------------------------------------------------------------


def part(head: str, data: bytes = b"x") -> bytes:
    return b"--b\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n"


NAMED = 'Content-Disposition: form-data; name="{}"'.format


def test_a_form_is_read_as_it_was_sent() -> None:
    body = (
        b"preamble\r\n"
        + part(NAMED("a"), b"\r\n--c\r\n--bb\r\n --b--\r\n")
        + part(
            'content-disposition: form-data; name="q\\"x"; filename="C:\\\\dir\\\\f.txt"\r\nContent-Type: text/plain; charset=utf-8',
            b"",
        )
        + b"--b \t\r\n"
        + NAMED("a").encode()
        + b"\r\n\r\n2\r\n"
        + b"--b--\r\nepilogue"
    )
    fields = read_form(TYPE, body)
    assert [field.data for field in fields["a"]] == [b"\r\n--c\r\n--bb\r\n --b--\r\n", b"2"]
    assert fields['q"x'] == [FormField(b"", "text/plain", "C:\\dir\\f.txt")]
    assert read_form('multipart/form-data; boundary="b"', b"--b--\r\n") == {}
    assert read_form("application/x-www-form-urlencoded", b"a=1&a=%C3%A9") == {
        "a": [FormField(b"1"), FormField("é".encode())]
    }
    assert is_form("Multipart/Form-Data; boundary=b")
    assert not is_form("application/json")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--b--"),
        ("multipart/form-data; boundary=", b"--b--"),
        ("multipart/form-data; boundary=" + "x" * 71, b""),
        ("multipart/form-data; boundary=ä", b""),
        (TYPE, b""),
        (TYPE, b"nothing"),
        (TYPE, b"--b"),
        (TYPE, b"--b\r\n"),
        (TYPE, b"--b\r\n\r\nx\r\n--b--"),
        (TYPE, part(NAMED("a"))),
        (TYPE, part(NAMED("a")) + b"--b"),
        (TYPE, part("Content-Disposition: form-data") + b"--b--"),
        (TYPE, part('Content-Disposition: attachment; name="a"') + b"--b--"),
        (TYPE, part("no colon") + b"--b--"),
        (TYPE, part(NAMED("a") + "\r\nContent-Transfer-Encoding: base64") + b"--b--"),
        (TYPE, part(NAMED("a") + "\r\nX: " + "y" * HEAD_BYTES) + b"--b--"),
        (TYPE, part(NAMED("a")) * (MOST_PARTS + 1) + b"--b--"),
        ("application/x-www-form-urlencoded", b"a=" + b"&a=" * MOST_PARTS),
        ("application/x-www-form-urlencoded", b"\xff=1"),
        ("application/x-www-form-urlencoded", b"a=%ff"),
    ],
)
def test_a_malformed_form_is_refused(content_type: str, body: bytes) -> None:
    with pytest.raises(InputError) as raised:
        read_form(content_type, body)
    assert raised.value.code == "E286"


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"--b", b"\r\n", b"--", b"a", b"\r", NAMED("a").encode(), b"--b--", b" ", b":"]),
        max_size=25,
    )
)
def test_no_form_breaks_the_parser(pieces: list[bytes]) -> None:
    assert refusal(lambda: read_form(TYPE, b"".join(pieces))) in ("", "E286")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.binary(max_size=200)), max_size=5))
def test_what_was_sent_comes_out(parts: list[tuple[str, bytes]]) -> None:
    boundary = "=_0123456789abcdef"
    parts = [(name, data) for name, data in parts if boundary.encode() not in data]
    body = b"".join(
        f"--{boundary}\r\n{NAMED(name)}; filename=f\r\n\r\n".encode() + data + b"\r\n" for name, data in parts
    )
    fields = read_form(f"multipart/form-data; boundary={boundary}", body + f"--{boundary}--".encode())
    for name in "abc":
        sent = [data for each, data in parts if each == name]
        assert [field.data for field in fields.get(name, [])] == sent
