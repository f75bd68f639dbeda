"""Dilated ResNet backbones of output stride 8, as DeepLab-v2 uses them (He et al. 2016; Chen et al. 2017)."""

import re
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from uda_jax.errors import UserError
from uda_jax.models.batch_norm import BatchNorm
from uda_jax.models.contract import INITIALIZERS, Backbone, Shapes, dtypes
from uda_jax.models.initializers import Initializer, normal
from uda_jax.models.layers import Conv, Dtype, max_pool, max_pool_ceil

# name -> (blocks in each stage, bottleneck?)
DEPTHS = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}
STRIDES = (1, 2, 1, 1)
DILATIONS = (1, 1, 2, 4)
CHOICES = {"stem": ("imagenet", "deep", "small")}
DEEP_STEM = ((2, 2), (1, 2), (1, 1))  # stride of each 3x3, and what its width is the stem's divided by


class ResNet(nn.Module):
    """Images [B, H, W, 3] -> maps of the four stages, of strides 4, 8, 8 and 8.

    Attributes:
      name_of_depth: a key of DEPTHS.
      stem: "imagenet" (7x7 stride 2, max-pool in ceil mode), "deep" (ResNet-C of He et al. 2019, as mmsegmentation's
        ResNetV1c has it: three 3x3, the first of stride 2, max-pool) or "small" (two 3x3 of stride 2, to train from
        scratch).
      stem_width: channels after the stem.
      width: channels inside the first stage's blocks; doubles at every stage.
      stride_in_1x1: the stage's stride sits in the first 1x1 (Caffe, AdaptSegNet) instead of the 3x3 (torchvision).
      norm, affine: see `BatchNorm`.
    """

    name_of_depth: str = "resnet101"
    stem: str = "imagenet"
    stem_width: int = 64
    width: int = 64
    stride_in_1x1: bool = True
    norm: str = "batch"
    affine: str = "train"
    kernel_init: Initializer = normal(0.01)
    remat: bool = False
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, ...]:
        conv = partial(Conv, kernel_init=self.kernel_init, dtype=self.dtype, param_dtype=self.param_dtype)
        norm = partial(BatchNorm, mode=self.norm, affine=self.affine, param_dtype=self.param_dtype)
        if self.stem == "small":
            x = nn.relu(norm(name="bn0")(conv(self.stem_width, 3, 2, name="conv0")(x), train))
            x = nn.relu(norm(name="bn1")(conv(self.stem_width, 3, 2, name="conv1")(x), train))
        elif self.stem == "deep":
            for i, (stride, divisor) in enumerate(DEEP_STEM):
                y = conv(self.stem_width // divisor, 3, stride, name=f"stem_conv{i}")(x)
                x = nn.relu(norm(name=f"stem_bn{i}")(y, train))
            x = max_pool(x, 3, 2, (1, 1), (1, 1))
        else:
            x = nn.relu(norm(name="bn1")(conv(self.stem_width, 7, 2, name="conv1")(x), train))
            x = max_pool_ceil(x)
        blocks, bottleneck = DEPTHS[self.name_of_depth]
        block_class = Bottleneck if bottleneck else BasicBlock
        if self.remat:
            block_class = nn.remat(block_class, static_argnums=(2,))
        stages = []
        for stage, count in enumerate(blocks):
            # A 3x3 that loses its stride sees what it saw before; Caffe's, after a strided 1x1, is dilated at once.
            keeps = int(bottleneck and not self.stride_in_1x1 and stage > 0)
            for i in range(count):
                x = block_class(
                    conv=conv,
                    norm=norm,
                    width=self.width * 2**stage,
                    stride=STRIDES[stage] if i == 0 else 1,
                    dilation=DILATIONS[stage - keeps] if i == 0 else DILATIONS[stage],
                    project=i == 0 and (bottleneck or stage > 0 or self.stem_width != self.width),
                    stride_in_1x1=self.stride_in_1x1,
                    name=f"layer{stage + 1}_{i}",
                )(x, train)
            stages.append(x)
        return tuple(stages)


def rectified_sum(x: jax.Array, y: jax.Array) -> jax.Array:
    """relu(x + y), as a choice between zero and the sum: XLA:CPU computes a maximum with a constant anew wherever it is
    read, and with it all residual sums before, so that the last block read the maps of all blocks.
    """
    total = x + y
    return jnp.where(total <= 0, 0, total)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a residual; output 4 * width channels."""

    conv: partial
    norm: partial
    width: int
    stride: int
    dilation: int
    project: bool
    stride_in_1x1: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        first, second = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
        y = nn.relu(self.norm(name="bn1")(self.conv(self.width, 1, first, name="conv1")(x), train))
        y = self.conv(self.width, 3, second, self.dilation, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y, train))
        y = self.norm(name="bn3")(self.conv(4 * self.width, 1, name="conv3")(y), train)
        if self.project:
            x = self.conv(4 * self.width, 1, self.stride, name="downsample_conv")(x)
            x = self.norm(name="downsample_bn")(x, train)
        return rectified_sum(x, y)


class BasicBlock(nn.Module):
    """Two 3x3 with a residual; output `width` channels."""

    conv: partial
    norm: partial
    width: int
    stride: int
    dilation: int
    project: bool
    stride_in_1x1: bool  # of no meaning here: the stride sits in the first 3x3

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = self.conv(self.width, 3, self.stride, self.dilation, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train))
        y = self.norm(name="bn2")(self.conv(self.width, 3, 1, self.dilation, name="conv2")(y), train)
        if self.project:
            x = self.conv(self.width, 1, self.stride, name="downsample_conv")(x)
            x = self.norm(name="downsample_bn")(x, train)
        return rectified_sum(x, y)


def build(model: ml_collections.ConfigDict) -> ResNet:
    return ResNet(
        name_of_depth=model.backbone,
        stem=model.stem,
        stem_width=model.stem_width,
        width=model.width,
        stride_in_1x1=model.stride_in_1x1,
        norm=model.norm,
        affine=model.affine,
        kernel_init=INITIALIZERS[model.init],
        remat=model.remat,
        **dtypes(model),
    )


def recognised(shapes: Shapes) -> dict[str, Any] | None:
    """The settings that torchvision's names tell, "small" stems among them.

    Raises:
      UserError: a ResNet of another depth than those of DEPTHS.
    """
    first = next((name for name in ("conv1.weight", "stem.6.weight") if name in shapes), None)
    if first is None or "layer1.0.conv1.weight" not in shapes:
        return None
    found = {(int(m[1]), int(m[2])) for name in shapes if (m := re.match(r"layer(\d)\.(\d+)\.", name))}
    depth = tuple(sum(stage == s for s, _ in found) for stage in range(1, 5)), "layer1.0.conv3.weight" in shapes
    names = [name for name, known in DEPTHS.items() if known == depth]
    if not names:
        known = ", ".join(f"{name} {blocks}" for name, (blocks, _) in DEPTHS.items())
        raise UserError(f"a ResNet of {depth[0]} blocks, which is unknown here; known are {known}")
    return {
        "backbone": names[0],
        "stem": "deep" if first == "stem.6.weight" else "small" if "conv0.weight" in shapes else "imagenet",
        "stem_width": shapes[first][0],
        "width": shapes["layer1.0.conv1.weight"][0],
    }


# torchvision's, and mmsegmentation's of a deep stem
PUBLISHED = {f"stem_{kind}{i}": f"stem.{3 * i + j}" for i in range(3) for j, kind in enumerate(("conv", "bn"))}
PUBLISHED |= {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"} | {
    f"layer{stage + 1}_{i}": f"layer{stage + 1}.{i}"
    for blocks, _ in DEPTHS.values()
    for stage, count in enumerate(blocks)
    for i in range(count)
}


def strides(model: ml_collections.ConfigDict) -> tuple[int, ...]:
    del model
    return 4, 8, 8, 8


SETTINGS = ("width", "stem", "stem_width", "norm", "affine", "remat")
BACKBONES = {
    name: Backbone(build, strides, (*SETTINGS, "stride_in_1x1") if bottleneck else SETTINGS, PUBLISHED, recognised)
    for name, (_, bottleneck) in DEPTHS.items()
}
