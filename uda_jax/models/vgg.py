"""VGG-16 as AdaptSegNet uses it: no pool4 and pool5, dilated conv5, fc6 and fc7 as dilated 3x3 convolutions."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from uda_jax.models.contract import INITIALIZERS, Backbone, Shapes, dtypes
from uda_jax.models.initializers import Initializer
from uda_jax.models.layers import Conv, Dtype, max_pool

# (name, channels of the full-width network, dilation); "pool" halves the size, dropping an odd last row
LAYERS = (
    ("conv1_1", 64, 1), ("conv1_2", 64, 1), "pool",
    ("conv2_1", 128, 1), ("conv2_2", 128, 1), "pool",
    ("conv3_1", 256, 1), ("conv3_2", 256, 1), ("conv3_3", 256, 1), "pool",
    ("conv4_1", 512, 1), ("conv4_2", 512, 1), ("conv4_3", 512, 1),
    ("conv5_1", 512, 2), ("conv5_2", 512, 2), ("conv5_3", 512, 2),
    ("fc6", 1024, 4), ("fc7", 1024, 4),
)  # fmt: skip
STAGES = {"conv1_2": 1, "conv2_2": 2, "conv3_3": 4, "conv4_3": 8, "conv5_3": 8, "fc7": 8}  # their last layers: strides


class VGG16(nn.Module):
    """Images [B, H, W, 3] -> the maps of STAGES after ReLU, the last ones [B, H/8, W/8, 512] and [B, H/8, W/8, 1024].

    Attributes:
      width: channels of the first convolution; 64 is the full network.
    """

    width: int = 64
    kernel_init: Initializer | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, ...]:
        del train  # no normalisation, no dropout
        stages = []
        for layer in LAYERS:
            if isinstance(layer, str):
                x = max_pool(x, 2, 2, (0, 0), (0, 0))
                continue
            name, channels, dilation = layer
            x = Conv(
                channels * self.width // 64,
                3,
                dilation=dilation,
                use_bias=True,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=name,
            )(x)
            x = nn.relu(x)
            if name in STAGES:
                stages.append(x)
        return tuple(stages)


def build(model: ml_collections.ConfigDict) -> VGG16:
    return VGG16(width=model.width, kernel_init=INITIALIZERS[model.init], **dtypes(model))


def recognised(shapes: Shapes) -> dict[str, Any] | None:
    if "features.0.weight" not in shapes:
        return None
    return {"backbone": "vgg16", "width": shapes["features.0.weight"][0]}


# Places in torchvision's VGG-16, which counts ReLUs and pools; fc6 and fc7 keep their names.
PUBLISHED = {
    "conv1_1": "features.0", "conv1_2": "features.2", "conv2_1": "features.5", "conv2_2": "features.7",
    "conv3_1": "features.10", "conv3_2": "features.12", "conv3_3": "features.14",
    "conv4_1": "features.17", "conv4_2": "features.19", "conv4_3": "features.21",
    "conv5_1": "features.24", "conv5_2": "features.26", "conv5_3": "features.28",
}  # fmt: skip


def strides(model: ml_collections.ConfigDict) -> tuple[int, ...]:
    del model
    return tuple(STAGES.values())


BACKBONES = {"vgg16": Backbone(build, strides, ("width",), PUBLISHED, recognised, own=("fc6", "fc7"))}
