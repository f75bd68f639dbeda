"""Layers with PyTorch's geometry (padding, ceil mode, align_corners) and a fast path on every backend."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from uda_jax.models.convolution import cell_convolution, convolution, convolve_cells, pointwise, same_convolution
from uda_jax.models.image_convolution import image_convolution
from uda_jax.models.initializers import Initializer, uniform_fan_in
from uda_jax.models.rows import row_groups, whole_rows

Dtype = Any
IMAGE_CHANNELS = 3


def at_least_float32(x: jax.Array) -> jax.Array:
    """x in float32, or in its own dtype if that is finer; sums of bfloat16 numbers lose most of their digits."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """x + bias in the dtype of x; added in float32, as the bias's gradient is a sum over all pixels."""
    return (at_least_float32(x) + at_least_float32(bias)).astype(x.dtype)


class Conv(nn.Module):
    """2-D convolution, [B, H, W, I] -> [B, H', W', O].

    Attributes:
      features: O.
      kernel: side of the square kernel.
      stride, dilation, padding: as in PyTorch; padding None keeps the size at stride 1, "SAME" is TensorFlow's. A 1x1
        kernel takes none.
      cells: x is [B, I, J, 4 * channels], padded and in cells as `models.cells` has it; kernel 4, stride 2, padding 1.
      kernel_init: None means PyTorch's default U(+-1/sqrt(fan_in)).
      dtype: compute dtype; parameters are kept in param_dtype.
    """

    features: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: int | str | None = None
    cells: bool = False
    use_bias: bool = False
    kernel_init: Initializer | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        k, s, d = self.kernel, self.stride, self.dilation
        if k == 1 and self.padding:
            raise ValueError(f"a 1x1 convolution with padding={self.padding}: it is computed as a product, without any")
        channels = x.shape[-1] // (s * s if self.cells else 1)
        shape = (k, k, channels, self.features)
        fan_in = k * k * channels
        init = self.kernel_init or uniform_fan_in(fan_in)
        kernel = self.param("kernel", init, shape, self.param_dtype).astype(self.dtype)
        x = x.astype(self.dtype)
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
        if self.cells:
            x = convolve_cells(x, kernel, precision)
        elif k == 1:
            # A matrix product is several times faster than a 1x1 convolution on CPU, and the same elsewhere.
            x = pointwise(x[:, ::s, ::s], kernel[0, 0], precision)
        else:
            p = d * (k // 2) if self.padding is None else self.padding
            if x.shape[1] // s < 2 * row_groups():
                x = whole_rows(x)  # where devices have a row or none, XLA (jax 0.10) gets the kernel's gradient wrong
            if isinstance(p, int) and s > 1 and k % s == 0 and d == 1:
                x = cell_convolution(x, kernel, s, p, precision)
            elif channels == IMAGE_CHANNELS and d == 1 and row_groups() == 1:  # it has rows with a stride, of all
                x = image_convolution(x, kernel, s, p, precision)
            elif (k, s, p) == (3, 1, d):
                x = same_convolution(x, kernel, d, precision)
            else:
                x = convolution(x, kernel, s, d, p)
        if self.use_bias:
            bias = self.param("bias", uniform_fan_in(fan_in), (self.features,), self.param_dtype)
            x = add_bias(x, bias)
        return x


def max_pool_ceil(x: jax.Array, kernel: int = 3, stride: int = 2, padding: int = 1) -> jax.Array:
    """Max-pool in PyTorch's ceil mode, [B, H, W, C] -> [B, ceil((H + 2p - k) / s) + 1, ..., C].

    The last window starts inside the input or its left padding, so an odd row is never dropped.
    """

    def pads(size: int) -> tuple[int, int]:
        out = -(-(size + 2 * padding - kernel) // stride) + 1
        if (out - 1) * stride >= size + padding:
            out -= 1
        return padding, (out - 1) * stride + kernel - size - padding

    return max_pool(x, kernel, stride, pads(x.shape[1]), pads(x.shape[2]))


Pads = tuple[int, int]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def max_pool(x: jax.Array, kernel: int, stride: int, rows: Pads, columns: Pads) -> jax.Array:
    """Max-pool, [B, H, W, C] padded by `rows` and `columns`; of its own gradient, as XLA's has every device gather the
    whole batch."""
    return nn.max_pool(x, (kernel, kernel), (stride, stride), (rows, columns))


def _max_pool_forward(
    x: jax.Array, kernel: int, stride: int, rows: Pads, columns: Pads
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Keeps where each window's largest is: the first of equals, row by row, as in PyTorch (after a ReLU many are).

    Not the largest itself, to be looked for: a compiler may compute `x` once more where it is used once more, and what
    was rounded otherwise is found nowhere, so that its gradient is lost.
    """
    padded = jax.lax.pad(x, jnp.full((), -jnp.inf, x.dtype), ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)))
    height, width = ((n - kernel) // stride * stride + 1 for n in padded.shape[1:3])  # of where windows begin
    parts = [padded[:, i : i + height : stride, j : j + width : stride] for i, j in np.ndindex(kernel, kernel)]
    largest, place = parts[0], jnp.zeros(parts[0].shape, jnp.uint8)
    for number, part in enumerate(parts[1:], start=1):
        place = jnp.where(part > largest, jnp.uint8(number), place)
        largest = jnp.maximum(largest, part)
    return largest, (place, x[:0])  # of x the shape alone


def _max_pool_backward(
    kernel: int, stride: int, rows: Pads, columns: Pads, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array]:
    place, like = saved
    height, width = (n + sum(pads) for n, pads in zip(like.shape[1:3], (rows, columns), strict=True))
    total = jnp.zeros((g.shape[0], height, width, g.shape[3]), g.dtype)
    for number, (i, j) in enumerate(np.ndindex(kernel, kernel)):
        last_i, last_j = i + (g.shape[1] - 1) * stride + 1, j + (g.shape[2] - 1) * stride + 1
        spread = ((0, 0, 0), (i, height - last_i, stride - 1), (j, width - last_j, stride - 1), (0, 0, 0))
        total += jax.lax.pad(jnp.where(place == number, g, 0), jnp.zeros((), g.dtype), spread)
    return (total[:, rows[0] : rows[0] + like.shape[1], columns[0] : columns[0] + like.shape[2]],)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def interpolation_matrix(size: int, new_size: int, align_corners: bool = True) -> np.ndarray:
    """Weights of 1-D linear interpolation, float64 [new_size, size].

    With aligned corners the first and last samples stay where they are; without, samples are centres of cells, and what
    lies outside the outermost of them has its value. Nothing is averaged where there are fewer new samples.
    """
    if align_corners:
        position = np.linspace(0.0, size - 1.0, new_size) if new_size > 1 else np.zeros(1)
    else:
        position = np.clip((np.arange(new_size) + 0.5) * (size / new_size) - 0.5, 0.0, size - 1.0)
    low = np.clip(np.floor(position).astype(int), 0, max(size - 2, 0))
    fraction = position - low
    weights = np.zeros((new_size, size))
    weights[np.arange(new_size), low] = 1.0 - fraction
    weights[np.arange(new_size), np.minimum(low + 1, size - 1)] += fraction
    return weights


def resize_bilinear(x: jax.Array, size: tuple[int, int], align_corners: bool = True) -> jax.Array:
    """PyTorch's bilinear resize, [B, h, w, C] -> [B, H, W, C]; `size` is (H, W).

    Two small matrix products: exact, and fast on matrix units in both directions of differentiation. They are batched,
    as XLA:CPU would transpose an einsum's result element by element.
    """
    (batch, h, w, channels), (height, width) = x.shape, size
    if (h, w) == (height, width):
        return x
    x = whole_rows(x)
    rows = jnp.asarray(interpolation_matrix(h, height, align_corners), x.dtype)
    columns = jnp.asarray(interpolation_matrix(w, width, align_corners), x.dtype)
    product = partial(jnp.matmul, precision="highest")
    x = product(jnp.broadcast_to(columns, (batch, h, width, w)), x)
    x = product(jnp.broadcast_to(rows, (batch, height, h)), x.reshape(batch, h, width * channels))
    return x.reshape(batch, height, width, channels)
