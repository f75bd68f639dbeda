"""The head of DeepLab-v2 (Chen et al. 2017), and of AdaptSegNet's two levels (section 4)."""

import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from uda_jax.models.contract import Head, Shapes, dtypes
from uda_jax.models.initializers import Initializer, normal, uniform_fan_in
from uda_jax.models.layers import Dtype


class ASPP(nn.Module):
    """Sum of 3x3 convolutions of several dilation rates, [B, h, w, C] -> logits [B, h, w, classes].

    All branches and taps are one matrix product, followed by shifted adds: the product has few outputs, so
    this is several times faster than dilated convolutions. Logits come in float32 or better.

    Attributes:
      stage: the stage of the backbone that it reads; -1 is the last.
    """

    num_classes: int
    dilations: tuple[int, ...]
    stage: int = -1
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    kernel_init: Initializer = normal(0.01)

    def features(self, maps: Sequence[jax.Array], train: bool) -> jax.Array:
        del train  # no normalisation, no dropout
        return maps[self.stage]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels, k = x.shape[-1], self.num_classes
        kernels, biases = [], []
        for i in range(len(self.dilations)):
            kernels.append(self.param(f"kernel_{i}", self.kernel_init, (3, 3, channels, k), self.param_dtype))
            biases.append(self.param(f"bias_{i}", uniform_fan_in(9 * channels), (k,), self.param_dtype))
        taps = jnp.concatenate([kernel.reshape(9, channels, k) for kernel in kernels])
        y = jnp.dot(
            x.astype(self.dtype),
            taps.transpose(1, 0, 2).reshape(channels, -1).astype(self.dtype),
            preferred_element_type=jnp.promote_types(self.dtype, jnp.float32),
        )
        return _shifted_sum(y, self.dilations) + sum(biases)


def _shifted_sum(y: jax.Array, dilations: tuple[int, ...]) -> jax.Array:
    """Adds the taps' maps [B, h, w, taps * K], each at its tap's offset; what falls outside the map is dropped.

    Split and pad have a concatenation and a pad as gradients; indexing would add up full-size arrays instead.
    """
    offsets = [(rate * row, rate * column) for rate in dilations for row in (1, 0, -1) for column in (1, 0, -1)]
    zero = jnp.zeros((), y.dtype)
    shifted = [
        jax.lax.pad(part, zero, ((0, 0, 0), (down, -down, 0), (right, -right, 0), (0, 0, 0)))
        for part, (down, right) in zip(jnp.split(y, len(offsets), axis=-1), offsets, strict=True)
    ]
    return sum(shifted[1:], shifted[0])


def build(model: ml_collections.ConfigDict, strides: tuple[int, ...], level: str) -> ASPP:
    """The main head reads the last stage and the auxiliary one that before it, whatever their strides."""
    del strides
    return ASPP(model.num_classes, tuple(model.dilations), -1 if level == "main" else -2, **dtypes(model))


def recognised(shapes: Shapes) -> dict[str, Any] | None:
    """Of branches `0.weight`, `0.bias` and so on, which agree on the number of classes; their dilations do not show."""
    branches = [shape for name, shape in shapes.items() if re.fullmatch(r"\d+\.(weight|bias)", name)]
    if not branches:
        return None
    classes = {shape[0] for shape in branches if shape}
    return {"head": "deeplab_v2"} | ({"num_classes": classes.pop()} if len(classes) == 1 else {})


HEADS = {"deeplab_v2": Head(build, ("dilations",), recognised=recognised)}
