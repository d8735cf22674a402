"""The arithmetic, the encodings, the client and the page of the comparison of servers."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import importlib
import json
import math
import socket
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tauten.plan.plan import load_plan

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # bench/ is no part of the installed package
GROUND = ("client", "environments", "figures", "machine", "processes", "quiet")
NAMES = ("files", "load", "missed", "models", "peers", "record", "report", "run", "table", "wire")
client, environments, figures, machine, processes, quiet = (
    importlib.import_module(f"bench.ground.{name}") for name in GROUND
)
files, load, missed, models, peers, record, report, run, table, wire = (
    importlib.import_module(f"bench.serve.{name}") for name in NAMES
)
ground_missed = importlib.import_module("bench.ground.missed")


# figures


def test_poisson_arrivals_have_the_rate_and_repeat_with_the_seed() -> None:
    arrivals = figures.poisson(1000, 20, seed=3)
    assert abs(len(arrivals) - 20_000) < 4 * math.sqrt(20_000)
    assert arrivals == sorted(arrivals)
    assert arrivals[0] >= 0
    assert arrivals[-1] < 20
    assert arrivals == figures.poisson(1000, 20, seed=3) != figures.poisson(1000, 20, seed=4)
    gaps = np.diff(arrivals)
    assert abs(gaps.std() / gaps.mean() - 1) < 0.05  # exponential gaps: deviation equals mean


def test_percentiles_are_nearest_ranks_and_failures_are_never_fast() -> None:
    seconds = [n / 1000 for n in range(100, 0, -1)]
    assert figures.latencies(seconds)["p99_ms"] == 99
    assert figures.latencies(seconds)["p50_ms"] == 50
    with_failures = figures.latencies(seconds, failures=4)
    assert (with_failures["count"], with_failures["errors"]) == (100, 4)
    assert with_failures["p99_ms"] is None
    assert with_failures["p90_ms"] == 94
    assert figures.latencies([])["p50_ms"] is None


def test_merge_takes_medians_over_the_rounds_that_have_a_figure() -> None:
    merged = figures.merge(
        [{"rps": 10, "late": True}, {"rps": 30, "late": False}, {"rps": None}, {"rps": 20}]
    )
    assert merged["rps"] == {"median": 20, "low": 10, "high": 30, "rounds": 3}
    assert merged["late"] == 1
    assert figures.median(merged, "rps") == 20
    assert figures.median(merged, "none") is None


def test_ranks_leave_out_missing_figures_and_share_ties() -> None:
    values = {"a": 5.0, "b": None, "c": 9.0, "d": 5.0}
    assert figures.ranks(values, higher_is_better=True) == {"c": 1, "a": 2, "d": 2}
    assert figures.ranks(values, higher_is_better=False) == {"a": 1, "d": 1, "c": 3}


def test_the_order_of_a_round_is_random_complete_and_repeatable() -> None:
    rows = list(range(20))
    orders = [figures.order(rows, 1, number) for number in range(3)]
    assert all(sorted(one) == rows for one in orders)
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] == figures.order(rows, 1, 0)


def test_a_late_or_busy_generator_is_noted() -> None:
    assert figures.send_lag_high(0.2, 10.0, 0.1)
    assert not figures.send_lag_high(0.05, 10.0, 0.1)
    assert figures.send_lag_high(0.0, 10.0, 0.8)


# models and encodings


def test_models_are_the_same_bytes_each_time_and_answer(tmp_path: Path) -> None:
    shape = models.SHAPES["small"]
    assert models.build(shape) == models.build(shape)
    path = models.ensure("small", tmp_path)
    before = path.stat().st_mtime_ns
    assert models.ensure("small", tmp_path).stat().st_mtime_ns == before
    answer = models.expected(path, models.sample("small"))
    assert answer.shape == (1, 10)
    assert np.isfinite(answer).all()
    assert answer.std() > 0


def test_models_have_the_sizes_they_claim() -> None:
    assert models.SHAPES["heavy"].size_bytes == pytest.approx(60.6e6, rel=0.01)
    assert len(models.build(models.SHAPES["small"])) == pytest.approx(
        models.SHAPES["small"].size_bytes, rel=0.01
    )
    assert models.sample("wide").nbytes == 102_400


@pytest.mark.parametrize("io", ["raw", "list", "oip-json", "oip-binary"])
def test_each_encoding_carries_the_row_and_reads_its_own_answer(io: str) -> None:
    row = models.sample("small")
    request = wire.request(io, "/p", row)
    if io == "raw":
        sent, reply, headers = np.frombuffer(request.body, np.float32), row.tobytes(), {}
    elif io == "list":
        sent, reply, headers = (
            np.float32(json.loads(request.body)["row"]),
            json.dumps(row.tolist()).encode(),
            {},
        )
    elif io == "oip-json":
        tensor = json.loads(request.body)["inputs"][0]
        assert tensor["shape"] == [1, 784]
        sent, headers = np.float32(tensor["data"]), {}
        reply = json.dumps({"outputs": [{"name": "y", "data": row.ravel().tolist()}]}).encode()
    else:
        size = int(request.headers[wire.HEAD_LENGTH])
        tensor = json.loads(request.body[:size])["inputs"][0]
        assert tensor["parameters"]["binary_data_size"] == row.nbytes
        sent = np.frombuffer(request.body[size:], np.float32)
        head = json.dumps({"outputs": [{"name": "y"}]}).encode()
        reply, headers = head + row.tobytes(), {wire.HEAD_LENGTH.lower(): str(len(head))}
    assert np.array_equal(sent.ravel(), row.ravel())
    wire.check(io, 200, headers, reply, row)
    with pytest.raises(wire.WrongAnswer, match="expected"):
        wire.check(io, 200, headers, reply, row + 1)
    with pytest.raises(wire.WrongAnswer, match="status 500"):
        wire.check(io, 500, headers, reply, row)


def test_unreadable_answers_and_unknown_encodings_are_named() -> None:
    row = models.sample("small")
    with pytest.raises(wire.WrongAnswer, match="unreadable"):
        wire.check("oip-json", 200, {}, b'{"outputs": []}', row)
    with pytest.raises(ValueError, match="expected raw, list"):
        wire.request("xml", "/", row)


def test_the_raw_request_is_http() -> None:
    text = wire.Request("/p", b"abc", {"X-A": "1"}).bytes()
    assert text.startswith(b"POST /p HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\n")
    assert text.endswith(b"X-A: 1\r\n\r\nabc")


# settings


def test_the_settings_give_a_row_per_variant_and_model() -> None:
    rows = peers.rows(peers.read_settings(), ["small", "heavy", "wide"])
    labels = {(row.model, row.label) for row in rows}
    assert len(labels) == len(rows)
    assert {row.server for row in rows} >= {
        "tauten",
        "diy",
        "floor",
        "mosec",
        "litserve",
        "bentoml",
        "pytriton",
        "mlserver",
        "ray",
    }
    peers_of_the_claim = {"tauten", "mosec", "litserve", "bentoml", "pytriton", "mlserver", "ray"}
    for model in ("small", "heavy", "wide"):
        assert {row.server for row in rows if row.model == model} >= peers_of_the_claim
    assert all("{" not in row.path for row in rows)
    for row in rows:
        if "program" in row.settings:
            assert (peers.PROGRAMS / row.settings["program"]).exists()
        assert all("==" in package for package in row.settings.get("packages", []))


def test_only_chooses_and_a_wrong_name_is_refused() -> None:
    settings = peers.read_settings()
    assert {row.server for row in peers.rows(settings, ["small"], ["mosec", "diy"])} == {"mosec", "diy"}
    with pytest.raises(ValueError, match="no server is called mosek"):
        peers.rows(settings, ["small"], ["mosek"])


def test_our_command_line_drops_the_plan_where_there_is_no_file(tmp_path: Path) -> None:
    row = peers.rows(peers.read_settings(), ["small"], ["tauten"])[0]
    model, plan = tmp_path / "small.onnx", tmp_path / "small.toml"
    assert "--plan" not in peers.arguments(row, model, 80, plan)
    plan.touch()
    assert peers.arguments(row, model, 80, plan)[-2:] == ["--plan", str(plan)]


def test_workers_share_the_threads_of_the_heavy_model() -> None:
    settings = peers.read_settings()
    threads = {
        (row.model, row.workers): row.threads for row in peers.rows(settings, ["small", "heavy"], ["mosec"])
    }
    assert threads == {("small", 1): 1, ("small", 2): 1, ("heavy", 1): 2, ("heavy", 2): 1}


def test_a_missing_interpreter_is_a_reason_not_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAUTEN_BENCH_CACHE", str(tmp_path))
    assert environments.cache_folder() == tmp_path
    with pytest.raises(environments.CannotInstall, match="no-such-python"):
        environments.install("x", ["x==1"], ["no-such-python"])


def test_a_server_that_ends_gives_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.py").write_text("raise SystemExit('the reason')")
    monkeypatch.setattr(peers, "PROGRAMS", tmp_path)
    row = peers.Row("bad", "small", "raw", "/", settings={"program": "bad.py"})
    with (
        pytest.raises(peers.CannotStart, match="status 1: the reason"),
        peers.started(row, Path(sys.executable), tmp_path / "small.onnx", np.zeros(10)),
    ):
        pass


# the client, against a server of a few lines


def _answer(connection: socket.socket, status: int) -> None:
    """Answers each request of the test (they all end in "!") until the client leaves."""
    reply = b"HTTP/1.1 %d OK\r\nContent-Length: 2\r\n\r\nok" % status
    data = b""
    with connection, contextlib.suppress(ConnectionError):  # the client leaves with requests in flight
        while chunk := connection.recv(65536):
            data += chunk
            while b"!" in data:
                data = data.partition(b"!")[2]
                connection.sendall(reply)


@pytest.fixture(params=[200, 503])
def answering(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """(port, status) of a server that answers every connection in a thread of its own."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=_answer, args=(connection, request.param)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    yield listener.getsockname()[1], request.param
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    acceptor.join(5)
    for thread in threads:
        thread.join(5)


