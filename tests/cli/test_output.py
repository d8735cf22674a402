"""Files that commands write: whole, where a link leads, through what is no file; refused before the work."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tauten.cli.output import check_outputs, write_output
from tauten.errors import InputError


def test_a_file_is_replaced_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    for text in ("first", "second"):
        write_output(out, text)
    assert out.read_text() == "second"
    assert [each.name for each in tmp_path.iterdir() if "out" in each.name] == ["out.json"]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    target, link = tmp_path / "runs" / "today.json", tmp_path / "latest.json"
    link.symlink_to(target)
    for text in ("made", "made anew"):
        check_outputs(link)
        write_output(link, text)
        assert target.read_text() == text
        assert link.is_symlink()


def test_a_stream_into_a_file_is_written_to(tmp_path: Path) -> None:
    """As `--json /dev/stdout > figures.json` does."""
    out = tmp_path / "figures.json"
    with out.open("wb") as file:
        path = Path(f"/dev/fd/{file.fileno()}")
        check_outputs(path)
        write_output(path, "{}")
        assert out.read_text() == "{}"
        assert os.fstat(file.fileno()).st_ino == out.stat().st_ino


def test_a_file_in_a_folder_that_takes_no_other_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.json"
    out.write_text("old")
    before, real = out.stat().st_ino, os.access

    def access(path: Any, mode: int) -> bool:
        return Path(path) != tmp_path and real(path, mode)

    monkeypatch.setattr(os, "access", access)
    check_outputs(out)
    write_output(out, "new")
    assert (out.read_text(), out.stat().st_ino) == ("new", before)
    with pytest.raises(InputError, match="permission denied"):
        check_outputs(tmp_path / "another.json")


def test_a_link_to_nowhere_is_refused_before_the_work(tmp_path: Path) -> None:
    link = tmp_path / "latest.json"
    link.symlink_to(tmp_path / "gone" / "today.json")
    with pytest.raises(InputError, match=r"no folder '.*gone'") as raised:
        check_outputs(link)
    assert raised.value.code == "E261"
