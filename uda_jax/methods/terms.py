"""Terms of a loss that are differentiated one after the other, for memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

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
        (loss, aux), gradient = jax.value_and_grad(term, has_aux=True)(params)
        # Of dense kernels [..., I, O] alone: other gradients are sums that XLA fuses into this one, and takes twice. Of
        # all [..., 0, 0], as it takes only what is read. Nothing but the loss waits, as what does is fused with this.
        kernels = [g for g in jax.tree.leaves(gradient) if g.ndim > 1 and g.shape[-2] > 1]
        known = sum((g[..., 0, 0].sum() for g in kernels), jnp.zeros(()))
        return (after(known, loss), aux), gradient

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
