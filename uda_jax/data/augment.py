"""Augmentation of an image and its label map together, by stateless TensorFlow ops.

Labels travel as [H, W, 1], so that image and label go through the same calls. `label` may be None.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from uda_jax.data.labels import IGNORE

TRIES = 10  # crops that are looked at for a class that is sought
COLOURS = {"image": 3, "strong": 4}  # what a record's seed is folded with; augment splits it for the rest

Pair = tuple[tf.Tensor, tf.Tensor | None]  # image, label


class Sought(NamedTuple):
    """What a crop should show: more than `least` pixels of the class `train_id`, int64 []."""

    train_id: tf.Tensor
    least: int


def resize(image: tf.Tensor, label: tf.Tensor | None, size: tf.Tensor) -> Pair:
    """Resizes to `size` = (height, width): image bicubic and antialiased, label by the nearest pixel.

    Args:
      image: uint8 [h, w, 3].
      label: uint8 [h, w, 1] or None.
    """

    def resized() -> tf.Tensor:
        smooth = tf.image.resize(image, size, tf.image.ResizeMethod.BICUBIC, antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(smooth), 0, 255), tf.uint8)

    return _unless_of(size, image, resized), None if label is None else resize_label(label, size)


def resize_label(label: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Nearest-pixel resize of uint8 [h, w, 1]; invents no id."""
    return _unless_of(size, label, lambda: tf.image.resize(label, size, tf.image.ResizeMethod.NEAREST_NEIGHBOR))


def _unless_of(size: tf.Tensor, x: tf.Tensor, resized: Callable[[], tf.Tensor]) -> tf.Tensor:
    """`x` if it is of `size` already, which is cheaper than to resize it; else `resized()`."""
    return tf.cond(tf.reduce_all(tf.equal(tf.shape(x)[:2], size)), lambda: x, resized)


def augment(
    image: tf.Tensor,
    label: tf.Tensor | None,
    seed: tf.Tensor,
    *,
    crop: tuple[int, int],
    scale: tuple[float, float] = (1.0, 1.0),
    flip: bool = False,
    sought: Sought | None = None,
) -> Pair:
    """Random scale, then a random window of `crop` = (height, width) and a random horizontal flip.

    Where the scaled image is smaller than the window it is padded at the bottom and the right: the image
    with 0, the label with 255. Windows are drawn until one shows what is `sought`; if ten do not, the next is
    taken as it comes, as in DAFormer's published code.

    Args:
      image: uint8 [h, w, 3].
      label: uint8 [h, w, 1] or None.
      seed: int64 [2]; the result is a pure function of it.
      scale: bounds of the uniform scale factor; (1, 1) does not resize.
      sought: None takes the first window; else the label is needed.
    Returns:
      (uint8 [*crop, 3], uint8 [*crop, 1] or None), with static shapes.
    """
    scale_seed, crop_seed, flip_seed = tf.unstack(tf.random.split(seed, 3))
    if tuple(scale) != (1.0, 1.0):
        image, label = _random_scale(image, label, scale_seed, scale)
    image, label = _random_crop(image, label, crop_seed, crop, sought)
    if flip:
        image, label = _random_flip(image, label, flip_seed)
    return image, label


def view(image: tf.Tensor, seed: tf.Tensor, name: str, jitter: float) -> tf.Tensor:
    """An image uint8 [H, W, 3] as a method sees it: "weak", as it is; "image" and "strong", in random colours each.

    Args:
      seed: int64 [2], of the record.
      jitter: strength of `jitter_colours`; 0 leaves every view as it is.
    """
    return jitter_colours(image, tf.random.fold_in(seed, COLOURS[name]), jitter) if jitter and name != "weak" else image


