"""Mix Transformers (Xie et al., "SegFormer", NeurIPS 2021, section 3.1): a pyramid of attention without positions.

Written from the paper and from facts about the published weights (names, which layer norm has which epsilon).
"""

import re
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from uda_jax.models.contract import Backbone, Shapes, dtypes
from uda_jax.models.depthwise import DepthwiseConv
from uda_jax.models.initializers import truncated_normal
from uda_jax.models.layers import Conv, Dtype, at_least_float32


class Size(NamedTuple):
    """Channels, attention heads and blocks of the four stages."""

    widths: tuple[int, ...]
    heads: tuple[int, ...]
    depths: tuple[int, ...]


HEADS = (1, 2, 5, 8)
WIDTHS = (64, 128, 320, 512)
SIZES = {
    "mit_b0": Size((32, 64, 160, 256), HEADS, (2, 2, 2, 2)),
    "mit_b1": Size(WIDTHS, HEADS, (2, 2, 2, 2)),
    "mit_b2": Size(WIDTHS, HEADS, (3, 4, 6, 3)),
    "mit_b3": Size(WIDTHS, HEADS, (3, 4, 18, 3)),
    "mit_b4": Size(WIDTHS, HEADS, (3, 8, 27, 3)),
    "mit_b5": Size(WIDTHS, HEADS, (3, 6, 40, 3)),
}
REDUCTIONS = (8, 4, 2, 1)  # of keys and values, along each side
STRIDES = (4, 2, 2, 2)
EXPANSION = 4  # of the MLP


class MiT(nn.Module):
    """Images [B, H, W, 3] -> normalised maps of the four stages, of strides 4, 8, 16 and 32, rounded up.

    Attributes:
      size: a key of SIZES.
      drop_path: share of images for which training leaves out the last block; it rises linearly from the first's 0.
    """

    size: str
    drop_path: float = 0.1
    remat: bool = False
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, ...]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = partial(nn.LayerNorm, use_fast_variance=False, **types)
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        widths, heads, depths = SIZES[self.size]
        maps, before = [], 0
        for stage, (width, depth, stride) in enumerate(zip(widths, depths, STRIDES, strict=True), 1):
            kernel = 2 * stride - 1
            embed = partial(Conv, kernel=kernel, stride=stride, padding=kernel // 2, use_bias=True, **types)
            x = embed(features=width, name=f"patch_embed{stage}_proj")(x)
            x = norm(epsilon=1e-5, name=f"patch_embed{stage}_norm")(x)
            for i in range(depth):
                share = self.drop_path * (before + i) / max(sum(depths) - 1, 1)
                inner = norm, REDUCTIONS[stage - 1], heads[stage - 1], share, self.dtype, self.param_dtype
                x = block(*inner, name=f"block{stage}_{i}")(x, train)
            before += depth
            x = norm(epsilon=1e-6, name=f"norm{stage}")(x)
            maps.append(x)
        return tuple(maps)


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)), [B, h, w, C]; the MLP has a depthwise 3x3 inside."""

    norm: partial
    reduction: int
    heads: int
    drop_path: float
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        width = x.shape[-1]
        init = truncated_normal(0.02)
        dense = partial(nn.Dense, kernel_init=init, dtype=self.dtype, param_dtype=self.param_dtype)
        x = x + self._kept(self._attention(self.norm(epsilon=1e-6, name="norm1")(x), dense), train)
        y = dense(EXPANSION * width, name="mlp_fc1")(self.norm(epsilon=1e-6, name="norm2")(x))
        y = DepthwiseConv(3, use_bias=True, dtype=self.dtype, param_dtype=self.param_dtype, name="mlp_dwconv")(y)
        y = dense(width, name="mlp_fc2")(nn.gelu(y, approximate=False))
        return x + self._kept(y, train)

    def _attention(self, x: jax.Array, dense: Any) -> jax.Array:
        (batch, height, width, channels), reduction = x.shape, self.reduction
        query = dense(channels, name="attn_q")(x)
        if reduction > 1:
            whole = x[:, : height // reduction * reduction, : width // reduction * reduction]
            types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
            x = Conv(channels, reduction, reduction, padding=0, use_bias=True, name="attn_sr", **types)(whole)
            x = self.norm(epsilon=1e-5, name="attn_norm")(x)
        key, value = jnp.split(dense(2 * channels, name="attn_kv")(x), 2, -1)
        query, key, value = (y.reshape(batch, -1, self.heads, channels // self.heads) for y in (query, key, value))
        scores = at_least_float32(jnp.einsum("bqhc,bkhc->bhqk", query, key)) * (channels // self.heads) ** -0.5
        attention = jax.nn.softmax(scores).astype(self.dtype)
        y = jnp.einsum("bhqk,bkhc->bqhc", attention, value).reshape(batch, height, width, channels)
        return dense(channels, name="attn_proj")(y)

    def _kept(self, x: jax.Array, train: bool) -> jax.Array:
        """Stochastic depth (Huang et al. 2016): zero for some of the images, and more for the others."""
        if not (train and self.drop_path and self.has_rng("dropout")):
            return x
        keeps = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.drop_path, (x.shape[0], 1, 1, 1))
        return jnp.where(keeps, x / (1 - self.drop_path), 0).astype(x.dtype)


def build(model: ml_collections.ConfigDict) -> MiT:
    return MiT(model.backbone, model.drop_path, model.remat, **dtypes(model))


def strides(model: ml_collections.ConfigDict) -> tuple[int, ...]:
    del model
    return 4, 8, 16, 32


def recognised(shapes: Shapes) -> dict[str, Any] | None:
    """By the published names; None if the depths are of no network here."""
    if "patch_embed1.proj.weight" not in shapes:
        return None
    found = {(int(m[1]), int(m[2])) for name in shapes if (m := re.match(r"block(\d)\.(\d+)\.", name))}
    depths = tuple(sum(stage == s for s, _ in found) for stage in range(1, 5))
    widths = tuple(shapes[f"patch_embed{stage}.proj.weight"][0] for stage in range(1, 5))
    names = [name for name, size in SIZES.items() if (size.widths, size.depths) == (widths, depths)]
    return {"backbone": names[0]} if names else None


_DEEPEST = tuple(max(size.depths[stage] for size in SIZES.values()) for stage in range(4))
_INSIDE = ("attn_q", "attn_kv", "attn_proj", "attn_sr", "attn_norm", "mlp_fc1", "mlp_fc2")
PUBLISHED = {
    **{name: name.replace("_", ".") for name in _INSIDE},
    "mlp_dwconv": "mlp.dwconv.dwconv",
    **{f"patch_embed{s}_{part}": f"patch_embed{s}.{part}" for s in range(1, 5) for part in ("proj", "norm")},
    **{f"block{s}_{i}": f"block{s}.{i}" for s in range(1, 5) for i in range(_DEEPEST[s - 1])},
}
BACKBONES = {name: Backbone(build, strides, ("drop_path", "remat"), PUBLISHED, recognised) for name in SIZES}
