"""The Makefile where it decides something: a marker that no test carries yet."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[2] / "Makefile"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(("status", "good", "said"), [(0, True, False), (1, False, False), (5, True, True)])
def test_no_test_for_a_gpu_is_said_and_no_failure(
    tmp_path: Path, status: int, good: bool, said: bool
) -> None:
    pytest_ended = tmp_path / "python"
    pytest_ended.write_text(f"#!/bin/sh\nexit {status}\n")
    pytest_ended.chmod(0o755)
    words = ["make", "-f", str(MAKEFILE), "-o", "models", f"BIN={tmp_path}", "test-gpu"]
    made = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (made.returncode == 0) is good
    assert ("no test carries the mark gpu" in made.stdout) is said
