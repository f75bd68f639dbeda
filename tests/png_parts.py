"""PNG files taken apart and put together again, whole or damaged."""

import struct
import zlib
from collections.abc import Iterable

import numpy as np

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
