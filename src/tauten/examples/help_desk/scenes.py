"""Photographs: of screens (perspective, moiré, blur, noise, vignette, JPEG) and of things that are no screens."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import io
import random
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image as Picture

_CAMERA = 1480  # pixels of the longer side: what messengers make of a phone's picture
SCENES = ("hills", "wood", "bokeh", "sea")
PHOTOGRAPHS = ("coffee", "rocket", "chelsea", "hubble")


def photograph(screen: Picture, seed: str) -> bytes:
    """A photo of a display showing `screen`, as JPEG of quality 60 to 80."""
    rng = random.Random(seed)
    scene = _tilted(_lit(screen, rng), rng)
    return _jpeg(_sensed(scene, rng), rng.randrange(60, 81))


def ordinary(name: str, seed: str) -> bytes:
    """A picture without a screen, as JPEG: a drawn scene, or one of the photographs that travel along."""
    from PIL import Image

    rng = random.Random(seed)
    if name in PHOTOGRAPHS:
        file = resources.files(__package__).joinpath("pictures").joinpath(f"{name}.jpg")
        picture: Any = Image.open(io.BytesIO(file.read_bytes())).convert("RGB")
        return _jpeg(_framing(picture, rng), rng.randrange(70, 90))
    draw = {"hills": _hills, "wood": _wood, "bokeh": _bokeh, "sea": _sea}[name]
    return _jpeg(_sensed(draw(rng), rng), rng.randrange(70, 90))


def _framing(picture: Picture, rng: random.Random) -> Picture:
    """A slightly different cut and turn, so that the same photograph is never sent twice."""
    from PIL import Image

    turned = picture.rotate(rng.uniform(-4, 4), resample=Image.Resampling.BICUBIC)
    edge = rng.uniform(0.06, 0.12)
    width, height = picture.size
    left, top = round(width * edge), round(height * edge)
    return turned.crop((left, top, width - left, height - top))


def _lit(screen: Picture, rng: random.Random) -> Picture:
    """The display as light: a bezel, and the rows of pixels that make a camera see moiré."""
    import numpy as np
    from PIL import Image, ImageOps

    pixels = np.asarray(screen, np.float32)
    rows, columns = np.mgrid[0 : pixels.shape[0], 0 : pixels.shape[1]].astype(np.float32)
    angle, period = rng.uniform(-0.25, 0.25), rng.uniform(2.6, 7.0)
    wave = np.sin(2 * np.pi * (rows * np.cos(angle) + columns * np.sin(angle)) / period)
    drift = np.sin(2 * np.pi * (rows * 0.7 + columns) / rng.uniform(140, 320) + rng.uniform(0, 6))
    depth = rng.uniform(0.01, 0.06)
    pixels = pixels * (1 + depth * wave[..., None]) * (1 + depth * drift[..., None])
    glow = np.clip(pixels + rng.uniform(4, 16), 0, 255).astype(np.uint8)  # no display shows true black
    return ImageOps.expand(Image.fromarray(glow), border=rng.randrange(14, 34), fill=(18, 18, 20))


def _tilted(screen: Picture, rng: random.Random) -> Picture:
    """The display seen at an angle, on a desk; letters stay as large as they were."""
    from PIL import Image

    width, height = screen.size
    side = max(width, height) * rng.uniform(1.02, 1.18)
    canvas = (round(side), round(max(height * 1.2, side * 0.62)))
    left, top = (canvas[0] - width) / 2, (canvas[1] - height) / 2
    corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
    lean = 0.045 * min(width, 2 * height)
    seen = [(x + rng.uniform(-lean, lean), y + rng.uniform(-lean, lean)) for x, y in corners]
    source = [(0.0, 0.0), (float(width), 0.0), (float(width), float(height)), (0.0, float(height))]
    transform = _homography(seen, source)
    desk = _desk(canvas, rng)
    warped = screen.transform(canvas, Image.Transform.PERSPECTIVE, transform, Image.Resampling.BICUBIC)
    mask = Image.new("L", screen.size, 255).transform(canvas, Image.Transform.PERSPECTIVE, transform)
    desk.paste(warped, (0, 0), mask)
    scale = min(_CAMERA / max(canvas), 1.0)
    return desk.resize((round(canvas[0] * scale), round(canvas[1] * scale)), Image.Resampling.LANCZOS)


def _homography(points: list[tuple[float, float]], images: list[tuple[float, float]]) -> list[float]:
    """The eight numbers of the projection that takes `points` to `images`."""
    import numpy as np

    rows: list[list[float]] = []
    wanted: list[float] = []
    for (x, y), (u, v) in zip(points, images, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        wanted += [u, v]
    return [float(value) for value in np.linalg.solve(np.array(rows), np.array(wanted))]


def _desk(size: tuple[int, int], rng: random.Random) -> Picture:
    from PIL import Image

    shade = rng.choice(((96, 78, 60), (180, 176, 170), (52, 54, 60), (120, 104, 84)))
    grain = _noise((size[1] // 6 + 2, size[0] // 24 + 2), rng)
    coarse = Image.fromarray((grain * 40).astype("uint8")).resize(size, Image.Resampling.BICUBIC)
    plain = Image.new("RGB", size, shade)
    return Image.blend(plain, Image.merge("RGB", (coarse, coarse, coarse)), 0.3)


def _sensed(scene: Picture, rng: random.Random) -> Picture:
    """What lens and sensor add: blur, a tint, darker corners, noise."""
    import numpy as np
    from PIL import Image, ImageFilter

    scene = scene.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.95)))
    pixels = np.asarray(scene, np.float32)
    height, width = pixels.shape[:2]
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    fall = 1 - rng.uniform(0.1, 0.35) * (rows**2 + columns**2) / 2
    tint = np.array([rng.uniform(0.94, 1.06), 1.0, rng.uniform(0.92, 1.08)])
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(2.0, 6.5), pixels.shape)
    shown = pixels * fall[..., None] * tint * rng.uniform(0.85, 1.08) + noise
    return Image.fromarray(np.clip(shown, 0, 255).astype(np.uint8))


def _jpeg(picture: Picture, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _noise(shape: tuple[int, int], rng: random.Random) -> NDArray[np.float64]:
    import numpy as np

    return np.random.default_rng(rng.getrandbits(32)).random(shape)


def _clouds(size: tuple[int, int], rng: random.Random, *, stretch: int = 1) -> NDArray[np.float64]:
    """Smooth noise in [0, 1] of several octaves; `stretch` draws it out sideways."""
    import numpy as np
    from PIL import Image

    total = np.zeros((size[1], size[0]))
    for octave in range(2, 7):
        grid = _noise((2**octave, max(2**octave // stretch, 2)), rng).astype(np.float32)
        layer = Image.fromarray(grid, mode="F").resize(size, Image.Resampling.BICUBIC)
        total += np.asarray(layer) / 2**octave
    spread: NDArray[np.float64] = (total - total.min()) / (total.max() - total.min())
    return spread


def _blend(low: tuple[int, int, int], high: tuple[int, int, int], amount: Any) -> Any:
    import numpy as np

    return np.array(low) * (1 - amount[..., None]) + np.array(high) * amount[..., None]


def _picture(pixels: Any) -> Picture:
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _hills(rng: random.Random) -> Picture:
    """Ridges under an evening sky, paler with distance."""
    import numpy as np

    size = (960, 640)
    rows = np.linspace(0, 1, size[1])[:, None] * np.ones((1, size[0]))
    pixels = _blend((70, 110, 180), (250, 205, 160), np.clip(rows * 1.6, 0, 1))
    pixels += (_clouds(size, rng, stretch=3)[..., None] - 0.5) * 46
    for ridge in range(4):
        line = _clouds((size[0], 64), rng)[20] * 0.22 + 0.34 + 0.14 * ridge
        below = rows > line[None, :]
        shade = _blend((120, 140, 160), (24, 44, 30), np.full(rows.shape, ridge / 3))
        texture = (_clouds(size, rng)[..., None] - 0.5) * 36 * (ridge + 1) / 4
        pixels = np.where(below[..., None], shade + texture, pixels)
    return _picture(pixels)


def _wood(rng: random.Random) -> Picture:
    """The grain of a plank."""
    import numpy as np

    size = (880, 660)
    grain = np.sin(_clouds(size, rng, stretch=1) * 14 + np.linspace(0, 30, size[1])[:, None])
    fine = _clouds(size, rng, stretch=4)
    return _picture(_blend((92, 58, 30), (186, 138, 88), (grain + 1) / 2 * 0.7 + fine * 0.3))


def _bokeh(rng: random.Random) -> Picture:
    """Street lights at night, out of focus."""
    from PIL import Image, ImageDraw, ImageFilter

    picture = Image.new("RGB", (900, 640), (16, 14, 26))
    for _ in range(rng.randrange(40, 70)):
        layer = Image.new("RGB", picture.size)
        radius = rng.randrange(12, 56)
        x, y = rng.randrange(900), round(rng.triangular(0, 640, 420))
        colour = rng.choice(((255, 190, 90), (255, 120, 70), (120, 190, 255), (255, 240, 200)))
        light = tuple(round(part * rng.uniform(0.25, 0.7)) for part in colour)
        ImageDraw.Draw(layer).ellipse((x - radius, y - radius, x + radius, y + radius), fill=light)
        picture = _added(picture, layer)
    return picture.filter(ImageFilter.GaussianBlur(2.5))


def _added(picture: Picture, light: Picture) -> Picture:
    from PIL import ImageChops

    return ImageChops.screen(picture, light)


def _sea(rng: random.Random) -> Picture:
    """Water under a pale sky with clouds."""
    import numpy as np

    size = (960, 600)
    horizon = rng.randrange(200, 300)
    sky = _blend((120, 165, 215), (245, 246, 250), _clouds(size, rng, stretch=2) ** 1.5)
    depth = np.linspace(0, 1, size[1] - horizon)[:, None] * np.ones((1, size[0]))
    water = _blend((70, 110, 130), (16, 52, 72), depth)
    ripple = _clouds((size[0], 4 * (size[1] - horizon)), rng)[::4][: size[1] - horizon]
    sky[horizon:] = water + (ripple[..., None] - 0.5) * 90 * (0.3 + depth[..., None])
    return _picture(sky)
