"""ClassMix (Olsson et al. 2021): half of the classes of one image are pasted onto another, as DACS mixes domains."""

import jax
import jax.numpy as jnp

CHOICES = {"classes_of": ("batch", "image")}


def numbered(labels: jax.Array, classes: int) -> jax.Array:
    """Train ids int [...] with every id that is none as `classes`, so that 255 is one class more."""
    return jnp.where((labels >= 0) & (labels < classes), labels, classes)


def choose_classes(key: jax.Array, labels: jax.Array, classes: int, classes_of: str, ignored: bool) -> jax.Array:
    """Which classes are pasted, bool [B, classes + 1]: half of those present, rounded up, drawn anew for each image.

    Args:
      labels: int [B, H, W]; ids that are none count as the last class.
      classes_of: those of the "batch", so that an image may lack one that is chosen, or of the "image" itself.
      ignored: whether the last class, of what has no label, is among those that may be drawn.
    """
    ids = jnp.arange(classes + 1)
    present = (numbered(labels, classes)[..., None] == ids).any((1, 2))
    if classes_of == "batch":
        present = jnp.broadcast_to(present.any(0), present.shape)
    if not ignored:
        present = present & (ids < classes)
    order = jnp.where(present, jax.random.uniform(key, present.shape), 2.0)  # those that are absent come last
    rank = jnp.argsort(jnp.argsort(order, -1), -1)
    return rank < (present.sum(-1, keepdims=True) + 1) // 2


def pasted_pixels(labels: jax.Array, chosen: jax.Array) -> jax.Array:
    """Where an image's own pixels are of a chosen class, bool [B, H, W]; `chosen` bool [B, classes + 1]."""
    classes = chosen.shape[-1] - 1
    of = numbered(labels, classes)[..., None] == jnp.arange(classes + 1)
    return (of & chosen[:, None, None]).any(-1)


def paste(where: jax.Array, source: jax.Array, target: jax.Array) -> jax.Array:
    """The source where it is pasted, else the target; all [B, H, W] or, of images, [B, H, W, C]."""
    return jnp.where(where[..., None] if source.ndim > where.ndim else where, source, target)
