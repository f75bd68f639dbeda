"""The head of DAFormer (Hoyer et al. 2022, section 3.1): context-aware fusion of the maps of all stages."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from uda_jax.errors import UserError
from uda_jax.models.batch_norm import CHOICES as OF_NORM
from uda_jax.models.batch_norm import BatchNorm
from uda_jax.models.contract import Head, Shapes, dtypes
from uda_jax.models.depthwise import DepthwiseConv
from uda_jax.models.initializers import he, normal, uniform_fan_in
from uda_jax.models.layers import Conv, Dtype, resize_bilinear

CHOICES = {"head_norm": OF_NORM["norm"]}
RATES = (1, 6, 12, 18)  # of the ASPP; the first is a 1x1


class ContextFusion(nn.Module):
    """Maps of all stages -> features [B, h, w, width] at the size of the finest -> logits [B, h, w, classes].

    Every map is embedded in `width` channels and resized to the finest. Together they are seen by a separable ASPP, and
    a 3x3 fuses its branches.

    Attributes:
      maps: how many there are.
      dropout: share of whole channels that training drops before the classifier.
      norm: see `BatchNorm`.
    """

    num_classes: int
    maps: int
    width: int = 256
    dropout: float = 0.1
    norm: str = "batch"
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    def setup(self) -> None:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, kernel_init=he("in"), **types)
        norm = partial(BatchNorm, mode=self.norm, param_dtype=self.param_dtype)
        depthwise = partial(DepthwiseConv, kernel=3, kernel_init=uniform_fan_in(9), **types)
        self.embed_layers = [Conv(self.width, 1, use_bias=True, **types) for _ in range(self.maps)]
        self.aspp_modules = [
            ConvNorm(conv(features=self.width, kernel=1), norm())
            if rate == 1
            else Separable(
                ConvNorm(depthwise(dilation=rate), norm()), ConvNorm(conv(features=self.width, kernel=1), norm())
            )
            for rate in RATES
        ]
        self.bottleneck = ConvNorm(conv(features=self.width, kernel=3), norm())
        self.drop = nn.Dropout(self.dropout, broadcast_dims=(1, 2))
        self.conv_seg = Conv(self.num_classes, 1, use_bias=True, kernel_init=normal(0.01), **types)

    def features(self, maps: Sequence[jax.Array], train: bool) -> jax.Array:
        size = maps[0].shape[1], maps[0].shape[2]
        embedded = [embed(x) for embed, x in zip(self.embed_layers, maps, strict=True)]
        x = jnp.concatenate([resize_bilinear(x, size, align_corners=False) for x in embedded], -1)
        x = jax.lax.optimization_barrier(x)
        x = self.bottleneck(jnp.concatenate([branch(x, train) for branch in self.aspp_modules], -1), train)
        return self.drop(x, deterministic=not (train and self.has_rng("dropout")))

    def __call__(self, x: jax.Array) -> jax.Array:
        logits: jax.Array = self.conv_seg(x)
        return logits.astype(jnp.promote_types(self.dtype, jnp.float32))


class ConvNorm(nn.Module):
    """A convolution, its batch norm, ReLU."""

    conv: nn.Module
    bn: nn.Module

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.relu(self.bn(self.conv(x), train))


class Separable(nn.Module):
    """Depthwise, then pointwise, each with norm and ReLU."""

    depthwise_conv: nn.Module
    pointwise_conv: nn.Module

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return self.pointwise_conv(self.depthwise_conv(x, train), train)


def build(model: ml_collections.ConfigDict, strides: tuple[int, ...], level: str) -> ContextFusion:
    """Reads every stage, whatever their strides.

    Raises:
      UserError: an auxiliary level is asked for.
    """
    if level != "main":
        raise UserError(
            "config.model.head='daformer' fuses all stages and leaves none for an auxiliary level; set "
            "--config.model.two_levels=False"
        )
    return ContextFusion(
        model.num_classes, len(strides), model.head_width, model.dropout, model.head_norm, **dtypes(model)
    )


def recognised(shapes: Shapes) -> dict[str, Any] | None:
    """Of mmsegmentation's names."""
    fused, classes = shapes.get("fuse_layer.bottleneck.conv.weight"), shapes.get("conv_seg.bias")
    if not fused:
        return None
    return {"head": "daformer", "head_width": fused[0]} | ({"num_classes": classes[0]} if classes else {})


# As mmsegmentation's checkpoints have it, under `decode_head`.
PUBLISHED = {
    **{f"embed_layers_{i}": f"embed_layers.{i}.proj" for i in range(8)},
    **{f"aspp_modules_{i}": f"fuse_layer.aspp_modules.{i}" for i in range(len(RATES))},
    "bottleneck": "fuse_layer.bottleneck",
}
HEADS = {"daformer": Head(build, ("head_width", "dropout", "head_norm"), PUBLISHED, recognised)}
