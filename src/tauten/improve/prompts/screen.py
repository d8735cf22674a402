"""Prompts on the screen: lists, previews, differences and comparisons, at most 96 columns wide."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tauten.explain.figures import figure, signed
from tauten.explain.lines import clip, wrapped
from tauten.improve.prompts.comparison import ArmResult, Comparison, Figure, Quantile
from tauten.improve.prompts.difference import Difference
from tauten.improve.prompts.folder import Listed
from tauten.improve.prompts.parts import PARTS, Parts, Preview

WIDTH: Final = 96


def list_text(entries: Sequence[Listed]) -> str:
    """One line a template, and what is wrong with one that cannot be read."""
    wide = min(36, max((len(each.place) for each in entries), default=0))
    lines = []
    for each in entries:
        if each.problem:
            lines.append(f"{each.place:<{wide}}  {each.problem}")
            continue
        fields = ", ".join(f"{name}: {kind}" for name, kind in each.variables.items()) or "no variable"
        shots = f"   {len(each.examples)} examples" if each.examples else ""
        formats = f"   formats {', '.join(each.formats)}" if each.formats else ""
        lines.append(f"{each.place:<{wide}}  {each.version}  {fields}{shots}{formats}")
    return "\n".join(wrapped(line, WIDTH) for line in lines)


def show_text(entry: Listed, source: str) -> str:
    """What a template says of itself, then its text."""
    lines = [f" {entry.name}   {entry.place}   version {entry.version}"]
    lines += [f"   {entry.description}"] if entry.description else []
    lines += [f"   {name}: {kind}" for name, kind in entry.variables.items()]
    lines += [f"   examples: {', '.join(entry.examples)}"] if entry.examples else []
    lines += [f"   formats: {', '.join(entry.formats)} (the first stands)"] if entry.formats else []
    return "\n".join([*(wrapped(line, WIDTH) for line in lines), "", source.rstrip("\n")])


def preview_text(found: Preview) -> str:
    """The exact text, then its tokens by part: they add up."""
    sampled = f"   samples stand for {', '.join(found.sampled)}" if found.sampled else ""
    head = f" {found.template} {found.version}   as {found.model} reads it{sampled}"
    share = f"   {found.tokens.total} tokens of {found.context} that it sees at once"
    return "\n".join([wrapped(head, WIDTH), "", found.text, "", share, *_parts(found.tokens)])


def _parts(tokens: Parts) -> Iterator[str]:
    if tokens.parts is None:
        yield "   by part: not known, the tokenizer writes the text in another way"
        return
    for part, words in PARTS.items():
        yield f"   {part:<10}{tokens.parts[part]:>7}   {words}"
        if part == "examples":
            for name, count in (tokens.examples or {}).items():
                yield f"      {clip(name, 20):<20}{count:>7}"
    yield f"   {tokens.unchanged} tokens at the beginning stay the same for every request"


def difference_text(found: Difference) -> str:
    """The lines that differ, then the tokens."""
    if found.same:
        return f" the same version: {found.a.version}"
    head = f" {found.b.tokens.total} tokens against {found.a.tokens.total}: {found.tokens:+d}, without values, as {found.model} counts"
    rows = [f"   {part:<10}{count:+7d}" for part, count in (found.parts or {}).items() if count]
    return "\n".join([*found.lines, "", wrapped(head, WIDTH), *rows])


# -- two templates on a recording ------------------------------------------------------------------------------


def comparison_text(found: Comparison) -> str:
    """Arms, paired differences, verdict."""
    a, b = found.arms
    rounds = f", {found.rounds} rounds" if found.rounds > 1 else ""
    head = f" {found.workflow}.{found.stage}   {found.recording}   one request at a time, in turns{rounds}   {found.machine}"
    blocks = [
        head,
        "\n".join([*_arm("a", a), *_arm("b", b)]),
        "\n".join(
            [f"   {'in the mean':<25}{'a':>9}{'b':>9}   b - a (95 % interval)", *map(_row, found.figures)]
        ),
        "\n".join(_verdict(found)),
    ]
    return "\n\n".join(wrapped(block, WIDTH) for block in blocks) + "\n"


def _arm(mark: str, arm: ArmResult) -> Iterator[str]:
    yield f"   {mark}  {arm.name}   version {arm.version}"
    told = [f"{arm.requests} requests"]
    told += [f"{arm.failed} failed"] if arm.failed else []
    told += [f"{arm.cut} answers cut by their bound"] if arm.cut else []
    told += [f"score {arm.score:.3f}"] if arm.score is not None else []
    yield "      " + "   ".join([*told, *map(_time, arm.times)])
    yield from (f"      {error}" for error in arm.errors)


def _time(each: Quantile) -> str:
    between = (
        f" ({figure(each.low_ms)}-{figure(each.high_ms)})"
        if each.low_ms is not None and each.high_ms is not None
        else ""
    )
    return f"p{each.q * 100:g} {figure(each.ms)}{between} ms"


def _row(each: Figure) -> str:
    if each.low is None or each.high is None:
        told = f"{signed(each.diff)}, too few requests for an interval"
    else:
        sure = "" if each.low > 0 or each.high < 0 or each.low == each.high else ", not significant"
        told = f"{signed(each.diff)} ({signed(each.low)} to {signed(each.high)}){sure}"
    counted = f", foretold {signed(each.foretold)}" if each.foretold is not None else ""
    return f"   {f'{each.what}, {each.unit}':<25}{figure(each.a):>9}{figure(each.b):>9}   {told}{counted}"


def _verdict(found: Comparison) -> Iterator[str]:
    if found.verdict is None:
        yield " no verdict on quality"
    else:
        changed = len(found.verdict.flips)
        worse = ", ".join(flip.item for flip in found.verdict.bad_flips[:5])
        yield f" {found.verdict}"
        told = f"   a loss of {found.verdict.margin:.1%} is allowed; {changed} answers are scored otherwise"
        yield told + (f", worse: {worse}" if worse else "")
    yield from (f"   {note}" for note in found.notes)
