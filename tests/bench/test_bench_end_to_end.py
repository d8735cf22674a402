"""The harness from its first process to its page, on a server that really runs; so short that no figure counts."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # bench/ is no part of the installed package
settings = importlib.import_module("bench.serve.scenarios.settings")

TINY = dataclasses.replace(
    settings.QUICK,
    rounds=1,
    point_s=0.3,
    overload_s=0.2,
    burst_s=0.2,
    kills=1,
    kill_every_s=0.3,
    steady_s=0.5,
)
EXACT = (
    "lost",
    "not answered",
    "zombie",
    "left over",
    "ended well",
    "without an end",
    "only one side",
)  # whatever the clock says


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAUTEN_BENCH_CACHE", str(tmp_path / "cache"))


def _measured(name: str) -> list[Any]:
    found = list(importlib.import_module(f"bench.serve.scenarios.{name}").measure(TINY))
    for one in found:
        assert one.error == ""
        assert one.checks
        for check in one.checks:
            if any(words in check.name for words in EXACT):
                assert check.met, f"{one.name}: {check.name}: {check.seen}"
    return found


def test_sharing_runs_to_its_end() -> None:
    (found,) = _measured("sharing")
    assert found.figures["joins"] > 0
    assert set(found.figures) >= {"on", "off"}


@pytest.mark.slow  # a server each, and a model of 60 MB
@pytest.mark.parametrize(
    ("name", "results"),
    [
        ("loading", ["loading"]),
        ("slow", ["slow_client"]),
        (
            "overload",
            [
                *("overload_paused", "burst_paused", "overload_heavy", "burst_heavy"),
                *("overload_heavy_alone", "burst_heavy_alone"),
            ],
        ),
        ("steady", ["steady"]),
        ("referee", ["referee"]),
        ("overheads", ["overheads"]),
    ],
)
def test_a_scenario_runs_to_its_end(name: str, results: list[str]) -> None:
    found = _measured(name)
    assert [one.name for one in found] == results
    json.dumps([one.document() for one in found])


@pytest.mark.slow
@pytest.mark.models
@pytest.mark.parametrize(
    ("name", "results"),
    [("leaving", ["clients_that_leave"]), ("killing", ["replica_killed", "worker_killed"])],
)
def test_a_scenario_with_a_language_model_runs_to_its_end(name: str, results: list[str]) -> None:
    assert [one.name for one in _measured(name)] == results


@pytest.mark.slow  # starts each server and measures the bare engine
def test_the_comparison_runs_to_its_page(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    words = ["--rounds", "1", "--seconds", "0.1", "--bare-seconds", "0.05", "--only", "tauten,diy"]
    words += ["--models", "small,wide", "--clients", "1,32", "--levels", "0.01", "--client", "own"]
    command = [sys.executable, "-m", "bench.serve.run", *words, "--out", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    rows = {(one["server"], one["model"]): one for one in found["rows"]}
    assert set(rows) == {(server, model) for server in ("tauten", "diy") for model in ("small", "wide")}
    for one in rows.values():
        assert one["reason"] is None
        assert one["precision"] == "onnxruntime, float32"
        assert one["foreign_share"]["rounds"] >= 1
    cells = rows["tauten", "small"]["cells"]
    wanted = ("over_bare_ms", "c32_rps", "c32_p99_ms", "c32_share", "cpu_ms", "pss_mb", "cold_s")
    assert all(cells[name] is not None for name in wanted)
    assert rows["tauten", "wide"]["cells"]["body_p99_ms"] is not None
    bare = found["bare"]["small"]
    for kind in ("t2", "p2"):
        assert all(bare[f"{kind}_b{batch}_items_s"]["median"] > 0 for batch in (1, 8, 32))
    page = out.with_suffix(".html").read_text()
    assert page.count("<svg") >= 4
    assert "figures missed" in done.stdout
