"""Adversarial perturbations of a feature map: ascent on several losses, each position on its own.

Only features move; networks enter through the losses. For what is attacked, and when, see `uda_jax.methods.apoda`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Term(NamedTuple):
    """One attacked loss.

    Attributes:
      epsilon: size of its step, a scalar or [B, 1, 1, 1].
      loss: features [B, h, w, C] -> scalar to raise.
    """

    epsilon: float | jax.Array
    loss: Callable[[jax.Array], jax.Array]


def perturb(
    features: jax.Array, terms: Sequence[Term], steps: int, kind: str, key: jax.Array, order: str = "joint"
) -> jax.Array:
    """The perturbation after `steps` rounds of d <- d + sum over terms of epsilon * direction(gradient of its loss).

    All gradients of a round are taken at the same point, features + d; d starts at zero.

    Args:
      features: [B, h, w, C], float32 or better: in bfloat16 a small step would be rounded away.
      kind: see `direction`.
      order: "sequential" takes all rounds of a term before the first of the next (Liu et al. 2019).
      key: for "noise" alone.
    Returns:
      d [B, h, w, C], without gradient.
    """
    # The same in every round: noise that adds up as an attack does.
    keyed = [(term, jax.random.fold_in(key, i)) for i, term in enumerate(terms)]

    def ascend(moved: jax.Array, _: None, together: Sequence[tuple[Term, jax.Array]]) -> tuple[jax.Array, None]:
        point = features + moved
        for term, term_key in together:
            moved = moved + term.epsilon * direction(jax.grad(term.loss)(point), kind, term_key)
        return moved, None

    moved = jnp.zeros_like(features)
    for together in [keyed] if order == "joint" else [[one] for one in keyed]:
        moved, _ = jax.lax.scan(partial(ascend, together=together), moved, length=steps)
    return jax.lax.stop_gradient(moved)


def direction(gradient: jax.Array, kind: str, key: jax.Array) -> jax.Array:
    """Where one step goes, [B, h, w, C]; zero where the gradient is.

    "sign": +-1 in every element (Goodfellow et al. 2015). "position": the gradient with L2 norm 1 over the channels of
    each position. Controls: "noise", random signs; "map", the gradient scaled to RMS 1 over an image's whole map, so
    that a few positions may take all of it.
    """
    if kind == "sign":
        return jnp.sign(gradient)
    if kind == "noise":
        return jax.random.rademacher(key, gradient.shape, gradient.dtype)
    if kind == "position":
        return _unit(gradient, (-1,))
    assert kind == "map", f"no such attack: {kind!r}"
    per_image = gradient[0].size
    return _unit(gradient, (1, 2, 3)) * per_image**0.5


def _unit(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """x / its L2 norm over `axes`; zero stays zero. Scaled first, lest the squares of small numbers vanish."""
    largest = jnp.abs(x).max(axes, keepdims=True)
    x = x / jnp.where(largest > 0, largest, 1.0)
    return x / jnp.maximum(jnp.sqrt(jnp.square(x).sum(axes, keepdims=True)), 1.0)
