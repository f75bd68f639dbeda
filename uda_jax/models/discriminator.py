"""The fully convolutional domain discriminator of AdaptSegNet (section 4.1; Radford et al. 2016)."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from uda_jax.models.layers import Conv, Dtype


class Discriminator(nn.Module):
    """Maps of any kind [B, H, W, C] -> domain logits, float32 or better [B, ~H/2^layers, ~W/2^layers, 1].

    4x4 convolutions of stride 2 with LeakyReLU(0.2) between. A positive logit says "target".

    Attributes:
      width: channels of the first layer, doubling from layer to layer; 64 in the paper.
      layers: 5 in the paper, where an output sees 94 pixels of about 720; small images want fewer.
    """

    width: int = 64
    layers: int = 5
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, cells: bool = False) -> jax.Array:
        """`cells`: x is [B, I, J, 4 * C], a map as `models.cells` has it."""
        conv = partial(Conv, kernel=4, stride=2, padding=1, use_bias=True, param_dtype=self.param_dtype)
        for i in range(self.layers - 1):
            x = conv(self.width * 2**i, cells=cells and i == 0, dtype=self.dtype, name=f"conv{i + 1}")(x)
            x = nn.leaky_relu(x, 0.2)
        # Early in the game the two domains' gradients are 0.5 and -0.5, but for what the discriminator knows: in
        # bfloat16 they cancel, and that is rounded away.
        return conv(
            1, cells=cells and self.layers == 1, dtype=jnp.promote_types(self.dtype, jnp.float32), name="classifier"
        )(x)
