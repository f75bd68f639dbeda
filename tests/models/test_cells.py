from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax.models.cells import resized_cells
from uda_jax.models.convolution import convolution, convolve_cells
from uda_jax.models.discriminator import Discriminator
from uda_jax.models.layers import resize_bilinear

CLASSES = 5


@pytest.mark.parametrize("size", [(24, 40), (23, 40), (24, 39), (7, 11)])
@pytest.mark.parametrize("align_corners", [True, False])
def test_cells_are_the_padded_map_taken_apart(size: tuple[int, int], align_corners: bool) -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 6, CLASSES))
    with jax.enable_x64(True):
        cells = resized_cells(jnp.asarray(x), size, align_corners, jax.nn.softmax, jnp.dtype("float64"))
        full = np.asarray(jax.nn.softmax(resize_bilinear(jnp.asarray(x), size, align_corners)))
    padded = np.pad(full, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = (n // 2 for n in padded.shape[1:3])
    assert cells.shape == (2, rows, columns, 4 * CLASSES)
    for pixel, (a, b) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        expected = padded[:, a : 2 * rows : 2, b : 2 * columns : 2]
        np.testing.assert_allclose(cells[..., pixel * CLASSES :][..., :CLASSES], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", [(64, 96), (63, 95)])
def test_a_discriminator_says_of_cells_what_it_says_of_pixels(size: tuple[int, int]) -> None:
    """With the gradients of its weights and of the logits."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        discriminator = Discriminator(width=4, layers=4, dtype=jnp.float64, param_dtype=jnp.float64)
        x = jnp.asarray(rng.standard_normal((2, 9, 13, CLASSES)))

        def of_pixels(params: Any, x: jax.Array) -> jax.Array:
            return discriminator.apply(params, jax.nn.softmax(resize_bilinear(x, size)))

        def of_cells(params: Any, x: jax.Array) -> jax.Array:
            return discriminator.apply(params, resized_cells(x, size, True, jax.nn.softmax, x.dtype), cells=True)

        params = discriminator.init(jax.random.key(0), jnp.zeros((1, *size, CLASSES)))
        (theirs, back), (ours, our_back) = (jax.vjp(f, params, x) for f in (of_pixels, of_cells))
        g = jnp.asarray(rng.standard_normal(theirs.shape))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),
            (ours, our_back(g)),
            (theirs, back(g)),
        )


def test_in_bfloat16_a_cells_convolution_is_as_exact_as_the_compilers() -> None:
    """Its products are added in float32."""
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((1, 40, 40, 19)), rng.standard_normal((4, 4, 19, 8))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    cells = np.concatenate([padded[:, a::2, b::2] for a in (0, 1) for b in (0, 1)], -1)
    pixels, in_cells, weights = (jnp.asarray(y, jnp.bfloat16) for y in (x, cells, kernel))
    exact = convolution(*(y.astype(jnp.float32) for y in (pixels, weights)), 2, 1, 1)
    theirs, ours = (
        float(jnp.abs(y.astype(jnp.float32) - exact).mean())
        for y in (convolution(pixels, weights, 2, 1, 1), convolve_cells(in_cells, weights))
    )
    assert ours < 1.2 * theirs
