"""Gates by name, as the store keeps them: one a process, written beside the work."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec

from tauten.errors import InputError
from tauten.models.store import default_root
from tauten.plan.files import replace
from tauten.run.gating.gate import FORMAT, Gate, State, Terms

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_open: dict[Path, KeptGate] = {}


class KeptGate(Gate):
    """A gate whose state is written to a file by a thread of its own, one write after another."""

    def __init__(self, path: Path, terms: Terms | None) -> None:
        self.path = path
        self.problem = ""  # why the last write failed: then a restart forgets what was seen since
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"gate-{path.stem}")
        self._writing: Future[None] | None = None
        state = _read(path)
        if state is not None and terms is not None and state.terms != terms:
            state = None  # another promise: what was proved for the old one says nothing
        super().__init__(terms or (state.terms if state else Terms()), state=state, keep=self._write)

    def _write(self, data: bytes) -> None:
        self._writing = self._thread.submit(replace, self.path, data)
        self._writing.add_done_callback(self._written)

    def _written(self, done: Future[None]) -> None:
        error = done.exception()
        self.problem = str(error) if error is not None else ""

    def flush(self) -> None:
        """Wait until what was to be written is on the disk; raises MachineError where it could not be."""
        self.save()
        if self._writing is not None:
            self._writing.result()


def open_gate(name: str, terms: Terms | None = None, *, root: Path | None = None) -> KeptGate:
    """The gate of that name: the same object wherever it is asked for in this process.

    `terms` differing from those it was certified for close it until it is certified again; left out, they are those
    of its file, or the usual ones. Raises InputError E292 for a file that cannot be read: a gate never opens by guess.
    """
    path = gate_path(name, root)
    found = _open.get(path)
    if found is None or (terms is not None and found.terms != terms):
        found = _open[path] = KeptGate(path, terms)
    return found


def gate_path(name: str, root: Path | None = None) -> Path:
    """Where the gate of a name lies."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"no gate can be called {name!r}", help="use up to 64 letters, digits, . - and _", code="E292"
        )
    return (root or default_root()) / "gates" / f"{name}.json"


def gate_names(root: Path | None = None) -> list[str]:
    """The gates that are kept."""
    return sorted(path.stem for path in ((root or default_root()) / "gates").glob("*.json"))


def _read(path: Path) -> State | None:
    try:
        state = msgspec.json.decode(path.read_bytes(), type=State)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise _unreadable(path, str(error)) from error
    if state.format != FORMAT:
        raise _unreadable(path, f"it has format {state.format!r}, this version reads {FORMAT!r}")
    return state


def _unreadable(path: Path, why: str) -> InputError:
    return InputError(
        f"the gate {path.name!r} cannot be read: {why}",
        help="restore the file, or delete it and certify again",
        code="E292",
    )
