"""`tauten bench`: screens, files, exit codes, and command lines that ask for the impossible."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from load.server import serving
from tauten.cli.main import run
from tauten.describe.payload import Text
from tauten.improve.recording import Item, Recording, arrivals

FLOW = """
import tauten as tt

@tt.stage(pure=True)
async def same(text: tt.Text) -> tt.Text:
    if text.text == "bad":
        raise ValueError("no bad words")
    return text

@tt.workflow(slo=tt.Slo(p95_ms=500))
def flow(text: tt.Text, extra: tt.Json | None = None) -> tt.Text:
    return same(text)
"""
PLAN = 'tauten = "plan/1"\nname = "{}"\nworkflow = "flow"\n'
QUICK = ("--rate", "400", "--requests", "100")
LONG = ("--rate", "40", "--requests", "110")  # five limits and more


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    path = tmp_path / "flow.py"
    path.write_text(FLOW)
    return path


def bench(*words: object) -> int:
    return run(["bench", *map(str, words)])


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().out
    assert all(len(line) <= 96 for line in text.splitlines()), text
    return text


def document(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    assert found["schema"] == "tauten.bench/1"
    return found


# -- screens and exit codes ----------------------------------------------------------------------------------


def test_an_slo_that_holds(flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(flow, "text=hi", *LONG, "--json", tmp_path / "b.json") == 0
    text = shown(capsys)
    assert "open loop, poisson, seed 0" in text
    assert "110 sent   110 ok" in text
    assert "warm-up left out: 11" in text
    assert re.search(r"p99 .*\(n < 368\)", text)
    assert re.search(r"p95: complete 500 ms +0 of 110 +0 +met", text)
    assert text.rstrip().splitlines()[-2] == " met"
    found = document(tmp_path / "b.json")
    assert (found["answer"], found["exit_code"], found["loop"]) == ("met", 0, "open")
    (only,) = found["runs"]
    assert (only["requests"]["lost"], only["requests"]["zombies"]) == (0, 0)
    assert only["costs"]["memory"]["peak_mb"] > 0


def test_an_slo_that_is_missed(flow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(flow, "text=hi", *QUICK, "--slo", "p95<0.000001ms") == 1
    assert " MISSED\n   p95: 100 of 100 requests missed, 0 would be allowed" in shown(capsys)


def test_too_few_requests_to_say(flow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(flow, "text=hi", "--rate", "400", "--requests", "20") == 4
    assert "cannot conclude, n >= 90" in shown(capsys)


def test_failures_are_shown_with_their_reason(flow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(flow, "text=bad", *QUICK) == 1
    text = shown(capsys)
    assert "0 ok   100 failed" in text
    assert "E404" in text
    assert re.search(r"p50 +failed", text)


def test_without_an_slo_failures_decide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "flow.py"
    path.write_text(FLOW.replace("(slo=tt.Slo(p95_ms=500))", ""))
    assert bench(path, "text=hi", *QUICK) == 0
    assert bench(path, "text=bad", *QUICK) == 5
    assert bench(path, "text=bad", *QUICK, "--max-errors", "1") == 0
    assert "FAILED" in shown(capsys)


def test_a_closed_loop_says_what_it_is(
    flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "b.html"
    assert bench(flow, "text=hi", "--clients", "2", "--requests", "50", "--html", page) == 0
    head = page.read_text().partition("<svg")[0]
    assert "2 clients, closed loop: not a latency claim" in head
    assert "poisson" not in head  # nothing arrives there
    text = shown(capsys)
    assert "closed loop, 2 clients" in text
    assert "closed loop: not a latency claim" in text
    assert "send lag" not in text


def test_the_curve_is_a_table_a_plot_and_a_page(
    flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, figures = tmp_path / "b.html", tmp_path / "b.json"
    words = ("--rates", "400,100,200", "--requests", "100", "--slo", "p95<50ms,cost<1c")
    code = bench(flow, "text=hi", *words, "--html", page, "--json", figures)
    found = document(figures)
    assert code == found["exit_code"]
    assert [each["rate_per_s"] for each in found["runs"]] == [100.0, 200.0, 400.0]
    text = shown(capsys)
    assert "100/s" in text
    assert "- limit" in text
    assert found["not_judged"] == ["cost_cents"]
    _check_page(page.read_text())
    assert page.read_text().count("<circle") >= 9 + 15


class _Page(HTMLParser):
    """Counts open tags, and keeps whatever could reach outside."""

    VOID = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.outside += [
            f"{name}={value}" for name, value in attrs if name in ("src", "href", "srcset", "action")
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _check_page(text: str) -> None:
    page = _Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert page.outside == []
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert "url(http" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_names_on_the_page_are_escaped(tmp_path: Path) -> None:
    path, page = tmp_path / "flow.py", tmp_path / "b.html"
    path.write_text(FLOW + "\nflow.name = '<script>alert(1)</script>'\n")
    assert bench(path, "text=hi", *QUICK, "--html", page) == 4  # too short to say
    _check_page(page.read_text())


@pytest.mark.slow  # each trial lasts ten seconds or more; the search itself is tested on the virtual clock
def test_the_highest_rate(flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No rate holds 0 ms; what a fast one holds depends on the machine, and is tested in virtual time."""
    words = ("--max-rate", "--requests", "100", "--json", tmp_path / "b.json")
    assert bench(flow, "text=hi", *words, "--slo", "p95<0.000001ms") == 1
    assert "was not shown to hold even at" in shown(capsys)
    search = document(tmp_path / "b.json")["search"]
    assert search["stopped"] == "no rate holds"
    assert {trial["answer"] for trial in search["trials"]} == {"missed"}


