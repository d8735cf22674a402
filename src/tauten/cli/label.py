"""`tauten label`: which of two answers is better, asked of a person who cannot see which plan gave which."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import getpass
import os
import re
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tauten.cli.keys import pressed
from tauten.cli.output import check_outputs
from tauten.describe.payload import Json, Text
from tauten.describe.slo import parse_slo
from tauten.errors import InputError, MachineError
from tauten.improve.labels.answers import Answers
from tauten.improve.labels.judgements import Choice
from tauten.improve.labels.progress import Progress
from tauten.improve.labels.session import Part, Session, now
from tauten.improve.quality import Evidence, Verdict, scored
from tauten.statistics import smallest_provable_loss

app = typer.Typer(add_completion=False)

KEYS: dict[str, Choice] = {"a": "left", "l": "right", "=": "equal", "x": "both bad"}
HELP = "a left is better   l right is better   = equally good   x both bad   u undo   q quit"

Recorded = Annotated[Path, typer.Argument(metavar="RECORDING", show_default=False)]
Before = Annotated[Path, typer.Argument(metavar="BEFORE", show_default=False)]
After = Annotated[Path, typer.Argument(metavar="AFTER", show_default=False)]


@app.command()
def label(
    recording: Recorded,
    before: Before,
    after: After,
    margin: Annotated[
        str, typer.Option(help="The loss that is allowed: 1pt is one answer in a hundred.")
    ] = "1pt",
    confidence: Annotated[float, typer.Option(help="Of the verdict.")] = 0.95,
    labeller: Annotated[str, typer.Option(help="Who judges; your user name without it.")] = "",
    seed: Annotated[int, typer.Option(help="Of the order of pairs and of the sides.")] = 0,
    browser: Annotated[bool, typer.Option("--browser", help="Label in a page on this machine.")] = False,
    port: Annotated[int, typer.Option(help="Of that page; 0: any that is free.")] = 0,
    evidence: Annotated[Path | None, typer.Option(help="Write the evidence to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Label pairs of answers, blind, until the verdict stands.

    RECORDING is the folder of a recording; BEFORE and AFTER are files of answers, or evidence files that name
    them. Labels are kept in the recording's folder, each as soon as it is given. Only answers that differ are
    shown. Exit code 0: the change may stay, 1: it loses too much, 4: cannot conclude yet.
    """
    check_outputs(evidence)
    if not 0 <= port < 65536:
        raise InputError(f"--port {port}", help="give a port, 1 to 65535; 0: any free one", code="E260")
    old, new = Answers.load(before), Answers.load(after)
    session = Session(
        recording,
        old,
        new,
        labeller=labeller or _user(),
        margin=parse_slo(f"quality_loss<{margin}").quality_loss,
        confidence=confidence,
        seed=seed,
    )
    _forewarn(session.progress)
    if browser:
        _in_browser(session, port)
    else:
        _in_terminal(session)
    verdict = session.progress.verdict()
    if evidence is not None:
        _keep(session, verdict, old, new, evidence)
    print(_json(session.progress, verdict) if as_json else _text(session.progress, verdict))
    return verdict.exit_code


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:  # a container without a name for its user
        raise InputError(
            "this system has no user name", help="say who judges: --labeller NAME", code="E260"
        ) from error


def _say(text: str = "") -> None:
    print(text, file=sys.stderr, flush=True)


def _forewarn(progress: Progress) -> None:
    """Say before the work what it cannot prove."""
    least = smallest_provable_loss(progress.items, confidence=progress.confidence)
    _say(f"{progress.items} items, {progress.identical} of them answered the same twice")
    if least >= progress.margin:
        _say(
            f"these can prove at best a loss below {least * 100:.1f} points, not {progress.margin * 100:g}: "
            "labels can reject the change, but not accept it"
        )


# -- in the terminal -----------------------------------------------------------------------------------------


def _in_terminal(session: Session) -> None:
    with tempfile.TemporaryDirectory(prefix="tauten-label-") as folder, closing(pressed(sys.stdin)) as keys:
        if not _show(session, Path(folder)):
            return
        for key in keys:
            if key == "q" or (key != "u" and session.pair() is None):
                return
            if _obey(session, key) and not _show(session, Path(folder)):
                _say("u takes the last label back, any other key ends")


