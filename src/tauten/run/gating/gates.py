"""Gates by name, as the store keeps them: one a process, written beside the work."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec

from tauten.errors import InputError, MachineError
from tauten.models.locks import Locks
from tauten.models.store import default_root
from tauten.plan.files import replace
from tauten.run.gating.gate import FORMAT, Gate, State, Terms

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_open: dict[Path, KeptGate] = {}


class KeptGate(Gate):
    """A gate whose state is written to a file by a thread of its own, one write after another.

    Another process may have certified it meanwhile: what that proved is not written over, and `refresh` goes by it. A
    lock beside the file holds the others off between the look at whose it is and the write.
    """

    def __init__(self, path: Path, terms: Terms | None, about: str = "") -> None:
        self.path = path
        self.problem = ""  # why the last write failed: then a restart forgets what was seen since
        self._locks = Locks(path.parent / "locks")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"gate-{path.stem}")
        self._writing: Future[None] | None = None
        self._found = _stamp(path)  # of the file when it was read, or written, last
        state = _read(path)
        self._seen = (
            state.claim if state is not None else ""
        )  # that the file has, as far as this process knows
        if state is not None and not _fits(state, terms, about):
            state = None  # another promise, or other scores: what was proved for the old ones says nothing
        super().__init__(
            terms or (state.terms if state else Terms()), state=state, keep=self._write, about=about
        )

    def _write(self, data: bytes) -> None:
        self._writing = self._thread.submit(self._replace, data, self._state.claim)
        self._writing.add_done_callback(self._written)

    def _replace(self, data: bytes, claim: str) -> None:
        """In the thread. A newer proof stays; `refresh` finds it."""
        try:
            with self._locks.hold(self.path.stem):
                if _claim_of(self.path) in ("", self._seen):
                    replace(self.path, data)
                    self._seen, self._found = claim, _stamp(self.path)
        except OSError as error:  # of the lock: `replace` has an error of its own
            raise MachineError(
                f"cannot lock {self.path}: {error.strerror}",
                help="make the store's folder `gates` writable, or choose another store",
                code="E302",
            ) from error

    def _written(self, done: Future[None]) -> None:
        error = done.exception()
        self.problem = str(error) if error is not None else ""

    def refresh(self) -> bool:
        """Go by what another process proved since; says whether there was such. It reads a file: ask now and then.

        Raises InputError E292 for one that cannot be read any more.
        """
        found = _stamp(self.path)
        if found == self._found or (self._writing is not None and not self._writing.done()):
            return False
        self._found = found
        state = _read(self.path)
        if state is None or state.claim == self._seen or not _fits(state, self.terms, self.about):
            return False
        self._seen = state.claim
        self._adopt(state)
        return True

    def flush(self) -> None:
        """Wait until what was to be written is on the disk; raises MachineError where it could not be."""
        self.save()
        if self._writing is not None:
            self._writing.result()


def open_gate(
    name: str, terms: Terms | None = None, *, about: str = "", root: Path | None = None
) -> KeptGate:
    """The gate of that name: the same object wherever it is asked for in this process.

    `terms` differing from those it was certified for close it until it is certified again, and so does another `about`;
    left out, they are those of its file, or the usual ones. Raises InputError E292 for a file that cannot be read: a
    gate never opens by guess.
    """
    path = gate_path(name, root)
    found = _open.get(path)
    if found is None or not _fits(found, terms, about):
        found = _open[path] = KeptGate(path, terms, about)
    return found


def opened_gates() -> dict[str, KeptGate]:
    """Those that this process has opened, by name."""
    return {path.stem: gate for path, gate in _open.items()}


def _fits(known: State | KeptGate, terms: Terms | None, about: str) -> bool:
    """Whether what was proved is what is asked for."""
    return (terms is None or known.terms == terms) and (not about or known.about == about)


def _stamp(path: Path) -> tuple[int, int, int]:
    """Which file it is, when it was written and how large it is; zeros of one that is not there.

    The clock of files may tick too seldom to tell two writes apart.
    """
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size


def _claim_of(path: Path) -> str:
    """Which proof a file holds; none of one that is not there, or cannot be read: that one is written anew."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Claim).claim
    except (OSError, msgspec.DecodeError):
        return ""


class _Claim(msgspec.Struct):
    claim: str = ""


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
        state = _decoded(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise _unreadable(path, str(error)) from error
    if state.format != FORMAT:
        raise _unreadable(path, f"it has format {state.format!r}, this version reads {FORMAT!r}")
    return state


def _decoded(data: bytes) -> State:
    """A state as it lies in a file. Observations without a score, which earlier versions kept, are left out."""
    found = msgspec.json.decode(data)
    if isinstance(found, dict) and isinstance(learned := found.get("learned"), list):
        found["learned"] = [each for each in learned if not (isinstance(each, list) and each[:1] == [None])]
    return msgspec.convert(found, State)


def _unreadable(path: Path, why: str) -> InputError:
    return InputError(
        f"the gate {path.name!r} cannot be read: {why}",
        help="restore the file, or delete it and certify again",
        code="E292",
    )
