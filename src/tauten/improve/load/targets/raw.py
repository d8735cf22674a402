"""Any URL that takes a POST: one input as the body, as it is."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping

from tauten.describe.payload import Payload
from tauten.errors import InputError
from tauten.improve.load.http import Heard, HttpClient, Prepared
from tauten.improve.load.http_target import HttpTarget


class RawTarget(HttpTarget):
    """The peers of a benchmark, and whatever speaks no protocol by name."""

    def __init__(self, client: HttpClient) -> None:
        super().__init__(client, client.url)

    def prepare(self, inputs: Mapping[str, Payload]) -> Prepared:
        if len(inputs) != 1:
            raise InputError(
                f"{len(inputs)} inputs for one body",
                help="give one: body=@FILE, body=TEXT or body=JSON",
                code="E205",
            )
        (value,) = inputs.values()
        return Prepared(value.data, {"content-type": value.type})

    @staticmethod
    def hear(event: str, data: bytes) -> Heard:
        """Each event of a stream is an increment."""
        return Heard(increment=bool(data) and data != b"[DONE]")
