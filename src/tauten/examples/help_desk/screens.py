"""Screens with text on them: terminals and editors in many themes, fonts, sizes and window frames.

Everything is drawn from a text and a seed; the same seed gives the same pixels.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import random
import re
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

FONTS = ("DejaVuSansMono", "Hack-Regular", "JetBrainsMono-Regular", "AnonymousPro")


class Theme(msgspec.Struct, frozen=True):
    """Colours of a terminal as ``#rrggbb``; `accent` marks errors, `place` file names, `prompt` prompts."""

    back: str
    text: str
    accent: str
    place: str
    prompt: str
    bar: str
    bar_text: str


THEMES: dict[str, Theme] = {
    "night": Theme("#1e1e1e", "#d4d4d4", "#f48771", "#4fc1ff", "#6a9955", "#323233", "#cccccc"),
    "paper": Theme("#ffffff", "#202020", "#b3261e", "#0b57d0", "#1a7f37", "#e8e8e8", "#404040"),
    "aubergine": Theme("#300a24", "#eeeeec", "#ef2929", "#729fcf", "#8ae234", "#2c2c2c", "#f0f0f0"),
    "solar-dark": Theme("#002b36", "#93a1a1", "#dc322f", "#268bd2", "#859900", "#073642", "#93a1a1"),
    "solar-light": Theme("#fdf6e3", "#586e75", "#dc322f", "#268bd2", "#859900", "#eee8d5", "#657b83"),
    "phosphor": Theme("#020a02", "#33dd55", "#66ff77", "#33dd55", "#22aa44", "#0a1a0a", "#33dd55"),
    "shell-blue": Theme("#012456", "#eeedf0", "#ff6b68", "#eeedf0", "#f9f1a5", "#f3f3f3", "#202020"),
    "console": Theme("#0c0c0c", "#cccccc", "#e74856", "#cccccc", "#cccccc", "#ffffff", "#101010"),
    "violet": Theme("#282a36", "#f8f8f2", "#ff5555", "#8be9fd", "#50fa7b", "#191a21", "#f8f8f2"),
    "grey": Theme("#2b2b2b", "#a9b7c6", "#ff6b68", "#287bde", "#a9b7c6", "#3c3f41", "#bbbbbb"),
}
FRAMES = ("mac", "gnome", "windows", "editor", "none")
PLACES = {
    "linux": ("/home/{user}/{folder}", "/", "/usr/lib/python3.11"),
    "mac": ("/Users/{user}/{folder}", "/", "/opt/homebrew/lib/python3.11"),
    "windows": ("C:\\Users\\{user}\\{folder}", "\\", "C:\\Python311\\Lib"),
}
USERS = ("ana", "ben", "chidi", "dana", "emil", "fatima", "grace", "hiro", "ines", "jonas")
FOLDERS = ("code", "projects", "work", "homework", "scripts", "demo", "src", "lab3")
HISTORY = (
    ("ls", "{file}  data  notes.txt  README.md"),
    ("git status -s", " M {file}"),
    ("git pull", "Already up to date."),
    ("python --version", "Python 3.11.7"),
    ("cd {folder}", ""),
    ("clear", ""),
    ("pwd", "{home}"),
    ("wc -l {file}", "  41 {file}"),
    ("git log --oneline -1", "4be2f91 tidy up"),
)


@dataclass(frozen=True)
class Look:
    """Everything that chance decides about one screen."""

    theme: Theme
    frame: str
    font: str
    size: int
    columns: int
    rows: int
    coloured: bool
    marked: bool
    home: str
    separator: str
    library: str
    prompt: str
    user: str
    folder: str
    history: int
    top_cut: int

    @classmethod
    def draw(cls, rng: random.Random) -> Look:
        """Choose a look; sizes are those of usual displays, from 13-pixel consoles to doubled pixels."""
        frame = rng.choice(FRAMES)
        system = {"mac": "mac", "windows": "windows", "gnome": "linux"}.get(frame) or rng.choice(list(PLACES))
        place, separator, library = PLACES[system]
        user, folder = rng.choice(USERS), rng.choice(FOLDERS)
        home = place.format(user=user, folder=folder)
        return cls(
            theme=THEMES[rng.choice(list(THEMES))],
            frame=frame,
            font=rng.choice(FONTS),
            size=rng.choice((13, 14, 14, 15, 16, 16, 18, 20, 22)),
            columns=rng.choice((80, 80, 90, 100, 110, 120)),
            rows=rng.choice((16, 20, 24, 24, 30)),
            coloured=rng.random() < 0.55,
            marked=rng.random() < 0.12,
            home=home,
            separator=separator,
            library=library,
            prompt=_prompt(rng, system, user, folder, home),
            user=user,
            folder=folder,
            history=rng.choice((0, 1, 1, 2, 3)),
            top_cut=rng.choice((0, 0, 0, 5, 9)),
        )


