"""Image files and label files as arrays: what is stored in them, whatever their encoding; and resizing.

Nothing here imports TensorFlow up front, so that worker processes start fast.
"""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from uda_jax.errors import UserError

STORABLE = ("JPEG", "PNG")  # formats that the pipeline decodes
ORIENTATION = 0x0112  # the EXIF tag of a camera held upright or not; TensorFlow ignores it
SINGLE = ("1", "L", "LA", "P", "PA", "I;16", "I;16B", "I;16L", "I", "F")  # modes with one channel of values
PNG = b"\x89PNG\r\n\x1a\n"


class Values(NamedTuple):
    """What a label file holds.

    values: int32 [H, W]; ids, or if `colored` the packed colours red << 16 | green << 8 | blue.
    """

    values: np.ndarray
    colored: bool


def read_image(path: Path) -> tuple[bytes | None, np.ndarray]:
    """RGB uint8 [H, W, 3], upright, with the file's bytes if they can be stored as they are (else None).

    An alpha channel is dropped; of 16-bit samples the high bytes are kept.

    Raises:
      UserError: the file is no readable image.
    """
    encoded = path.read_bytes()
    picture = open_picture(path, encoded)
    upright = picture.getexif().get(ORIENTATION, 1) == 1
    as_is = picture.format in STORABLE and picture.mode == "RGB" and upright and png_depth(encoded)[0] <= 8
    if picture.mode.startswith("I"):  # Pillow would clip 16-bit grey instead of scaling it
        grey = (np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return None, np.repeat(grey[..., None], 3, axis=2)
    pixels = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    return (encoded if as_is else None), pixels


def read_values(path: Path, first_channel: bool = False) -> Values:
    """The ids or colours of a label file, exactly as stored.

    Palette indices, grey values of 1 to 16 bits, and the first channel of 16-bit colour files are ids; 8-bit
    colours are colours (but see `grey_ids`). Alpha is dropped.

    Args:
      first_channel: the first channel holds the ids, whatever the others hold.
    Raises:
      UserError: the file is no readable image, or one that loses values (JPEG).
    """
    encoded = path.read_bytes()
    picture = open_picture(path, encoded)
    if picture.format == "JPEG":
        raise UserError(f"{path} is a JPEG: its compression changes label ids. Labels must be PNG files.")
    depth, color_type = png_depth(encoded)
    if depth == 16 and color_type != 0:
        return Values(_decode_16_bit(encoded)[..., 0].astype(np.int32), False)
    if picture.mode in SINGLE:
        values = np.asarray(picture).astype(np.int32)
        values = values[..., 0] if values.ndim == 3 else values
        if depth < 8 and color_type == 0 and picture.mode == "L":  # Pillow stretches 2 and 4 bits to 0..255
            values //= 255 // (2**depth - 1)
        return Values(values, False)
    rgb = np.asarray(picture.convert("RGB")).astype(np.int32)
    if first_channel:
        return Values(rgb[..., 0], False)
    return Values(rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2], True)


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


def open_picture(path: Path, encoded: bytes) -> Image.Image:
    """The decoded file `path` from its bytes; raises UserError if it is unreadable or cut short."""
    try:
        picture = Image.open(io.BytesIO(encoded))
        picture.load()
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        reason = "it is no image" if isinstance(error, UnidentifiedImageError) else error
        raise UserError(f"cannot read the image {path}: {reason}. Replace or remove it.") from error
    return picture


def png_depth(encoded: bytes) -> tuple[int, int]:
    """(bits a sample, colour type) from a PNG's header; (8, -1) for other formats."""
    return (encoded[24], encoded[25]) if encoded.startswith(PNG) and len(encoded) > 25 else (8, -1)


def _decode_16_bit(encoded: bytes) -> np.ndarray:
    """uint16 [H, W, C] of a 16-bit PNG with several channels, which Pillow would cut to 8 bits."""
    import tensorflow as tf  # slow to import, and only this needs it

    return tf.io.decode_png(encoded, dtype=tf.uint16).numpy()


def encode_image(image: np.ndarray, encoding: str) -> bytes:
    """uint8 [H, W, 3] or [H, W] as "png", or as "jpeg" of quality 95."""
    stream = io.BytesIO()
    picture = Image.fromarray(image)
    if encoding == "png":
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
