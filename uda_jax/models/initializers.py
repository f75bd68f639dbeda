"""Random initial values, drawn in one row and folded into their array.

They are the numbers that a draw in the array's own shape gives, for which XLA takes up to six times as long to compile
(jax 0.10 on CPU: a minute for the initial state of a ResNet-101).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Initializer = Callable[..., jax.Array]


def _initializer(draw: Callable[..., jax.Array]) -> Initializer:
    """`draw`: (key, (n,), dtype, the array's shape) -> [n]."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return draw(key, (math.prod(shape),), dtype, shape).reshape(shape)

    return init


def normal(deviation: float) -> Initializer:
    return _initializer(lambda key, row, dtype, _: jax.random.normal(key, row, dtype) * jnp.asarray(deviation, dtype))


def truncated_normal(deviation: float) -> Initializer:
    """A normal distribution's part within two deviations."""
    return _initializer(
        lambda key, row, dtype, _: jax.random.truncated_normal(key, -2, 2, row, dtype) * jnp.asarray(deviation, dtype)
    )


def he(fan: str) -> Initializer:
    """N(0, 2 / fan) for kernels [..., I, O], as PyTorch's kaiming_normal_; `fan` "in" is that of I, "out" that of O."""

    def draw(key: jax.Array, row: tuple[int], dtype: Any, shape: Sequence[int]) -> jax.Array:
        fans = math.prod(shape[:-2]) * shape[{"in": -2, "out": -1}[fan]]
        return jax.random.normal(key, row, dtype) * jnp.sqrt(jnp.asarray(2 / fans, dtype))

    return _initializer(draw)


def uniform_fan_in(fan_in: int) -> Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for convolution kernels and biases."""
    bound = fan_in**-0.5
    return _initializer(lambda key, row, dtype, _: jax.random.uniform(key, row, dtype, -bound, bound))
