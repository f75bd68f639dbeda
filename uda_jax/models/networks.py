"""The two players' networks as pure functions of their parameters."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from uda_jax.errors import UserError
from uda_jax.models import segmenter
from uda_jax.models.cells import resized_cells
from uda_jax.models.discriminator import Discriminator
from uda_jax.models.rows import row_groups
from uda_jax.models.segmenter import Outputs, build_segmenter

CHOICES = {**segmenter.CHOICES, "precision": ("default", "high", "highest")}


class Networks(NamedTuple):
    """Segmenter and discriminator.

    Attributes:
      precision: of their products, a name that `jax.default_matmul_precision` knows; "default" is JAX's, or what
        JAX_DEFAULT_MATMUL_PRECISION says.
    """

    segmenter: nn.Module
    discriminator: nn.Module
    precision: str = "default"

    def init(self, key: jax.Array, size: tuple[int, int]) -> tuple[Any, Any]:
        """The segmenter's fresh (parameters, batch statistics); `size` = (height, width) of its images."""
        variables = self.segmenter.init(key, jnp.zeros((1, *size, 3), jnp.uint8), train=False)
        return variables["params"], variables.get("batch_stats", {})

    def segment(
        self, params: Any, batch_stats: Any, images: jax.Array, key: jax.Array | None = None
    ) -> tuple[Outputs, Any]:
        """Training-mode forward: (outputs, the batch statistics after it).

        Args:
          key: for dropout, where the segmenter has any; without a key it drops nothing.
        """
        variables = {"params": params, "batch_stats": batch_stats}
        rngs = None if key is None else {"dropout": key}
        with self._products():
            outputs, changed = self.segmenter.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
        return cast(Outputs, outputs), changed.get("batch_stats", batch_stats)

    def predict(self, params: Any, batch_stats: Any, images: jax.Array, size: tuple[int, int] | None = None) -> Outputs:
        """Evaluation-mode forward; logits are as large as the images, or of `size` = (H, W)."""
        variables = {"params": params, "batch_stats": batch_stats}
        with self._products():
            return cast(Outputs, self.segmenter.apply(variables, images, train=False, size=size))

    def discriminate(self, params: Any, maps: jax.Array) -> jax.Array:
        """One discriminator's domain logits for maps [B, H, W, C]; `params` are one level's.

        Raises:
          UserError: the maps are smaller than what one output sees of them.
        """
        return self._discriminate(params, maps, (maps.shape[1], maps.shape[2]), cells=False)

    def _discriminate(self, params: Any, maps: jax.Array, size: tuple[int, int], cells: bool) -> jax.Array:
        with self._products():
            logits = cast(jax.Array, self.discriminator.apply({"params": params}, maps, cells))
        if not logits.size:
            raise UserError(
                f"the discriminator leaves nothing of maps of {size[1]}x{size[0]}, as every layer halves "
                "them; use larger images or fewer layers, such as --config.discriminator.layers=3"
            )
        return logits

    def discriminate_logits(
        self, params: Any, outputs: Outputs, level: str, maps: Callable[[jax.Array], jax.Array]
    ) -> jax.Array:
        """`discriminate` of `maps` of a level's logits, [..., classes] -> [..., C], at full size."""
        if row_groups() > 1:  # XLA (jax 0.10) adds cells up wrongly where devices have unequal numbers of their rows
            return self.discriminate(params, maps(outputs.level(level)))
        dtype = self.discriminator.dtype  # type: ignore[attr-defined]
        cells = resized_cells(outputs.small[level], outputs.size, outputs.align_corners, maps, dtype)
        return self._discriminate(params, cells, outputs.size, cells=True)

    def classify(self, params: Any, features: jax.Array, size: tuple[int, int] | None = None) -> jax.Array:
        """The main head's classifier alone: `Outputs.features` [B, h, w, C] -> logits of that size, or of `size`."""
        with self._products():
            return cast(jax.Array, self.segmenter.apply({"params": params}, features, size, method="classify"))

    def outputs(self, params: Any, features: jax.Array, size: tuple[int, int]) -> Outputs:
        """`Outputs` that the main head's classifier alone makes of features [B, h, w, C]."""
        align_corners = self.segmenter.align_corners  # type: ignore[attr-defined]
        return Outputs({"main": self.classify(params, features)}, features, size, align_corners)

    def _products(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.precision == "default" else jax.default_matmul_precision(self.precision)


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
        model.precision,
    )
