"""What this machine took: core-seconds of engines, energy where it can be read, and steps of the workflow."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tauten as tt
from kit.virtual import virtual
from tauten.describe.stage import Context, Role
from tauten.run.deploy.core_share import CoreShare
from tauten.run.engine import Engine
from tauten.run.usage.energy import Meter
from tauten.run.usage.entry import Entry, Lines, no_models
from tauten.run.usage.payer import NOBODY
from usage.kit_usage import prices, quiet, rows


def share(*used: float) -> CoreShare:
    """Of an engine whose process has used so much at each look."""
    looks = iter(used)
    return CoreShare(lambda: 7, lambda _: next(looks))


def test_streams_divide_what_their_engine_used_while_they_were_in_it() -> None:
    shares = share(10.0, 11.0, 14.0, 16.0)
    first = shares.enter()  # 10
    second = shares.enter()  # 11: one second for the first alone
    assert shares.leave(second) == pytest.approx(1.5)  # 14: three for both
    assert shares.leave(first) == pytest.approx(1.0 + 1.5 + 2.0)


def test_what_an_idle_engine_used_is_nobody_s() -> None:
    shares = share(1.0, 2.0, 50.0, 51.0)
    assert shares.leave(shares.enter()) == pytest.approx(1.0)
    assert shares.leave(shares.enter()) == pytest.approx(1.0)


def test_a_process_that_was_replaced_is_counted_anew() -> None:
    pids, used = iter([7, 8, 8]), iter([100.0, 0.5, 1.0])
    shares = CoreShare(lambda: next(pids), lambda _: next(used))
    first = shares.enter()
    second = shares.enter()
    assert shares.leave(second) == pytest.approx(0.25)
    assert shares._each - first == pytest.approx(0.25)


@pytest.mark.parametrize("shares", [CoreShare(lambda: None), CoreShare(lambda: 7, lambda _: None)])
def test_an_engine_without_a_process_says_nothing(shares: CoreShare) -> None:
    assert shares.leave(shares.enter()) == 0.0


def zone(folder: Path, name: str, microjoules: int) -> Path:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "energy_uj").write_text(f"{microjoules}\n")
    (folder / name / "max_energy_range_uj").write_text("1000000000\n")
    return folder / name / "energy_uj"


def test_energy_is_what_the_packages_drew_by_core_second(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0:0", 5)  # a part of the first
    first, second = zone(tmp_path, "intel-rapl:0", 999_000_000), zone(tmp_path, "intel-rapl:1", 0)
    busy = iter([100.0, 104.0, 104.01])
    meter = Meter(tmp_path, lambda: next(busy))
    assert meter.readable
    assert meter.joules(1.0) is None  # not looked at twice yet
    first.write_text("11000000")  # over its range: 12 J
    second.write_text("8000000")
    meter.look()
    assert meter.joules(2.0) == pytest.approx(2.0 * 20.0 / 4.0)
    second.write_text("9000000")
    meter.look()  # hardly anything worked: the rate stays
    assert meter.joules(1.0) == pytest.approx(5.0)


def test_where_energy_cannot_be_read_nothing_is_said(tmp_path: Path) -> None:
    meter = Meter(tmp_path / "none", lambda: 1.0)
    meter.look()
    assert not meter.readable
    assert meter.joules(1.0) is None


ROLES = {"model": Role("told", ("synthetic",), options={"ms_per_batch": 1000.0})}


@tt.stage(pure=True, roles=ROLES)
async def compute(ctx: Context, q: str) -> str:
    return str(await ctx.infer("model", q))


@tt.workflow
def computing(q: str) -> str:
    return compute(q)  # type: ignore[call-arg,arg-type]


def test_a_step_of_a_model_is_booked_by_its_share_of_the_replica_and_its_threads(tmp_path: Path) -> None:
    book = quiet(tmp_path)

    async def body(engine: Engine) -> None:
        engine.door.book = book
        await engine.open(computing)
        await engine.run(computing.bind("a"))

    virtual(body)
    [line] = rows(book)
    assert (line.provider, line.model, line.step, line.counted) == ("local", "told", "compute", "estimate")
    assert line.units["core_seconds"] == pytest.approx(book._lines._cores * 1.0)
    assert line.nano == pytest.approx(line.units["core_seconds"] * 10_000, abs=1)
    assert line.seconds == pytest.approx(1.0)


def made(tmp_path: Path, *spent: Any, **about: Any) -> list[Any]:
    told: dict[str, Any] = {"calls": (), "streams": (), "models": no_models, **about}
    entry = Entry(1.8e9, "ok", "r", "desk", NOBODY, "flow", "p", spent=spent, **told)
    return Lines(prices(tmp_path), Meter(tmp_path / "none"), 4).of(entry)


def test_what_another_request_computed_is_free_and_kept_apart(tmp_path: Path) -> None:
    [line] = made(
        tmp_path,
        ("a", "shared_input_tokens", 9.0),
        ("a", "shared_output_tokens", 2.0),
        ("a", "cache_hits", 1.0),
    )
    assert (line.nano, line.why, line.provider) == (0, "shared", "local")
    assert line.units == {"shared_input_tokens": 9.0, "shared_output_tokens": 2.0}


def test_tokens_that_a_workflow_s_own_client_asked_are_of_an_unknown_provider(tmp_path: Path) -> None:
    [line] = made(tmp_path, ("a", "input_tokens", 9.0))
    assert (line.provider, line.nano) == ("elsewhere", None)


def test_measured_core_seconds_of_a_stream_go_before_estimates(tmp_path: Path) -> None:
    stream = ("a[2]", "llm", 0.0, 0.0, 1.0, 1.0, 9.0, None, 1, "", 0.5, 2.0, 0.0, 0.75)
    [line] = made(tmp_path, ("a[2]", "input_tokens", 9.0), streams=[stream, stream[:6]])
    assert (line.counted, line.step, line.nano) == ("measured", "a", 7500)
    assert line.units == {"input_tokens": 9.0, "core_seconds": 0.75}
