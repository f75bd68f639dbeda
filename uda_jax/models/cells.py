"""Resized maps in cells of 2x2 pixels, which is how a discriminator's first convolution, 4x4 of stride 2, reads them.

At full size their few channels fill few of a TPU's lanes, and moving them between layouts was most of a discriminator's
time. Here the weights of the resize are taken apart by the parity of rows and columns, so that four pixels' channels
lie beside each other from the start; the convolution is then one matrix product and shifted sums (`convolve_cells`).
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from uda_jax.models.convolution import CELL
from uda_jax.models.layers import interpolation_matrix


def resized_cells(
    x: jax.Array,
    size: tuple[int, int],
    align_corners: bool,
    pointwise: Callable[[jax.Array], jax.Array],
    dtype: jnp.dtype,
) -> jax.Array:
    """`pointwise` of `resize_bilinear(x)`, in cells, after zero-padding by one pixel.

    Args:
      x: [B, h, w, C].
      size: (H, W) of the resized map; what is left over of an odd one is dropped, as a stride drops it.
      pointwise: [..., C] -> [..., D].
      dtype: of the result.
    Returns:
      [B, (H + 2) // 2, (W + 2) // 2, 4 * D].
    """
    rows, columns = (_by_parity(n, m, align_corners, x.dtype) for n, m in zip(x.shape[1:3], size, strict=True))
    product = partial(jnp.einsum, precision="highest")
    narrow = [product("iy,byxc->bixc", weights, x) for weights, _ in rows]
    cells = []
    for a, b in CELL:
        resized = product("jx,bixc->bijc", columns[b][0], narrow[a])
        inside = rows[a][1][:, None, None] & columns[b][1][:, None]
        cells.append(jnp.where(inside, pointwise(resized), 0).astype(dtype))
    return jnp.concatenate(cells, -1)


def _by_parity(size: int, new_size: int, align_corners: bool, dtype: jnp.dtype) -> list[tuple[jax.Array, np.ndarray]]:
    """For even and odd padded positions, the resize's weights [cells, size] and which positions lie inside [cells]."""
    weights = np.pad(interpolation_matrix(size, new_size, align_corners), ((1, 1), (0, 0)))
    inside = np.pad(np.ones(new_size, bool), 1)
    end = (new_size + 2) // 2 * 2
    return [(jnp.asarray(weights[i:end:2], dtype), inside[i:end:2]) for i in (0, 1)]
