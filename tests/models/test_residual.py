"""The rectified sum of a residual block is relu's, and is computed once, wherever it is read."""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tests.conftest import AS_FOR_USERS
from uda_jax.models.resnet import rectified_sum

BLOCKS = 8


def test_values_and_gradients_are_relus() -> None:
    values = jnp.asarray([-2.0, -0.0, 0.0, 1e-38, 3.0, np.inf, -np.inf, np.nan])
    x, y = (grid.ravel() for grid in jnp.meshgrid(values, values))
    np.testing.assert_array_equal(rectified_sum(x, y), jax.nn.relu(x + y))
    for argument in (0, 1):
        ours, theirs = (
            jax.grad(lambda x, y, f=f: f(x, y).sum(), argument)(x, y)
            for f in (rectified_sum, lambda x, y: jax.nn.relu(x + y))
        )
        numbers = ~np.isnan(x + y)
        np.testing.assert_array_equal(ours[numbers], theirs[numbers])
    assert rectified_sum(x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_a_block_reads_the_one_before_and_no_other() -> None:
    def most_read(merge: Callable[[jax.Array, jax.Array], jax.Array]) -> int:
        """What one operation of the program compiled for users reads at most."""

        def blocks(x: jax.Array, kernels: jax.Array) -> jax.Array:
            for kernel in kernels:
                x = merge(x, x @ kernel)
            return x

        lowered = jax.jit(blocks).lower(jnp.zeros((64, 32, 32)), jnp.zeros((BLOCKS, 32, 32)))
        program = lowered.compile(compiler_options=AS_FOR_USERS).as_text()
        return max(len(read.split(",")) for read in re.findall(r" fusion\((.*?)\), kind=kLoop", program))

    assert most_read(rectified_sum) <= 3 < BLOCKS <= most_read(lambda x, y: jax.nn.relu(x + y))
