"""`tauten`: finds the command, runs it, and turns errors into words and exit codes.

Only the named command's file is imported, so `tauten --help` costs what it prints.
Results go to stdout, progress and complaints to stderr.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence

from tauten.errors import TautenError, suggest
from tauten.version import __version__

GROUPS = {
    "Look": {
        "explain": "Where the time goes: a workflow's plan, or one real request of it",
    },
    "Run": {
        "run": "One request through a workflow",
        "demo": "The help desk on real models: two plans, side by side",
    },
    "Keep": {
        "plan": "show | diff | lint | rebase",
        "model": "list | pull | verify | show | rm",
        "index": "build | query | list | rm",
    },
    "Help": {
        "doctor": "Is this machine ready?",
    },
}
COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}

EXIT_INTERRUPTED = 130  # the shell's convention for SIGINT
EXIT_BUG = 70  # EX_SOFTWARE of sysexits.h


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script: run a command and exit with its code."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"tauten {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"tauten: no command {name!r}. {suggest(name, COMMANDS)}", file=sys.stderr)
        return 2
    return _guarded(name, rest)


def overview() -> str:
    """The text of `tauten --help`."""
    lines = ["tauten  EXPLAIN ANALYZE for AI workflows, and the optimiser behind it.", ""]
    for group, commands in GROUPS.items():
        for index, (name, text) in enumerate(commands.items()):
            lines.append(f"  {group if index == 0 else '':<6} {name:<9} {text}")
    lines += ["", "tauten COMMAND --help tells more.  --version prints the version."]
    return "\n".join(lines)


def _guarded(name: str, rest: list[str]) -> int:
    try:
        return _dispatch(name, rest)
    except TautenError as error:
        print(f"tauten: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("tauten: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nothing to tell it
        return 0
    except Exception as error:  # noqa: BLE001  # the last door: a bug becomes a report, not a traceback
        return _report(error)


def _dispatch(name: str, rest: list[str]) -> int:
    app = importlib.import_module(f"tauten.cli.{name}").app
    try:
        result = app(rest, prog_name=f"tauten {name}", standalone_mode=False)
    except SystemExit as left:
        return int(left.code or 0)
    except Exception as error:
        show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
        if isinstance(error, TautenError) or code is None:
            raise
        if show is not None:
            show()  # a usage error, worded by typer
        return int(code)
    return result if isinstance(result, int) else 0


def _report(error: Exception) -> int:
    with tempfile.NamedTemporaryFile("w", prefix="tauten-", suffix=".txt", delete=False) as report:
        traceback.print_exception(error, file=report)
    print(
        f"tauten: a bug of ours: {error.__class__.__name__}: {error}\n"
        f"help: please send {report.name}; it holds the stack, and none of your data",
        file=sys.stderr,
    )
    return EXIT_BUG
