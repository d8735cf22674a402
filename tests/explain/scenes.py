"""Hand-made traces that the tests of the screens read: in turn, in parallel, streaming."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from tauten.describe.slo import Slo
from tauten.explain.account import Account, Estimate, Header, account
from tauten.explain.figures import slo_table
from tauten.run.trace import VISIT, Trace


def make(rows: list[tuple[str, str, float, float]], end: float) -> Trace:
    """Rows in milliseconds; the trace starts at 100 s."""
    trace = Trace(100.0)
    trace.end = 100.0 + end / 1e3
    for step, cause, start, stop in rows:
        trace.add(step, cause, 100.0 + start / 1e3, 100.0 + stop / 1e3)
    return trace


def sequential() -> Trace:
    """The help desk with one stage after another."""
    trace = make(
        [
            ("", "admission", 0, 1.2),
            ("photo:pixels", VISIT, 1.2, 49),
            ("photo:pixels", "decode", 1.4, 49),
            ("transcribe", VISIT, 49.1, 461),
            ("transcribe", "decode", 49.1, 70),
            ("transcribe", "compute", 70, 452.8),
            ("transcribe", "loop", 452.8, 461),
            ("ocr", VISIT, 461.2, 729.4),
            ("ocr", "queue", 461.2, 470),
            ("ocr", "compute", 470, 729.4),
            ("classify", VISIT, 729.5, 760.6),
            ("classify", "compute", 730, 760.6),
            ("retrieve", VISIT, 760.7, 777.8),
            ("retrieve", "compute", 760.7, 771.9),
            ("retrieve", "lookup", 771.9, 777.8),
            ("merge", VISIT, 777.8, 778.4),
            ("merge", "user", 777.8, 778.4),
            ("generate", VISIT, 778.5, 1459.1),
            ("generate", "queue", 778.5, 874.9),
            ("generate", "prefill", 874.9, 1277),
            ("generate", "tokens", 1277, 1459.1),
        ],
        1462,
    )
    trace.edges = {
        "ocr": ("photo:pixels",),
        "classify": ("photo:pixels",),
        "retrieve": ("transcribe",),
        "merge": ("ocr", "classify"),
        "generate": ("merge", "retrieve"),
    }
    trace.outputs = ("generate",)
    trace.first_output = 101.284
    for unit, amount in (("input_tokens", 1012.0), ("output_tokens", 41.0), ("cents", 0.0)):
        trace.spend("generate", unit, amount)
    trace.spend("ocr", "core_seconds", 0.9)
    trace.spend("generate", "core_seconds", 1.4)
    return trace


def parallel() -> Trace:
    """The same beside each other: two branches have slack; one map of three members."""
    rows: list[tuple[str, str, float, float]] = [
        ("photo:pixels", VISIT, 0.2, 12),
        ("photo:pixels", "decode", 0.2, 12),
        ("transcribe", VISIT, 0.2, 150),
        ("transcribe", "compute", 0.4, 150),
        ("ocr", VISIT, 12, 92),
        ("ocr", "compute", 13, 92),
        ("retrieve", VISIT, 150.1, 162),
        ("retrieve", "compute", 150.1, 158),
        ("retrieve", "lookup", 158, 162),
        ("quote", VISIT, 162, 180),
        ("quote", "user", 162, 180),
    ]
    for i in range(3):
        rows += [(f"classify[{i}]", VISIT, 12, 40 + i), (f"classify[{i}]", "compute", 20, 40 + i)]
        rows.append((f"classify[{i}]", "batch_wait", 12, 20))
    trace = make(rows, 181)
    trace.edges = {
        "ocr": ("photo:pixels",),
        "classify": ("photo:pixels",),
        "retrieve": ("transcribe",),
        "quote": ("ocr", "classify", "retrieve"),
    }
    trace.outputs = ("quote",)
    return trace


def streaming() -> Trace:
    """A language model speaks: the voice waits for sentences while tokens are made."""
    rows: list[tuple[str, str, float, float]] = [
        ("ask", VISIT, 0, 20),
        ("ask", "compute", 0, 20),
        ("generate", VISIT, 20, 620),
        ("generate", "queue", 20, 30),
        ("generate", "prefill", 30, 200),
        ("speak", VISIT, 20, 860),
        ("speak", "assemble", 20, 320),
        ("speak", "compute", 320, 420),
        ("speak", "assemble", 420, 630),
        ("speak", "compute", 630, 800),
        ("speak", "client", 800, 860),
    ]
    rows += [("generate", "tokens", 200 + 42 * i, 242 + 42 * i) for i in range(10)]
    trace = make(rows, 861)
    trace.edges = {"generate": ("ask",), "speak": ("generate",)}
    trace.outputs = ("speak",)
    trace.first_output = 100.42
    return trace


def slo_header(plan: str = "naive@3f9a") -> Header:
    lines = slo_table(
        Slo(p95_ms=800, first_output_ms=400),
        {"wall_ms": {"p50": 1462, "p95": 2210}, "first_output_ms": {"p50": 1284, "p95": 1790}},
        correct=(52, 60),
        interval=(0.76, 0.93),
        need_correct=48,
    )
    return Header(
        workflow="help_desk",
        plan=plan,
        machine="2 cores, no GPU",
        requests=60,
        load="open loop 1.0/s",
        request="the median (#37)",
        slo=lines,
    )


ESTIMATES = {
    "transcribe": Estimate(390, 350, 430),
    "ocr": Estimate(100, 90, 120),
    "classify": Estimate(30, 28, 33),
    "retrieve": Estimate(16, 15, 18),
    "generate": Estimate(702, 640, 760),
    "photo:pixels": Estimate(45, 40, 50),
}


def sequential_account() -> Account:
    return account(sequential(), estimates=ESTIMATES, header=slo_header())


OF_A_MAP = {**ESTIMATES, "classify": Estimate(90, 84, 99)}  # three members together


def parallel_account() -> Account:
    return account(parallel(), estimates=OF_A_MAP, header=Header(workflow="help_desk", plan="tuned@91c0"))


def streaming_account() -> Account:
    return account(
        streaming(), header=Header(workflow="voice", plan="naive", graph="graph observed in 240 requests")
    )