def _prompt(rng: random.Random, system: str, user: str, folder: str, home: str) -> str:
    if system == "windows":
        return rng.choice((f"{home}>", f"PS {home}> "))
    plain = (f"{user}@laptop:~/{folder}$ ", f"{user}@mbp {folder} % ", f"~/{folder} $ ", "$ ", "(venv) $ ")
    return rng.choice(plain)


def screenshot(text: str, command: str, seed: str, *, program: str = "", file: str = "") -> Picture:
    """A screen on which `command` was typed and `text` came out.

    `text` may hold ``{home}/`` and ``{lib}/``, which become paths of the system that the look imitates.
    An editor also shows `program` above its terminal pane.
    """
    rng = random.Random(seed)
    look = Look.draw(rng)
    lines = _session(_localise(text, look), command, file, look, rng)
    shown = _wrap(lines, look.columns)[-look.rows :]
    pane = _pane(shown, look)
    if look.frame == "editor" and program:
        pane = _editor(pane, program, file, look)
    framed = _framed(pane, file or "terminal", look)
    cut = min(look.top_cut, max(framed.height - 40, 0))  # a hasty selection: some pixels of the top are lost
    return framed.crop((0, cut, framed.width, framed.height))


def _localise(text: str, look: Look) -> str:
    def place(found: re.Match[str]) -> str:
        root = look.home if found[1] == "home" else look.library
        return root + found[2].replace("/", look.separator)

    return re.sub(r"\{(home|lib)\}([^\s\"']*)", place, text)


def _session(text: str, command: str, file: str, look: Look, rng: random.Random) -> list[tuple[str, str]]:
    """Lines with their kind: earlier commands, the command, what it printed, and a fresh prompt."""
    lines: list[tuple[str, str]] = []
    for typed, printed in rng.sample(HISTORY, look.history):
        fields = {"file": file or "main.py", "folder": look.folder, "home": look.home}
        lines.append(("prompt", look.prompt + typed.format(**fields)))
        lines += [("plain", line) for line in printed.format(**fields).split("\n") if line]
    if command:
        lines.append(("prompt", look.prompt + command))
    lines += [(_kind(line), line) for line in text.rstrip("\n").split("\n")]
    if rng.random() < 0.7:
        lines.append(("prompt", look.prompt.rstrip() + " ▏"))
    return lines


def _kind(line: str) -> str:
    if re.match(r"\s*File \"", line):
        return "place"
    if re.match(r"[A-Za-z_.]*(Error|Exception|Warning|Interrupt|Iteration|Exit|Group)\b", line):
        return "accent"
    return "carets" if re.fullmatch(r"[ \^~]+", line) else "plain"


def _wrap(lines: list[tuple[str, str]], columns: int) -> list[tuple[str, str]]:
    """Break long lines at the last column, in the middle of a word, as terminals do."""
    wrapped: list[tuple[str, str]] = []
    for kind, line in lines:
        line = line.expandtabs(8)
        wrapped += [(kind, line[i : i + columns]) for i in range(0, max(len(line), 1), columns)]
    return wrapped


@functools.lru_cache(maxsize=64)
def font(name: str, size: int) -> FreeTypeFont:
    """One of the fonts that travel with the package."""
    from PIL import ImageFont

    path = resources.files(__package__).joinpath("fonts").joinpath(f"{name}.ttf")
    with resources.as_file(path) as file:
        return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)


def _pane(lines: list[tuple[str, str]], look: Look) -> Picture:
    from PIL import Image, ImageDraw

    face = font(look.font, look.size)
    width = max(len(line) for _, line in lines) + 2
    cell, step = face.getlength("M"), round(look.size * 1.32)  # 1.32: usual line height of terminals
    columns = max(min(width + 6, look.columns), 48)
    size = (round(cell * columns) + 24, step * (len(lines) + 1) + 16)
    picture = Image.new("RGB", size, look.theme.back)
    draw = ImageDraw.Draw(picture)
    colours = _colours(look)
    for row, (kind, line) in enumerate(lines):
        top = 8 + row * step
        if look.marked and kind == "accent":
            draw.rectangle((8, top, 12 + face.getlength(line), top + step), fill=_mix(look.theme))
        _line(draw, (12, top + 2), kind, line, look, face, colours)
    return picture


