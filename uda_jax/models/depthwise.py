"""Depthwise convolution with TensorFlow's SAME padding, in the form that each backend is fast at.

XLA:CPU has only naive code for grouped convolutions. There the forward pass and the image's gradient are shifted
multiply-adds, 15 to 40 times faster, and the kernel's gradient is summed up row by row: automatic differentiation of
the shifted form, or a reduction a tap, is ten times slower than that. GPUs keep their compiler's convolution (an H100
takes 0.06 to 0.12 ms for any of it in either form), and TPUs too where there is neither stride nor dilation; with
either, the TPU compiler estimates 40 % fewer cycles of the shifted form, but for the kernel's gradient.
"""

from functools import partial
from itertools import product

import flax.linen as nn
import jax
import jax.numpy as jnp

from uda_jax.models.convolution import Precision
from uda_jax.models.initializers import Initializer, normal
from uda_jax.models.layers import Dtype, add_bias, at_least_float32


def same_padding(size: int, kernel: int, stride: int = 1, dilation: int = 1) -> tuple[int, int]:
    """What TensorFlow's SAME pads before and after, so that ceil(size / stride) outputs are left.

    >>> same_padding(8, 3, stride=2), same_padding(7, 3, stride=2)
    ((0, 1), (1, 1))
    """
    reach = (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1
    missing = max(reach - size, 0)
    return missing // 2, missing - missing // 2


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def depthwise_convolution(
    x: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int = 1, precision: Precision = None
) -> jax.Array:
    """[B, H, W, C] and [k, k, C] -> [B, ceil(H / stride), ceil(W / stride), C], every channel by its own kernel.

    Args:
      precision: of the products, where they are the compiler's.
    """
    shifted = partial(_shifted, stride=stride, dilation=dilation)
    plain = partial(_plain, stride=stride, dilation=dilation, precision=precision)
    tpu = shifted if max(stride, dilation) > 1 else plain
    return jax.lax.platform_dependent(x, kernel, cpu=shifted, tpu=tpu, default=plain)


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int, dilation: int, precision: Precision
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return depthwise_convolution(x, kernel, stride, dilation, precision), (x, kernel)


def _backward(
    stride: int, dilation: int, precision: Precision, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def plain(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        forward = partial(_plain, stride=stride, dilation=dilation, precision=precision)
        image_gradient, kernel_gradient = jax.vjp(forward, x, kernel)[1](g)
        return image_gradient, kernel_gradient

    def image_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
        return _image_gradient(g, kernel, (x.shape[1], x.shape[2]), stride, dilation)

    def mixed(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        return image_gradient(x, kernel, g), plain(x, kernel, g)[1]

    def shifted(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        return image_gradient(x, kernel, g), _kernel_gradient(x, g, len(kernel), stride, dilation)

    tpu = mixed if max(stride, dilation) > 1 else plain
    return jax.lax.platform_dependent(*saved, g, cpu=shifted, tpu=tpu, default=plain)


depthwise_convolution.defvjp(_forward, _backward)


def _plain(x: jax.Array, kernel: jax.Array, stride: int, dilation: int, precision: Precision) -> jax.Array:
    """The compiler's."""
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        "SAME",
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision=precision,
    )


def _padded(x: jax.Array, kernel: int, stride: int, dilation: int) -> jax.Array:
    rows, columns = (same_padding(size, kernel, stride, dilation) for size in x.shape[1:3])
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0)))


def _shifted(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    """A multiply-add for every tap, of the map shifted by its offset."""
    k, s, (height, width) = len(kernel), stride, (-(-size // stride) for size in x.shape[1:3])
    padded, weights = at_least_float32(_padded(x, k, s, dilation)), at_least_float32(kernel)
    total = jnp.zeros((), padded.dtype)
    for i, j in product(range(k), repeat=2):
        top, left = i * dilation, j * dilation
        total += padded[:, top : top + (height - 1) * s + 1 : s, left : left + (width - 1) * s + 1 : s] * weights[i, j]
    return total.astype(x.dtype)


def _image_gradient(g: jax.Array, kernel: jax.Array, size: tuple[int, int], stride: int, dilation: int) -> jax.Array:
    """The flipped kernel's; of a stride s, s * s interleaved maps, each by the taps that its pixels were seen through.

    Output o sees pixel n through tap i where n = o * stride + i * dilation - padding.
    """
    k, s = len(kernel), stride
    shape = [-(-side // s) for side in size]  # of one of the interleaved maps
    taps = [_taps_by_phase(side, k, s, dilation) for side in size]
    shifts = [[shift for phase in axis for _, shift in phase] for axis in taps]
    low = [max(0, -min(axis)) for axis in shifts]
    high = [max(0, max(axis)) for axis in shifts]
    padded = jnp.pad(at_least_float32(g), ((0, 0), (low[0], high[0]), (low[1], high[1]), (0, 0)))
    weights = at_least_float32(kernel)

    def phase(rows: list[tuple[int, int]], columns: list[tuple[int, int]]) -> jax.Array:
        total = jnp.zeros((g.shape[0], *shape, g.shape[-1]), padded.dtype)
        for (i, down), (j, right) in product(rows, columns):
            top, left = down + low[0], right + low[1]
            total += padded[:, top : top + shape[0], left : left + shape[1]] * weights[i, j]
        return total

    maps = [jnp.stack([phase(rows, columns) for columns in taps[1]], 3) for rows in taps[0]]
    image = jnp.stack(maps, 2).reshape(g.shape[0], shape[0] * s, shape[1] * s, g.shape[-1])
    return image[:, : size[0], : size[1]].astype(g.dtype)


def _taps_by_phase(size: int, kernel: int, stride: int, dilation: int) -> list[list[tuple[int, int]]]:
    """For every phase a, pixels stride * m + a: (tap i, shift t) of the outputs m + t that saw them through it."""
    low, _ = same_padding(size, kernel, stride, dilation)
    reach = [[(i, a + low - i * dilation) for i in range(kernel)] for a in range(stride)]
    return [[(i, offset // stride) for i, offset in phase if offset % stride == 0] for phase in reach]


def _kernel_gradient(x: jax.Array, g: jax.Array, kernel: int, stride: int, dilation: int) -> jax.Array:
    """[k, k, C]: row after row of the outputs, all taps' products with it are added to a row for each."""
    k, s, (batch, height, width, channels) = kernel, stride, g.shape
    padded = _padded(x, k, s, dilation)
    taps = list(product(range(k), repeat=2))

    def add(number: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
        image, row = number // height, number % height
        shape = (1, (k - 1) * dilation + 1, padded.shape[2], channels)
        seen = at_least_float32(jax.lax.dynamic_slice(padded, (image, row * s, 0, 0), shape)[0])
        wanted = at_least_float32(jax.lax.dynamic_slice(g, (image, row, 0, 0), (1, 1, width, channels))[0, 0])
        parts = [seen[i * dilation, j * dilation : j * dilation + (width - 1) * s + 1 : s] for i, j in taps]
        return [total + part * wanted for total, part in zip(sums, parts, strict=True)]

    zero = jnp.zeros((width, channels), at_least_float32(x).dtype)
    sums = jax.lax.fori_loop(0, batch * height, add, [zero] * len(taps))
    return jnp.stack([total.sum(0) for total in sums]).reshape(k, k, channels).astype(x.dtype)


class DepthwiseConv(nn.Module):
    """[B, H, W, C] -> [B, ~H / stride, ~W / stride, C], see `depthwise_convolution`; its kernel is [k, k, 1, C]."""

    kernel: int
    stride: int = 1
    dilation: int = 1
    use_bias: bool = False
    kernel_init: Initializer = normal(0.01)
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, self.kernel, 1, x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype).astype(self.dtype)
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
        x = depthwise_convolution(x.astype(self.dtype), kernel[:, :, 0], self.stride, self.dilation, precision)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, shape[-1:], self.param_dtype)
            x = add_bias(x, bias)
        return x
