"""Bad input against the real stages: a clear message, the right exit code, no traceback, nothing left behind."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from cli.kit_cli import nothing_left, plan, tauten, written
from media.make import drawing, encode, png_header, riff, sound
from tauten.cli.main import run
from tauten.cli.target import load_workflow
from tauten.describe.payload import Text
from tauten.errors import BackendError, TautenError
from tauten.models import Store
from tauten.models.store import default_root
from tauten.run.engine import Engine

WORKFLOWS = """
import tauten as tt
from tauten.describe.stages.detect_speech import SpeechSpan

@tt.workflow
def read(photo: tt.Image) -> tt.Page:
    return tt.ocr(photo)

@tt.workflow
def label(photo: tt.Image) -> tt.Labels:
    return tt.classify(photo)

@tt.workflow
def hear(clip: tt.Audio) -> tt.Text:
    return tt.transcribe(clip)

@tt.workflow
def speech(clip: tt.Audio) -> list[SpeechSpan]:
    return tt.detect_speech(clip)

@tt.workflow
def speak(question: tt.Text) -> tt.Stream[tt.Text]:
    return tt.generate("speak.md", question=question, max_tokens=200)
"""
JPEG = encode(drawing(), "JPEG")
PNG = encode(drawing(), "PNG")
SILENCE = sound(np.zeros(32_000, np.float32), 16_000, "WAV")


@pytest.fixture
def stages(tmp_path: Path) -> Path:
    written(tmp_path, "speak.md", "Write a long story about {{ question }}.\n")
    return written(tmp_path, "stages.py", WORKFLOWS)


def threads() -> set[str]:
    return {each.name for each in threading.enumerate() if each.name.startswith("tauten")}


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run in this process; nothing on stdout, no traceback, a way out, no thread and no process left."""
    before = threads()
    with nothing_left():
        code = run(words)
    seen = capsys.readouterr()
    assert seen.out == ""
    assert "Traceback" not in seen.err
    assert "help: " in seen.err
    assert threads() <= before
    return code, seen.err


