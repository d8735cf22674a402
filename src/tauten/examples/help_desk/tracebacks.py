"""Run every failing program and store what it prints: `python -m tauten.examples.help_desk.tracebacks`.

Only authors of the recording need this; it wants Python 3.11, whose tracebacks the screens show.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from tauten.errors import MachineError
from tauten.examples.help_desk.sites import HALVES, Site, sites

VERSION = (3, 11)
_SECONDS = 20.0  # each program fails within a tenth of a second; this bounds a hang


def run(site: Site) -> str:
    """What the program prints, with ``{home}`` and ``{lib}`` in place of this machine's folders."""
    if sys.version_info[:2] != VERSION:
        raise MachineError(
            "tracebacks are made by Python 3.11", help="run this with Python 3.11", code="E342"
        )
    with tempfile.TemporaryDirectory() as folder:
        home = str(Path(folder).resolve())
        Path(home, site.file).write_text(site.program.lstrip("\n"), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-E", f"{home}/{site.file}"],
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
            check=False,
            preexec_fn=_as_a_terminal_does,
        )
    printed = done.stdout.decode("utf-8", "replace").replace(home, "{home}")
    for library in {sysconfig.get_path("stdlib"), str(Path(sysconfig.get_path("stdlib")).resolve())}:
        printed = printed.replace(library, "{lib}")
    return printed


def _as_a_terminal_does() -> None:
    """One program interrupts itself, and a background job's children would inherit that they ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    """Write items/tracebacks.toml."""
    parts = ["# What the programs print under Python 3.11; made by tracebacks.py, not edited by hand."]
    for half in HALVES:
        for site in sites(half):
            parts.append(f"{site.id} = '''\n{run(site)}'''")
    path = Path(__file__).with_name("items") / "tracebacks.toml"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