def _obey(session: Session, key: str) -> bool:
    """Do what a key says; False when that was nothing."""
    if key in KEYS:
        session.choose(KEYS[key])
        return True
    done = key == "u" and session.undo()
    if not done:
        _say("nothing to undo" if key == "u" else HELP)
    return done


def _show(session: Session, folder: Path) -> bool:
    """Print the next pair; False when there is none."""
    pair = session.pair()
    _say(f"\n{session.told()}")
    if pair is None:
        return False
    for part in session.parts(pair):
        _say(f"\n{_clean(part.name)}\n{_seen(part, folder)}")
    _say(f"\n{HELP}")
    return True


def _seen(part: Part, folder: Path) -> str:
    """What is printed for a part. A medium lies in a file whose name tells nothing of the plan."""
    if isinstance(part.payload, Text | Json):
        return "\n".join(f"  {line}" for line in _words(part.payload).splitlines())
    kind = part.payload.type.split("/")[-1].removeprefix("x-")
    name = part.name if part.name == part.side else f"{part.side}_{part.name}"  # inputs may be called `left`
    path = folder / f"{re.sub(r'[^A-Za-z0-9_]', '_', name)}.{kind}"
    path.write_bytes(part.payload.data)
    return f"  {path}  ({part.payload.type}, {part.payload.size_bytes} bytes)"


def _words(payload: Text | Json) -> str:
    return _clean(payload.text if isinstance(payload, Text) else msgspec.json.format(payload.data).decode())


def _clean(text: str) -> str:
    """Text without what would steer the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


# -- in the browser ------------------------------------------------------------------------------------------


def _in_browser(session: Session, port: int) -> None:
    try:
        from tauten.serve.labels.app import serve_labels
    except ImportError as error:
        raise MachineError(
            f"the page needs {error.name}, which is not installed",
            help="pip install 'tauten[serve]', or leave --browser away",
            code="E343",
        ) from error
    asyncio.run(serve_labels(session, port=port, announce=_announce))


def _announce(url: str) -> None:
    _say(f"open {url}")
    _say("labels are kept as they are given; q in the page ends it")


# -- the end -------------------------------------------------------------------------------------------------


def _keep(session: Session, verdict: Verdict, before: Answers, after: Answers, path: Path) -> None:
    """Write the evidence, or say why there is none yet."""
    progress = session.progress
    if progress.left and progress.decision == "cannot conclude":
        _say(f"no evidence is written: {progress.left} pairs have no label yet")
        return
    hashes = {item: (old.content, new.content) for item, (old, new) in progress.comparison.answers.items()}
    Evidence(
        metric="tauten label",
        confidence=progress.confidence,
        items=scored(*progress.scores(progress.assumed), hashes=hashes),
        verdict=verdict,
        recording=session.recording.name,
        plan_before=before.plan,
        plan_after=after.plan,
        answers_before=os.path.relpath(before.path, path.parent),
        answers_after=os.path.relpath(after.path, path.parent),
        labels=len(progress.comparison.judgements),
        made_at=now(),
    ).save(path)


def _text(progress: Progress, verdict: Verdict) -> str:
    lines = [f"{progress}" if verdict.decision == "cannot conclude" else f"{verdict}"]
    for name, items in _findings(progress).items():
        if items:
            lines.append(f"{name}: {', '.join(items)}")
    return "\n".join(lines)


def _findings(progress: Progress) -> dict[str, list[str]]:
    """Items by what people said of them: the flips, and where they disagree."""
    settled = progress.settled.items()
    return {
        "worse": [item for item, said in settled if said > 0],
        "better": [item for item, said in settled if said < 0],
        "disputed": progress.comparison.disputed(),
    }


def _json(progress: Progress, verdict: Verdict) -> str:
    figures = {key: getattr(verdict, key) for key in verdict.__struct_fields__ if key != "flips"}
    record: dict[str, Any] = {
        "schema": "tauten.label/1",
        **figures,
        "identical": progress.identical,
        "labelled": progress.labelled,
        "missing": progress.left,
        "more": progress.more,
        **_findings(progress),
    }
    return msgspec.json.format(msgspec.json.encode(record)).decode()
