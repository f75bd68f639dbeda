"""The two players' networks as pure functions of their parameters."""

from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from uda_jax.errors import UserError
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
        """One discriminator's domain logits for maps [B, H, W, C]; `params` are one level's.

        Raises:
          UserError: the maps are smaller than what one output sees of them.
        """
        logits = cast(jax.Array, self.discriminator.apply({"params": params}, maps))
        if not logits.size:
            raise UserError(
                f"the discriminator leaves nothing of maps of {maps.shape[2]}x{maps.shape[1]}, as every layer halves "
                "them; use larger images or fewer layers, such as --config.discriminator.layers=3"
            )
        return logits

    def classify(self, params: Any, features: jax.Array) -> jax.Array:
        """The segmenter's main head alone: `Outputs.features` [B, h, w, C] -> logits [B, h, w, classes], same size.

        float32 features are not rounded to bfloat16 for the product (as TPUs do by default): what is added to them
        may be smaller than that.
        """
        with jax.default_matmul_precision("high"):
            return cast(jax.Array, self.segmenter.apply({"params": params}, features, method="classify"))

    def full_precision(self) -> "Networks":
        """The same networks, computing in float32 or better whatever `config.model.dtype` says."""

        def clone(module: Any) -> Any:
            return module.clone(dtype=jnp.promote_types(module.dtype, jnp.float32))

        return Networks(clone(self.segmenter), clone(self.discriminator))


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
