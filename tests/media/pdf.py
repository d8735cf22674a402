"""Small PDF files, written object by object, so that tests may make whatever no program would write."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image as Pillow

Body = str | bytes


def stream(head: str, data: bytes) -> bytes:
    """A stream object's body."""
    return f"<< {head} /Length {len(data)} >>\nstream\n".encode() + data + b"\nendstream"


def shown(text: str, x: float = 72, y: float = 700, size: float = 12, font: str = "F1") -> str:
    """The operators that show one text."""
    return f"BT /{font} {size} Tf {x} {y} Td ({text}) Tj ET"


FONTS = (
    "/Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >> "
    "/F2 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica-Bold /Encoding /WinAnsiEncoding >> >>"
)


def pdf(
    *contents: str,
    page: str = "/MediaBox [0 0 612 792]",
    resources: str = "",
    more: Sequence[Body] = (),
    catalogue: str = "",
    trailer: str = "",
) -> bytes:
    """A file of pages with these contents. `more` are objects from number 3 on; `page` are keys of each page."""
    objects: list[bytes] = [b"", b"", *(body.encode() if isinstance(body, str) else body for body in more)]
    kids = []
    for content in contents:
        objects.append(stream("", content.encode("latin-1")))
        drawn = len(objects)
        objects.append(
            f"<< /Type /Page /Parent 2 0 R {page} /Resources << {FONTS} {resources} >> /Contents {drawn} 0 R >>".encode()
        )
        kids.append(f"{len(objects)} 0 R")
    objects[0] = f"<< /Type /Catalog /Pages 2 0 R {catalogue} >>".encode()
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>".encode()
    return written(objects, trailer)


def written(objects: Sequence[bytes], trailer: str = "") -> bytes:
    """Objects by number, with their table."""
    out = bytearray(b"%PDF-1.7\n")
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    start = len(out)
    out += f"xref\n0 {len(places) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(f"{place:010d} 00000 n \n".encode() for place in places)
    out += (
        f"trailer\n<< /Size {len(places) + 1} /Root 1 0 R {trailer} >>\nstartxref\n{start}\n%%EOF\n".encode()
    )
    return bytes(out)


def picture(wide: int = 400, high: int = 500, *, said: tuple[int, int] | None = None) -> bytes:
    """A picture as an object; `said` are sides that it only claims to have."""
    pixels = np.tile(np.arange(wide, dtype=np.uint8), (high, 1))
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "JPEG")
    width, height = said or (wide, high)
    head = (
        f"/Type /XObject /Subtype /Image /Width {width} /Height {height} /ColorSpace /DeviceGray "
        "/BitsPerComponent 8 /Filter /DCTDecode"
    )
    return stream(head, buffer.getvalue())


def raw_picture(width: int, height: int) -> bytes:
    """A picture that claims its sides and holds hardly anything."""
    head = f"/Type /XObject /Subtype /Image /Width {width} /Height {height} /ColorSpace /DeviceGray /BitsPerComponent 8"
    return stream(head, b"\0" * 64)


def scan(*extra: str, body: bytes | None = None) -> bytes:
    """A page under one picture, and what else is drawn on it."""
    content = "\n".join(["q 612 0 0 792 0 0 cm /Im0 Do Q", *extra])
    return pdf(content, resources="/XObject << /Im0 3 0 R >>", more=[body or picture()])


def locked(handler: str = "/Standard", version: int = 1) -> bytes:
    """A file that asks for a password."""
    secret = "00112233445566778899AABBCCDDEEFF00112233445566778899AABBCCDDEEFF"
    lock = f"<< /Filter {handler} /V {version} /R 2 /O <{secret}> /U <{secret}> /P -4 >>"
    named = "/ID [<00112233445566778899AABBCCDDEEFF> <00112233445566778899AABBCCDDEEFF>]"
    return pdf(shown("secret"), more=[lock], trailer=f"/Encrypt 3 0 R {named}")
