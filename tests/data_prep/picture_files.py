"""Encoded pictures: PNG files taken apart and put together again, whole or damaged, and EXIF blocks."""

import io
import struct
import zlib
from collections.abc import Iterable

import numpy as np
from PIL import Image

from data_prep.pictures import ORIENTATION

SIGNATURE = b"\x89PNG\r\n\x1a\n"
Part = tuple[bytes, bytes]  # kind, content


def parts(encoded: bytes) -> list[Part]:
    found, at = [], len(SIGNATURE)
    while at < len(encoded):
        (length,) = struct.unpack_from(">I", encoded, at)
        found.append((encoded[at + 4 : at + 8], encoded[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def assemble(found: Iterable[Part], damaged: bytes = b"") -> bytes:
    """The PNG of these parts; the checksum of the parts of kind `damaged` is wrong."""
    encoded = SIGNATURE
    for kind, content in found:
        checksum = zlib.crc32(kind + content) ^ (255 if kind == damaged else 0)
        encoded += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
    return encoded


def grey(shape: tuple[int, int], bits: int, rows: Iterable[bytes]) -> bytes:
    """A grey PNG of `bits` a pixel; Pillow writes none of 2 and 4."""
    header = struct.pack(">IIBBBBB", shape[1], shape[0], bits, 0, 0, 0, 0)
    lines = zlib.compress(b"".join(b"\0" + row for row in rows))
    return assemble([(b"IHDR", header), (b"IDAT", lines), (b"IEND", b"")])


def interlaced(pixels: np.ndarray) -> bytes:
    """The Adam7 PNG of uint8 [H, W, 3], which Pillow does not write."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    lines = b"".join(b"\0" + row.tobytes() for y, x, dy, dx in passes for row in pixels[y::dy, x::dx] if row.size)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 1)
    return assemble([(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")])


def with_part(encoded: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG with one part more, after its header."""
    header, *rest = parts(encoded)
    return assemble([header, (kind, content), *rest])


def encoded(pixels: np.ndarray, form: str = "PNG", mode: str | None = None, **options) -> bytes:
    """A picture as Pillow writes it."""
    stream = io.BytesIO()
    picture = Image.fromarray(pixels)
    (picture if mode is None else picture.convert(mode)).save(stream, form, **options)
    return stream.getvalue()


def exif(orientation: int, kind: int = 3, count: int = 1) -> bytes:
    """An EXIF block with the orientation alone, a short number unless TIFF's `kind` and `count` say otherwise."""
    value = struct.pack({1: ">B3x", 2: ">B3x", 3: ">HH", 4: ">I"}[kind], *[orientation] * (2 if kind == 3 else 1))
    return b"Exif\0\0MM\0*" + struct.pack(">IHHHI", 8, 1, ORIENTATION, kind, count) + value + bytes(4)


# Blocks that tell no orientation.
ODD_EXIF = {
    **{f"orientation {value}": exif(value) for value in (0, 9, 255)},
    "text": exif(ord("6"), kind=2, count=2),
    "bytes": exif(6, kind=1),
    "a long list": exif(6, count=1 << 30),
    "garbage": b"Exif\0\0garbage",
    "cut": exif(6)[:18],
    "nothing": b"",
}
