"""What extras bring: every package that code of ours may miss is known by its extra, and an import that misses it says so."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from tauten.extras import EXTRAS, install, missing

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
IMPORTED = {  # names of packages that are imported by another one
    "genai-prices": "genai_prices",
    "grpcio": "grpc",
    "opencv-python-headless": "cv2",
    "openvino-genai": "openvino_genai",
    "opentelemetry-exporter-otlp-proto-http": "opentelemetry",
    "opentelemetry-sdk": "opentelemetry",
    "pillow": "PIL",
    "prometheus-client": "prometheus_client",
    "protobuf": "google",
}
IMPORT = re.compile(
    r"^ *(?:from (\w+)[\w.]* import |import (\w+)[\w.]*(?: as \w+)?(?:  #.*)?$)", re.MULTILINE
)
DONE_WITHOUT = {"uvloop"}  # where it is missing, another thing does
ASKED_FOR = {"granian"}  # no extra brings them; whoever imports them says what to do


def imported(requirement: str) -> str:
    name = re.split(r"[\[<>=;]", requirement, maxsplit=1)[0].strip()
    return IMPORTED.get(name, name)


def test_every_package_of_an_extra_is_known_by_it() -> None:
    for extra, requirements in PROJECT["optional-dependencies"].items():
        for name in {imported(each) for each in requirements} - DONE_WITHOUT:
            assert extra == "dev" or name in (*EXTRAS[extra], *EXTRAS["local"]), f"{extra}: {name}"
    known = [name for names in EXTRAS.values() for name in names]
    assert len(known) == len(set(known))


def test_whatever_our_code_imports_comes_with_it_or_with_an_extra() -> None:
    core = {imported(each) for each in PROJECT["dependencies"]}
    known = (
        {"tauten", "__future__"}
        | core
        | {name for names in EXTRAS.values() for name in names}
        | DONE_WITHOUT
        | ASKED_FOR
    )
    seen = set()
    for path in sorted((ROOT / "src" / "tauten").rglob("*.py")):
        for found in IMPORT.finditer(path.read_text("utf-8")):
            name = found[1] or found[2]
            assert name in known or name in sys.stdlib_module_names, f"{path.name}: {name}"
            seen.add(name)
    assert {"msgspec", "cv2", "grpc", "torch"} <= seen


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("cv2", "local"),
        ("httptools.parser", "serve"),
        ("google.protobuf", "serve"),
        ("av", "video"),
        ("nncf", "compress"),
    ],
)
def test_a_package_that_is_missing_names_its_extra(name: str, extra: str) -> None:
    error = ModuleNotFoundError(f"No module named {name!r}", name=name)
    assert install(error) == f"pip install 'tauten[{extra}]'"
    gone = missing(error)
    assert gone is not None
    assert (gone.code, gone.help, name.partition(".")[0] in gone.message) == ("E315", install(error), True)


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'mine'", name="mine"),
        ModuleNotFoundError("made by hand"),
        ImportError("libGL.so.1: cannot open shared object file", name="cv2"),
        ValueError("cv2"),
    ],
)
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert install(error) == ""
    assert missing(error) is None


def test_the_package_says_that_it_has_types() -> None:
    assert "Typing :: Typed" in PROJECT["classifiers"]
    assert (files("tauten") / "py.typed").is_file()
