"""API keys: made at random, shown once, kept as hashes in a file that only its owner reads.

A key is ``tt_ID_SECRET``: eight hex digits that name it and 256 random bits. The file keeps the SHA-256 of
the whole key. A fast hash is right here: slow ones (scrypt, argon2) protect words that people choose, and
nobody tries 2^256 secrets at any speed, while a slow hash would cost each request tens of milliseconds.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import hmac
import math
import os
import re
import secrets
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tauten.errors import InputError, NotFound, suggest
from tauten.serve.door import Caller

FORMAT = "keys/1"
SECRET_BYTES = 32  # 256 bits: beyond any search
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_TOKEN = re.compile(r"tt_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_NOBODY = hashlib.sha256(b"").hexdigest()  # compared against where no key has that id: the same work


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One key as the file keeps it, and what it allows."""

    id: str
    sha256: str
    tenant: str = ""  # whose caches and fair share; the key's name where it says nothing
    priority: int = 0  # the highest that it may ask for
    rate_per_s: float | None = None
    burst: int | None = None  # requests at once; one second's worth where it says nothing
    concurrent: int = 0  # requests at a time; 0: no bound
    timing: bool = False  # may see Server-Timing
    admin: bool = False  # may swap plans
    created: str = ""

    def caller(self, name: str) -> Caller:
        """Who asks with this key."""
        rate = math.inf if self.rate_per_s is None else self.rate_per_s
        burst = self.burst or (1 if math.isinf(rate) else max(1, math.ceil(rate)))
        return Caller(
            name=name,
            tenant=self.tenant or name,
            priority=self.priority,
            rate_per_s=rate,
            burst=burst,
            concurrent=self.concurrent,
            timing=self.timing,
            admin=self.admin,
        )


class Keys:
    """The keys of a file, by their ids; `refresh` takes changes over while the server runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._callers: dict[str, tuple[str, Caller]] = {}
        self._tried: tuple[int, ...] | None = ()  # what the file looked like when it was read last
        self.refresh()

    @property
    def tenants(self) -> frozenset[str]:
        """All tenant names there are: the only ones that metrics may carry."""
        return frozenset(caller.tenant for _, caller in self._callers.values())

    def refresh(self) -> bool:
        """Read the file again if it changed; raises InputError E266 and keeps the old keys when it is bad."""
        seen = _stamp(self.path)
        if seen == self._tried:
            return False
        self._tried = seen
        keys = read_keys(self.path)
        self._callers = {key.id: (key.sha256, key.caller(name)) for name, key in keys.items()}
        return True

    def find(self, token: str) -> Caller | None:
        """Who a key belongs to. The time it takes does not tell how much of a guess was right."""
        match = _TOKEN.fullmatch(token)
        digest, caller = self._callers.get(match[1], (_NOBODY, None)) if match else (_NOBODY, None)
        same = hmac.compare_digest(hashlib.sha256(token.encode()).hexdigest(), digest)
        return caller if same else None


# -- the file ------------------------------------------------------------------------------------------------


def read_keys(path: Path) -> dict[str, Key]:
    """The keys of a file by name; raises InputError E266 when it is missing, open to others or malformed."""
    _check_mode(path)
    try:
        raw = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _bad(path, str(error)) from error
    if raw.get("tauten") != FORMAT or not set(raw) <= {"tauten", "key"}:
        raise _bad(path, f"expected tauten = {FORMAT!r} and [key.NAME] tables")
    try:
        keys = msgspec.convert(raw.get("key", {}), dict[str, Key])
    except msgspec.ValidationError as error:
        raise _bad(path, str(error)) from error
    _check_values(path, keys)
    return keys


def is_name(text: str) -> bool:
    """Whether keys and tenants may be called so: it stands in files, logs and metrics."""
    return _NAME.fullmatch(text) is not None


def new_key(path: Path, name: str, *, created: str, **scopes: Any) -> str:
    """Add a key to a file (made where there is none) and return the key itself, for the only time."""
    if not is_name(name):
        raise InputError(f"a key called {name!r}", help="1 to 64 letters, digits, - and _", code="E267")
    with _locked(path):
        keys = read_keys(path) if path.exists() else {}
        if name in keys:
            raise InputError(
                f"{str(path)!r} has a key called {name!r}",
                help=f"another name, or first: tauten key revoke {name}",
                code="E267",
            )
        id = secrets.token_hex(4)
        token = f"tt_{id}_{secrets.token_urlsafe(SECRET_BYTES)}"
        digest = hashlib.sha256(token.encode()).hexdigest()
        keys[name] = Key(id=id, sha256=digest, created=created, **scopes)
        _check_values(path, keys)
        _write(path, keys)
    return token


def revoke_key(path: Path, name: str) -> None:
    """Take a key out of a file; a running server refuses it within a second."""
    with _locked(path):
        keys = read_keys(path)
        if name not in keys:
            raise NotFound(f"{str(path)!r} has no key {name!r}", help=suggest(name, keys))
        del keys[name]
        _write(path, keys)


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _check_mode(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise _bad(path, "there is no such file", f"make a key: tauten key new NAME --file {path}") from None
    except OSError as error:
        raise _bad(path, str(error)) from error
    if os.name == "posix" and mode & 0o077:
        raise _bad(path, f"others may read it (mode {mode & 0o777:o})", f"chmod 600 {path}")


def _check_values(path: Path, keys: Mapping[str, Key]) -> None:
    ids = [key.id for key in keys.values()]
    for name, key in keys.items():
        wrong = next((why for why, found in _faults(key) if found), "")
        if wrong or ids.count(key.id) > 1:
            raise _bad(path, f"key {name!r}: {wrong or 'its id is used twice'}")


def _faults(key: Key) -> Iterator[tuple[str, bool]]:
    yield "sha256 is not 64 hex digits", not re.fullmatch(r"[0-9a-f]{64}", key.sha256)
    yield "id is not 8 hex digits", not re.fullmatch(r"[0-9a-f]{8}", key.id)
    yield "rate_per_s is not above 0", key.rate_per_s is not None and not key.rate_per_s > 0
    yield "burst is below 1", key.burst is not None and key.burst < 1
    yield "concurrent is below 0", key.concurrent < 0
    yield "tenant is not a name", bool(key.tenant) and not is_name(key.tenant)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time: whoever makes the lock file, and only that one takes it away."""
    lock = path.with_name(f".{path.name}.lock")
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise _bad(
            path, "another command writes it", f"wait for it; if there is none, remove {lock}"
        ) from None
    except OSError as error:
        raise _bad(path, error.strerror or str(error)) from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _write(path: Path, keys: Mapping[str, Key]) -> None:
    """All or nothing, and never readable by others."""
    lines = [f'tauten = "{FORMAT}"']
    for name, key in keys.items():
        lines += ["", f"[key.{name}]"]
        lines += [f"{field} = {_toml(value)}" for field, value in msgspec.to_builtins(key).items()]
    beside = path.with_name(f".{path.name}.new")
    with open(beside, "w", opener=_private) as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _bad(path: Path, reason: str, help: str = "mend it, or make another with tauten key new") -> InputError:
    return InputError(f"the key file {str(path)!r}: {reason}", help=help, code="E266")
