"""Values drawn in a row are those of the published distributions, and those that JAX's own initializers draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import initializers as flax

from uda_jax.models import initializers


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("shape", [(3, 3, 5, 7), (1, 1, 4, 6), (5, 7)])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (initializers.normal(0.01), flax.normal(0.01)),
        (initializers.truncated_normal(0.02), flax.truncated_normal(0.02)),
        (initializers.he("in"), flax.variance_scaling(2.0, "fan_in", "normal")),
        (initializers.he("out"), flax.variance_scaling(2.0, "fan_out", "normal")),
    ],
)
def test_they_are_those_drawn_in_the_arrays_shape(ours, theirs, shape: tuple[int, ...], dtype: jnp.dtype) -> None:
    with jax.enable_x64(dtype == jnp.float64):
        values, expected = (init(jax.random.key(3), shape, dtype) for init in (ours, theirs))
        assert (values.shape, values.dtype) == (shape, dtype)
        np.testing.assert_allclose(values, expected, rtol=100 * jnp.finfo(dtype).eps)  # another program rounds anew


def test_pytorchs_default_fills_its_bounds() -> None:
    values = initializers.uniform_fan_in(16)(jax.random.key(0), (3, 3, 16, 100))
    assert -0.25 <= values.min() < -0.249 and 0.249 < values.max() <= 0.25
    assert abs(float(values.std()) - 0.5 / 12**0.5) < 0.001
