"""Layers with PyTorch's geometry (padding, ceil mode, align_corners) and a fast path on every backend."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Dtype = Any
Initializer = Callable[..., jax.Array]


def uniform_fan_in(fan_in: int) -> Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for convolution kernels and biases."""
    bound = 1.0 / np.sqrt(fan_in)

    def init(key: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


@jax.custom_vjp
def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x @ kernel, [B, H, W, I] and [I, O] -> [B, H, W, O]; its own gradient takes a fifth off a whole step on CPU."""
    return x @ kernel


def _pointwise_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ kernel, (x, kernel)


def _pointwise_backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    # The kernel's is x^T g. Automatic differentiation writes (g^T x)^T, for which XLA:CPU transposes g element by
    # element, and computes what g comes from anew for each.
    x, kernel = saved
    return g @ kernel.T, x.reshape(-1, x.shape[-1]).T @ g.reshape(-1, g.shape[-1])


pointwise.defvjp(_pointwise_forward, _pointwise_backward)


def strided_convolution(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """Convolution by a kernel [k, k, I, O] whose side the stride divides: shifted products of cells of pixels.

    The same sums. XLA:CPU has no fast gradient of a convolution in loops and branches, where APODA's attack is.
    """
    k, s = kernel.shape[0], stride
    height, width = ((n + 2 * padding - k) // s + 1 for n in x.shape[1:3])
    cells = (height + k // s - 1, width + k // s - 1)
    pads = [(padding, s * m - n - padding, 0) for n, m in zip(x.shape[1:3], cells, strict=True)]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    x = (
        x.reshape(x.shape[0], cells[0], s, cells[1], s, -1)
        .transpose(0, 1, 3, 2, 4, 5)
        .reshape(-1, *cells, s * s * x.shape[-1])
    )
    kernel = kernel.reshape(k // s, s, k // s, s, *kernel.shape[2:]).transpose(0, 2, 1, 3, 4, 5)
    kernel = kernel.reshape(k // s, k // s, -1, kernel.shape[-1])
    shifts = [(i, j) for i in range(k // s) for j in range(k // s)]
    return sum(pointwise(x[:, i : i + height, j : j + width], kernel[i, j]) for i, j in shifts)


class Conv(nn.Module):
    """2-D convolution, [B, H, W, I] -> [B, H', W', O], with symmetric explicit padding.

    Attributes:
      features: O.
      kernel: side of the square kernel.
      stride, dilation, padding: as in PyTorch; padding None keeps the size at stride 1.
      kernel_init: None means PyTorch's default U(+-1/sqrt(fan_in)).
      dtype: compute dtype; parameters are kept in param_dtype.
    """

    features: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: int | None = None
    use_bias: bool = False
    kernel_init: Initializer | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        k, s, d = self.kernel, self.stride, self.dilation
        shape = (k, k, x.shape[-1], self.features)
        fan_in = k * k * x.shape[-1]
        init = self.kernel_init or uniform_fan_in(fan_in)
        kernel = self.param("kernel", init, shape, self.param_dtype).astype(self.dtype)
        x = x.astype(self.dtype)
        if k == 1:
            # A matrix product is several times faster than a 1x1 convolution on CPU, and the same elsewhere.
            x = pointwise(x[:, ::s, ::s], kernel[0, 0])
        elif s > 1 and k % s == 0 and d == 1:
            x = strided_convolution(x, kernel, s, k // 2 if self.padding is None else self.padding)
        else:
            p = d * (k // 2) if self.padding is None else self.padding
            x = jax.lax.conv_general_dilated(
                x,
                kernel,
                window_strides=(s, s),
                padding=((p, p), (p, p)),
                rhs_dilation=(d, d),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        if self.use_bias:
            bias = self.param("bias", uniform_fan_in(fan_in), (self.features,), self.param_dtype)
            x = x + bias.astype(self.dtype)
        return x


class BatchNorm(nn.Module):
    """Batch normalisation over [B, H, W] with PyTorch's running statistics.

    In training, mode "batch" normalises with the batch's own (biased) variance and moves the running statistics
    by `momentum` towards the batch's mean and *unbiased* variance n/(n-1); Flax's own layer keeps the biased one.
    Mode "frozen" always uses the running statistics. Statistics are computed in float32 or better. With the batch
    sharded over devices the statistics are those of the whole global batch.

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
        if train and self.mode == "batch":
            mean, var = _moments(x)
            if not self.is_initializing():
                n = x.size // x.shape[-1]
                m = self.momentum
                running_mean.value = (1 - m) * running_mean.value + m * mean
                running_var.value = (1 - m) * running_var.value + m * var * (n / max(n - 1, 1))
        else:
            mean, var = running_mean.value, running_var.value
        gain = scale * jax.lax.rsqrt(var + self.epsilon)
        return x * gain.astype(x.dtype) + (bias - mean * gain).astype(x.dtype)


def _moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance over all axes but the last, in float32 or better."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = x.mean((0, 1, 2))
    return mean, jnp.square(x - mean).mean((0, 1, 2))


def max_pool_ceil(x: jax.Array, kernel: int = 3, stride: int = 2, padding: int = 1) -> jax.Array:
    """Max-pool in PyTorch's ceil mode, [B, H, W, C] -> [B, ceil((H + 2p - k) / s) + 1, ..., C].

    The last window starts inside the input or its left padding, so an odd row is never dropped.
    """

    def pads(size: int) -> tuple[int, int]:
        out = -(-(size + 2 * padding - kernel) // stride) + 1
        if (out - 1) * stride >= size + padding:
            out -= 1
        return padding, (out - 1) * stride + kernel - size - padding

    high_h, high_w = pads(x.shape[1]), pads(x.shape[2])
    return nn.max_pool(x, (kernel, kernel), (stride, stride), (high_h, high_w))


def interpolation_matrix(size: int, new_size: int) -> np.ndarray:
    """Weights of 1-D linear interpolation with aligned corners, float64 [new_size, size]."""
    position = np.linspace(0.0, size - 1.0, new_size) if new_size > 1 else np.zeros(1)
    low = np.clip(np.floor(position).astype(int), 0, max(size - 2, 0))
    fraction = position - low
    weights = np.zeros((new_size, size))
    weights[np.arange(new_size), low] = 1.0 - fraction
    weights[np.arange(new_size), np.minimum(low + 1, size - 1)] += fraction
    return weights


def resize_align_corners(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear resize with align_corners=True, [B, h, w, C] -> [B, H, W, C]; `size` is (H, W).

    Two small matrix products: exact, and fast on matrix units in both directions of differentiation.
    """
    rows = jnp.asarray(interpolation_matrix(x.shape[1], size[0]), x.dtype)
    columns = jnp.asarray(interpolation_matrix(x.shape[2], size[1]), x.dtype)
    x = jnp.einsum("Ww,bhwc->bhWc", columns, x, precision="highest")
    return jnp.einsum("Hh,bhWc->bHWc", rows, x, precision="highest")
