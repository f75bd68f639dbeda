"""What TensorFlow, with which training reads, makes of encoded pictures. It is imported at the first call."""

import contextlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from uda_jax.errors import UserError

ROUNDING = 16.0  # mean difference; TensorFlow's faster arithmetic gives 1 in photographs, 11 in noise of quality 100


def disagreement(encoded: bytes, pixels: np.ndarray) -> str:
    """Why training would not read `pixels` from an encoded picture; "" if it does.

    Args:
      encoded: PNG (must decode to the pixels exactly), or JPEG (where decoders may round).
      pixels: uint8 [H, W, 3], or [H, W] of one channel.
    """
    tf = _tensorflow()
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    try:
        decoded = tf.io.decode_image(encoded, channels=channels, expand_animations=False).numpy()
    except tf.errors.OpError:
        return "TensorFlow cannot decode it"
    if decoded.shape[:2] != pixels.shape[:2]:
        return f"TensorFlow decodes it as {decoded.shape[1]}x{decoded.shape[0]}"
    decoded = decoded.reshape(pixels.shape)
    if encoded.startswith(b"\xff\xd8"):
        same = np.abs(decoded.astype(np.int16) - pixels).mean() <= ROUNDING
    else:
        same = np.array_equal(decoded, pixels)
    return "" if same else "TensorFlow decodes other pixels from it"


def decode_16_bit(path: Path, encoded: bytes) -> np.ndarray:
    """uint16 [H, W, C] of the 16-bit PNG `path` with several channels, which Pillow would cut to 8 bits.

    Raises:
      UserError: TensorFlow cannot decode it.
    """
    tf = _tensorflow()
    try:
        return tf.io.decode_png(encoded, dtype=tf.uint16).numpy()
    except tf.errors.OpError as error:
        raise UserError(
            f"cannot read the image {path}: its 16-bit samples are damaged. Replace or remove it."
        ) from error


@cache
def _tensorflow() -> Any:
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # it has started already: too late to choose
        tf.config.set_visible_devices([], "GPU")  # left alone, every worker would take the accelerator's memory
    return tf
