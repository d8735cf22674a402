"""What fits the description of the Open Inference Protocol, and what does not: no 5xx, replies as described."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serve.kit_oip import double, shout, words
from serve.kit_onnx import linear
from serve.kit_schemathesis import PROMISES, Server, operations, try_out
from tauten.serve.service import Service
from tauten.serve.tensor_model import tensor_model

EXAMPLES = 6  # of each operation and mode; the shapes of tensors are tried elsewhere


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    flows = [Service(each) for each in (shout, words, double)]
    started = Server(tensor_model(linear(folder), threads=1), *flows)
    yield started
    started.close()


def test_every_operation_keeps_its_promises(server: Server) -> None:
    ours = [each for each in operations(server) if each[1].startswith("/v2")]
    assert len(ours) > 15
    for method, path in ours:
        try_out(server, method, path, PROMISES, EXAMPLES)
