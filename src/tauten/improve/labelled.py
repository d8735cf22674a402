"""What a workflow brings along to be judged by: a metric, labelled recordings and plans that stand beside it.

In the workflow's module, or in its package: a metric in the package itself or its `scoring`, a function
``recording(*, split=None)`` in the package itself or its `recording`. So a command needs no flag for either.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import msgspec

from tauten.describe.workflow import Workflow
from tauten.errors import InputError
from tauten.improve.quality import Metric
from tauten.improve.recording import Item, Label, Recording
from tauten.improve.replay import Served
from tauten.run.values import join

T = TypeVar("T")

DEV, WHOLE = "dev", "all"  # what a command line names: the split to tune on, and every split
TOPIC = "topic:"
"""Starts the tag that tells which items are related: answers to one topic are right or wrong together."""


def metric_of(workflow: Workflow[..., Any]) -> Metric | None:
    """The metric beside a workflow: the one called `metric`, else the only one of its module or package.

    Raises InputError where there are several.
    """
    for place in _places(workflow, "scoring"):
        found = {name: value for name, value in vars(place).items() if isinstance(value, Metric)}
        if "metric" in found:
            return found["metric"]
        different = set(found.values())
        if len(different) > 1:
            raise InputError(
                f"{place.__name__} has {len(different)} metrics ({', '.join(sorted(found))})",
                help="call the one that judges the workflow `metric`",
                code="E253",
            )
        if different:
            return different.pop()
    return None


def recording_of(workflow: Workflow[..., Any], split: str | None = None) -> Recording | None:
    """The recording beside a workflow, or one split of it; None where it brings none.

    Raises InputError where it has no item of that split.
    """
    for place in _places(workflow, "recording"):
        made = _made(getattr(place, "recording", None), split)
        if made is None:
            continue
        if not isinstance(made, Recording):
            raise InputError(
                f"{place.__name__}.recording gave {type(made).__name__}, expected a Recording",
                help="return tauten.improve.recording.Recording(name, items)",
                code="E245",
            )
        if not len(made):
            raise InputError(
                f"the recording of {workflow.name} has no item of the split {split!r}",
                help=f"its splits are {', '.join(_splits(place))}; or give the folder of a recording",
                code="E245",
            )
        return made
    return None


def open_recording(workflow: Workflow[..., Any], given: str, *, usual: str) -> Recording:
    """The recording that a command line names: a folder, with all that is in it; a split of the workflow's own
    (``dev``), or ``all`` of that; where it names none (""), the split that is `usual` for what is to be done.

    On development items things may be tuned, by held-out ones they are judged: who asks says which he wants. Raises
    InputError where there is none.
    """
    if given and (Path(given) / "items.jsonl").is_file():
        return Recording.load(given)
    split = given or usual
    own = recording_of(workflow, None if split == WHOLE else split)
    if own is None:
        seen = f"{given!r} is not the folder of a recording, and " if given else ""
        raise InputError(
            f"{seen}{workflow.name} brings no recording along",
            help="give --recording FOLDER, or write `def recording(*, split=None)` beside the workflow",
            code="E245",
        )
    return own


def splits_of(items: Iterable[Item]) -> list[str]:
    """The splits that items are of, in alphabetical order."""
    return sorted({item.split for item in items})


def labelled(items: Iterable[Item]) -> list[Item]:
    """The items of which anything is known that an answer can be judged by."""
    return [item for item in items if item.label != Label()]


def clusters(items: Iterable[Item]) -> dict[str, str]:
    """Which items are related, by their tag ``topic:NAME``; an item without is alone."""
    found = {}
    for item in items:
        topics = [tag.removeprefix(TOPIC) for tag in item.tags if tag.startswith(TOPIC)]
        found[item.id] = topics[0] if topics else item.id
    return found


def beside(workflow: Workflow[..., Any], name: str) -> Path | None:
    """A file in the folder of the workflow's module; None where there is none."""
    module = _module(workflow)
    file = getattr(module, "__file__", None)
    path = Path(file).parent / name if file else None
    return path if path is not None and path.is_file() else None


