"""`tauten`: finds the command, runs it, and turns errors into words and exit codes.

Only the named command's file is imported, so `tauten --help` costs what it prints.
Results go to stdout, progress and complaints to stderr.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import errno
import importlib
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence

from tauten.errors import InputError, MachineError, TautenError, suggest
from tauten.version import __version__

GROUPS = {
    "Look": {
        "explain": "Where the time goes: a workflow's plan, or one real request of it",
    },
    "Improve": {
        "optimize": "Tighten a plan until it holds an SLO, with the evidence",
        "label": "Which of two answers is better: blind, until the verdict stands",
        "route": "record | replay | gates | certify",
    },
    "Run": {
        "run": "One request through a workflow",
        "bench": "Open-loop load on a workflow or any URL",
        "serve": "Workflows and models behind standard APIs",
        "demo": "The help desk: two plans, side by side; or assistant: caches; or document-chat",
    },
    "Keep": {
        "plan": "show | diff | lint | rebase",
        "prompt": "list | show | preview | diff",
        "model": "list | pull | verify | show | build | recipes | rm",
        "key": "new | list | revoke",
        "index": "build | query | list | rm",
        "usage": "What was taken of whom and what it cost; reconcile, budgets",
        "store": "backup | restore",
        "cache": "stats | clear | warm | prove",
    },
    "Help": {
        "doctor": "Is this machine ready?",
    },
}
COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}
WORDS = {  # second words, and flags, with a file of their own, and its name
    ("demo", "assistant"): "demo_assistant",
    ("demo", "help-desk"): "demo",
    ("bench", "headlines"): "headlines",
    ("bench", "--stages"): "stages",
    ("bench", "--prompt"): "bench_prompts",
    ("demo", "document-chat"): "demo_document_chat",
    ("usage", "reconcile"): "reconcile",
    ("usage", "budgets"): "budgets",
}
OPTIONS = {"--prompt"}  # of these flags: they have a value, and stay

EXIT_INTERRUPTED = 130  # the shell's convention for SIGINT
EXIT_BUG = 70  # EX_SOFTWARE of sysexits.h


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script: run a command and exit with its code."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        return _answer(arguments)
    except TautenError as error:
        print(f"tauten: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("tauten: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _no_reader()
        return 0
    except Exception as error:  # noqa: BLE001  # the last door: a bug becomes a report, not a traceback
        if (told := _said_better(error)) is None:
            return _report(error)
        print(f"tauten: {told}", file=sys.stderr)
        return told.exit_code


def _answer(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview(), flush=True)
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"tauten {__version__}", flush=True)
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"tauten: no command {name!r}. {suggest(name, COMMANDS)}", file=sys.stderr)
        return 2
    return _dispatch(name, rest)


def overview() -> str:
    """The text of `tauten --help`."""
    lines = ["tauten  EXPLAIN ANALYZE for AI workflows, and the optimiser behind it.", ""]
    for group, commands in GROUPS.items():
        for index, (name, text) in enumerate(commands.items()):
            lines.append(f"  {group if index == 0 else '':<7} {name:<9} {text}")
    lines += ["", "tauten COMMAND --help tells more.  --version prints the version."]
    return "\n".join(lines)


def _dispatch(name: str, rest: list[str]) -> int:
    file, called = name, f"tauten {name}"
    words = [*rest[:1], *(word for word in rest[1:] if word.startswith("--"))]
    bare = (word.partition("=")[0] for word in words)
    if word := next((word for word in bare if (name, word) in WORDS), ""):
        file, called = WORDS[name, word], f"{called} {word}" if word not in OPTIONS else called
        if word not in OPTIONS and word in rest:
            rest.remove(word)  # once: a file may be called like the command
    app = importlib.import_module(f"tauten.cli.{file}").app
    try:
        result = app(rest, prog_name=called, standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as left:
        if isinstance(left.__context__, BrokenPipeError):  # which typer turns into an exit of 1
            raise left.__context__ from None
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise error.__cause__ from None
        show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
        if isinstance(error, TautenError) or code is None:
            raise
        if show is not None:
            show()  # a usage error, worded by typer
        return int(code)
    if result == EXIT_INTERRUPTED:  # which typer makes of Ctrl-C
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def _said_better(error: Exception) -> TautenError | None:
    """What is no bug of ours: an error of a workflow's own code, a path that may not be used, an extra that is not here."""
    from tauten.extras import missing

    running = sys.modules.get("tauten.run.context")  # not loaded only to say that nothing ran
    own: TautenError | None = running.own_error(error) if running is not None else None
    return own or _of_a_path(error) or missing(error)


_UNUSABLE = {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.ELOOP}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}


def _of_a_path(error: Exception) -> TautenError | None:
    """What the system says of a path, as an error of it: even a look at one may be refused; None for all else."""
    if not isinstance(error, OSError) or error.filename is None or error.errno not in _UNUSABLE | _REFUSED:
        return None
    said = f"cannot use {str(error.filename)[:200]!r}: {error.strerror}"
    if error.errno in _UNUSABLE:
        return InputError(said, help="check the path", code="E203")
    return MachineError(said, help="check its permissions and the room on its disk", code="E302")


def _no_reader() -> None:
    """The reader left (`| head -1`): what is still buffered goes nowhere, and nobody is told."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.__stdout__.fileno() if sys.__stdout__ is not None else 1)
    os.close(null)


def _report(error: Exception) -> int:
    print(f"tauten: a bug of ours: {error.__class__.__name__}: {error}", file=sys.stderr)
    try:
        with tempfile.NamedTemporaryFile("w", prefix="tauten-", suffix=".txt", delete=False) as report:
            traceback.print_exception(error, file=report)
    except OSError as refused:
        print(f"help: please send this line; a report with the stack had no room: {refused}", file=sys.stderr)
    else:
        print(f"help: please send {report.name}; it holds the stack of the failed command", file=sys.stderr)
    return EXIT_BUG
