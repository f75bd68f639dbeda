"""Image files and label files as arrays: what is stored in them, whatever their encoding; and resizing.

Nothing here imports TensorFlow, which is slow to start: `decoding` does, where it must.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from data_prep import decoding
from uda_jax.errors import UserError

STORABLE = ("JPEG", "PNG")  # formats that the pipeline decodes
LOSSLESS = ("PNG", "BMP", "GIF", "PPM", "TIFF")  # formats, under whatever name, that keep ids as they are
ORIENTATION = 0x0112  # the EXIF tag of a camera held upright or not; TensorFlow ignores it
SINGLE = ("1", "L", "LA", "P", "PA", "I;16", "I;16B", "I;16L", "I", "F")  # modes with one channel of values
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG's colour types -> channels
# The passes of an interlaced PNG: first row and column, and their steps.
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
PNG = b"\x89PNG\r\n\x1a\n"
JPEG_SIDE = 65_500  # pixels; libjpeg writes nothing longer
MAX_SIDE = 1_000_000  # pixels; libpng, and so TensorFlow, decodes nothing longer
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Pillow takes larger files for an attack

# EXIF orientation -> what makes the stored rows and columns upright.
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


class Values(NamedTuple):
    """What a label file holds.

    values: int32 [H, W]; ids, or if `colored` the packed colours red << 16 | green << 8 | blue.
    palette: the packed colour of every index of a palette picture; of a grey one of 1, 2 or 4 bits, that of every
      value where it is shown (`stretched`); else empty.
    """

    values: np.ndarray
    colored: bool
    palette: tuple[int, ...] = ()
    stretched: bool = False


def read_image(path: Path) -> tuple[bytes | None, np.ndarray]:
    """RGB uint8 [H, W, 3], upright, with the file's bytes if they can be stored as they are (else None).

    An alpha channel is dropped; of 16-bit samples the high bytes are kept. Whether TensorFlow decodes the bytes is
    not asked here: see `decoding.disagreement`.

    Raises:
      UserError: the file is no readable image.
    """
    encoded = path.read_bytes()
    picture = open_picture(path, encoded)
    turned, depth = orientation(picture), png_depth(encoded)[0]
    if picture.mode == "F" or (picture.mode == "I" and depth != 16):
        raise UserError(f"{path} holds 32-bit numbers, not a picture: save it with 8 or 16 bits a sample.")
    if picture.mode.startswith("I"):  # Pillow would clip 16-bit grey instead of scaling it
        grey = (np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return None, upright(np.repeat(grey[..., None], 3, axis=2), turned)
    as_is = picture.format in STORABLE and picture.mode == "RGB" and turned == 1 and depth <= 8
    return (encoded if as_is else None), upright(as_rgb(picture), turned)


def read_values(path: Path, first_channel: bool = False) -> Values:
    """The ids or colours of a label file, exactly as stored, upright.

    Palette indices, grey values of 1 to 16 bits, and the first channel of 16-bit colour files are ids; 8-bit
    colours, and such scaled to 16 bits, are colours (but see `grey_ids`). Alpha is dropped.

    Args:
      first_channel: the first channel holds the ids, whatever the others hold.
    Raises:
      UserError: the file is no readable image, one that loses values (JPEG), or holds no whole numbers.
    """
    encoded = path.read_bytes()
    picture = open_picture(path, encoded)
    compression = str(picture.info.get("compression", ""))  # TIFF has JPEGs in it too
    if picture.format not in LOSSLESS or "jpeg" in compression or "webp" in compression:
        kind = "JPEG" if picture.format in ("JPEG", "MPO") else f"{picture.format} {compression}".strip()
        raise UserError(f"{path} is a {kind}: its compression changes label ids. Labels must be PNG files.")
    found = _values(path, encoded, picture, first_channel)
    return found._replace(values=upright(found.values, orientation(picture)))


def _values(path: Path, encoded: bytes, picture: Image.Image, first_channel: bool) -> Values:
    """`read_values` before it is turned."""
    depth, color_type = png_depth(encoded)
    if depth == 16 and color_type != 0:
        return _wide(decoding.decode_16_bit(path, encoded), first_channel)
    if picture.mode in SINGLE:
        return _single(path, picture, depth if color_type == 0 else 8)
    if picture.mode not in ("RGB", "RGBA"):
        raise UserError(f"{path} is a {picture.mode} picture: labels must be ids (8-bit grey PNG) or RGB colours.")
    rgb = as_rgb(picture)
    return Values(rgb[..., 0].astype(np.int32), False) if first_channel else Values(_packed(rgb), True)


def _wide(samples: np.ndarray, first_channel: bool) -> Values:
    """What uint16 [H, W, C] means: 8-bit colours times 257, or ids in the first channel."""
    same = (samples == samples[..., :1])[..., :3].all()
    if first_channel or samples.shape[2] < 3 or same or (samples[..., :3] % 257).any():
        return Values(samples[..., 0].astype(np.int32), False)
    return Values(_packed(samples[..., :3] >> 8), True)


def _single(path: Path, picture: Image.Image, depth: int) -> Values:
    """The one channel of a picture as int32, and its palette.

    Args:
      depth: bits a sample of a grey PNG.
    """
    stored = np.asarray(picture)
    stored = stored[..., 0] if stored.ndim == 3 else stored
    if stored.dtype.kind == "f" and not ((np.abs(stored) < 2**31) & (stored == np.round(stored))).all():
        raise UserError(f"{path} holds numbers that are no ids (fractions, or too large): save ids as 8-bit grey PNG.")
    values = stored.astype(np.int32)
    if picture.mode in ("P", "PA"):
        colors = np.reshape(picture.getpalette("RGB") or [], (-1, 3)).astype(np.uint8)
        return Values(values, False, tuple(_packed(colors).tolist()))
    if depth < 8 and picture.mode in ("1", "L"):  # Pillow stretches 2 and 4 bits to 0..255
        step = 255 // (2**depth - 1)
        values = values if depth == 1 else values // step
        return Values(values, False, tuple(0x010101 * step * k for k in range(2**depth)), stretched=True)
    return Values(values, False)


def grey_ids(colors: np.ndarray) -> np.ndarray | None:
    """The ids of a label file whose three channels were all written with them; None if there are true colours.

    Args:
      colors: packed colours, int32 [H, W].
    """
    ids = colors & 255
    return ids if (colors == ids * 0x010101).all() else None


def unpack(color: int) -> tuple[int, int, int]:
    """(red, green, blue) of a packed colour."""
    return color >> 16, color >> 8 & 255, color & 255


def pack(color: tuple[int, int, int]) -> int:
    """A colour as one number, red << 16 | green << 8 | blue."""
    return color[0] << 16 | color[1] << 8 | color[2]


def _packed(rgb: np.ndarray) -> np.ndarray:
    """`pack` of every colour of [..., 3], int32."""
    red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue


def open_picture(path: Path, encoded: bytes) -> Image.Image:
    """The decoded file `path` from its bytes; raises UserError if it is unreadable, damaged or cut short."""
    try:
        check_whole(encoded)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures and of tags that nobody reads
            picture = Image.open(io.BytesIO(encoded))
            picture.load()
        check_pixels(encoded)
        if max(picture.size) > MAX_SIDE:
            raise ValueError(f"it is {picture.width}x{picture.height}, but no side may exceed {MAX_SIDE:,} pixels")
    except Exception as error:  # decoders raise a dozen kinds on broken files
        raise UserError(f"cannot read the image {path}: {_why(error)}. Replace or remove it.") from error
    return picture


def as_rgb(picture: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3] of a decoded picture, without its alpha."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of alpha, which is dropped on purpose
        return np.asarray(picture.convert("RGB"))


def _why(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is no image"
    expected = isinstance(error, OSError | SyntaxError | ValueError | Image.DecompressionBombError)
    return str(error).rstrip(".") if expected and str(error) else f"it is damaged ({type(error).__name__}: {error})"


def check_whole(encoded: bytes) -> None:
    """Raises ValueError if a file is empty, or a PNG whose checksums do not fit or whose end is missing.

    Decoders look at some of this only, each at another part.
    """
    if not encoded:
        raise ValueError("it is empty")
    at, kind = len(PNG), b"" if encoded.startswith(PNG) else b"IEND"
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", encoded, at) if at + 12 <= len(encoded) else (len(encoded), b"")
        end = at + 8 + length
        if end + 4 > len(encoded):
            raise ValueError("it is cut short")
        if zlib.crc32(memoryview(encoded)[at + 4 : end]) != struct.unpack_from(">I", encoded, end)[0]:
            raise ValueError(f"it is damaged (the checksum of its part {kind.decode('latin-1')} at byte {at} is wrong)")
        at = end + 4


def check_pixels(encoded: bytes) -> None:
    """Raises ValueError if a whole PNG holds fewer pixels than its header says; decoders make the others 0."""
    if not encoded.startswith(PNG):
        return
    width, height, depth, color_type, _, _, interlaced = struct.unpack_from(">IIBBBBB", encoded, 16)
    bits = depth * SAMPLES[color_type]
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    sides = ((len(range(y, height, dy)), len(range(x, width, dx))) for y, x, dy, dx in passes)
    expected = sum(rows * (1 + (columns * bits + 7) // 8) for rows, columns in sides if columns)
    found, at, inflate = 0, len(PNG), zlib.decompressobj()
    while at < len(encoded) and encoded[at + 4 : at + 8] != b"IEND":
        (length,) = struct.unpack_from(">I", encoded, at)
        if encoded[at + 4 : at + 8] == b"IDAT":
            found += len(inflate.decompress(encoded[at + 8 : at + 8 + length]))
        at += 12 + length
    if found < expected:
        raise ValueError(f"it is cut short (it holds {found:,} of {expected:,} bytes of its pixels)")


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation 1..8 of a decoded picture; 1 where there is none that makes sense. XMP is not asked."""
    profile = picture.info.get("Raw profile type exif")  # how ImageMagick keeps EXIF in a PNG
    exif = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exif.load(picture.info.get("exif") or bytes.fromhex("".join((profile or "").split("\n")[3:])))
            tag = exif.get(ORIENTATION)
    except Exception:  # as above: a camera's or an editor's broken block is no reason to refuse the picture
        return 1
    return tag if isinstance(tag, int) and tag in TURNS else 1


