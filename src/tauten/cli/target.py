"""Targets and inputs of a command line: ``FILE.py:name`` or ``module:name``, and ``key=value``."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import sys
import sysconfig
import traceback
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from tauten.describe.payload import Json, Payload, Text, sniff
from tauten.describe.ports import PortType
from tauten.describe.workflow import Workflow
from tauten.errors import InputError, NotFound, TautenError, suggest


def load_workflow(target: str) -> Workflow[..., Any]:
    """Import a workflow; a file with one workflow needs no name."""
    place, _, name = target.partition(":")
    module = _file(Path(place)) if place.endswith(".py") else _module(place)
    found = {key: value for key, value in vars(module).items() if isinstance(value, Workflow)}
    if name:
        if name not in found:
            raise NotFound(f"{place} has no workflow {name!r}", help=suggest(name, found))
        return found[name]
    if len(found) != 1:
        there = ", ".join(sorted(found)) or "none"
        raise NotFound(
            f"{place} has {len(found)} workflows ({there})",
            help=f"name one: {place}:NAME" if found else "add @tt.workflow",
            code="E229",
        )
    return next(iter(found.values()))


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise NotFound(f"no file {str(path)!r}", help="give FILE.py:workflow or module:workflow")
    sys.path.insert(0, str(path.parent.resolve()))
    if member := _member(path.resolve()):
        return _execute(lambda: importlib.import_module(member), str(path))  # type: ignore[no-any-return]
    name = (
        path.stem if path.stem not in sys.modules else f"_target_{path.stem}"
    )  # a user's random.py is not Python's
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise NotFound(f"{str(path)!r} is not a Python file", help="give FILE.py:workflow", code="E229")
    module, loader = importlib.util.module_from_spec(spec), spec.loader
    sys.modules[name] = module
    _execute(lambda: loader.exec_module(module), str(path))
    return module


def _member(path: Path) -> str:
    """The name of a file of a package, so that it finds its recording and its metric beside it, and may import
    relatively; empty for a file that stands alone."""
    folder, name = path.parent, path.stem
    while (folder / "__init__.py").is_file():
        folder, name = folder.parent, f"{folder.name}.{name}"
    if folder == path.parent:
        return ""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    spec = _execute(lambda: _spec(name), str(path))
    return name if spec is not None and spec.origin == str(path) else ""


def _spec(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # of that name there is another package
        return None


def _module(name: str) -> ModuleType:
    sys.path.insert(0, "")
    if not _importable(name.partition(".")[0]):
        raise NotFound(f"no module {name!r}", help="give FILE.py:workflow or module:workflow")
    return _execute(lambda: importlib.import_module(name), name)  # type: ignore[no-any-return]


def _importable(package: str) -> bool:
    try:
        return bool(package) and importlib.util.find_spec(package) is not None
    except ValueError:  # a module without a spec, as __main__
        return False


def _execute(load: Callable[[], Any], name: str) -> Any:
    try:
        return load()
    except TautenError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"importing {name} raised {error.__class__.__name__}: {error}",
            help="mend the file; it is run like any Python module",
            where=_place(error, name),
            code="E207",
        ) from error


def _place(error: BaseException, name: str) -> str:
    """The user's own file and line: the last one that is neither a library's nor Python's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}"
    own = name
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if not file.startswith(("<", _OURS, *_LIBRARIES)):
            own = f"{Path(file).name}:{line}"
    return own


_OURS = str(Path(__file__).parents[1])
_LIBRARIES = tuple(sysconfig.get_paths().values())


def read_inputs(workflow: Workflow[..., Any], pairs: list[str]) -> dict[str, Any]:
    """Turn ``photo=@shot.png question="why?" n=3`` into the workflow's inputs.

    ``@file`` reads a file, ``@-`` standard input; a value for a list, a Json or another typed port is JSON, and a bare
    word for a list is its one member.
    """
    given: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(
                f"cannot read the input {pair!r}",
                help=f"write NAME=VALUE or NAME=@FILE; inputs: {', '.join(workflow.inputs)}",
                code="E205",
            )
        if name not in workflow.inputs:
            raise InputError(
                f"{workflow.name} has no input `{name}`", help=suggest(name, workflow.inputs), code="E205"
            )
        given[name] = _value(workflow, name, text)
    return workflow.bind(**given)


