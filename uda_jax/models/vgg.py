"""VGG-16 as AdaptSegNet uses it: no pool4 and pool5, dilated conv5, fc6 and fc7 as dilated 3x3 convolutions."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from uda_jax.models.layers import Conv, Dtype, Initializer

# (name, channels of the full-width network, dilation); "pool" halves the size, dropping an odd last row
LAYERS = (
    ("conv1_1", 64, 1), ("conv1_2", 64, 1), "pool",
    ("conv2_1", 128, 1), ("conv2_2", 128, 1), "pool",
    ("conv3_1", 256, 1), ("conv3_2", 256, 1), ("conv3_3", 256, 1), "pool",
    ("conv4_1", 512, 1), ("conv4_2", 512, 1), ("conv4_3", 512, 1),
    ("conv5_1", 512, 2), ("conv5_2", 512, 2), ("conv5_3", 512, 2),
    ("fc6", 1024, 4), ("fc7", 1024, 4),
)  # fmt: skip


class VGG16(nn.Module):
    """Images [B, H, W, 3] -> (conv5_3 [B, H/8, W/8, 512], fc7 [B, H/8, W/8, 1024]), both after ReLU.

    Attributes:
      width: channels of the first convolution; 64 is the full network.
    """

    width: int = 64
    kernel_init: Initializer | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        del train  # no normalisation, no dropout
        conv5 = x
        for layer in LAYERS:
            if isinstance(layer, str):
                x = nn.max_pool(x, (2, 2), (2, 2))
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
            conv5 = x if name == "conv5_3" else conv5
        return conv5, x
