"""The screen of `tauten bench --stages`: a table for each model, plain text of at most 96 columns."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator

from tauten.explain.figures import figure
from tauten.explain.lines import wrapped
from tauten.improve.measuring.report import StageLoad, StageModel, StageRow, Stages
from tauten.plan.peaks import Peaks

WIDTH = 96


def to_text(stages: Stages) -> str:
    """The whole screen."""
    requests = f"{stages.requests} request{'s' if stages.requests != 1 else ''} overheard"
    parts = ["\n".join([f" {stages.workflow}   plan {stages.plan}   {requests}", f" {stages.machine}"])]
    if stages.peaks is not None:
        parts.append("\n".join(_peaks(stages.peaks)))
    parts += ["\n".join(_model(each)) for each in stages.models]
    if stages.unheard:
        parts.append(f" no request came to {', '.join(stages.unheard)}: not measured")
    return "\n\n".join(wrapped(part, WIDTH) for part in parts) + "\n"


def _peaks(peaks: Peaks) -> Iterator[str]:
    """At most so fast, with all cores."""
    rates = {row.precision: peaks.matrix_rate(row.precision) for row in peaks.matrix}
    products = [f"{name} {figure(rate / 1e9)}" for name, rate in rates.items() if rate]
    if products:
        yield f" at most   {'   '.join(products)} Gflop/s"
    copies = [(level, peaks.copy_rate(level)) for level in ("memory", "cache")]
    told = [f"{level} {figure(rate / 1e9)}" for level, rate in copies if rate]
    if told:
        yield f"           {'   '.join(told)} GB/s"


def _model(model: StageModel) -> Iterator[str]:
    name = f"{model.model}:{model.variant}" if model.variant else model.model
    how = " ".join(filter(None, (model.engine, model.precision)))
    items = f"{model.items} item{'s' if model.items != 1 else ''}"
    yield f" {name}   {how}   {', '.join(model.used_by)}   {items}"
    yield from (f"   {_load(each)}" for each in model.loads)
    if model.rows:
        streams = any(row.tokens_out_s for row in model.rows)
        yield f"   threads  batch     size         ms  95 % interval     n    memory{_STREAM_HEAD if streams else ''}"
        yield from (f"   {_row(row, streams=streams)}" for row in model.rows)
    yield from (f"   {note}" for note in model.notes)


_STREAM_HEAD = "  first ms  tokens/s in, out"


def _load(load: StageLoad) -> str:
    threads = _threads(load.threads)
    if load.reason:
        return f"{threads}: does not open: {load.reason}"
    told = [f"loads in {figure(load.load_ms)} ms"] if load.load_ms is not None else []
    told += [f"holds {_megabytes(load.memory_bytes)}"] if load.memory_bytes is not None else []
    return f"{threads}: {', '.join(told)}"


def _threads(count: int) -> str:
    return "default threads" if not count else f"{count} thread{'s' if count != 1 else ''}"


def _row(row: StageRow, *, streams: bool) -> str:
    where = f"{row.threads or '-':>7}  {row.batch:>5}  {row.size or '-':>7}"
    if row.mid_ms is None:
        return f"{where}  {row.reason or 'not run'}"
    between = "-"
    if row.low_ms is not None and row.high_ms is not None:
        between = f"{figure(row.low_ms)}-{figure(row.high_ms)}"
    memory = _megabytes(row.memory_bytes) if row.memory_bytes is not None else "-"
    text = f"{where}  {figure(row.mid_ms):>9}  {between:<15}{row.n:>4}  {memory:>8}"
    if streams:
        rates = [figure(rate) if rate else "-" for rate in (row.tokens_in_s, row.tokens_out_s)]
        text += f"  {figure(row.first_ms) if row.first_ms is not None else '-':>8}  {', '.join(rates)}"
    return f"{text}  {row.reason}".rstrip()


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{figure(size / 1e6)} MB"
