"""Single key presses on a terminal; elsewhere the characters of each line, so that a pipe can type."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TextIO


def pressed(stream: TextIO) -> Generator[str, None, None]:
    """Each key as it is pressed; ends where the input ends. Close it to give the terminal its ways back."""
    if not stream.isatty():
        for line in stream:
            yield from line.strip()
        return
    with _at_once(stream):
        while key := stream.read(1):
            if not key.isspace():  # where keys need Enter, Enter is none
                yield key


@contextmanager
def _at_once(stream: TextIO) -> Iterator[None]:
    """A terminal that hands over each key without waiting for Enter, where the system can."""
    try:
        import termios
        import tty
    except ImportError:  # Windows: keys come with Enter
        yield
        return
    before = termios.tcgetattr(stream)
    tty.setcbreak(stream, termios.TCSADRAIN)  # what was typed ahead is kept
    try:
        yield
    finally:
        termios.tcsetattr(stream, termios.TCSADRAIN, before)
