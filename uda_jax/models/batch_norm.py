"""Batch normalisation with PyTorch's running statistics (Ioffe and Szegedy 2015), and a gradient that reads little."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from uda_jax.models.initializers import Initializer
from uda_jax.models.layers import Dtype, at_least_float32

CHOICES = {"norm": ("batch", "frozen"), "affine": ("train", "frozen")}  # of `BatchNorm`
PIXELS = (0, 1, 2)  # the axes of a map that are no channels


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
        if train and self.mode == "batch":
            y, mean, var = normalised(x, scale, bias, running_mean.value, self.epsilon)
            if not self.is_initializing():
                n = x.size // x.shape[-1]
                m = self.momentum
                for running, new in ((running_mean, m * mean), (running_var, m * var * (n / max(n - 1, 1)))):
                    running.value = ((1 - m) * running.value + new).astype(self.param_dtype)
            return y
        gain = scale * jax.lax.rsqrt(running_var.value + self.epsilon)
        return scaled(x, gain, bias - running_mean.value * gain)


def scaled(x: jax.Array, gain: jax.Array, offset: jax.Array) -> jax.Array:
    """x * gain + offset, converted to float32 or better once, so that the gradient is rounded once, and back."""
    return (at_least_float32(x) * gain + offset).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def normalised(
    x: jax.Array, scale: jax.Array, bias: jax.Array, guess: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x [B, H, W, C] by its own statistics: (result in the dtype of x, mean [C], biased variance [C]).

    Statistics come of one pass over x, the sums of the gradient of one over x and g. The textbook's formulas, whose
    variance waits for the mean, and their automatic gradient read twice as much, and that is what batch norm costs on
    every backend (docs/performance.md). Mean and variance pass no gradient on.

    Args:
      guess: [C], near the mean: squares are of the difference from it, as a large mean would swallow a small variance.
    """
    return _normalised_forward(x, scale, bias, guess, epsilon)[0]


Saved = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def _normalised_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, guess: jax.Array, epsilon: float
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], Saved]:
    off = at_least_float32(x) - guess
    mean_off, mean_square = off.mean(PIXELS), jnp.square(off).mean(PIXELS)
    mean, var = guess + mean_off, jnp.maximum(mean_square - jnp.square(mean_off), 0)
    inverse = jax.lax.rsqrt(var + epsilon)
    gain = scale * inverse
    return (scaled(x, gain, bias - mean * gain), mean, var), (x, scale, mean, inverse)


def _normalised_backward(
    epsilon: float, saved: Saved, gradients: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    x, scale, mean, inverse = saved
    full, g = at_least_float32(x), at_least_float32(gradients[0])
    of_bias, of_gain = g.sum(PIXELS), (g * (full - mean)).sum(PIXELS)
    pixels, gain = x.size // x.shape[-1], scale * inverse
    slope = gain * jnp.square(inverse) * of_gain / pixels
    # gain * (g - mean of g) - slope * (x - mean), with x and g alone to read: XLA:CPU would store x - mean.
    of_x = gain * g - slope * full + (slope * mean - gain * of_bias / pixels)
    return of_x.astype(x.dtype), of_gain * inverse, of_bias, jnp.zeros_like(mean)


normalised.defvjp(_normalised_forward, _normalised_backward)