@pytest.mark.models
@pytest.mark.parametrize("workflow", ["read", "label"])
@pytest.mark.parametrize(
    ("name", "data", "seen"),
    [
        ("cut.jpg", JPEG[: len(JPEG) // 2], "cut short"),
        ("cut.png", PNG[: len(PNG) // 2], "cut short"),
        ("text.png", b"this is only text", "plain text in 'text.png'"),
        ("bomb.png", png_header(50_000, 50_000), "50000x50000 pixels"),
        ("empty.png", b"", "zero bytes"),
    ],
    ids=["jpeg", "png", "text", "bomb", "empty"],
)
def test_bad_pictures(
    workflow: str, name: str, data: bytes, seen: str, stages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stages.parent / name).write_bytes(data)
    code, told = refused(["run", f"{stages}:{workflow}", f"photo=@{stages.parent / name}"], capsys)
    assert code == 2
    assert seen in told


@pytest.mark.models
@pytest.mark.parametrize("workflow", ["hear", "speech"])
@pytest.mark.parametrize(
    ("name", "data", "seen"),
    [("empty.wav", b"", "zero bytes"), ("none.wav", riff(b""), "sample"), ("text.wav", b"only text", "text")],
    ids=["empty", "header", "text"],
)
def test_bad_sounds(
    workflow: str, name: str, data: bytes, seen: str, stages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stages.parent / name).write_bytes(data)
    code, told = refused(["run", f"{stages}:{workflow}", f"clip=@{stages.parent / name}"], capsys)
    assert code == 2
    assert seen in told


@pytest.mark.models
def test_silence_is_no_error(stages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (stages.parent / "silent.wav").write_bytes(SILENCE)
    assert run(["run", f"{stages}:hear", f"clip=@{stages.parent / 'silent.wav'}"]) == 0
    assert capsys.readouterr() == ("\n", "")
    assert run(["run", f"{stages}:speech", f"clip=@{stages.parent / 'silent.wav'}"]) == 0
    assert capsys.readouterr() == ("[]\n", "")


# -- models and the store --------------------------------------------------------------------------------


def test_unknown_models(stages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    chosen = str(plan(tmp_path, "[stage.classify]\nmodel = 'efficientnet-lite1'"))
    label = f"{stages}:label"
    for words in (
        ["model", "pull", "efficientnet-lite1"],
        ["run", label, f"photo=@{tmp_path / 'a.png'}", "--plan", chosen],
        ["plan", "lint", label, chosen],
    ):
        code, told = refused(words, capsys)
        assert code == 2
        assert "efficientnet-lite0" in told


def files_in(folder: Path) -> list[Path]:
    """What a store holds apart from its locks."""
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_the_first_run_without_a_network(
    stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TAUTEN_OFFLINE", "1")
    (tmp_path / "a.png").write_bytes(PNG)
    code, told = refused(["run", f"{stages}:label", f"photo=@{tmp_path / 'a.png'}"], capsys)
    assert code == 3
    assert "TAUTEN_OFFLINE" in told
    assert "--from-bundle" in told
    assert files_in(tmp_path / "store") == []


def test_a_package_index_that_refuses(
    stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as held:  # bound but not listening: every connection is refused
        held.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{held.getsockname()[1]}"
        for name in [each for each in os.environ if each.startswith("PIP_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", f"{closed}/simple")
        monkeypatch.setenv("PIP_RETRIES", "0")
        monkeypatch.setenv("TAUTEN_HUB", closed)
        (tmp_path / "a.png").write_bytes(PNG)
        code, told = refused(["run", f"{stages}:label", f"photo=@{tmp_path / 'a.png'}"], capfd)
    assert code == 3
    assert "pip could not fetch" in told
    assert "check the network" in told
    assert files_in(tmp_path / "store") == []


def own_copy(model: str, variant: str, folder: Path) -> Path:
    """A store that holds a copy of one installed variant."""
    store = Store(default_root())
    bundle = folder / "one.tar"
    store.write_bundle(bundle, [f"{model}:{variant}"])
    Store(folder / "copy").read_bundle(bundle)
    bundle.unlink()
    return folder / "copy"


@pytest.mark.models
def test_a_changed_byte_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = next(each for each in Store().list() if each.installed and each.model == "silero-vad")
    copy = own_copy(model.model, model.variant, tmp_path)
    monkeypatch.setenv("TAUTEN_STORE", str(copy))
    assert run(["model", "verify"]) == 0
    capsys.readouterr()
    [weights, *_] = [path for path in (copy / "models").rglob("*") if path.is_file()]
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(data)
    assert run(["model", "verify"]) == 3
    seen = capsys.readouterr()
    assert "WRONG" in seen.out
    assert "help: tauten model pull silero-vad" in seen.err


@pytest.mark.models
def test_a_full_disk_while_pulling(tmp_path: Path) -> None:
    """Limited by the size of a file where a small file system cannot be mounted."""
    source = own_copy("silero-vad", next(iter(Store().catalog.models["silero-vad"].variants)), tmp_path)
    bundle, disk = tmp_path / "one.tar", tmp_path / "disk"
    Store(source).write_bundle(bundle, ["silero-vad"])
    shutil.rmtree(source)
    disk.mkdir()
    mounted = mount(disk)
    try:
        ended = limited(
            ["model", "pull", "silero-vad", "--from-bundle", str(bundle)], disk / "s", not mounted
        )
        assert ended[0] == 3, ended
        assert "no space" in ended[1].lower() or "free" in ended[1].lower()
        assert "Traceback" not in ended[1]
        assert files_in(disk) == []
    finally:
        if mounted:
            subprocess.run(["umount", disk], check=True)


def mount(folder: Path) -> bool:
    words = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    return shutil.which("mount") is not None and not subprocess.run(words, capture_output=True).returncode


def limited(words: list[str], store: Path, limit: bool) -> tuple[int, str]:
    """Run a process that may write files of 64 kB at most, where `limit` is set."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, before[1]))
        ended = tauten(*words, environment={"TAUTEN_STORE": str(store)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    return ended.code, ended.err


# -- a worker that dies ----------------------------------------------------------------------------------


async def killed(increments: AsyncIterator[Any]) -> None:
    """Read on, and kill every worker after each increment."""
    async for _ in increments:
        for worker in psutil.Process().children():
            worker.kill()


@pytest.mark.models
def test_a_killed_worker_fails_its_request_and_the_next_one_works(stages: Path) -> None:
    workflow = load_workflow(f"{stages}:speak")

    async def scenario() -> tuple[TautenError, str]:
        async with Engine() as engine:
            await engine.open(workflow)
            with pytest.raises(BackendError) as raised:
                await killed(engine.stream({"question": Text("trains")}))
            answer = await engine.run({"question": Text("ships")})
            return raised.value, str(answer.value)

    with nothing_left():
        error, answer = asyncio.run(scenario())
    assert error.exit_code == 5
    assert error.help
    assert answer


@pytest.mark.models
def test_a_killed_worker_on_the_command_line(stages: Path) -> None:
    words = [sys.executable, "-m", "tauten", "run", f"{stages}:speak", "question=trains"]
    with nothing_left(), subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(4)
        for worker in psutil.Process(process.pid).children(recursive=True):
            worker.kill()
        _, told = process.communicate(timeout=60)
    assert process.returncode == 5
    assert b"help: " in told
    assert b"Traceback" not in told