def test_two_plans_run_in_turn(flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.toml"
        path.write_text(PLAN.format(name))
        plans += ["--plan", path]
    assert bench(flow, "text=hi", *QUICK, *plans, "--json", tmp_path / "b.json") == 4
    text = shown(capsys)
    assert "two against one, same schedules, 5 rounds" in text
    found = document(tmp_path / "b.json")
    assert [(each["plan"], each["rounds"]) for each in found["runs"]] == [("one", 5), ("two", 5)]
    assert [each["q"] for each in found["comparison"]] == [0.5, 0.95, 0.99]


def test_a_recording_keeps_its_times(flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = arrivals(100, 400.0, seed=3)
    items = [
        Item(id=f"r{n}", render=lambda n=n: {"text": Text(f"question {n}")}, at_s=at)  # type: ignore[misc]
        for n, at in enumerate(times)
    ]
    folder = Recording("asked", items).save(tmp_path / "asked")
    words = ("--recording", folder, "--requests", "100", "--warm-up", "0", "--json", tmp_path / "b.json")
    assert bench(flow, *words) == 4  # too short to say
    assert "open loop, recorded" in shown(capsys)
    columns = document(tmp_path / "b.json")["runs"][0]["samples"]
    assert columns["due_ms"] == pytest.approx([at * 1e3 for at in times], abs=1e-3)
    assert columns["item"] == list(range(100))


def test_a_url_is_a_target(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        words = ("question=why", "--rate", "50", "--requests", "30", "--max-errors", "0")
        assert bench(f"{server.url}/v1/workflows/desk", *words) in (
            0,
            3,
        )  # 3: too busy a machine to generate it
        text = shown(capsys)
        assert "native   open loop" in text
        assert "first output" in text
        assert "30 sent   30 ok" in text
        assert bench(f"{server.url}/status/503", "body=x", *words[1:]) in (3, 5)
        assert "30 refused" in shown(capsys)


@pytest.mark.parametrize(
    ("code", "load", "help"),
    [
        (401, ("--rate", "100"), "TAUTEN_API_KEY"),
        (404, ("--rate", "100"), "check the address"),
        (422, ("--rate", "100", "--warm-up", "0"), "TAUTEN_API_KEY"),
        (404, ("--clients", "2"), "check the address"),
    ],
)
def test_requests_that_are_wrong_end_the_run(
    code: int, load: tuple[str, ...], help: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of ten minutes is over after its first answers."""
    with serving() as server:
        assert bench(f"{server.url}/status/{code}", "body=x", *load, "--duration", "600") == 2
        assert 20 <= len(server.seen) < 200
    complaint = capsys.readouterr().err
    assert f"tauten: E248 each of the first 20 answers is a refusal: HTTP {code}: no reason" in complaint
    assert help in complaint


def test_the_warm_up_is_enough_to_see_that_requests_are_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        words = ("body=x", "--rate", "100", "--requests", "1000", "--warm-up", "0.05")
        assert bench(f"{server.url}/status/401", *words) == 2
        assert len(server.seen) < 20
    assert "tauten: E248 each of the first " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (("--requests", "0"), "--requests 0"),
        (("--requests", "-5"), "--requests -5"),
        (("--warm-up", "-3"), "--warm-up -3"),
        (("--warm-up", "-1"), "--warm-up -1"),
        (("--warm-up", "nan"), "--warm-up nan"),
        (("--warm-up", "inf"), "--warm-up inf"),
        (("--duration", "0"), "--duration 0"),
        (("--duration", "-5"), "--duration -5"),
        (("--duration", "nan"), "--duration nan"),
    ],
)
def test_a_length_that_cannot_be_is_named_and_is_no_default(
    flow: Path, words: tuple[str, ...], flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(flow, "text=hi", "--rate", "1", *words) == 2
    assert f"tauten: E260 {flag}\n" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "warm"), [((), 10), (("--warm-up", "0"), 0)])
def test_without_a_warm_up_given_it_is_a_tenth(
    flow: Path, tmp_path: Path, words: tuple[str, ...], warm: int
) -> None:
    figures = tmp_path / "b.json"
    bench(flow, "text=hi", "--rate", "1000", "--requests", "100", *words, "--json", figures)
    assert document(figures)["runs"][0]["warm_up"]["n"] == warm


# -- what cannot be asked for --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((), "E260"),
        (("--rate", "1", "--clients", "2"), "E260"),
        (("--rates", "1,x"), "E260"),
        (("--rate", "-1"), "E246"),
        (("--rate", "inf"), "E246"),
        (("--clients", "-1"), "E260"),
        (("--rate", "1", "--rounds", "-2"), "E260"),
        (("--rate", "1", "--timeout", "0"), "E260"),
        (("--rate", "1", "--deadline-ms", "-1"), "E260"),
        (("--rate", "1", "--max-errors", "2"), "E260"),
        (("--rate", "1", "--api", "openai"), "E260"),
        (("--rate", "1", "--header", "x: y"), "E260"),
        (("--rate", "1", "--pid", "99999999"), "E260"),
        (("--rates", "0,1"), "E246"),
        (("--rate", "1", "--arrivals", "even"), "E260"),
        (("--arrivals", "recorded"), "E246"),
        (("--rate", "0.001", "--duration", "1"), "E246"),
        (("--rate", "1", "--arrivals", "gamma:inf"), "E260"),
        (("--rate", "1", "--slo", "p95"), "E204"),
        (("--rate", "1", "--slo", "p95<1..5s"), "E204"),
        (("--rate", "1", "--slo", "p95<0ms"), "E204"),
        (("--rate", "1", "--json", "/no/such/folder/x.json"), "E261"),
        (("--rate", "1", "--plan", "a", "--plan", "b", "--plan", "c"), "E260"),
        (("--max-rate", "--plan", "a", "--plan", "b"), "E260"),
    ],
)
def test_loads_that_cannot_be(
    flow: Path, words: tuple[str, ...], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(flow, "text=hi", *words) == 2
    complaint = capsys.readouterr().err
    assert f"tauten: {code} " in complaint
    assert "help: " in complaint


@pytest.mark.parametrize(
    ("words", "both"),
    [
        (("--max-rate", "--rounds", "3"), "--max-rate and --rounds"),
        (("--max-rate", "--duration", "5"), "--max-rate and --duration"),
        (("--clients", "2", "--arrivals", "gamma:4"), "--clients and --arrivals"),
        (("--rate", "5", "--requests", "10", "--duration", "5"), "--requests and --duration"),
    ],
)
def test_what_another_flag_would_leave_unused_is_refused(
    flow: Path, words: tuple[str, ...], both: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(flow, "text=hi", *words) == 2
    assert f"tauten: E260 {both}\n" in capsys.readouterr().err


def test_inputs_beside_a_recording_are_refused(
    flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Recording("kept", [Item(id="a", render=lambda: {"text": Text("a")})]).save(tmp_path / "kept")
    assert bench(flow, "text=hi", "--rate", "5", "--recording", kept) == 2
    assert "tauten: E260 inputs and a recording were given" in capsys.readouterr().err


def test_an_address_without_its_scheme(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("127.0.0.1:9/x", "body=x", "--rate", "1") == 2
    assert "write http://127.0.0.1:9/x" in capsys.readouterr().err


def test_a_url_takes_no_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("http://127.0.0.1:9/x", "body=x", "--rate", "1", "--plan", tmp_path / "p.toml") == 2
    assert "E260" in capsys.readouterr().err
