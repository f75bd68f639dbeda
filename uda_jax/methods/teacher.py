"""A teacher: the moving average of a student's weights (Tarvainen and Valpola 2017), as DACS and its family move it."""

from typing import Any

import jax
import jax.numpy as jnp


def momentum(updates: jax.Array, alpha: float) -> jax.Array:
    """How much of itself the teacher keeps, []: min(1 - 1 / (updates + 1), alpha), so that it starts as a copy.

    Args:
      updates: int [], how often it was moved before.
      alpha: in 0..1, reached after 1 / (1 - alpha) - 1 updates.
    """
    updates = updates.astype(jnp.result_type(float))
    return jnp.minimum(1 - 1 / (updates + 1), alpha)


def moved(teacher: Any, student: Any, keeps: jax.Array) -> Any:
    """keeps * teacher + (1 - keeps) * student, of two trees of one structure, in the dtype of each array."""

    def average(old: jax.Array, new: jax.Array) -> jax.Array:
        share = keeps.astype(old.dtype)
        return share * old + (1 - share) * new

    return jax.tree.map(average, teacher, student)