def _closed(load_: object) -> None:
    for connection in load_.connections.values():  # type: ignore[attr-defined]
        connection.socket.close()


def test_the_open_loop_sends_every_arrival(answering: tuple[int, int]) -> None:
    port, status = answering
    seen = client.Load(port, wire.Request("/", b"!").bytes(), clients=4)
    try:
        found = client.open_loop(seen, figures.poisson(300, 0.3, seed=1))
    finally:
        _closed(seen)
    good = found["sent"] if status == 200 else 0
    assert found["sent"] == len(figures.poisson(300, 0.3, seed=1))
    assert (found["count"], found["errors"]) == (good, found["sent"] - good)
    assert (found["p50_ms"] is not None) == (status == 200)
    assert load.saturated(found) == (status != 200)


def test_the_closed_loop_counts_after_its_warm_up(answering: tuple[int, int]) -> None:
    port, status = answering
    seen = client.Load(port, wire.Request("/", b"!").bytes(), clients=2)
    try:
        found = client.closed(seen, seconds=0.1, warm_s=0.05)
    finally:
        _closed(seen)
    assert 0 < max(found["count"], found["errors"]) < found["answered"]
    assert min(found["count"], found["errors"]) == 0
    assert (found["count"] > 0) == (status == 200)


def test_answers_in_pieces_and_in_chunks_are_put_together() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        connection = client.Connection(listener.getsockname()[1])
        whole = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
        assert [connection.feed(whole[at : at + 1]) for at in range(len(whole))] == [False] * (
            len(whole) - 1
        ) + [True]
        assert connection.feed(whole)
        assert not connection.feed(b"HTTP/1.1 404 No\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")
        assert connection.feed(b"0\r\n\r\n")
        assert connection.status == 404
        connection.socket.close()


