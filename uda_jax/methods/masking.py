"""Masked images (Hoyer et al., "MIC", CVPR 2023, section 3.2): a network has to say from the context what is hidden."""

import jax
import jax.numpy as jnp
import numpy as np


def grid(size: tuple[int, int], block: int) -> tuple[int, int]:
    """How many blocks of about `block` pixels a side an image of (height, width) has: rounded, halves to even, >= 1."""
    height, width = (max(round(side / block), 1) for side in size)
    return height, width


def shown(uniform: jax.Array, size: tuple[int, int], ratio: float) -> jax.Array:
    """Which pixels stay, bool [B, H, W]: those of blocks whose draw is above `ratio`, the share to be hidden.

    Args:
      uniform: [B, h, w] in 0..1, of `grid`.
    """
    rows, columns = (np.arange(n) * cells // n for n, cells in zip(size, uniform.shape[1:], strict=True))
    return (uniform > ratio)[:, rows][:, :, columns]


def hide(images: jax.Array, shown: jax.Array, mean: tuple[float, ...]) -> jax.Array:
    """Images [B, H, W, 3] in 0..255 with the mean colour, zero to the network, where a pixel is not shown."""
    return jnp.where(shown[..., None], images, jnp.asarray(mean, images.dtype))
