"""EfficientNet-Lite backbones: EfficientNet (Tan and Le 2019) for phones, without squeeze-and-excite, with ReLU6."""

import math
import re
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from uda_jax.errors import UserError
from uda_jax.models.batch_norm import BatchNorm
from uda_jax.models.contract import INITIALIZERS, Backbone, Shapes, dtypes
from uda_jax.models.depthwise import DepthwiseConv
from uda_jax.models.initializers import Initializer, normal
from uda_jax.models.layers import Conv, Dtype


class Stage(NamedTuple):
    blocks: int
    kernel: int
    stride: int
    expand: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
SCALES = {  # name -> factors on channels and on blocks
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
    "efficientnet_lite3": (1.2, 1.4),
    "efficientnet_lite4": (1.4, 1.8),
}
STEM = 32  # channels, of every size
READ = (1, 2, 4, 6)  # stages whose maps are returned: the last of every size
CHOICES = {"output_stride": (16, 32)}


def stages_of(name: str) -> tuple[Stage, ...]:
    """The stages at the scale of SCALES: channels to a multiple of 8, and never a tenth less than asked for.

    >>> [stage.channels for stage in stages_of("efficientnet_lite2")]
    [16, 24, 48, 88, 120, 208, 352]
    """
    width, depth = SCALES[name]

    def channels(count: int) -> int:
        near = max(8, int(count * width + 4) // 8 * 8)
        return near + 8 if near < 0.9 * count * width else near

    ends = (STAGES[0], STAGES[-1])  # their numbers of blocks are fixed
    return tuple(
        stage._replace(
            channels=channels(stage.channels), blocks=stage.blocks if stage in ends else math.ceil(depth * stage.blocks)
        )
        for stage in STAGES
    )


def blocks_of(name: str) -> list[tuple[int, int]]:
    """(stage, place in it) of every block, in their order."""
    return [(s, i) for s, stage in enumerate(stages_of(name)) for i in range(stage.blocks)]


class EfficientNetLite(nn.Module):
    """Images [B, H, W, 3] -> maps of strides 4, 8, 16 and `output_stride`, of 24, 40, 112 and 320 channels in lite0.

    Attributes:
      scale: a key of SCALES.
      output_stride: 32 as published; 16 takes the last stride away and dilates what follows it by 2, so that every
        kernel sees what it saw before.
      norm, affine: see `BatchNorm`.
    """

    scale: str = "efficientnet_lite0"
    output_stride: int = 16
    norm: str = "batch"
    affine: str = "train"
    kernel_init: Initializer = normal(0.01)
    remat: bool = False
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, ...]:
        conv = partial(Conv, kernel_init=self.kernel_init, dtype=self.dtype, param_dtype=self.param_dtype)
        norm = partial(
            BatchNorm,
            mode=self.norm,
            affine=self.affine,
            momentum=0.01,
            epsilon=1e-3,
            param_dtype=self.param_dtype,
        )
        depthwise = partial(DepthwiseConv, kernel_init=self.kernel_init, dtype=self.dtype, param_dtype=self.param_dtype)
        x = relu6(norm(name="bn1")(conv(STEM, 3, 2, padding="SAME", name="conv_stem")(x), train))
        block_class = nn.remat(MBConv, static_argnums=(2,)) if self.remat else MBConv
        maps, reached, dilation = [], 2, 1
        for s, stage in enumerate(stages_of(self.scale)):
            for i in range(stage.blocks):
                stride = stage.stride if i == 0 else 1
                lost = reached * stride > self.output_stride
                stride = 1 if lost else stride
                reached *= stride
                x = block_class(
                    conv=conv,
                    depthwise=depthwise,
                    norm=norm,
                    kernel=stage.kernel,
                    stride=stride,
                    dilation=dilation,
                    expand=stage.expand,
                    channels=stage.channels,
                    name=f"blocks_{s}_{i}",
                )(x, train)
                dilation = 2 if lost else dilation
            if s in READ:
                maps.append(x)
        return tuple(maps)


class MBConv(nn.Module):
    """1x1 expansion, depthwise, 1x1 projection; a residual where the shape stays."""

    conv: partial
    depthwise: partial
    norm: partial
    kernel: int
    stride: int
    dilation: int
    expand: int
    channels: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shape, width = x.shape, self.expand * x.shape[-1]
        norms = iter(("bn1", "bn2", "bn3"))
        y = x
        if self.expand > 1:
            y = relu6(self.norm(name=next(norms))(self.conv(width, 1, name="conv_pw")(y), train))
        y = self.depthwise(self.kernel, self.stride, self.dilation, name="conv_dw")(y)
        y = relu6(self.norm(name=next(norms))(y, train))
        # The names of timm, where a block without an expansion projects by its only pointwise convolution.
        project = "conv_pwl" if self.expand > 1 else "conv_pw"
        y = self.norm(name=next(norms))(self.conv(self.channels, 1, name=project)(y), train)
        return x + y if y.shape == shape else y


def relu6(x: jax.Array) -> jax.Array:
    return jnp.minimum(nn.relu(x), 6.0)


def build(model: ml_collections.ConfigDict) -> EfficientNetLite:
    return EfficientNetLite(
        scale=model.backbone,
        output_stride=model.output_stride,
        norm=model.norm,
        affine=model.affine,
        kernel_init=INITIALIZERS[model.init],
        remat=model.remat,
        **dtypes(model),
    )


def strides(model: ml_collections.ConfigDict) -> tuple[int, ...]:
    return 4, 8, 16, model.output_stride


def recognised(shapes: Shapes) -> dict[str, Any] | None:
    """The scale, which channels and blocks tell, of timm's names.

    Raises:
      UserError: another network of timm's with such names, an EfficientNet that is not Lite among them.
    """
    if not {"conv_stem.weight", "blocks.0.0.conv_dw.weight"} <= shapes.keys():
        return None
    found = {(int(m[1]), int(m[2])) for name in shapes if (m := re.match(r"blocks\.(\d+)\.(\d+)\.", name))}
    blocks = tuple(sum(stage == s for s, _ in found) for stage in range(len(STAGES)))
    last = shapes.get("blocks.6.0.conv_pwl.weight", (0,))[0]
    squeezed = any(re.search(r"\._?se[._]", name) for name in shapes)
    known = {name: (tuple(stage.blocks for stage in stages_of(name)), stages_of(name)[-1].channels) for name in SCALES}
    names = [name for name, scale in known.items() if scale == (blocks, last)]
    if squeezed or not names:
        raise UserError(
            f"no EfficientNet-Lite that is known here: it has {blocks} blocks, {last} channels at the end and "
            f"{'' if squeezed else 'no '}squeeze-and-excite; known, without, are "
            f"{', '.join(f'{name} {blocks} {channels}' for name, (blocks, channels) in known.items())}"
        )
    return {"backbone": names[0]}


# timm's
PUBLISHED = {f"blocks_{s}_{i}": f"blocks.{s}.{i}" for s, i in blocks_of("efficientnet_lite4")}
SETTINGS = ("output_stride", "norm", "affine", "remat")
BACKBONES = {name: Backbone(build, strides, SETTINGS, PUBLISHED, recognised) for name in SCALES}
