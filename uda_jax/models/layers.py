"""Layers with PyTorch's geometry (padding, ceil mode, align_corners) and a fast path on every backend."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

Dtype = Any
# Of products; None is JAX's default. Given explicitly to what has a gradient of its own: that is traced where the
# surrounding `jax.default_matmul_precision` has ended.
Precision = str | None
Initializer = Callable[..., jax.Array]
CHOICES = {"norm": ("batch", "frozen"), "affine": ("train", "frozen")}  # of `BatchNorm`


def uniform_fan_in(fan_in: int) -> Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for convolution kernels and biases."""
    bound = 1.0 / np.sqrt(fan_in)

    def init(key: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def at_least_float32(x: jax.Array) -> jax.Array:
    """x in float32, or in its own dtype if that is finer; sums of bfloat16 numbers lose most of their digits."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def pointwise(x: jax.Array, kernel: jax.Array, precision: Precision = None) -> jax.Array:
    """x @ kernel, [B, H, W, I] and [I, O] -> [B, H, W, O]; its own gradient takes a fifth off a whole step on CPU."""
    return jnp.matmul(x, kernel, precision=precision)


def _pointwise_forward(
    x: jax.Array, kernel: jax.Array, precision: Precision
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return pointwise(x, kernel, precision), (x, kernel)


def _pointwise_backward(
    precision: Precision, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    # The kernel's is x^T g. Automatic differentiation writes (g^T x)^T, for which XLA:CPU transposes g element by
    # element, and computes what g comes from anew for each.
    # Batch and rows are not merged: split over devices each, they would have to be gathered for that.
    x, kernel = saved
    kernel_gradient = jnp.einsum("bhwi,bhwo->io", x, g, precision=precision)
    return jnp.matmul(g, kernel.T, precision=precision), kernel_gradient


pointwise.defvjp(_pointwise_forward, _pointwise_backward)


def convolution(
    x: jax.Array, kernel: jax.Array, stride: int, dilation: int, padding: int | str, precision: Precision = None
) -> jax.Array:
    """[B, H, W, I] and [k, k, I, O] -> [B, H', W', O], zero-padded on all four sides, or as "SAME" says."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=padding if isinstance(padding, str) else ((padding, padding), (padding, padding)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def cell_convolution(
    x: jax.Array, kernel: jax.Array, stride: int, padding: int, precision: Precision = None
) -> jax.Array:
    """`convolution` by a kernel whose side the stride divides, with a gradient that CPUs compute as matrix products.

    XLA:CPU has none that is fast in loops and branches, where APODA attacks the discriminator: its step took twice as
    long. On TPU the plain gradient is the faster one.
    """
    return convolution(x, kernel, stride, 1, padding, precision)


