"""Strong augmentation on the device: colour jitter and Gaussian blur as DACS and its family apply them.

Their colour jitter is that of kornia 0.5: brightness is added, contrast multiplied, and saturation and hue are changed
in HSV. Images are RGB in 0..1, float [B, H, W, 3].
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

PI = float(np.float32(math.pi))  # of the hue's shift, as published
SIGMA = (0.15, 1.15)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


class Colours(NamedTuple):
    """What is drawn for a batch of B images.

    Attributes:
      jitter, blur: bool [], whether there is any.
      factors: [B, 4], of brightness, contrast and saturation, around 1, and of hue, in turns around 0.
      order: int32 [B, 4], a permutation: which of them is changed first, and so on.
      sigma: [B], of the blur in pixels.
    """

    jitter: jax.Array
    factors: jax.Array
    order: jax.Array
    blur: jax.Array
    sigma: jax.Array


def draw_colours(
    key: jax.Array, images: int, strength: float, jitter: float, blur: float, alike: bool = False
) -> Colours:
    """Draws for `images` images; with probability `jitter` and `blur` the batch gets them.

    Args:
      strength: factors are uniform in 1 - strength .. 1 + strength, the hue's in -strength .. strength.
      alike: one order and one sigma for the whole batch, instead of one an image.
    """
    keys = jax.random.split(key, 5)
    n = 1 if alike else images
    factors = jax.random.uniform(keys[0], (images, 4), minval=-strength, maxval=strength)
    order = jax.vmap(lambda k: jax.random.permutation(k, 4))(jax.random.split(keys[1], n))
    sigma = jax.random.uniform(keys[2], (n,), minval=SIGMA[0], maxval=SIGMA[1])
    return Colours(
        jax.random.uniform(keys[3]) < jitter,
        factors + jnp.array([1.0, 1.0, 1.0, 0.0], factors.dtype),
        jnp.broadcast_to(order, (images, 4)),
        jax.random.uniform(keys[4]) < blur,
        jnp.broadcast_to(sigma, (images,)),
    )


def recoloured(images: jax.Array, colours: Colours) -> jax.Array:
    """Images jittered, then blurred, where the draws say so."""
    images = jax.lax.cond(colours.jitter, lambda x: jitter(x, colours.factors, colours.order), lambda x: x, images)
    return jax.lax.cond(colours.blur, lambda x: gaussian_blur(x, colours.sigma), lambda x: x, images)


def jitter(images: jax.Array, factors: jax.Array, order: jax.Array) -> jax.Array:
    """Changes brightness, contrast, saturation and hue in the order given; see `Colours`."""
    factors = factors.astype(images.dtype)

    def one(image: jax.Array, factors: jax.Array, order: jax.Array) -> jax.Array:
        for i in range(4):
            now = order[i] == jnp.arange(4)
            added = jnp.where(now[BRIGHTNESS], factors[BRIGHTNESS] - 1, 0)
            plain = jnp.clip(image * jnp.where(now[CONTRAST], factors[CONTRAST], 1) + added, 0, 1)
            turned = in_hsv(
                image, jnp.where(now[SATURATION], factors[SATURATION], 1), jnp.where(now[HUE], factors[HUE], 0)
            )
            image = jnp.where(now[BRIGHTNESS] | now[CONTRAST], plain, turned)
        return image

    return jax.vmap(one)(images, factors, order)


def in_hsv(image: jax.Array, saturation: jax.Array, hue: jax.Array) -> jax.Array:
    """RGB [H, W, 3] with its saturation multiplied and its hue shifted, by turns."""
    largest, least = image.max(-1), image.min(-1)
    span = largest - least
    s = jnp.clip(span / (largest + 1e-6) * saturation, 0, 1)
    r, g, b = jnp.moveaxis(image, -1, 0)
    safe = jnp.where(span == 0, 1, span)
    # Compared with each other: `largest` may be rounded otherwise than them where a compiler computes it once more.
    of_g, of_b = (b - r) / safe + 2, (r - g) / safe + 4
    sextants = jnp.where((r >= g) & (r >= b), (g - b) / safe, jnp.where(g >= b, of_g, of_b))
    h = jnp.fmod(2 * math.pi * jnp.mod(sextants / 6, 1) + hue * (2 * PI), 2 * math.pi) / (2 * math.pi)
    position = jnp.mod(6 * h, 6)
    sextant = jnp.floor(position)
    f = position - sextant
    v, p, q, t = largest, largest * (1 - s), largest * (1 - f * s), largest * (1 - (1 - f) * s)
    channels = ((v, q, p, p, t, v), (t, v, v, q, p, p), (p, p, t, v, v, q))
    return jnp.stack([jnp.select([sextant == i for i in range(5)], list(c[:5]), c[5]) for c in channels], -1)


def kernel_size(side: int) -> int:
    """Pixels of the blur's kernel along a side: about a tenth of it, odd."""
    tenth = math.ceil(0.1 * side)
    return tenth - 1 + tenth % 2


def gaussian_blur(images: jax.Array, sigma: jax.Array) -> jax.Array:
    """Blurs by sigma [B] pixels, along both sides with kernels of `kernel_size`; the border is reflected."""
    for axis in (1, 2):
        side = images.shape[axis]
        # Beyond nine sigmas a weight is below 1e-17.
        radius = min(kernel_size(side) // 2, math.ceil(9 * SIGMA[1]), side - 1)
        offsets = np.arange(-radius, radius + 1)
        scaled = offsets / sigma.astype(images.dtype)[:, None]
        weights = jnp.exp(-0.5 * jnp.square(scaled))
        weights = weights / weights.sum(-1, keepdims=True)
        around = [(radius, radius) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(images, around, mode="reflect")
        parts = [
            weights[:, i, None, None, None] * jax.lax.slice_in_dim(padded, i, i + side, axis=axis)
            for i in range(len(offsets))
        ]
        images = sum(parts[1:], parts[0])
    return images
