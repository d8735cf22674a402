"""The second half of `make bench-serve`: every scenario, written into the file of the first half and onto its page.

    python -m bench.serve.scenarios.run_scenarios [--quick] [--only overload,steady]

The full run takes about two hours, --quick about three minutes and gives no figure of record: it is written beside a
file that holds some. What --only leaves out stays in the file as the last run with the same settings on such a machine
measured it.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.ground import machine, processes, verdict
from bench.ground.missed import text as missed_text
from bench.serve import files, missed
from bench.serve.scenarios.outcome import Result
from bench.serve.scenarios.settings import QUICK, Settings

SCENARIOS = (
    *("overheads", "batching", "desk", "desk_rate", "overload", "slow", "leaving", "killing", "loading"),
    *("sharing", "referee", "steady"),
)


class Run:
    """What was found so far, and where it is written."""

    def __init__(self, settings: Settings, out: Path) -> None:
        self.settings, self.out = settings, _beside(out) if settings.quick else out
        self.results: list[Result] = []
        self.earlier = files.read(self.out).get(files.STRESS, {})
        self.began = time.time()
        self.machine = machine.facts()

    def scenario(self, name: str) -> None:
        """One scenario; what goes wrong in it is its result, and the others still run."""
        print(name, file=sys.stderr, flush=True)
        began, own_s = _stamp(time.time()), -processes.own_cpu_s()
        with processes.watch([]) as usage:
            found = self._measured(name)
        own_s += processes.own_cpu_s()  # with the servers, which have ended
        for each in found:
            each.scenario, each.began, each.commit = name, began, self.machine["commit"]
            each.took_s = usage.wall_s / len(found)
            each.foreign_share = usage.foreign_share(own_s, machine.CORES)
            each.steal_share = usage.steal_share(machine.CORES)
        self.results += found
        self.write()

    def _measured(self, name: str) -> list[Result]:
        """What it found, also where one of its parts broke: that is a result of its own."""
        found: list[Result] = []
        try:
            for each in importlib.import_module(f"bench.serve.scenarios.{name}").measure(self.settings):
                found.append(each)
        except Exception as error:  # noqa: BLE001  # told on the page, with the others
            traceback.print_exc()
            found.append(Result(name, name, "", error=f"{type(error).__name__}: {error}"[:400]))
        return found

    def document(self) -> dict[str, Any]:
        scenarios = [*self._kept(), *(each.document() for each in self.results)]
        scenarios.sort(key=lambda one: SCENARIOS.index(one["scenario"]))
        return {
            "began": _stamp(self.began),
            "minutes": round((time.time() - self.began) / 60, 1),
            "machine": {**self.machine, "at_end": machine.state()},
            "settings": dataclasses.asdict(self.settings),
            "passed": bool(scenarios) and all(one["passed"] for one in scenarios),
            "scenarios": scenarios,
        }

    def _kept(self) -> list[dict[str, Any]]:
        """What an earlier run with the same settings found, of scenarios that this one has not measured."""
        settings = json.loads(json.dumps(dataclasses.asdict(self.settings)))
        if self.earlier.get("settings") != settings or not _alike(self.earlier["machine"], self.machine):
            return []
        left = set(SCENARIOS) - {each.scenario for each in self.results}
        return [one for one in self.earlier["scenarios"] if one["scenario"] in left]

    def write(self) -> None:
        """The file and its page, after every scenario: a run that is stopped still shows what it has."""
        files.write_stress(self.out, self.document())


def _beside(out: Path) -> Path:
    """Where a quick look is written: not over figures of record."""
    earlier = files.read(out).get(files.STRESS, {})
    recorded = earlier and not earlier["settings"]["quick"]
    return out.with_stem(f"{out.stem}-quick") if recorded else out


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether figures of two machines may stand in one table."""
    return all(one.get(key) == other[key] for key in ("cpu", "cores", "system", "python", "versions"))


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="about three minutes; proves nothing")
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=list(SCENARIOS),
        help=f"of {', '.join(SCENARIOS)}",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steady-s", type=float, default=None, help="length of the long run (600)")
    parser.add_argument(
        "--out", type=Path, default=files.OUT, help="the first half's; its page lies beside it"
    )
    return parser.parse_args(words)


def chosen(asked: argparse.Namespace) -> Settings:
    settings = dataclasses.replace(QUICK if asked.quick else Settings(), seed=asked.seed)
    return settings if asked.steady_s is None else dataclasses.replace(settings, steady_s=asked.steady_s)


def main() -> int:
    asked = arguments()
    if unknown := sorted(set(asked.only) - set(SCENARIOS)):
        print(
            f"no scenario is called {', '.join(unknown)}; there are {', '.join(SCENARIOS)}", file=sys.stderr
        )
        return 2
    processes.pin(machine.CORES)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers are stopped then as well
    run = Run(chosen(asked), asked.out)
    try:
        for name in asked.only:
            run.scenario(name)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    print(verdict.text(run.results))
    print(missed_text(missed.missed({files.STRESS: run.document()}, missed.read_reasons())))
    passed = all(each.passed for each in run.results)
    return 0 if passed and {each.scenario for each in run.results} >= set(asked.only) else 1


if __name__ == "__main__":
    sys.exit(main())