def _cell_convolution_forward(
    x: jax.Array, kernel: jax.Array, stride: int, padding: int, precision: Precision
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolution(x, kernel, stride, 1, padding, precision), (x, kernel)


def _cell_convolution_backward(
    stride: int, padding: int, precision: Precision, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved

    def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return convolution(x, kernel, stride, 1, padding, precision)

    def plain(g: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: forward(x, kernel), x)[1](g)[0]

    products = partial(
        _image_gradient, stride=stride, padding=padding, size=(x.shape[1], x.shape[2]), precision=precision
    )
    image_gradient = jax.lax.platform_dependent(g, kernel, cpu=products, default=plain)
    return image_gradient, jax.vjp(lambda kernel: forward(x, kernel), kernel)[1](g)[0]


def _image_gradient(
    g: jax.Array, kernel: jax.Array, stride: int, padding: int, size: tuple[int, int], precision: Precision
) -> jax.Array:
    """Every output moves k / stride cells of stride x stride pixels a side: a product for each, shifted and added."""
    s, n = stride, kernel.shape[0] // stride
    weights = kernel.reshape(n, s, n, s, *kernel.shape[2:]).transpose(0, 2, 5, 1, 3, 4).reshape(n, n, g.shape[-1], -1)
    cells = jnp.zeros((), g.dtype)
    for i in range(n):
        for j in range(n):
            cell = jnp.matmul(g, weights[i, j], precision=precision)
            cells = cells + jnp.pad(cell, ((0, 0), (i, n - 1 - i), (j, n - 1 - j), (0, 0)))
    batch, height, width, _ = cells.shape
    image = cells.reshape(batch, height, width, s, s, -1).transpose(0, 1, 3, 2, 4, 5)
    image = image.reshape(batch, height * s, width * s, -1)
    pads = [(-padding, padding + full - m * s, 0) for full, m in zip(size, (height, width), strict=True)]
    return jax.lax.pad(image, jnp.zeros((), g.dtype), ((0, 0, 0), *pads, (0, 0, 0)))


cell_convolution.defvjp(_cell_convolution_forward, _cell_convolution_backward)


class Conv(nn.Module):
    """2-D convolution, [B, H, W, I] -> [B, H', W', O].

    Attributes:
      features: O.
      kernel: side of the square kernel.
      stride, dilation, padding: as in PyTorch; padding None keeps the size at stride 1, "SAME" is TensorFlow's. A 1x1
        kernel takes none.
      kernel_init: None means PyTorch's default U(+-1/sqrt(fan_in)).
      dtype: compute dtype; parameters are kept in param_dtype.
    """

    features: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: int | str | None = None
    use_bias: bool = False
    kernel_init: Initializer | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        k, s, d = self.kernel, self.stride, self.dilation
        if k == 1 and self.padding:
            raise ValueError(f"a 1x1 convolution with padding={self.padding}: it is computed as a product, without any")
        shape = (k, k, x.shape[-1], self.features)
        fan_in = k * k * x.shape[-1]
        init = self.kernel_init or uniform_fan_in(fan_in)
        kernel = self.param("kernel", init, shape, self.param_dtype).astype(self.dtype)
        x = x.astype(self.dtype)
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
        if k == 1:
            # A matrix product is several times faster than a 1x1 convolution on CPU, and the same elsewhere.
            x = pointwise(x[:, ::s, ::s], kernel[0, 0], precision)
        else:
            p = d * (k // 2) if self.padding is None else self.padding
            if x.shape[1] // s < 2 * row_groups():
                x = whole_rows(x)  # where devices have a row or none, XLA (jax 0.10) gets the kernel's gradient wrong
            if isinstance(p, int) and s > 1 and k % s == 0 and d == 1:
                x = cell_convolution(x, kernel, s, p, precision)
            else:
                x = convolution(x, kernel, s, d, p)
        if self.use_bias:
            bias = self.param("bias", uniform_fan_in(fan_in), (self.features,), self.param_dtype)
            # In float32, as its gradient is a sum over all pixels.
            x = (at_least_float32(x) + at_least_float32(bias)).astype(self.dtype)
        return x


class BatchNorm(nn.Module):
    """Batch normalisation over [B, H, W] with PyTorch's running statistics.

    In training, mode "batch" normalises with the batch's own (biased) variance and moves the running statistics
    by `momentum` towards the batch's mean and *unbiased* variance n/(n-1); Flax's own layer keeps the biased one.
    Mode "frozen" always uses the running statistics. Statistics, scale and shift are computed in float32 or better and
    the result is rounded once, to the dtype of x. With the batch sharded over devices the statistics are those of the
    whole global batch.

    Attributes:
      mode: "batch" or "frozen".
      affine: "train" or "frozen" (scale and bias get no gradient, as in the published segmenters).
    """

    mode: str = "batch"
    affine: str = "train"
    momentum: float = 0.1
    epsilon: float = 1e-5
    param_dtype: Dtype = jnp.float32
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        c = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, c, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, c, self.param_dtype)
        if self.affine == "frozen":
            scale, bias = jax.lax.stop_gradient((scale, bias))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, c, self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, c, self.param_dtype)
        full = at_least_float32(x)  # once, so that the gradient is rounded once
        if train and self.mode == "batch":
            mean = full.mean((0, 1, 2))
            var = jnp.square(full - mean).mean((0, 1, 2))
            if not self.is_initializing():
                n = x.size // x.shape[-1]
                m = self.momentum
                for running, new in ((running_mean, m * mean), (running_var, m * var * (n / max(n - 1, 1)))):
                    running.value = ((1 - m) * running.value + new).astype(self.param_dtype)
        else:
            mean, var = running_mean.value, running_var.value
        gain = scale * jax.lax.rsqrt(var + self.epsilon)
        return (full * gain + (bias - mean * gain)).astype(x.dtype)


def max_pool_ceil(x: jax.Array, kernel: int = 3, stride: int = 2, padding: int = 1) -> jax.Array:
    """Max-pool in PyTorch's ceil mode, [B, H, W, C] -> [B, ceil((H + 2p - k) / s) + 1, ..., C].

    The last window starts inside the input or its left padding, so an odd row is never dropped.
    """

    def pads(size: int) -> tuple[int, int]:
        out = -(-(size + 2 * padding - kernel) // stride) + 1
        if (out - 1) * stride >= size + padding:
            out -= 1
        return padding, (out - 1) * stride + kernel - size - padding

    return _max_pool(x, kernel, stride, pads(x.shape[1]), pads(x.shape[2]))


Pads = tuple[int, int]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_pool(x: jax.Array, kernel: int, stride: int, rows: Pads, columns: Pads) -> jax.Array:
    """Max-pool with a gradient of its own: XLA's has every device gather the whole batch."""
    return nn.max_pool(x, (kernel, kernel), (stride, stride), (rows, columns))


def _max_pool_forward(
    x: jax.Array, kernel: int, stride: int, rows: Pads, columns: Pads
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = _max_pool(x, kernel, stride, rows, columns)
    return y, (x, y)


def _max_pool_backward(
    kernel: int, stride: int, rows: Pads, columns: Pads, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array]:
    """To the first of a window's largest, row by row, as in PyTorch: after a ReLU many are equal."""
    x, y = saved
    around = ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0))
    padded = jax.lax.pad(x, jnp.full((), -jnp.inf, x.dtype), around)
    height, width = padded.shape[1:3]
    total, taken = jnp.zeros_like(padded), jnp.zeros(y.shape, bool)
    for i in range(kernel):
        for j in range(kernel):
            last_i, last_j = i + (y.shape[1] - 1) * stride + 1, j + (y.shape[2] - 1) * stride + 1
            here = (padded[:, i:last_i:stride, j:last_j:stride] == y) & ~taken
            taken |= here
            spread = ((0, 0, 0), (i, height - last_i, stride - 1), (j, width - last_j, stride - 1), (0, 0, 0))
            total += jax.lax.pad(jnp.where(here, g, 0), jnp.zeros((), g.dtype), spread)
    return (total[:, rows[0] : rows[0] + x.shape[1], columns[0] : columns[0] + x.shape[2]],)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


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


def whole_rows(x: jax.Array) -> jax.Array:
    """[B, H, W, C] with all its rows on every device, where the mesh that is traced for splits them over "space".

    Of what is made smaller or larger by a matrix product over the rows: left to itself, XLA has every device compute a
    part of every new row, and adds them up at the new size.
    """
    return x if row_groups() == 1 else jax.lax.with_sharding_constraint(x, PartitionSpec("data"))


def row_groups() -> int:
    """Over how many devices the mesh that is traced for splits the rows of images."""
    return int(jax.sharding.get_abstract_mesh().shape.get("space", 1))


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