# accounting, table and page


def test_foreign_cpu_is_what_neither_server_nor_client_used() -> None:
    usage = processes.Usage(wall_s=2.0, server_s=1.0, busy_s=2.5, steal_s=0.4)
    assert usage.foreign_share(client_s=0.5, cores=2) == pytest.approx(0.25)
    assert usage.foreign_share(client_s=3.0, cores=2) == 0
    assert usage.steal_share(cores=2) == pytest.approx(0.1)


def test_what_was_disturbed_is_measured_again_and_chosen_by_the_disturbance_alone() -> None:
    def measured(*shares: float) -> dict[str, float]:
        left = iter(shares)
        return quiet.quietest(lambda: {"foreign_share": 0.01, "steal_share": (now := next(left)), "rps": now})

    assert measured(0.0) == {"foreign_share": 0.01, "steal_share": 0.0, "rps": 0.0, "tries": 1}
    assert measured(0.4, 0.02)["tries"] == 2
    assert measured(0.4, 0.2, 0.3)["rps"] == 0.2  # none was quiet


def test_figures_of_both_clients_are_read() -> None:
    assert load.parse('noise\nRESULT {"count": 3}\n') == {"count": 3}
    assert load.parse('{"count": 4}\n') == {"count": 4}
    with pytest.raises(load.LoadFailed, match="no figures"):
        load.parse("nothing")


