"""Pure loss functions; computed in float32 or better whatever the dtype of their input.

Domain labels follow AdaptSegNet's code: source = 0, target = 1.
"""

import math

import jax
import jax.numpy as jnp
import optax

from uda_jax.data.labels import IGNORE
from uda_jax.models.layers import at_least_float32

SOURCE, TARGET = 0.0, 1.0


def cross_entropy(logits: jax.Array, labels: jax.Array, class_weight: jax.Array | None = None) -> jax.Array:
    """Mean cross entropy over the pixels that are not ignored; zero where all are (AdaptSegNet, eq. 3).

    Args:
      logits: [B, H, W, classes].
      labels: train ids, int [B, H, W]; negative ids and 255 are ignored.
      class_weight: [classes], how much a pixel of each class counts; the mean is over the counts.
    """
    valid = (labels >= 0) & (labels != IGNORE)
    nll, chosen = _of_pixels(logits, labels)
    if class_weight is None:
        return jnp.where(valid, nll, 0.0).sum() / jnp.maximum(valid.sum(), 1)
    counts = jnp.where(valid, jnp.where(chosen, class_weight, 0.0).sum(-1), 0.0)
    return (counts * nll).sum() / jnp.where(counts.any(), counts.sum(), 1.0)


def _of_pixels(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(cross entropy [B, H, W], zero of ids that are none; where a pixel has a class, bool [B, H, W, classes])."""
    log_p = jax.nn.log_softmax(at_least_float32(logits))
    # A mask over the classes instead of a gather: its gradient needs no scatter, which is slow on every backend.
    chosen = labels[..., None] == jnp.arange(logits.shape[-1])
    return -jnp.where(chosen, log_p, 0.0).sum(-1), chosen


def weighted_cross_entropy(logits: jax.Array, labels: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """Sum of the pixels' cross entropies times their weights, over the number of *all* pixels (DACS, eq. 4).

    Args:
      logits: [B, H, W, classes].
      labels: train ids, int [B, H, W]; pixels of ids that are none add nothing, and count.
      weight: [B, H, W]; None is one everywhere.
    """
    nll, _ = _of_pixels(logits, labels)
    return (nll if weight is None else weight.astype(nll.dtype) * nll).mean()


def domain_loss(logits: jax.Array, domain: float, gan: str) -> jax.Array:
    """How far a discriminator's map is from saying `domain`, as a mean over the map (AdaptSegNet, eqs. 2 and 4).

    Args:
      logits: discriminator output, any shape.
      domain: SOURCE or TARGET.
      gan: "vanilla" (binary cross entropy with logits) or "least_squares" (Mao et al. 2017; on the raw output).
    """
    logits = at_least_float32(logits)
    if gan == "least_squares":
        return jnp.square(logits - domain).mean()
    return optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, domain)).mean()


def domain_accuracy(logits: jax.Array, domain: float, gan: str) -> jax.Array:
    """Share of the map's positions on which a discriminator names the right domain, in 0..1."""
    says_target = logits > (0.5 if gan == "least_squares" else 0.0)
    return (says_target == (domain == TARGET)).mean()


def weighted_self_information(p: jax.Array) -> jax.Array:
    """-p log2(p + 1e-30) / log2(classes) of probabilities [..., classes], in 0..1 (ADVENT, section 3.2)."""
    p = at_least_float32(p)
    return -p * jnp.log2(p + 1e-30) / math.log2(p.shape[-1])


def entropy_loss(p: jax.Array) -> jax.Array:
    """Mean entropy of the pixels of p [B, H, W, classes], as a share of log(classes) (ADVENT, eqs. 2, 3)."""
    return weighted_self_information(p).sum(-1).mean()


def divergence(logits: jax.Array, reference: jax.Array, kind: str) -> jax.Array:
    """How far predictions are from reference predictions: the mean over the pixels of a distance of their softmax.

    Args:
      logits, reference: [B, H, W, classes].
      kind: "l2", the squared L2 distance, or "kl", KL(reference || prediction) in nats.
    """
    log_p, log_q = jax.nn.log_softmax(at_least_float32(reference)), jax.nn.log_softmax(at_least_float32(logits))
    if kind == "l2":
        return jnp.square(jnp.exp(log_q) - jnp.exp(log_p)).sum(-1).mean()
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1).mean()