def jitter_colours(image: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    """Random saturation, contrast, and exposure and white balance (a gain a channel): what differs between cameras.

    Args:
      image: uint8 [H, W, 3].
      strength: each factor is uniform in 1 - strength .. 1 + strength, 0 < strength <= 1.
    """
    factors = tf.random.stateless_uniform([5], seed, 1 - strength, 1 + strength)
    x = tf.cast(image, tf.float32)
    grey = tf.reduce_mean(x, axis=-1, keepdims=True)
    x = grey + factors[0] * (x - grey)
    mean = tf.reduce_mean(x)
    x = (mean + factors[1] * (x - mean)) * factors[2:]
    return tf.cast(tf.clip_by_value(tf.round(x), 0, 255), tf.uint8)


def _random_scale(image: tf.Tensor, label: tf.Tensor | None, seed: tf.Tensor, scale: tuple[float, float]) -> Pair:
    factor = tf.random.stateless_uniform([], seed, *map(float, scale))
    size = tf.cast(tf.round(tf.cast(tf.shape(image)[:2], tf.float32) * factor), tf.int32)
    return resize(image, label, tf.maximum(size, 1))


def _random_crop(
    image: tf.Tensor,
    label: tf.Tensor | None,
    seed: tf.Tensor,
    crop: tuple[int, int],
    sought: Sought | None = None,
) -> Pair:
    if image.shape[:2] == crop:
        return image, None if label is None else tf.ensure_shape(label, (*crop, 1))
    size = tf.shape(image)[:2]
    slack = tf.maximum(size - crop, 0)
    offset = _random_offset(slack, seed)
    if sought is not None:
        offset = _seek(label, offset, slack, seed, crop, sought)
    top, left = tf.unstack(offset)
    down, right = tf.unstack(tf.maximum(crop - size, 0))

    def window(x: tf.Tensor, fill: int) -> tf.Tensor:
        x = x[top : top + crop[0], left : left + crop[1]]
        x = tf.pad(x, [[0, down], [0, right], [0, 0]], constant_values=tf.cast(fill, x.dtype))
        return tf.ensure_shape(x, (*crop, x.shape[-1]))

    return window(image, 0), None if label is None else window(label, IGNORE)


def _random_offset(slack: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """(top, left), int32 [2], each uniform in 0 .. its slack."""
    # floor(u * (slack + 1)) with u < 1; the minimum guards against rounding up in float32.
    offset = tf.random.stateless_uniform([2], seed) * tf.cast(slack + 1, tf.float32)
    return tf.minimum(tf.cast(offset, tf.int32), slack)


def _seek(
    label: tf.Tensor,
    offset: tf.Tensor,
    slack: tf.Tensor,
    seed: tf.Tensor,
    crop: tuple[int, int],
    sought: Sought,
) -> tf.Tensor:
    """`offset`, or one drawn after it, int32 [2], whose window of uint8 [h, w, 1] shows what is sought."""
    some = tf.reduce_any(slack > 0)  # else all windows are the same

    def poor(number: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
        window = label[offset[0] : offset[0] + crop[0], offset[1] : offset[1] + crop[1]]
        # tf.math.count_nonzero takes twice the time.
        found = tf.reduce_sum(tf.cast(tf.equal(window, tf.cast(sought.train_id, label.dtype)), tf.int32))
        return some & (number < TRIES) & (found <= sought.least)

    def again(number: tf.Tensor, offset: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return number + 1, _random_offset(slack, tf.random.fold_in(seed, number))

    return tf.while_loop(poor, again, (tf.constant(0), offset), parallel_iterations=1)[1]


def _random_flip(image: tf.Tensor, label: tf.Tensor | None, seed: tf.Tensor) -> Pair:
    mirrored = tf.random.stateless_uniform([], seed) < 0.5

    # tf.reverse is fast on [H, W, 3] and on [H, W], and slow on [H, W, 1], as are slices with a step of -1.
    def mirror(x: tf.Tensor) -> tf.Tensor:
        return tf.cond(mirrored, lambda: tf.reverse(x, [1]), lambda: x)

    return mirror(image), None if label is None else mirror(label[..., 0])[..., None]