def _round(number: int, rps: float, p99: float, outrun: bool = False) -> dict[str, object]:
    closed = {
        "rps": rps,
        "p50_ms": 1.0,
        "p99_ms": p99,
        "cpu_ms_per_request": 0.1,
        "errors": 0,
        "foreign_share": 0.02,
    }
    points = dict.fromkeys(("c1", "c8", "c32", "c128"), closed)
    opened = {"p99_ms": p99, "saturated": outrun, "foreign_share": 0.02, "send_lag_high": False, "errors": 0}
    points |= {table.open_name(level): opened for level in run.LEVELS}
    bare = {"one_p50_ms": 0.9, "p2_b32_items_s": 4000.0}
    return {"round": number, "cold_start_s": 0.5, "pss_mb": 80.0, "points": points, "bare": bare}


def _row(server: str, model: str, rounds: list[dict[str, object]]) -> dict[str, object]:
    return {
        "server": server,
        "model": model,
        "label": f"{server} <raw>",
        "precision": "float32",
        "rounds": rounds,
    }


@pytest.fixture
def summary() -> dict[str, object]:
    rows = []
    for model in ("small", "heavy", "wide"):
        rows.append(_row("tauten", model, [_round(n, 3400 + n, 9.0) for n in range(5)]))
        rows.append(_row("mosec", model, [_round(n, 2900 + n, 18.0, outrun=n < 3) for n in range(5)]))
        rows.append(_row("ray", model, [{"round": 0, "error": "ended & <gone>"}] * 2))
    return table.summarize(rows, table.columns(run.CLIENTS, run.LEVELS))


def test_the_table_ranks_compares_with_bare_and_keeps_reasons(summary: dict[str, object]) -> None:
    ours, mosec, ray = (row for row in summary["rows"] if row["model"] == "heavy")
    assert ours["cells"]["over_bare_ms"]["median"] == pytest.approx(0.1)
    assert ours["cells"]["c32_share"]["median"] == pytest.approx(3402 / 4000)
    assert (ours["ranks"]["c32_rps"], mosec["ranks"]["c32_rps"]) == (1, 2)
    assert "open70_p99_ms" not in mosec["cells"]
    assert mosec["saturated"] == ["open20", "open50", "open70", "open90"]
    assert ray["reason"] == "ended & <gone>"
    assert ray["ranks"] == {}