def _line(
    draw: ImageDraw,
    at: tuple[int, int],
    kind: str,
    line: str,
    look: Look,
    face: FreeTypeFont,
    colours: dict[str, str],
) -> None:
    if kind == "prompt" and line.startswith(look.prompt.rstrip()):
        head = line[: len(look.prompt)]
        draw.text(at, head, font=face, fill=colours["prompt"])
        at = (at[0] + round(face.getlength(head)), at[1])
        kind, line = "plain", line[len(head) :]
    draw.text(at, line, font=face, fill=colours[kind])


def _colours(look: Look) -> dict[str, str]:
    theme = look.theme
    plain = dict.fromkeys(("plain", "accent", "place", "carets", "prompt"), theme.text)
    if not look.coloured:
        return plain | {"prompt": theme.prompt}
    return (
        plain
        | {kind: getattr(theme, kind) for kind in ("accent", "place", "prompt")}
        | {"carets": theme.accent}
    )


def _mix(theme: Theme) -> str:
    """A selection colour between background and text."""
    back, text = (int(colour[1:], 16) for colour in (theme.back, theme.text))
    parts = [(3 * (back >> shift & 255) + (text >> shift & 255)) // 4 for shift in (16, 8, 0)]
    return "#" + "".join(f"{part:02x}" for part in parts)


def _editor(pane: Picture, program: str, file: str, look: Look) -> Picture:
    """An editor window: file tabs, the program with line numbers, a terminal pane below."""
    from PIL import Image, ImageDraw

    face = font(look.font, look.size)
    step = round(look.size * 1.32)
    lines = program.rstrip("\n").split("\n")[-14:]
    first = program.rstrip("\n").count("\n") + 2 - len(lines)
    tall = step * (len(lines) + 3) + 12
    picture = Image.new("RGB", (pane.width, tall + step + 8 + pane.height), look.theme.back)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, pane.width, step + 8), fill=look.theme.bar)
    draw.rectangle((0, 0, round(face.getlength(file)) + 40, step + 8), fill=look.theme.back)
    draw.text((14, 4), f"{file}  ×", font=face, fill=look.theme.text)
    for row, line in enumerate(lines):
        top = step + 16 + row * step
        draw.text((10, top), f"{first + row:3d}", font=face, fill=_mix(look.theme))
        draw.text((round(face.getlength("0" * 6)), top), line, font=face, fill=look.theme.text)
    draw.line((0, tall - 4, pane.width, tall - 4), fill=_mix(look.theme))
    draw.text((14, tall), "PROBLEMS   OUTPUT   TERMINAL", font=font(look.font, 12), fill=look.theme.text)
    picture.paste(pane, (0, tall + step + 4))
    return picture


def _framed(pane: Picture, title: str, look: Look) -> Picture:
    """The window around a pane, in the manner of one desktop or none."""
    from PIL import Image, ImageDraw

    if look.frame == "none":
        return pane
    bar = 30
    picture = Image.new("RGB", (pane.width + 2, pane.height + bar + 1), look.theme.bar)
    draw = ImageDraw.Draw(picture)
    label: Any = font("DejaVuSansMono", 12)
    width = round(label.getlength(title))
    if look.frame == "windows":
        draw.text((12, 8), title, font=label, fill=look.theme.bar_text)
        draw.text((pane.width - 96, 8), "–   □   ×", font=label, fill=look.theme.bar_text)
    else:
        draw.text(((pane.width - width) // 2, 8), title, font=label, fill=look.theme.bar_text)
    if look.frame in ("mac", "editor"):
        for place, colour in enumerate(("#ff5f57", "#febc2e", "#28c840")):
            draw.ellipse((12 + 20 * place, 9, 24 + 20 * place, 21), fill=colour)
    elif look.frame == "gnome":
        draw.ellipse((pane.width - 28, 7, pane.width - 12, 23), fill="#e95420")
    picture.paste(pane, (1, bar))
    return picture
