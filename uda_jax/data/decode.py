"""Decoding straight to about the size that is wanted, where the codec can."""

from functools import partial

import tensorflow as tf

RATIOS = (1, 2, 4, 8)  # by which libjpeg can shrink while it decodes


def decode_shrunken(encoded: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Decodes a JPEG at 1/8, 1/4 or 1/2 of its stored size, the smallest that is not below `size` = (height, width).

    The inverse DCT of each 8x8 block then yields 1, 2 or 4 pixels a side and leaves the high frequencies out: a
    low-pass filter as a bicubic resize is one, but another one. Where `size` is more than half of the stored size, and
    for other codecs, this is plain decoding, bit for bit. A stored side that the ratio does not divide is rounded up,
    which shifts the far edge by less than one pixel of `size`.

    Args:
      encoded: string [], a JPEG or PNG.
    Returns:
      uint8 [h, w, 3] RGB.
    """

    def shrunken() -> tf.Tensor:
        stored = tf.io.extract_jpeg_shape(encoded)[:2]
        possible = [tf.reduce_all(stored >= tf.multiply(ratio, size)) for ratio in RATIOS[1:]]
        return tf.switch_case(
            tf.math.count_nonzero(possible, dtype=tf.int32),
            [partial(tf.io.decode_jpeg, encoded, channels=3, ratio=ratio) for ratio in RATIOS],
        )

    def plain() -> tf.Tensor:
        return tf.io.decode_image(encoded, channels=3, expand_animations=False)

    return tf.ensure_shape(tf.cond(tf.io.is_jpeg(encoded), shrunken, plain), (None, None, 3))
