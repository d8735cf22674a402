"""`tauten explain --what-if`: which changes would help, asked of the simulator, and with --probe of the machine."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import typer
from msgspec.structs import replace

from tauten.cli.explain import ITEMS, MINUTES
from tauten.cli.optimize import journal_of, pace_of
from tauten.cli.output import write_output
from tauten.cli.progress import teller
from tauten.cli.target import read_inputs
from tauten.clock import real
from tauten.describe.slo import Slo, parse_slo
from tauten.describe.workflow import Workflow
from tauten.errors import InputError
from tauten.explain.whatif import WhatIf
from tauten.explain.whatif_page import whatif_html
from tauten.explain.whatif_text import whatif_text
from tauten.improve.compress.forms import StoredForms
from tauten.improve.drawn import drawn
from tauten.improve.labelled import WHOLE, open_recording
from tauten.improve.measuring.stages import PEAKS_FILE
from tauten.improve.optimizer.journal import Journal, Remembered
from tauten.improve.optimizer.live import LiveTestbed
from tauten.improve.optimizer.order import ORDER
from tauten.improve.optimizer.record import Record
from tauten.improve.optimizer.testbed import Items, Runs
from tauten.improve.recording import Item, Recording, evenly
from tauten.improve.simulate.capture import Captured
from tauten.improve.simulate.machine import shared_of
from tauten.improve.simulate.simulator import Done
from tauten.improve.whatif.awaited import Awaited
from tauten.improve.whatif.question import Question, Terms
from tauten.improve.whatif.scored import scored
from tauten.models.store import Store
from tauten.plan.hardware import hardware
from tauten.plan.peaks import Peaks, load_peaks
from tauten.plan.plan import Plan, check_fit
from tauten.run.ambient import run_async
from tauten.run.engine import Engine

GIVEN: Final = "the given inputs"  # the name of a recording that is none


class Options(NamedTuple):
    """The options of the command line."""

    plan: Plan
    inputs: Sequence[str] = ()
    recording: str = ""
    slo: str = ""
    rate: float = 0.0
    items: int = ITEMS
    minutes: float = MINUTES
    probe: bool = False
    all_rows: bool = False
    as_json: bool = False
    html: Path | None = None


def what_if(workflow: Workflow[..., Any], asked: Options) -> int:
    """Answer, print, and keep what was predicted for the day when it is measured."""
    _check(asked)
    slo = parse_slo(asked.slo) if asked.slo else workflow.slo or Slo()
    graph = drawn(workflow)
    check_fit(asked.plan, graph, asked.plan.name)
    kept = _recording(workflow, asked)
    chosen = evenly(list(kept), asked.items)
    store, here, say = Store().root, hardware(), teller()
    record, peaks = Record.load(store, here), load_peaks(store / PEAKS_FILE, here)
    journal = journal_of(workflow, kept, chosen) if kept.name != GIVEN else Journal()
    testbed = _Paced(workflow, list(kept), journal, peaks, say)
    question = Question(
        workflow,
        [(item.id, workflow.bind(**item.inputs)) for item in chosen],
        Remembered(testbed, journal, graph),  # what a search or an earlier question has run is not run again
        Terms(asked.plan, slo, asked.rate, recording=kept.name),
        record,
        here=here,
        shared=shared_of(peaks) if peaks is not None else None,
        forms=StoredForms(Store()),
        more=_until(asked.minutes),
        say=say,
    )
    try:
        shown = question.answer(ORDER)
        if asked.probe:
            shown = replace(shown, probed=question.probed(run_async(_delayed(question))))
    finally:
        testbed.close()
    say("")
    _print(shown, asked, record)
    if not asked.inputs:
        Awaited.load(store).add(question.foretold())
    return 0


def _until(minutes: float) -> Callable[[], bool]:
    """Whether there is still time, so many minutes from now on."""
    end = real() + minutes * 60.0
    return lambda: real() < end


def _check(asked: Options) -> None:
    if not asked.minutes > 0:
        raise InputError(f"--minutes {asked.minutes:g}", help="give more than 0", code="E260")
    if not asked.rate >= 0:
        raise InputError(
            f"--rate {asked.rate:g}", help="give more than 0, or 0 for one at a time", code="E260"
        )
    if asked.items < 1:
        raise InputError(f"--items {asked.items}", help="give 1 or more", code="E260")


def _recording(workflow: Workflow[..., Any], asked: Options) -> Recording:
    """The recorded requests, or the one that was given in words."""
    if not asked.inputs:
        return open_recording(
            workflow, asked.recording, usual=WHOLE
        )  # times are asked for, no answer is judged
    if asked.recording:
        raise InputError("inputs and a recording were given", help="give one of them", code="E260")
    values = read_inputs(workflow, list(asked.inputs))
    given = {name: value for name, value in values.items() if value is not None}
    return Recording(GIVEN, [Item(id="#1", render=lambda: given)])


class _Paced(LiveTestbed):
    """This machine, at the pace of whatever else is in the journal: a search goes by what a question has run. The probe
    begins with the first measurement: most questions need none."""

    def __init__(
        self,
        workflow: Workflow[..., Any],
        recorded: Sequence[Item],
        journal: Journal,
        peaks: Peaks | None,
        say: Callable[[str], None],
    ) -> None:
        super().__init__(workflow, recorded, peaks=peaks, say=say)
        self._journal = journal

    def capture(self, plan: Plan, items: Items, only: Collection[str] = ()) -> Captured:
        self._begin()
        return super().capture(plan, items, only)

    def runs(self, plan: Plan, step: str, role: str, items: Items) -> Runs:
        self._begin()
        return super().runs(plan, step, role, items)

    def _begin(self) -> None:
        """What is in no file is compared with nothing later."""
        if self.pace is None and self._journal.path is not None:
            self.pace = pace_of(self._journal)


async def _delayed(question: Question) -> list[Done]:
    async with Engine() as engine:
        return await question.delayed(engine)


def _print(shown: WhatIf, asked: Options, record: Record) -> None:
    if asked.as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(shown)).decode())
    else:
        typer.echo(whatif_text(shown, all_rows=asked.all_rows), nl=False)
    if asked.html is not None:
        write_output(asked.html, whatif_html(shown, scored(record)))
