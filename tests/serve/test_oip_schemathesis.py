"""What fits the description of the Open Inference Protocol, and what does not: no 5xx, replies as described."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis

from serve.kit_oip import double, shout, words
from serve.kit_onnx import linear
from serve.test_schemathesis import Server, operations, try_out
from tauten.serve.app import App, Site
from tauten.serve.service import Service
from tauten.serve.tensor_model import tensor_model

CHECKED = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
]
EXAMPLES = 6  # of each operation and mode; the shapes of tensors are tried elsewhere


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")

    class Models(Server):
        async def _open(self) -> App:
            flows = [Service(each) for each in (shout, words, double)]
            app = App(Site([tensor_model(linear(folder), threads=1), *flows]))
            await app.site.services.open()
            return app

    started = Models()
    yield started
    started.close()


def test_every_operation_keeps_its_promises(server: Any) -> None:
    ours = [each for each in operations(server) if each[1].startswith("/v2")]
    assert len(ours) > 15
    modes = schemathesis.GenerationMode
    for method, path in ours:
        for mode in (modes.POSITIVE, modes.NEGATIVE) if method == "POST" else (modes.POSITIVE,):
            try_out(server, method, path, mode, CHECKED, EXAMPLES)