def upright(pixels: np.ndarray, turned: int) -> np.ndarray:
    """[H, W, ...] turned as its EXIF orientation asks for."""
    return np.ascontiguousarray(TURNS[turned](pixels))


def png_depth(encoded: bytes) -> tuple[int, int]:
    """(bits a sample, colour type) from a PNG's header; (8, -1) for other formats."""
    return (encoded[24], encoded[25]) if encoded.startswith(PNG) and len(encoded) > 25 else (8, -1)


def encode_image(image: np.ndarray, encoding: str) -> bytes:
    """uint8 [H, W, 3] or [H, W] as "png", or as "jpeg" of quality 95 where that can be so long."""
    stream = io.BytesIO()
    picture = Image.fromarray(image)
    if encoding == "png" or max(picture.size) > JPEG_SIDE:
        picture.save(stream, "PNG", compress_level=4)  # twice as fast as 6, as small
    else:
        picture.save(stream, "JPEG", quality=95)
    return stream.getvalue()


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes RGB uint8 [H, W, 3] to [*size, 3]; bicubic, low-pass filtered when it shrinks."""
    if image.shape[:2] == tuple(size):
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes train ids uint8 [H, W] to [*size] by the nearest pixel, so that no id is invented."""
    if label.shape == tuple(size):
        return label
    return np.asarray(Image.fromarray(label).resize(size[::-1], Image.Resampling.NEAREST))