def test_a_column_in_which_only_a_peer_has_a_figure_is_lost() -> None:
    rows = [
        _row("tauten", "heavy", [_round(n, 3400, 9.0, outrun=True) for n in range(5)]),
        _row("mosec", "heavy", [_round(n, 2900, 18.0) for n in range(5)]),
    ]
    found = table.summarize(rows, table.columns(run.CLIENTS, run.LEVELS))["targets"]
    first = found[0]
    assert (first["met"], first["seen"]) == (False, len(run.LEVELS))
    assert "heavy open70_p99_ms: no figure" in first["lost"]
    (below,) = (one for one in found if one["target"].endswith("below every peer's, heavy, ms"))
    assert (below["met"], below["seen"]) == (False, None)
    alone = table.summarize(rows[1:], table.columns(run.CLIENTS, run.LEVELS))["targets"][0]
    assert (alone["met"], alone["lost"]) == (None, [])  # ours was not asked for, so nothing is lost


def test_targets_say_met_missed_or_no_figure(summary: dict[str, object]) -> None:
    met = {one["target"]: one["met"] for one in summary["targets"]}
    assert met["columns in which ours is not first"] is True
    assert met["share of bare at 32 clients, heavy"] is True
    assert met["share of bare at 128 clients, heavy"] is False
    assert met["open-loop p99 at 70% below every peer's, heavy, ms"] is True  # every peer was outrun
    assert met["p99 of 100 KB bodies at 32 clients, ms"] is True
    assert met["rounds of the row with the fewest"] is True  # those that never ran have their reason
    assert all(one["met"] is None for one in table.targets([]))


def test_of_two_rows_of_ours_the_better_one_is_held_against_the_target() -> None:
    rows = [
        _row("tauten", "heavy", [_round(n, rps, p99)]) for n, (rps, p99) in enumerate([(3700, 9), (3000, 5)])
    ]
    rows[1]["label"] = "tauten, 2 workers"
    found = table.summarize(rows, table.columns(run.CLIENTS, run.LEVELS))["targets"]
    seen = {one["target"]: (one["seen"], one["met"], one.get("note")) for one in found}
    assert seen["share of bare at 128 clients, heavy"] == (3700 / 4000, True, "tauten <raw>")
    assert seen["columns in which ours is not first"] == (None, None, None)  # nobody else is there
    assert seen["open-loop p99 at 70% below every peer's, heavy, ms"][1] is None
    assert seen["rounds of the row with the fewest"] == (1, False, "heavy, tauten <raw>")


