"""The screen of a bench: plain UTF-8 text of at most 96 columns, readable without colour."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Final

from tauten.explain.figures import figure, signed
from tauten.explain.lines import wrapped
from tauten.improve.load.figures import QUANTILES, Part, Quantile, Times
from tauten.improve.load.plot import text_curve
from tauten.improve.load.result import Bench, Comparison, Run
from tauten.improve.load.search import Found

WIDTH: Final = 96
STARVED: Final = 0.02  # of the run without a core: above it the tail is the machine's
CLOSED: Final = "closed loop: not a latency claim (each client waits for its answer, so a stall hides itself)"


def to_text(bench: Bench) -> str:
    """The whole screen."""
    parts = [_header(bench)]
    if bench.search is not None:
        parts.append(_search(bench.search))
    if len({run.rate_per_s for run in bench.runs}) > 1:
        parts += [_curve_table(bench), _curve(bench)]
    else:
        parts += [_run(run, bench) for run in bench.runs]
    parts += [_comparison(bench), _verdict(bench)]
    return "\n\n".join(wrapped(part, WIDTH) for part in parts if part) + "\n"


def _header(bench: Bench) -> str:
    load = bench.load
    if load.clients:
        what = f"closed loop, {load.clients} client{'s' if load.clients != 1 else ''}"
    else:
        what = f"open loop, {load.arrivals}, seed {load.seed}"
    line = " " + "   ".join(filter(None, (bench.target, bench.api, what)))
    together = f"{line}   {bench.machine}"
    return together if len(together) <= WIDTH else f"{line}\n {bench.machine}"


def _run(run: Run, bench: Bench) -> str:
    title = f" plan {run.plan}" if bench.api == "workflow" else f" {run.plan}"
    rounds = f", {run.rounds} rounds" if run.rounds > 1 else ""
    title += f"   {figure(run.rate_per_s)}/s for {figure(run.window_s)} s{rounds}"
    lines = [title, _requests(run), *_errors(run), "", *_times(run)]
    if run.clients:
        lines.append(f"   {CLOSED}")
    lines += [*_parts(run), *_goodput(run, bench), "", *_conditions(run)]
    return "\n".join(lines)


def _requests(run: Run) -> str:
    counts, warm = run.requests, run.warm_up
    shown = [f"{counts.sent} sent", f"{counts.ok} ok"]
    shown += [
        f"{value} {name}"
        for name, value in (
            ("failed", counts.failed),
            ("refused", counts.refused),
            ("timed out", counts.timed_out),
            ("lost", counts.lost),
        )
        if value
    ]
    if counts.zombies:
        shown.append(f"{counts.zombies} still running")
    before = f"   warm-up left out: {warm.n}"
    if warm.max_ms is not None and warm.p50_ms is not None:
        before += f" (p50 {figure(warm.p50_ms)}, max {figure(warm.max_ms)} ms)"
    return f"   requests   {'   '.join(shown)}\n{before}"


def _errors(run: Run) -> list[str]:
    return [f"   {count:>6} x {text}"[:WIDTH] for text, count in list(run.errors.items())[:3]]


def _times(run: Run) -> list[str]:
    """One row a percentile, one column a time; its 95 % interval, or how many requests it needs."""
    tables = {
        "answer complete": run.latency,
        "first output": run.first_output,
        "gap": run.gap,
        "from send": run.service,
    }
    there = {name: table for name, table in tables.items() if table is not None}
    if not there:
        return ["   no request was measured"]
    wide = 21 if len(there) > 3 else 22  # four columns of 22 would pass the edge
    lines = [f"   {'ms':<6}" + "".join(f"{name:>{wide}}" for name in there)]
    for q in QUANTILES:
        cells = "".join(f"{_cell(table.at(q)):>{wide}}" for table in there.values())
        lines.append(f"   {f'p{q * 100:g}':<6}{cells}")
    lines.append(f"   {'max':<6}" + "".join(f"{_max(table):>{wide}}" for table in there.values()))
    return lines


def _cell(at: Quantile) -> str:
    if at.ms is None:
        return "failed"
    if not at.enough:
        return f"{figure(at.ms)} (n < {at.needs})"
    high = "failed" if at.high_ms is None else figure(at.high_ms)
    return f"{figure(at.ms)} ({figure(at.low_ms or 0.0)}-{high})"


def _max(table: Times) -> str:
    return "failed" if table.max_ms is None else figure(table.max_ms)


def _parts(run: Run) -> list[str]:
    if not run.parts:
        return []
    lines = ["", f"   {'SLO':<32} {'missed':>14} {'allowed':>9}   (99 % confidence)"]
    lines += [_part(part) for part in run.parts]
    return lines


def _part(part: Part) -> str:
    name = ", ".join(f"{_LIMITS[limit]} {value:g} ms" for limit, value in part.limits.items())
    allowed = str(part.allowed) if part.allowed >= 0 else "-"
    verdict = {"met": "met", "missed": "MISSED", "cannot conclude": "cannot conclude"}[part.proof]
    if part.needed is not None:
        verdict += f", n >= {part.needed}"
    return (
        f"   {f'p{part.q * 100:g}: {name}':<32} {f'{part.misses} of {part.n}':>14} {allowed:>9}   {verdict}"
    )


_LIMITS: Final = {
    "p50_ms": "complete",
    "p95_ms": "complete",
    "p99_ms": "complete",
    "first_output_ms": "first",
}


def _goodput(run: Run, bench: Bench) -> list[str]:
    rate = f"{figure(run.answered_per_s)}/s answered"
    tokens = f"   {figure(run.tokens_per_s)} tokens/s" if run.tokens_per_s else ""
    good = ""
    if run.parts:
        good = f"   {figure(run.goodput.per_s)}/s within the SLO ({run.goodput.share:.1%} of what was due)"
    lines = ["", f"   {rate}{good}{tokens}"]
    if bench.not_judged:
        lines.append(f"   not judged here: {', '.join(bench.not_judged)}")
    return lines


def _conditions(run: Run) -> list[str]:
    """What the figures rest on: lag, steadiness, independence, CPU, memory."""
    lines = [] if run.lag is None else [_lag(run)]
    state = run.steady
    if state.saturated:
        lines.append(
            f"   SATURATED: {figure(state.in_flight)} in flight and growing; latencies grow with the run"
        )
    elif state.tested:
        lines.append(f"   steady: {figure(state.in_flight)} in flight, no growth over the run")
    elif not run.clients:
        lines.append("   steady state not tested: too few requests, several rounds, or uneven arrivals")
    if run.requests.sent:
        worth = f"   neighbours are alike: worth about {run.independent:.0f} independent requests"
        same = f"; {run.distinct_inputs} different inputs" if run.distinct_inputs < run.requests.sent else ""
        lines.append(worth + same)
    return lines + _costs(run)


def _lag(run: Run) -> str:
    lag = run.lag
    assert lag is not None  # an open loop has one
    shown = f"   send lag p99 {lag.p99_ms:.2f} ms, max {lag.max_ms:.2f} ms"
    if lag.shared_loop:
        return f"{shown} (the target's own loop; counted in its latency)"
    return shown if lag.limit_ms is None else f"{shown} (void above {lag.limit_ms:.2f})"


def _costs(run: Run) -> list[str]:
    costs = run.costs
    cores = (
        ("generator", costs.generator_cores),
        ("target", costs.target_cores),
        ("others", costs.other_cores),
    )
    known = [f"{name} {value:.2f}" for name, value in cores if value is not None]
    lines = [f"   cores: {', '.join(known)}"] if known else []
    if lines and costs.starved is not None and costs.starved > STARVED:
        lines[0] += f"; the loop waited for a core {costs.starved:.0%} of the time: this machine is too busy"
    if (memory := costs.memory) is not None:
        shown = f"   memory {memory.start_mb:.0f} -> {memory.end_mb:.0f} MB, peak {memory.peak_mb:.0f}"
        if memory.slope_mb_per_min is not None:
            trend = "grows" if memory.grows else "no significant growth"
            shown += f", {memory.slope_mb_per_min:+.1f} MB/min ({trend})"
        lines.append(shown)
    return lines


# -- several rates, two plans, a search ----------------------------------------------------------------------


def _curve_table(bench: Bench) -> str:
    lines = [f"   {'plan':<14}{'rate/s':>9}{'p50':>10}{'p95':>10}{'p99':>10}{'within SLO':>12}   verdict"]
    for run in bench.runs:
        cells = "".join(f"{_bare(run, q):>10}" for q in (0.5, 0.95, 0.99))
        share = f"{run.goodput.share:.1%}" if run.parts else "-"
        verdict = "SATURATED" if run.steady.saturated else run.answer
        lines.append(f"   {run.plan[:13]:<14}{figure(run.rate_per_s):>9}{cells}{share:>12}   {verdict}")
    return "\n".join(lines)


def _bare(run: Run, q: float) -> str:
    at = run.latency.at(q) if run.latency else None
    return "-" if at is None else "failed" if at.ms is None else figure(at.ms)


def _curve(bench: Bench) -> str:
    limit = bench.slo.p95_ms or bench.slo.p99_ms or bench.slo.p50_ms
    plans = dict.fromkeys(run.plan for run in bench.runs)
    drawn = []
    for plan in plans:
        curve = text_curve([run for run in bench.runs if run.plan == plan], limit)
        drawn.append(f"   {plan}\n{curve}" if curve and len(plans) > 1 else curve)
    return "\n\n".join(filter(None, drawn))


def _comparison(bench: Bench) -> str:
    if not bench.comparison:
        return ""
    names = [run.plan for run in bench.runs][:2]
    rounds = bench.runs[0].rounds
    head = f" {names[1]} against {names[0]}, same schedules, {rounds} rounds (95 % interval over rounds)"
    return "\n".join([head, *map(_difference, bench.comparison)])


def _difference(each: Comparison) -> str:
    sides = [("failed" if value is None else figure(value)) for value in (each.a_ms, each.b_ms)]
    shown = f"   p{each.q * 100:g}   {sides[0]} -> {sides[1]} ms"
    if each.diff_ms is None or each.low_ms is None or each.high_ms is None:
        return f"{shown}   no interval: fewer than 3 rounds, or failures"
    word = "" if each.significant else "   not significant"
    return f"{shown}   {signed(each.diff_ms)} ({signed(each.low_ms)} to {signed(each.high_ms)}){word}"


def _search(found: Found) -> str:
    lines = [f"   {'rate/s':>9}{'n':>7}{'missed':>8}{'p50':>10}{'p95':>10}{'p99':>10}   verdict"]
    for trial in found.trials:
        cells = "".join(
            f"{'-' if value is None else figure(value):>10}"
            for value in (trial.p50_ms, trial.p95_ms, trial.p99_ms)
        )
        early = ", stopped early" if trial.stopped_early else ""
        lines.append(
            f"   {figure(trial.rate_per_s):>9}{trial.n:>7}{trial.misses:>8}{cells}   {trial.answer}{early}"
        )
    return "\n".join(lines)


def _verdict(bench: Bench) -> str:
    word = {"missed": "MISSED", "void": "VOID", "failed": "FAILED"}.get(bench.answer, bench.answer)
    return "\n".join([f" {word}", *(f"   {why}" for why in bench.why)])
