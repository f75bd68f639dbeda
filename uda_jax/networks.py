"""The two players' networks as pure functions of their parameters."""

from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from uda_jax.models.deeplab_v2 import Outputs, build_segmenter
from uda_jax.models.discriminator import Discriminator


class Networks(NamedTuple):
    segmenter: nn.Module
    discriminator: nn.Module

    def segment(self, params: Any, batch_stats: Any, images: jax.Array) -> tuple[Outputs, Any]:
        """Training-mode forward: (outputs, the batch statistics after it)."""
        outputs, changed = self.segmenter.apply(
            {"params": params, "batch_stats": batch_stats}, images, train=True, mutable=["batch_stats"]
        )
        return cast(Outputs, outputs), changed.get("batch_stats", batch_stats)

    def predict(self, params: Any, batch_stats: Any, images: jax.Array) -> Outputs:
        """Evaluation-mode forward."""
        variables = {"params": params, "batch_stats": batch_stats}
        return cast(Outputs, self.segmenter.apply(variables, images, train=False))

    def discriminate(self, params: Any, maps: jax.Array) -> jax.Array:
        """One discriminator's domain logits for maps [B, H, W, C]; `params` are one level's."""
        return cast(jax.Array, self.discriminator.apply({"params": params}, maps))


def build_networks(config: ml_collections.ConfigDict) -> Networks:
    model = config.model
    return Networks(
        build_segmenter(model),
        Discriminator(
            width=config.discriminator.width,
            layers=config.discriminator.layers,
            dtype=jnp.dtype(model.dtype),
            param_dtype=jnp.dtype(model.param_dtype),
        ),
    )