def _value(workflow: Workflow[..., Any], name: str, text: str) -> Any:
    port = workflow.inputs[name]
    if text.startswith("@"):
        source = sys.stdin.buffer.read() if text == "@-" else Path(text[1:])
        media = any(getattr(kind, "types", None) for kind in port.kinds)
        if media and not (_takes_text(port.kinds) and not sniff(_head(source))):
            return [source] if port.many else source
        if bytes in port.kinds:
            data = source if isinstance(source, bytes) else read_bytes(source)
            return [data] if port.many else data
        text = text_of(source)
    if bytes in port.kinds and not port.many:
        return text.encode()
    value = _json(text) if _wants_json(port) else text
    if port.many and not isinstance(value, list):
        value = [text if _takes_text(port.kinds) else value]  # one member
    return value if port.stream or _untyped(port.kinds) else _converted(workflow, name, value)


def _untyped(kinds: tuple[Any, ...]) -> bool:
    """Whether nothing is known of what is taken, or payloads are, which a workflow makes of plain values itself."""
    payloads = any(isinstance(kind, type) and issubclass(kind, Payload) for kind in kinds)
    return payloads or not kinds or Any in kinds or object in kinds


def _converted(workflow: Workflow[..., Any], name: str, value: Any) -> Any:
    """A plain value as the type that the workflow's author wrote; raises InputError E205."""
    function = workflow.function
    plain = function.func if isinstance(function, functools.partial) else function
    try:
        return msgspec.convert(value, typing.get_type_hints(plain)[name], strict=False, dec_hook=_made)
    except msgspec.ValidationError as error:
        raise InputError(
            f"{workflow.name}: `{name}`: {error}",
            help=f"give {workflow.inputs[name]}; what is no text is written as JSON",
            code="E205",
        ) from None
    except TypeError:  # a type that nobody can check: its stage will say what it thinks of the value
        return value


def _made(kind: Any, value: Any) -> Any:
    """A model that validates itself, or a class that is made of one value, as a path is of its name."""
    return getattr(kind, "model_validate", kind)(value)


def _takes_text(kinds: tuple[Any, ...]) -> bool:
    return Text in kinds or str in kinds


def _wants_json(port: PortType) -> bool:
    """Whether a word may be JSON: always where a list is wanted, or something else than text and media."""
    return port.many or any(kind is Json or not _written(kind) for kind in port.kinds)


def _written(kind: Any) -> bool:
    """Whether a value of that kind is written as it is, or named as a file."""
    return kind in (str, bytes, Any, object) or (isinstance(kind, type) and issubclass(kind, Payload))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text  # a bare word is a string, as on most command lines


def _head(source: bytes | Path) -> bytes:
    """The bytes that tell a medium's type."""
    if isinstance(source, bytes):
        return source
    with _readable(source), source.open("rb") as file:
        return file.read(64)


def text_of(source: bytes | Path) -> str:
    """The words of a file that a command line names, or of what was read already; raises InputError E203."""
    name = "standard input" if isinstance(source, bytes) else repr(str(source))
    try:
        with _readable(source):
            return (source if isinstance(source, bytes) else source.read_bytes()).decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not UTF-8 text: {error}", help="give a text file, or another input", code="E203"
        ) from error


def read_bytes(path: Path) -> bytes:
    """A file that a command line names."""
    with _readable(path):
        return path.read_bytes()


@contextmanager
def _readable(source: bytes | Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"no file {str(source)!r}", help="check the path", code="E203") from None
    except OSError as error:
        raise InputError(
            f"cannot read {str(source)!r}: {error.strerror}", help="give a readable file", code="E203"
        ) from error
