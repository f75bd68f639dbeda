"""Feature distance to a frozen network (Hoyer et al., "DAFormer", CVPR 2022, section 3.3): ImageNet is kept."""

import jax
import jax.numpy as jnp
from jax import lax

from uda_jax.errors import UserError
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


def feature_distance(
    features: jax.Array, frozen: jax.Array, labels: jax.Array, of: tuple[int, ...], share: float, classes: int
) -> jax.Array:
    """Mean L2 distance of the features at positions of some classes, []; zero, without gradient, where there are none.

    Args:
      features, frozen: [B, h, w, C], of the network that is trained and of the one that is not.
      labels: int [B, H, W] of the image, `downscaled` by W // w.
      of: train ids of those classes; () for every position.
    Raises:
      UserError: the labels cannot be downscaled to the size of the features.
    """
    difference = at_least_float32(features) - at_least_float32(frozen)
    squared = jnp.square(difference).sum(-1)
    distance = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)  # no gradient at zero
    if not of:
        return distance.mean()
    factor = labels.shape[2] // features.shape[2]
    small = downscaled(labels, factor, share, classes)
    if small.shape != distance.shape:
        (height, width), (h, w) = labels.shape[1:], distance.shape[1:]
        raise UserError(
            f"images of {width}x{height} have features of {w}x{h}, and labels cannot be downscaled to these by a whole "
            f"factor: choose a crop whose sides are multiples of the network's stride"
        )
    counts = (small[..., None] == jnp.asarray(of)).any(-1)
    return jnp.where(counts, distance, 0.0).sum() / jnp.maximum(counts.sum(), 1)
