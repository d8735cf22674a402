"""Before any test is collected: the manual's index, which the help desk names when it is imported."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os

import pytest

from tauten.examples.help_desk.manual import ensure_manual

os.environ["TAUTEN_USAGE"] = "off"  # what tests call by hand is nobody's bill, whoever keeps a book here


def pytest_sessionstart(session: pytest.Session) -> None:
    ensure_manual()
