"""Feature distance to a frozen network (Hoyer et al., "DAFormer", CVPR 2022, section 3.3): ImageNet is kept."""

import jax
import jax.numpy as jnp
from jax import lax

from uda_jax.data.labels import IGNORE
from uda_jax.methods.mixing import numbered
from uda_jax.models.layers import at_least_float32


def downscaled(labels: jax.Array, factor: int, share: float, classes: int) -> jax.Array:
    """Each window's most frequent class, int32 [B, H // factor, W // factor]; `classes` where none is clear.

    Args:
      labels: int [B, H, W]; ids that are none are a class of their own, which is never the answer.
      share: a window's class is clear from this share of its pixels on.
    """
    of = numbered(labels, classes)[..., None] == jnp.arange(classes + 1)
    window = (1, factor, factor, 1)
    counts = lax.reduce_window(of.astype(jnp.int32), 0, lax.add, window, window, "VALID")
    best = counts.argmax(-1)
    return jnp.where(counts.max(-1) < share * factor**2, classes, best).astype(jnp.int32)


def _fitting(labels: jax.Array, size: tuple[int, ...]) -> tuple[jax.Array, int]:
    """(labels, factor) of which `downscaled` has the size (h, w)."""
    (height, width), (h, w) = labels.shape[1:], size
    factor = max(width // w, 1)
    if (height // factor, width // factor) == (h, w):
        return labels, factor
    factor = max(-(-height // h), -(-width // w))
    fill = ((0, 0), (0, factor * h - height), (0, factor * w - width))
    return jnp.pad(labels, fill, constant_values=IGNORE), factor


def feature_distance(
    features: jax.Array, frozen: jax.Array, labels: jax.Array, of: tuple[int, ...], share: float, classes: int
) -> jax.Array:
    """Mean L2 distance of the features at positions of some classes, []; zero, without gradient, where there are none.

    Args:
      features, frozen: [B, h, w, C], of the network that is trained and of the one that is not.
      labels: int [B, H, W] of the image, `downscaled` by W // w. Where that does not give [h, w], as of networks that
        pool in ceil mode, they are filled up first with pixels that have no class.
      of: train ids of those classes; () for every position.
    """
    difference = at_least_float32(features) - at_least_float32(frozen)
    squared = jnp.square(difference).sum(-1)
    distance = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)  # no gradient at zero
    if not of:
        return distance.mean()
    small = downscaled(*_fitting(labels, distance.shape[1:]), share, classes)
    counts = (small[..., None] == jnp.asarray(of)).any(-1)
    return jnp.where(counts, distance, 0.0).sum() / jnp.maximum(counts.sum(), 1)
