"""Terms of a loss that are differentiated one after the other, for memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

Term = Callable[[Any], tuple[jax.Array, Any]]


def in_turn(term: Term) -> Term:
    """The same (params) -> (loss, aux), whose gradient is taken with its value and whose aux carries none.

    Of a sum of terms, differentiated as a whole, all activations are kept until the last loss is known. A term in turn
    frees its own first, and leaves a gradient: its loss is not to be had before that, and what the next term reads
    should come `after` it. On several devices terms go together: each would have its gradient summed over them.
    """

    @jax.custom_vjp
    def settled(params: Any) -> tuple[jax.Array, Any]:
        return term(params)

    def forward(params: Any) -> tuple[tuple[jax.Array, Any], Any]:
        found, gradient = jax.value_and_grad(term, has_aux=True)(params)
        known = sum(g.ravel()[0] for g in jax.tree.leaves(gradient))
        return jax.tree.map(partial(after, known), found), gradient

    def backward(gradient: Any, cotangents: tuple[jax.Array, Any]) -> tuple[Any]:
        return (jax.tree.map(lambda g: g * cotangents[0].astype(g.dtype), gradient),)

    settled.defvjp(forward, backward)

    def without_gradient(params: Any) -> tuple[jax.Array, Any]:
        several = jax.sharding.get_abstract_mesh().size > 1
        loss, aux = (term if several else settled)(params)
        return loss, jax.lax.stop_gradient(aux)

    return without_gradient


def after(number: jax.Array, x: jax.Array) -> jax.Array:
    """x, not to be had before the number; arithmetic, as XLA:CPU drops barriers before it orders its work."""
    return x + (0 * jax.lax.stop_gradient(number)).astype(x.dtype)
