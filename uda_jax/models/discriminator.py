"""The fully convolutional domain discriminator of AdaptSegNet (section 4.1; Radford et al. 2016)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from uda_jax.models.layers import Conv, Dtype


class Discriminator(nn.Module):
    """Maps of any kind [B, H, W, C] -> domain logits, float32 or better [B, ~H/32, ~W/32, 1].

    Five 4x4 convolutions of stride 2 with LeakyReLU(0.2) between. A positive logit says "target".

    Attributes:
      width: channels of the first layer, doubling up to the fourth; 64 in the paper.
    """

    width: int = 64
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        names = ("conv1", "conv2", "conv3", "conv4", "classifier")
        channels = (self.width, 2 * self.width, 4 * self.width, 8 * self.width, 1)
        for name, features in zip(names, channels, strict=True):
            x = Conv(
                features, 4, 2, padding=1, use_bias=True, dtype=self.dtype, param_dtype=self.param_dtype, name=name
            )(x)
            if name != "classifier":
                x = nn.leaky_relu(x, 0.2)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))
