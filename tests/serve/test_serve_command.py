"""`tauten serve` from the command line: what it says, what it refuses, and what answers while it starts."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import json
import signal
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import tauten as tt
from serve.kit_onnx import linear
from serve.kit_process import FLOW, post, ran, serving
from tauten.cli import serve as command
from tauten.cli.main import run
from tauten.cli.serve import build
from tauten.describe.slo import parse_slo
from tauten.errors import InputError, StageError
from tauten.serve import samples
from tauten.serve.safety.keys import new_key
from tauten.serve.server import Server, Settings
from tauten.serve.service import Service


@pytest.fixture
def flow(tmp_path: Path) -> str:
    file = tmp_path / "flow.py"
    file.write_text(FLOW)
    return str(file)


@pytest.mark.parametrize("server", ["thin", "uvicorn"])
def test_several_workflows_are_served_side_by_side(tmp_path: Path, server: str) -> None:
    async def main() -> None:
        words = ("desk=flow.py:flow", "flow.py:counting", "--slo", "p95<300ms", "--server", server)
        async with serving(tmp_path, *words) as running, aiohttp.ClientSession() as client:
            assert running.said["schema"] == "tauten.serve/1"
            assert [each["name"] for each in running.said["workflows"]] == ["desk", "counting"]
            assert running.said["workflows"][0]["slo"] == {"p95_ms": 300.0}
            status, said = await post(client, f"{running.url}/v1/workflows/desk", {"inputs": {"text": "hi"}})
            assert (status, said["output"]) == (200, "HI")
            async with client.get(f"{running.url}/metrics") as answer:
                assert 'tauten_request_seconds_count{workflow="desk",' in await answer.text()
            running.signal(signal.SIGINT)
            assert await running.ended() == 0
            assert any("desk is ready" in line for line in running.err)

    asyncio.run(main())


def test_keys_guard_everything_but_probes(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    token = new_key(file, "shop", created="2026-01-01")

    async def main() -> None:
        async with serving(tmp_path, "--keys", str(file)) as running, aiohttp.ClientSession() as client:
            assert (await ran(client, running))[0] == 401
            keyed = {"authorization": f"Bearer {token}"}
            for path, open_ in [("/health/live", True), ("/health/ready", True), ("/metrics", False)]:
                async with client.get(running.url + path) as answer:
                    assert answer.status == (200 if open_ else 401), path
                async with client.get(running.url + path, headers=keyed) as answer:
                    assert answer.status == 200, path
            file.write_text(file.read_text().partition("[key")[0])  # revoked while it runs
            file.chmod(0o600)
            path = f"{running.url}/v1/workflows/flow"
            while (await post(client, path, {"inputs": {"text": "x"}}, keyed))[0] == 200:
                await asyncio.sleep(0.05)
            assert token not in "".join(running.err)

    asyncio.run(main())


REFUSED = [
    (["--host", "0.0.0.0"], "every network"),
    (["--host", "::"], "every network"),
    (["--host", ""], "every network"),
    (["--host", "desk.example"], "no API keys"),
    (["--keys", "none.toml"], "no such file"),
    (["--server", "apache"], "known: granian, thin, uvicorn"),
    (["--log", "xml"], "known: json, text"),
    (["--media-fetch", "maybe"], "known: off, on"),
    (["--grpc-port", "many"], "give a port, or off"),
    (["--port", "99999"], "1 to 65535"),
    (["--grpc-port", "65536"], "1 to 65535"),
    (["--cors", "desk.example"], "https://"),
    (["--max-body-mb", "0"], "more than 0"),
    (["--max-body-mb", "inf"], "more than 0"),
    (["--drain-s", "-1"], "0 or more"),
    (["--slo", "p95<soon"], "write for example"),
    (["--plan", "none.toml"], "no plan"),
    (["--plan", "desk=x.toml"], "which workflow"),
    (["--samples", "nowhere"], "holds no samples"),
    (["--otlp", "collector:4318"], "collector's address"),
    (["--prot", "1"], "No such option"),
]


@pytest.mark.parametrize(("words", "hint"), REFUSED)
def test_what_cannot_be_is_refused_before_models_load(
    flow: str,
    words: list[str],
    hint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(Path(flow).parent)
    fixed = ["--port", "0", "--grpc-port", "off"] if "--grpc-port" not in words else ["--port", "0"]
    assert run(["serve", f"{flow}:flow", *fixed, *words]) == 2
    out = capsys.readouterr()
    assert hint in out.err
    assert out.out == ""


@pytest.mark.parametrize(
    ("host", "words", "warned"),
    [("127.0.0.1", "this machine only", False), ("0.0.0.0", "open to all", True), ("", "open to all", True)],
)
def test_an_address_without_keys_is_called_what_it_is(
    host: str, words: str, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(host=host, without_keys=True)
    assert words in command._who(settings)
    command._warn(settings)
    assert ("warning: no keys" in capsys.readouterr().err) is warned
    keyed = Settings(host=host, keys=Path("keys.toml"))
    command._warn(keyed)
    assert (command._who(keyed), capsys.readouterr().err) == ("API keys", "")


def test_the_line_to_try_has_the_forms_that_the_inputs_take() -> None:
    """It is pasted as it stands: words for text, lists for lists, a form for media."""

    @tt.stage(pure=True)
    def tell(about: list[tt.Text], order: tt.Json, cups: int, fast: bool) -> tt.Text:
        return tt.Text(f"{about} {order.value} {cups} {fast}")

    @tt.workflow
    def telling(
        about: list[tt.Text], order: tt.Json, cups: int, fast: bool, more: str | None = None
    ) -> tt.Text:
        return tell(about, order, cups, fast)

    def line(service: Service, keyed: bool = False) -> str:
        return command._curl("http://there", service, keyed).removeprefix("curl http://there/v1/workflows/")

    inputs = {"about": ["..."], "order": {}, "cups": 1, "fast": False}
    said = line(Service(telling), keyed=True)
    assert said.startswith("telling -H 'authorization: Bearer KEY' -H 'content-type: application/json' -d '{")
    assert json.loads(said.partition(" -d ")[2].strip("'")) == {"inputs": inputs}
    assert telling(**inputs).text  # type: ignore[arg-type]
    assert line(Service(looking)) == "looking -F photo=@FILE -F sound=@FILE"
    (chatting,), _ = build(["smollm2"], [], None, None)
    assert '"messages":[{"role":"user","content":"..."}]' in line(chatting)


def test_shares_and_folders_that_are_none(
    flow: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--access-log-sample", "10"], ["--samples", str(tmp_path / "none")]):
        several = [flow + ":flow", flow + ":counting", *words]
        assert run(["serve", *several, "--port", "0", "--grpc-port", "off"]) == 2
    said = capsys.readouterr().err
    assert "E260 --access-log-sample 10\nhelp: give a share, from 0 to 1" in said
    assert "E269" in said
    assert "holds no samples" in said


def test_targets_that_are_none(flow: str, capsys: pytest.CaptureFixture[str]) -> None:
    for target in ["none.py:flow", f"{flow}:flaw", "no-such-model-at-all"]:
        assert run(["serve", target, "--port", "0", "--grpc-port", "off"]) == 2, target
    picture = Path(flow).with_name("shot.png")
    picture.write_bytes(b"\x89PNG")
    assert run(["serve", str(picture), "--port", "0", "--grpc-port", "off"]) == 2
    assert "give FILE.py:workflow or FILE.onnx" in capsys.readouterr().err
    twice = ["serve", f"{flow}:flow", f"{flow}:flow", "--port", "0", "--grpc-port", "off"]
    assert run(twice) == 2
    assert "NAME=FILE.py:workflow" in capsys.readouterr().err


def test_a_port_that_is_taken_is_the_machines_fault(flow: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert run(["serve", f"{flow}:flow", "--port", port, "--grpc-port", "off"]) == 3
    assert "cannot listen" in capsys.readouterr().err


def test_plans_go_to_their_workflows(flow: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text('tauten = "plan/1"\n')
    one, two = f"{flow}:flow", f"{flow}:counting"
    services, files = build([one], [str(tmp_path / "a.toml")], None, None)
    assert files == {"flow": tmp_path / "a.toml"}
    assert services[0]._plan is not None
    services, files = build([f"desk={one}", two], [f"desk={tmp_path / 'b.toml'}"], None, None)
    assert files == {"desk": tmp_path / "b.toml"}
    assert services[1]._plan is None
    with pytest.raises(InputError, match="which workflow"):
        build([one, two], [str(tmp_path / "a.toml")], None, None)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("minilm-l6-v2:int8", "minilm-l6-v2"),
        ("minilm", "minilm-l6-v2"),
        ("whisper-tiny.en", "whisper-tiny.en"),
    ],
)
def test_a_plan_goes_to_a_model_by_the_name_that_it_is_served_as(
    target: str, name: str, flow: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.toml"
    file.write_text('tauten = "plan/1"\nname = "own"\n')
    (model, _), files = build([target, f"{flow}:flow"], [f"{name}={file}"], None, None)
    assert (model.name, files) == (name, {name: file})
    assert model._plan is not None
    assert model._plan.name == "own"
    (tmp_path / "samples").mkdir()
    build([target], [], None, tmp_path / "samples")
    assert f"{name} warms up on a sample of its own" in capsys.readouterr().err


def test_one_workflow_has_one_plan(flow: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('tauten = "plan/1"\n')
    file = str(tmp_path / "a.toml")
    for twice in ([file, file], [f"flow={file}", f"flow={file}"]):
        with pytest.raises(InputError, match="another one is given"):
            build([f"{flow}:flow"], twice, None, None)


def test_a_model_alone_by_its_file_and_by_its_name(tmp_path: Path) -> None:
    linear(tmp_path)
    services, _ = build(
        ["m=" + str(tmp_path / "linear.onnx"), "minilm-l6-v2:int8"], [], parse_slo("p99<5ms"), None
    )
    assert [(each.name, each.slo.p99_ms) for each in services] == [("m", 5.0), ("minilm-l6-v2", 5.0)]
    (ready,), _ = build(["embed=minilm-l6-v2"], [], None, None)
    assert ready.name == "embed"

    async def main() -> None:
        async with (
            serving(tmp_path, "linear.onnx", "flow.py:flow") as running,
            aiohttp.ClientSession() as client,
        ):
            tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 1, 1]}
            status, said = await post(client, f"{running.url}/v2/models/linear/infer", {"inputs": [tensor]})
            assert (status, said["outputs"][0]["data"]) == (200, [6.0, 10.0, 14.0])
            async with client.get(f"{running.url}/metrics") as answer:
                text = await answer.text()
            assert 'tauten_replicas{workflow="linear",deployment="linear/onnx"} 1.0' in text
            ran = 'tauten_batch_size_sum{workflow="linear",deployment="linear/onnx"} 2.0'  # to warm up, and this
            assert ran in text

    asyncio.run(main())


def test_server_timing_is_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        for flags, there in (((), False), (("--server-timing",), True)):
            async with serving(tmp_path, *flags) as running, aiohttp.ClientSession() as client:
                path, body = f"{running.url}/v1/workflows/flow", {"inputs": {"text": "x"}}
                async with client.post(path, json=body) as answer:
                    assert ("server-timing" in answer.headers) is there

    asyncio.run(main())


# -- samples -------------------------------------------------------------------------------------------------


@tt.stage
async def send_mail(text: str) -> str:
    raise AssertionError("a warm-up sent mail")


@tt.workflow
def mailing(text: str) -> str:
    return send_mail(text)


@tt.workflow
async def loose(text: str) -> str:
    return text


@tt.stage(pure=True)
def look(photo: tt.Image, sound: tt.Audio, note: tt.Text | None = None) -> tt.Text:
    return tt.Text(f"{photo.type} {sound.type} {note}")


@tt.workflow
def looking(photo: tt.Image, sound: tt.Audio, note: tt.Text | None = None) -> tt.Text:
    return look(photo, sound, note)


@tt.stage(pure=True)
def watch(clip: tt.Video) -> tt.Text:
    return tt.Text(clip.type)


@tt.workflow
def watching(clip: tt.Video) -> tt.Text:
    return watch(clip)


def test_made_up_samples_run_and_never_have_effects() -> None:
    assert samples.made_up(mailing) == (
        [],
        "stage 'send_mail' may have effects (pure=True says that it has none)",
    )
    assert samples.made_up(loose)[0] == []
    assert samples.made_up(watching) == ([], "no value of Video can be made up for `clip`")
    (sample,), why = samples.made_up(looking)
    assert why == ""
    assert looking(**sample).text == "image/png audio/wav Hello."  # type: ignore[arg-type]


def test_each_kind_of_an_input_is_made_up() -> None:
    """Else a typed question leaves the model cold that hears a spoken one."""

    @tt.stage(pure=True)
    def hear(question: tt.Audio | tt.Text, photo: tt.Image) -> tt.Text:
        return tt.Text(f"{question.type} {photo.type}")

    @tt.workflow
    def hearing(question: tt.Audio | tt.Text, photo: tt.Image) -> tt.Text:
        return hear(question, photo)

    found, why = samples.made_up(hearing)
    assert why == ""
    assert [hearing(**each).text for each in found] == ["text/plain image/png", "audio/wav image/png"]  # type: ignore[arg-type]


def test_a_made_up_sample_may_fail_and_a_given_one_may_not(tmp_path: Path) -> None:
    """No workflow has promised to take what we make up."""

    @tt.stage(pure=True)
    def price(order: tt.Json) -> tt.Text:
        return tt.Text(str(order.value["cups"] * 3))

    @tt.workflow
    def shop(order: tt.Json) -> tt.Text:
        return price(order)

    async def main() -> None:
        service = Service(shop, made_up=samples.made_up(shop)[0])
        said: list[str] = []
        server = Server([service], Settings(port=0, grpc_port=None, lead_s=0.0), progress=said.append)
        life = asyncio.create_task(server.run(lambda: server.stop(signal.SIGTERM)))
        await life
        assert service.was_ready
        assert (
            "shop may be cold: a made-up sample failed with E404 stage 'price' raised KeyError: 'cups'"
            in said
        )
        strict = Service(shop, samples=[{"order": tt.Json({})}])
        with pytest.raises(StageError):
            await strict.open()
        await strict.close()

    asyncio.run(main())


def test_samples_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "shot.png").write_bytes(samples.picture())
    sound = samples._silence().data
    (tmp_path / "ask.wav").write_bytes(sound)
    (tmp_path / "one.json").write_text(json.dumps({"photo": "@shot.png", "sound": "@ask.wav", "note": "hi"}))
    (found,) = samples.given(tmp_path, looking, "looking", alone=True)
    assert looking(**found).text == "image/png audio/wav hi"  # type: ignore[arg-type]
    assert samples.given(tmp_path, looking, "looking", alone=False) == []
    (tmp_path / "one.json").write_text(json.dumps({"photo": "@shot.png"}))
    with pytest.raises(InputError, match="looking"):
        samples.given(tmp_path, looking, "looking", alone=True)
    (tmp_path / "one.json").write_text("[")
    with pytest.raises(InputError, match="not a sample"):
        samples.given(tmp_path, looking, "looking", alone=True)


def test_samples_of_a_recording(tmp_path: Path) -> None:
    from tauten.improve.recording import Item, Recording

    Recording("r", [Item(id=str(n), render=lambda: {"text": tt.Text("hello")}) for n in range(20)]).save(
        tmp_path / "flow"
    )

    @tt.workflow(name="flow")
    def echoing(text: tt.Text) -> tt.Text:
        return look(tt.Image(samples.picture()), samples._silence(), text)

    found = samples.given(tmp_path, echoing, "flow", alone=False)
    assert len(found) == samples.MOST
    assert found[0]["text"].text == "hello"


def test_probes_answer_while_models_load_and_requests_wait_for_ready() -> None:
    go = asyncio.Event()

    @tt.stage(pure=True)
    async def slow(text: str) -> str:
        await go.wait()
        return text

    @tt.workflow
    def slowly(text: str) -> str:
        return slow(text)

    async def main() -> None:
        settings = Settings(port=0, grpc_port=None, lead_s=0.0)
        said: list[str] = []
        server = Server([Service(slowly, samples=[{"text": "x"}])], settings, progress=said.append)
        life = asyncio.create_task(server.run(lambda: said.append("ready")))
        while "http" not in server.listening:
            await asyncio.sleep(0.005)
        url = f"http://127.0.0.1:{server.listening['http'].port}"
        async with aiohttp.ClientSession() as client:

            async def probe(name: str) -> tuple[int, Any]:
                async with client.get(f"{url}/health/{name}") as answer:
                    return answer.status, await answer.json()

            assert (await probe("live"))[0] == 200
            assert await probe("startup") == (503, {"started": False, "reasons": ["starting"]})
            assert await probe("ready") == (503, {"ready": False, "reasons": ["slowly: starting"]})
            early = await post(client, f"{url}/v1/workflows/slowly", {"inputs": {"text": "x"}})
            assert (early[0], early[1]["error"]["code"]) == (503, "E409")
            go.set()
            while "ready" not in said:
                await asyncio.sleep(0.005)
            assert ((await probe("startup"))[0], (await probe("ready"))[0]) == (200, 200)
            assert (await post(client, f"{url}/v1/workflows/slowly", {"inputs": {"text": "x"}}))[0] == 200
        server.stop(signal.SIGTERM)
        await life
        assert server.cut == 0

    asyncio.run(main())


def test_a_plan_that_does_not_open_ends_the_server(
    flow: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.toml").write_text('tauten = "plan/1"\n[stage.nowhere]\nthreads = 1\n')
    words = ["--port", "0", "--grpc-port", "off", "--plan", str(tmp_path / "bad.toml")]
    assert run(["serve", f"{flow}:flow", *words]) == 2
    assert "nowhere" in capsys.readouterr().err
