"""Optimisations as the tests of the report read them: one that holds its SLO, one that misses it, one that is hostile."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import random

import msgspec

from explain import scenes
from tauten.describe.slo import Slo
from tauten.explain.account import Account
from tauten.improve.optimizer.outcome import (
    Candidate,
    Curve,
    Decision,
    Forecast,
    GapRow,
    Labels,
    Optimized,
    Worth,
)
from tauten.improve.optimizer.search import Figures
from tauten.improve.quality import Verdict
from tauten.improve.quality.verdict import compare
from tauten.statistics import Interval

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&\x1b[31m</style></title>"


def figures(p50: float, p95: float, first: float) -> Figures:
    return Figures({"p50_ms": p50, "p95_ms": p95, "first_output_ms": first})


STEPS = {
    "naive": figures(1462, 2210, 1790),
    "overlap": figures(1163, 1808, 1391),
    "backend": figures(902, 1310, 980),
    "prefix": figures(640, 905, 430),
    "quantize": figures(571, 768, 372),
}


def verdict() -> Verdict:
    before = {f"held_out/{i:03}": i % 9 != 0 for i in range(320)}
    flipped = {"held_out/036", "held_out/040"}
    after = {item: right ^ (item in flipped) for item, right in before.items()}
    return compare(before, after, 0.02)


def unclear() -> Verdict:
    before = {f"development/{i:02}": i % 7 != 0 for i in range(60)}
    return compare(before, {**before, "development/08": False, "development/09": False}, 0.01)


def decisions() -> list[Decision]:
    s = STEPS
    return [
        Decision(
            strategy="overlap",
            change="ocr and classify run beside transcribe",
            answers="identical",
            taken=True,
            why="299 ms of 1462 were spent waiting for branches that need nothing of one another",
            before=s["naive"],
            simulated=s["overlap"],
            formula=figures(1120, 1690, 1340),
        ),
        Decision(
            strategy="backend",
            change="transcribe on openvino",
            answers="equivalent",
            taken=True,
            why="its compiled graph runs the encoder in 140 ms instead of 383",
            before=s["overlap"],
            simulated=s["backend"],
            formula=figures(930, 1290, 1010),
        ),
        Decision(
            strategy="prefix",
            change="keep the first 900 tokens of the prompt",
            answers="identical",
            taken=True,
            why="900 of 1012 tokens are the same in every request",
            before=s["backend"],
            simulated=s["prefix"],
            formula=figures(610, 880, 400),
        ),
        Decision(
            strategy="quantize",
            change="embed at bf16",
            answers="lossy",
            taken=True,
            why="half the bytes to read a token",
            before=s["prefix"],
            simulated=s["quantize"],
            verdict=verdict(),
        ),
        Decision(
            strategy="batch",
            change="ocr in batches of 8",
            answers="identical",
            taken=False,
            why="1 request/s never fills it",
            before=s["prefix"],
            simulated=figures(660, 946, 452),
        ),
        Decision(
            strategy="quantize",
            change="transcribe on int8",
            answers="lossy",
            taken=False,
            why="cannot conclude with the labels given",
            before=s["prefix"],
            simulated=figures(520, 717, 372),
            verdict=unclear(),
        ),
        Decision(
            strategy="batch",
            change="two replicas of transcribe",
            answers="identical",
            taken=False,
            why="two models of two threads on two cores slow one another",
        ),
        Decision(
            strategy="compact",
            change="answers of at most 40 tokens",
            answers="lossy",
            taken=False,
            why="gains 0.4 % in simulation: not worth a change",
            before=s["quantize"],
            simulated=figures(570, 765, 372),
        ),
    ]


def forecasts(count: int = 36) -> list[Forecast]:
    rng = random.Random(5)
    made = []
    for place in range(count):
        what = ("p50_ms", "p95_ms", "first_output_ms")[place % 3]
        measured = 300.0 * 7.0 ** rng.random()
        predicted = measured * rng.gauss(1.0, 0.08)
        wide = 0.13 * predicted
        made.append(
            Forecast(
                of=f"candidate {place // 3}",
                what=what,
                predicted=predicted,
                low=predicted - wide,
                high=predicted + wide,
                measured=measured,
            )
        )
    return made


def curves() -> list[Curve]:
    def grown(service: float, most: float) -> list[tuple[float, float, float]]:
        rates = [each for each in (0.25, 0.5, 1.0, 1.5, 2.0, 2.5) if each < most]
        return [(r, service / (1 - r / most), 1.25 * service / (1 - r / most) ** 1.2) for r in rates]

    return [
        Curve("chosen", True, grown(395, 3.2)),
        Curve("zero-effort", True, grown(450, 1.95)),
        Curve("naive", True, grown(620, 1.75)),
        Curve("chosen", False, [(1.0, 571.0, 742.0)]),
        Curve("naive", False, [(1.0, 1462.0, 2210.0)]),
    ]


def candidates() -> list[Candidate]:
    s = STEPS
    plan = 'tauten = "plan/1"\nworkflow = "help_desk"\n'
    measured = {
        "p50_ms": Interval(552.0, 571.0, 590.0, 300),
        "p95_ms": Interval(711.0, 742.0, 779.0, 300),
        "first_output_ms": Interval(352.0, 366.0, 381.0, 300),
    }
    return [
        Candidate(
            name="naive",
            plan=plan,
            simulated=figures(1440, 2170, 1760),
            measured=s["naive"],
            alone=figures(1180, 1420, 1010),
            quality=0.867,
            memory_bytes=1_910_000_000,
        ),
        Candidate(
            name="zero-effort",
            plan=plan,
            simulated=figures(905, 1350, 1000),
            measured=figures(921, 1392, 1015),
            quality=0.867,
            memory_bytes=1_420_000_000,
            front=True,
        ),
        Candidate(
            name="after overlap",
            plan=plan,
            simulated=s["overlap"],
            measured=figures(1151, 1790, 1380),
            quality=0.867,
            memory_bytes=1_910_000_000,
        ),
        Candidate(
            name="after backend",
            plan=plan,
            simulated=s["backend"],
            measured=figures(915, 1333, 1001),
            quality=0.867,
            memory_bytes=1_530_000_000,
        ),
        Candidate(
            name="after prefix",
            plan=plan,
            simulated=s["prefix"],
            quality=0.867,
            memory_bytes=1_610_000_000,
            front=True,
        ),
        Candidate(
            name="chosen",
            plan=plan + '[stage.embed]\nprecision = "bf16"\nwhy = "half the bytes to read a token"\n',
            simulated=s["quantize"],
            measured=figures(571, 742, 366),
            alone=figures(402, 515, 271),
            intervals=measured,
            quality=0.867,
            quality_loss=0.0108,
            memory_bytes=1_580_000_000,
            front=True,
        ),
    ]


def met() -> Optimized:
    return Optimized(
        workflow="help_desk",
        recording="desk.rec",
        machine="2 cores avx512 amx, 24 GiB, no gpu",
        slo=Slo(p95_ms=800, first_output_ms=400, quality_loss=0.02),
        rate_per_s=1.0,
        seed=7,
        answer="met",
        why=["p95 742 ms of 800, first output 366 ms of 400, over 5 rounds of 60 requests"],
        chosen="chosen",
        candidates=candidates(),
        decisions=decisions(),
        forecasts=forecasts(),
        curves=curves(),
        ablation=[
            Worth("overlap", figures(742, 1069, 560)),
            Worth("prefix", figures(823, 1183, 920)),
            Worth("backend", figures(801, 1196, 700)),
            Worth("quantize", figures(640, 905, 430)),
        ],
        labels=Labels(items=320, provable_loss=0.0093, wanted_loss=0.02, needed=0),
        verdict=verdict(),
        searched_s=1421.0,
        made_at="2026-11-22T21:14:00Z",
    )


def missed() -> Optimized:
    best = candidates()[-1]
    slow = msgspec.structs.replace(
        best, measured=figures(690, 921, 388), simulated=figures(660, 880, 380), intervals={}
    )
    return msgspec.structs.replace(
        met(),
        answer="missed",
        why=["p95 921 ms of 800, over 5 rounds of 60 requests"],
        candidates=[*candidates()[:-1], slow],
        gap=[
            GapRow(
                "transcribe",
                265.0,
                "int8 would take 188 ms off, but 60 labels cannot show that it is not worse",
            ),
            GapRow("generate", 240.0, "41 tokens, one after another, at the bandwidth of the memory"),
            GapRow("ocr", 122.0, waits_ms=31.0),
            GapRow("retrieve", 17.0),
        ],
        gap_what="p95_ms",
        labels=Labels(items=60, provable_loss=0.049, wanted_loss=0.02, needed=149),
        verdict=None,
        interrupted=True,
        notes=["two candidates were not measured: the budget was used up"],
    )


def hostile() -> Optimized:
    """Every string is `HOSTILE`, and every list has something in it."""
    plain = msgspec.to_builtins(missed())
    for name in ("workflow", "recording", "machine", "made_at"):
        plain[name] = HOSTILE
    plain["why"], plain["notes"], plain["chosen"] = [HOSTILE], [HOSTILE], HOSTILE
    for each, keys in {
        "candidates": ("name", "plan"),
        "decisions": ("strategy", "change", "why"),
        "forecasts": ("of",),
        "curves": ("plan",),
        "ablation": ("strategy",),
        "gap": ("step", "why"),
    }.items():
        for one in plain[each]:
            one.update(dict.fromkeys(keys, HOSTILE))
    plain["verdict"] = msgspec.to_builtins(verdict())
    for flip in plain["verdict"]["flips"]:
        flip["item"] = HOSTILE
    return msgspec.convert(plain, Optimized)


def waterfalls() -> tuple[Account, Account]:
    return scenes.sequential_account(), scenes.parallel_account()


def endless() -> Optimized:
    """Nothing ends: every measured figure is infinite, and so are the ends of curves."""
    found = missed()
    never = figures(math.inf, math.inf, math.inf)
    lost = msgspec.structs.replace(never, failed=1.0)
    return msgspec.structs.replace(
        found,
        candidates=[msgspec.structs.replace(each, measured=lost, alone=lost) for each in found.candidates],
        curves=[
            msgspec.structs.replace(each, points=[*each.points, (9.0, 700.0, math.inf)]) for each in curves()
        ],
        forecasts=[msgspec.structs.replace(found.forecasts[0], measured=math.inf)],
        ablation=[Worth("overlap", never), Worth("prefix", figures(823, 1183, 920))],
        decisions=[msgspec.structs.replace(found.decisions[0], simulated=never), *found.decisions[1:]],
    )