class _Seen(HTMLParser):
    """Tags, outward references and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture
def document(summary: dict[str, object]) -> dict[str, object]:
    return {
        "began": "2026-01-01T00:00:00Z",
        "minutes": 1,
        "machine": machine.facts(),
        "settings": {"rounds": 5, "seconds": 1.0, "levels": list(run.LEVELS), "open_cap": 8000.0},
        "closed_loop_client": "own",
        "models": {name: {"purpose": models.SHAPES[name].purpose} for name in models.SHAPES},
        "open_loop_capacity_rps": {"small": 8000.0, "heavy": 4000.0, "wide": 4000.0},
        "bare": {"heavy": figures.merge([{"p2_b32_items_s": 4000.0}])},
        **summary,
    }


def test_the_page_is_whole_and_refers_to_nothing_outside(document: dict[str, object]) -> None:
    page = files.whole(document, {})
    seen = _Seen()
    seen.feed(page)
    assert seen.references == []
    assert "script" not in seen.tags
    assert "http" not in page.replace("HTTP", "")
    assert seen.tags.count("table") == 5
    assert seen.tags.count("polyline") >= 2
    assert "did not run: ended & <gone>" in seen.words
    assert "saturated" in seen.words
    assert seen.words.count("float32") >= 6  # the precision of every row that ran
    assert "foreign CPU" in seen.words
    assert "governor" in seen.words
    assert "two threads" in seen.words
    assert "two processes" in seen.words
    assert "5 rounds" in seen.words
    assert "nan" not in page.lower().replace("finance", "")
    assert "did not run" in report.text(document)


def test_the_columns_are_those_of_the_claim() -> None:
    titles = {column.title: column for column in table.columns(run.CLIENTS, run.LEVELS)}
    for count in (8, 32, 128):
        assert {f"{count} clients, rate", f"{count} clients, p99"} <= titles.keys()
    for wanted in (
        *("p50 over bare, 1 client", "share of bare, 32 clients", "share of bare, 128 clients"),
        *("open loop 50%, p99", "open loop 70%, p99", "open loop 90%, p99"),
        *("CPU a request, 32 clients", "memory (PSS)", "cold start"),
    ):
        assert titles[wanted].models == ("small", "heavy"), wanted
    assert titles["100 KB, 32 clients, p99"].models == ("wide",)


# what was missed, and why


def test_what_is_missed_is_on_top_of_the_page_with_its_reason(document: dict[str, object]) -> None:
    name = "share of bare at 128 clients, heavy"
    shown = {one.name: one.reason for one in missed.missed(document, {"comparison": {name: "two <cores>"}})}
    assert shown[name] == "two <cores>"
    assert "share of bare at 32 clients, heavy" not in shown  # it is met
    page = files.whole(document, {"comparison": {name: "two <cores>"}})
    assert page.index("two &lt;cores&gt;") < page.index("Model servers side by side")
    assert missed.UNSTATED not in page
    assert missed.UNSTATED in files.whole(document, {})
    assert f"{name}: 0.851, ≥ 0.900: two <cores>" in ground_missed.text(
        missed.missed(document, {"comparison": {name: "two <cores>"}})
    )
    assert "None." in files.whole({}, {})


def test_the_page_of_the_docs_has_each_row_and_what_is_missed(document: dict[str, object]) -> None:
    name = "share of bare at 128 clients, heavy"
    check = {"name": "goodput", "seen": 0.5, "bound": 0.9, "unit": "share", "at_least": True, "met": False}
    scenario = {"name": "over", "title": "Overload", "error": "", "checks": [check]}
    scenario |= {"began": "2026-01-01T", "commit": "abc"}
    later = {**scenario, "began": "2026-01-02T", "commit": "def"}
    stress = {"began": "2026-01-02T", "machine": machine.facts(), "scenarios": [later, scenario]}
    page = record.page({**document, "stress": stress}, {"comparison": {name: "two cores"}})
    rows = document["rows"]
    assert isinstance(rows, list)
    lines = page.splitlines()
    for row in rows:
        assert any(line.startswith(f"| {row['label']} |") for line in lines), row["label"]
    assert "did not run: ended & <gone>" in page
    assert any("**" in line for line in lines if line.startswith("| tauten"))
    assert "| Overload | goodput | 50.0% | ≥ 90.0% |" in lines
    assert f"* comparison: {name}: 0.851 (≥ 0.900): two cores" in lines
    assert f"* Overload: goodput: 50.0% (≥ 90.0%): {missed.UNSTATED}" in lines
    assert "Measured 2026-01-02 at commits abc, def: " in page
    assert "nan" not in page.lower()


def test_every_reason_of_the_comparison_is_that_of_a_target() -> None:
    reasons = missed.read_reasons()
    assert all(text.strip() for stated in reasons.values() for text in stated.values())
    assert reasons.get(missed.COMPARISON, {}).keys() <= {one["target"] for one in table.targets([])}


def test_both_halves_are_in_one_file_and_on_one_page(
    document: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "out" / "bench.json"
    stress = {
        "began": "then",
        "minutes": 1,
        "machine": machine.facts(),
        "settings": {"quick": True},
        "scenarios": [],
    }
    files.write_stress(file, stress)
    assert "Our server under stress" in file.with_suffix(".html").read_text()
    files.write_comparison(file, document)
    files.write_comparison(file, document)
    page = file.with_suffix(".html").read_text()
    assert (page.count("Our server under stress"), page.count("Model servers side by side")) == (1, 1)
    assert page.count("</html>") == 1
    found = files.read(file)
    assert found["stress"] == stress
    assert found["rows"] == document["rows"]
    file.with_suffix(".html").unlink()
    monkeypatch.setattr(sys, "argv", ["files", str(file)])
    assert files.main() == 0  # a page is drawn again from the figures alone
    assert file.with_suffix(".html").read_text() == page
    monkeypatch.setattr(sys, "argv", ["files", str(tmp_path / "none.json")])
    assert files.main() == 2
    assert "no figures" in capsys.readouterr().err


# the machine


def test_the_machine_tells_governor_clocks_and_heat_where_they_are_to_be_seen(tmp_path: Path) -> None:
    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("proc/cpuinfo", "model name\t: A Processor\ncpu MHz\t\t: 2100.5\ncpu MHz\t\t: 3000\n")
    hidden = machine.facts(tmp_path)
    assert hidden["cpu"] == "A Processor"
    assert [hidden[key] for key in ("governor", "turbo", "numa_nodes")] == [machine.NOT_VISIBLE] * 3
    assert hidden["at_start"]["hottest_c"] == machine.NOT_VISIBLE
    for core in (0, 1):
        folder = f"sys/devices/system/cpu/cpu{core}"
        write(f"{folder}/cpufreq/scaling_governor", "powersave\n")
        write(f"{folder}/thermal_throttle/core_throttle_count", "2\n")
    write("sys/devices/system/cpu/intel_pstate/no_turbo", "0\n")
    write("sys/devices/system/node/node0/cpulist", "0-1\n")
    write("sys/class/thermal/thermal_zone0/temp", "41000\n")
    shown = machine.facts(tmp_path)
    assert (shown["governor"], shown["turbo"], shown["numa_nodes"]) == ("powersave", "on", 1)
    assert shown["at_start"] == {"clock_mhz": [2100.5, 3000.0], "hottest_c": 41.0, "throttled": 4}
    write("sys/class/thermal/thermal_zone0/temp", "52000\n")
    words = machine.words({**shown, "at_end": machine.state(tmp_path)})
    assert "governor powersave; turbo on; NUMA nodes 1; clock 2100–3000 MHz" in words
    assert "hottest sensor 41.0 → 52.0 °C; throttled 4 times" in words


def test_a_quick_run_is_described_by_its_options() -> None:
    asked = run.arguments(["--rounds", "1", "--seconds", "0.5", "--only", "diy, mosec", "--models", "small"])
    assert (asked.rounds, asked.seconds, asked.only, asked.models) == (1, 0.5, ["diy", "mosec"], ["small"])
    assert run.arguments([]).rounds >= 5


def test_our_plans_give_our_server_what_the_peers_get() -> None:
    rows = peers.rows(peers.read_settings(), list(models.SHAPES), ["tauten"])
    assert {row.plan for row in rows} == set(peers.PLANS.glob("*.toml"))
    for row in rows:
        stage = load_plan(row.plan).stages["model"]
        found = (stage.threads, stage.replicas, stage.batch.max)
        assert found == (row.threads, row.workers, peers.MAX_BATCH)
        assert not stage.settings  # idle threads sleep, as those of the peers do


def test_our_server_computes_each_of_the_equal_requests(tmp_path: Path) -> None:
    from tauten.serve.tensor_model import tensor_model

    service = tensor_model(models.ensure("small", tmp_path))
    assert not service.shareable


def test_points_of_a_row_are_shares_of_the_capacity() -> None:
    one = run.Run.__new__(run.Run)
    one.asked = run.arguments(["--levels", "0.9,0.5", "--clients", "1,32"])
    one.capacity = {"small": 1000.0}
    row = peers.rows(peers.read_settings(), ["small", "wide"], ["diy"])
    assert [(p.name, p.rate) for p in one.points(row[0])] == [
        ("c1", None),
        ("c32", None),
        ("open50", 500.0),
        ("open90", 900.0),
    ]
    assert [p.name for p in one.points(row[1])] == ["c32"]
