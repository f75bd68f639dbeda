"""A network's first convolution, of images, as a TPU does it fast.

Of an image's three channels the TPU's own convolution makes a map of 128, three of them full, a pixel at a time: on the
published recipe it and the preprocessing before it took an eighth of a step's estimated cycles (docs/performance.md).
Here columns are drawn from rows by products with zeros and ones, rows are slices, and the rest is one product.
"""

from functools import partial

import jax
import jax.numpy as jnp

from uda_jax.models.convolution import Precision, convolution, plain_gradients


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def image_convolution(
    x: jax.Array, kernel: jax.Array, stride: int, padding: int | str, precision: Precision = None
) -> jax.Array:
    """`convolution`, for maps of few channels: [B, H, W, I] and [k, k, I, O] -> [B, H', W', O]."""
    plain = partial(convolution, stride=stride, dilation=1, padding=padding, precision=precision)

    def products(x: jax.Array, kernel: jax.Array) -> jax.Array:
        exact = jnp.promote_types(x.dtype, jnp.float32)
        taps = taps_of(x, kernel.shape[0], stride, padding, precision)
        y = jnp.einsum("bcyxij,yxco->bijo", taps, kernel, precision=precision, preferred_element_type=exact)
        return y.astype(x.dtype)

    return jax.lax.platform_dependent(x, kernel, tpu=products, default=plain)


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int, padding: int | str, precision: Precision
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return image_convolution(x, kernel, stride, padding, precision), (x, kernel)


def _backward(
    stride: int, padding: int | str, precision: Precision, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved

    def plain(x: jax.Array, g: jax.Array) -> jax.Array:
        return plain_gradients(x, kernel, g, stride, 1, padding, precision)[1]

    def products(x: jax.Array, g: jax.Array) -> jax.Array:
        taps = taps_of(x, kernel.shape[0], stride, padding, precision)
        return jnp.einsum("bcyxij,bijo->yxco", taps, g, precision=precision).astype(kernel.dtype)

    of_kernel = jax.lax.platform_dependent(x, g, tpu=products, default=plain)
    return plain_gradients(x, kernel, g, stride, 1, padding, precision)[0], of_kernel


image_convolution.defvjp(_forward, _backward)


def taps_of(x: jax.Array, side: int, stride: int, padding: int | str, precision: Precision = None) -> jax.Array:
    """What each weight of a kernel meets: [B, H, W, I] -> [B, I, side, side, H', W'], row and column of the kernel."""
    if isinstance(padding, str):
        rows, columns = jax.lax.padtype_to_pads(x.shape[1:3], (side, side), (stride, stride), padding)
    else:
        rows = columns = (padding, padding)
    height, width = (
        (n + sum(pads) - side) // stride + 1 for n, pads in zip(x.shape[1:3], (rows, columns), strict=True)
    )
    first = stride * jnp.arange(width) - columns[0]
    drawn = jnp.arange(x.shape[2])[:, None, None] == first + jnp.arange(side)[:, None]  # [W, side, W']
    x = jnp.pad(x.transpose(0, 3, 1, 2), ((0, 0), (0, 0), rows, (0, 0)))
    x = jnp.einsum("bchw,wxj->bcxhj", x, drawn.astype(x.dtype), precision=precision)
    last = stride * (height - 1) + 1
    return jnp.stack([x[..., i : i + last : stride, :] for i in range(side)], 2)
