"""How one row travels: the HTTP request of each encoding, and the answer read back."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from bench.serve.models import INPUT, OUTPUT

HEAD_LENGTH = "Inference-Header-Content-Length"  # bytes of JSON before the binary tensors


class WrongAnswer(Exception):
    """The server answered something else than the bare engine."""


@dataclass(frozen=True)
class Request:
    """A request that is sent again and again, prepared once."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    def bytes(self, host: str = "127.0.0.1") -> bytes:
        lines = [f"POST {self.path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + self.body

    def lua(self, body_file: Path) -> str:
        """The script that makes wrk send this request and print its figures as JSON."""
        headers = "".join(
            f"wrk.headers[{json.dumps(n)}] = {json.dumps(v)}\n" for n, v in self.headers.items()
        )
        return (
            f'wrk.method = "POST"\n{headers}'
            f'local file = io.open({json.dumps(str(body_file))}, "rb")\n'
            'wrk.body = file:read("*a")\nfile:close()\n' + _LUA_DONE
        )


_LUA_DONE = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nRESULT {"count": %d, "elapsed_s": %.6f, "errors": %d, "p50_ms": %.4f, "p90_ms": %.4f, ' ..
    '"p95_ms": %.4f, "p99_ms": %.4f, "max_ms": %.4f}\\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(90) / 1e3, latency:percentile(95) / 1e3,
    latency:percentile(99) / 1e3, latency.max / 1e3))
end
"""


def request(io: str, path: str, row: np.ndarray[Any, Any]) -> Request:
    """`row` as this encoding writes it; io is one of raw, list, oip-json, oip-binary."""
    json_type = {"Content-Type": "application/json"}
    if io == "raw":
        return Request(path, row.tobytes(), {"Content-Type": "application/octet-stream"})
    if io == "list":
        return Request(path, json.dumps({"row": row.tolist()}).encode(), json_type)
    tensor = {"name": INPUT, "shape": list(row.shape), "datatype": "FP32"}
    if io == "oip-json":
        return Request(
            path, json.dumps({"inputs": [{**tensor, "data": row.ravel().tolist()}]}).encode(), json_type
        )
    if io == "oip-binary":
        tensor["parameters"] = {"binary_data_size": row.nbytes}
        outputs = [{"name": OUTPUT, "parameters": {"binary_data": True}}]
        head = json.dumps({"inputs": [tensor], "outputs": outputs}, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/octet-stream", HEAD_LENGTH: str(len(head))}
        return Request(path, head + row.tobytes(), headers)
    raise ValueError(f"io is {io!r}, expected raw, list, oip-json or oip-binary")


def answer(io: str, headers: dict[str, str], body: bytes) -> np.ndarray[Any, Any]:
    """The float32 values of an answer, flat; header names in lower case."""
    if io == "raw":
        return np.frombuffer(body, np.float32)
    if io == "list":
        return np.asarray(json.loads(body), np.float32).ravel()
    head_size = int(headers.get(HEAD_LENGTH.lower(), 0))
    head = json.loads(body[:head_size] if head_size else body)
    output = head["outputs"][0]
    if head_size:
        return np.frombuffer(body[head_size:], np.float32)
    return np.asarray(output["data"], np.float32).ravel()


def check(io: str, status: int, headers: dict[str, str], body: bytes, wanted: np.ndarray[Any, Any]) -> None:
    """Raises WrongAnswer unless this is the answer of the bare engine (other batch sizes round differently)."""
    if status != 200:
        raise WrongAnswer(f"status {status}: {body[:200].decode(errors='replace')}")
    try:
        got = answer(io, headers, body)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise WrongAnswer(f"unreadable answer of {len(body)} bytes: {error}") from error
    if got.shape != wanted.ravel().shape or not np.allclose(got, wanted.ravel(), rtol=1e-3, atol=1e-4):
        raise WrongAnswer(f"answered {got[:3]}…, expected {wanted.ravel()[:3]}…")