class Mark(NamedTuple):
    """What has to be the same for an item's answers, and for their scores, to be those of before."""

    inputs: str
    judged: str = ""


def marks_of(items: Iterable[Item], metric: Metric | None) -> Callable[[str], Mark]:
    """By the id of an item what it gives and what its answers are judged by, looked at when it is asked for."""
    known = {item.id: item for item in items}
    judge = metric.revision if metric is not None else ""

    def mark(id: str) -> Mark:
        label = msgspec.json.encode(known[id].label, enc_hook=repr, order="deterministic")
        return Mark(known[id].revision, hashlib.sha256(label + judge.encode()).hexdigest())

    return functools.cache(mark)


# -- scores --------------------------------------------------------------------------------------------------


def answer_of(workflow: Workflow[..., Any], served: Served) -> Any:
    """What calling the workflow would have given: streamed texts joined, other increments as a list, else the value."""
    return _joined(workflow, served.values)


def _joined(workflow: Workflow[..., Any], values: list[Any]) -> Any:
    if workflow.streams:
        return join(values, workflow.output)
    return values[0] if len(values) == 1 else join(values, workflow.output)


def settles(metric: Metric, workflow: Workflow[..., Any]) -> Callable[[list[Any]], bool] | None:
    """Whether the increments of a request so far settle its score; None where the metric does not say so."""
    enough = metric.enough
    if enough is None:
        return None
    return lambda values: bool(_told(metric, "in `enough`", lambda: enough(_joined(workflow, values))))


def score(metric: Metric, workflow: Workflow[..., Any], served: Served, label: Any) -> float:
    """The score of one request: 0.0 where it failed, whatever came before, else what the metric says.

    The metric is given what `answer_of` tells, and the item's label. Raises InputError where it raises.
    """
    if served.error is not None:
        return 0.0
    return _told(metric, f"on {served.id}", lambda: metric(answer_of(workflow, served), label))


def _told(metric: Metric, where: str, say: Callable[[], T]) -> T:
    """What a metric says; raises InputError where it raises."""
    try:
        return say()
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"metric `{metric.name}` raised {type(error).__name__} {where}: {error}",
            help="a metric gives 0 for an answer that it cannot read",
            code="E253",
        ) from error


def scores(
    metric: Metric, workflow: Workflow[..., Any], served: Iterable[Served], items: Iterable[Item]
) -> dict[str, float]:
    """The score of every labelled item that was run, by its id."""
    labels: Mapping[str, Label] = {item.id: item.label for item in labelled(items)}
    return {each.id: score(metric, workflow, each, labels[each.id]) for each in served if each.id in labels}


# -- where to look -------------------------------------------------------------------------------------------


def _places(workflow: Workflow[..., Any], sibling: str) -> Iterator[ModuleType]:
    """The workflow's module, its package, and that module of the package."""
    module = _module(workflow)
    if module is None:
        return
    yield module
    package = module.__package__
    if not package:
        return
    if package != module.__name__:
        yield importlib.import_module(package)
    name = f"{package}.{sibling}"
    if name != module.__name__ and importlib.util.find_spec(name) is not None:
        yield importlib.import_module(name)


def _module(workflow: Workflow[..., Any]) -> ModuleType | None:
    function: Any = workflow.function
    while isinstance(function, functools.partial):
        function = function.func
    return sys.modules.get(getattr(function, "__module__", ""))


def _made(found: Any, split: str | None) -> Any:
    """What something called `recording` gives; None where it is not a recording or a maker of one."""
    if isinstance(found, Recording):
        return found if split is None else found.select(split=split)
    if inspect.isfunction(found) and "split" in inspect.signature(found).parameters:
        return found(split=split)
    return None


def _splits(place: ModuleType) -> list[str]:
    every = _made(getattr(place, "recording", None), None)
    return [*splits_of(every), WHOLE] if isinstance(every, Recording) else []
