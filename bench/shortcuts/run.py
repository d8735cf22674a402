"""`make bench-shortcuts`: every section in interleaved rounds, medians, written as JSON and as one page.

    python -m bench.shortcuts.run [--quick] [--only exact_hit,layered] [--rounds N]

--quick is a look of one round with small sizes and gives no figure of record: it is written beside a file that holds
some. What --only leaves out stays in the file as the last run with the same settings on such a machine measured it.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import argparse
import asyncio
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

import uvloop
from bench.ground import machine, missed, processes, verdict
from bench.shortcuts import page, rounds
from bench.shortcuts.section import Result, Settings

FOLDER = Path(__file__).parent / "sections"
RECORD = Settings()


def names() -> list[str]:
    """Every section: a file of the folder whose name does not begin with an underscore."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


class Run:
    """What was found so far, and where it is written."""

    def __init__(self, settings: Settings, out: Path) -> None:
        self.settings, self.out = settings, beside(out) if settings != RECORD else out
        self.results: list[Result] = []
        self.earlier = page.read(self.out)
        self.began = time.time()
        self.machine = machine.facts()

    def section(self, name: str) -> None:
        """One section; what goes wrong in it is its result, and the others still run."""
        print(name, file=sys.stderr, flush=True)
        began, own_s = _stamp(time.time()), -processes.tree_cpu_s()
        with processes.watch([]) as usage:
            found = self._measured(name)
        own_s += processes.tree_cpu_s()  # with the servers, which have ended
        found.began, found.commit, found.took_s = began, self.machine["commit"], usage.wall_s
        found.foreign_share = usage.foreign_share(own_s, machine.CORES)
        found.steal_share = usage.steal_share(machine.CORES)
        self.results.append(found)
        self.write()

    def _measured(self, name: str) -> Result:
        try:
            module = importlib.import_module(f"bench.shortcuts.sections.{name}")
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(opened_and_measured(module, self.settings))
        except Exception as error:  # noqa: BLE001  # told on the page, with the others
            traceback.print_exc()
            return Result(name, name, error=f"{type(error).__name__}: {error}"[:400])

    def document(self) -> dict[str, Any]:
        sections = [*self._kept(), *(each.document() for each in self.results)]
        return {
            "format": page.FORMAT,
            "began": _stamp(self.began),
            "minutes": round((time.time() - self.began) / 60, 1),
            "machine": {**self.machine, "at_end": machine.state()},
            "settings": dataclasses.asdict(self.settings),
            "passed": bool(sections) and all(one["passed"] for one in sections),
            "sections": sorted(sections, key=lambda one: one["name"]),
        }

    def _kept(self) -> list[dict[str, Any]]:
        """What an earlier run with the same settings found, of sections that this one has not measured."""
        if self.earlier.get("settings") != dataclasses.asdict(self.settings):
            return []
        if not alike(self.earlier["machine"], self.machine):
            return []
        left = set(names()) - {each.name for each in self.results}
        return [one for one in self.earlier["sections"] if one["name"] in left]

    def write(self) -> None:
        """The file and its page, after every section: a run that is stopped still shows what it has."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(self.document(), indent=1) + "\n")
        page.draw(self.out)


async def opened_and_measured(module: Any, settings: Settings) -> Result:
    """A section from its start to its end."""
    async with module.opened(settings) as section:
        return await rounds.measured(section, settings)


def beside(out: Path) -> Path:
    """Where a run that is not one of record is written: not over figures of record."""
    return out.with_stem(f"{out.stem}-quick")


def alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether figures of two machines may stand in one table."""
    return all(one.get(key) == other[key] for key in ("cpu", "cores", "system", "python", "versions"))


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round, small sizes; proves nothing")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=names(), help=f"of {', '.join(names())}"
    )
    parser.add_argument("--rounds", type=int, default=None, help=f"({RECORD.rounds}; 1 with --quick)")
    parser.add_argument("--seed", type=int, default=RECORD.seed)
    parser.add_argument("--out", type=Path, default=page.OUT, help="the page lies beside it")
    return parser.parse_args(words)


def chosen(asked: argparse.Namespace) -> Settings:
    count = asked.rounds or (1 if asked.quick else RECORD.rounds)
    return Settings(quick=asked.quick, rounds=count, seed=asked.seed)


def main() -> int:
    asked = arguments()
    if unknown := sorted(set(asked.only) - set(names())):
        print(f"no section is called {', '.join(unknown)}; there are {', '.join(names())}", file=sys.stderr)
        return 2
    processes.pin(machine.CORES)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers are stopped then as well
    run = Run(chosen(asked), asked.out)
    try:
        for name in asked.only:
            run.section(name)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    print(verdict.text(run.results))
    print(missed.text(page.missed_of(run.document(), page.read_reasons())))
    passed = all(each.passed for each in run.results)
    return 0 if passed and {each.name for each in run.results} >= set(asked.only) else 1


if __name__ == "__main__":
    sys.exit(main())
